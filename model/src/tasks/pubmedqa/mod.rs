//! PubMedQA (Jin et al., 2019): does an abstract answer its question with yes, no or maybe?
//!
//! Files are the official ones: `ori_pqal.json` (PQA-L, labelled by experts), and for earlier
//! stages `ori_pqaa.json` (PQA-A, labelled by a rule) and `ori_pqau.json` (PQA-U, without labels);
//! `bioasq_train_dev.jsonl` may stand in for them. `test_ground_truth.json`, if there, must agree.
//!
//! The official split draws with Python's generator, seeded once with 0: half of PQA-L is the test
//! set, the other half makes ten folds of dev and train, label by label. The function `split`
//! repeats the procedure; a file `pqal_splits.json` with the same lists is taken instead where it is
//! there.
//!
//! Source (BioGPT's): `question: {question} context: {context}`; reasoning-free adds
//! ` answer: {long answer}`. The official metrics are accuracy and macro-F1.

use super::files::{self, Entries};
use super::metrics::{accuracy, macro_f1};
use super::python_random::PythonRandom;
use super::{
    Example, FAILED, Published, Recipe, Request, Stage, Task, TaskData, TaskScore, after_template,
    checks,
};
use crate::error::Error;
use crate::object::Object;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The task.
pub struct PubMedQa;

const LABELS: &[&str] = &["yes", "no", "maybe"];
const TEMPLATE: &str = "the answer to the question given the context is";

const FREE: &str = "reasoning-free";
const FORMS: &[&str] = &["reasoning-required", FREE];
const SPLITS: &[&str] = &[
    "fold-0", "fold-1", "fold-2", "fold-3", "fold-4", "fold-5", "fold-6", "fold-7", "fold-8",
    "fold-9",
];

const BIOASQ: &str = "bioasq";
const PQAA: &str = "pqaa";
const PQAU: &str = "pqau";

/// Items of PQA-A to train on; the other 11,269 of 211,269 are dev.
const PQAA_TRAIN: usize = 200_000;

/// MediSwift Table 3.
const PUBLISHED: &[Published] = &[
    Published::medi_swift("MediSwift-Med", 302e6, 0.0, 0.742),
    Published::medi_swift("MediSwift-Med", 302e6, 0.5, 0.738),
    Published::medi_swift("MediSwift-Med", 302e6, 0.75, 0.724),
    Published::medi_swift("MediSwift-Large", 510e6, 0.0, 0.751),
    Published::medi_swift("MediSwift-Large", 510e6, 0.5, 0.742),
    Published::medi_swift("MediSwift-Large", 510e6, 0.75, 0.734),
    Published::medi_swift("MediSwift-XL", 1.21e9, 0.0, 0.768),
    Published::medi_swift("MediSwift-XL", 1.21e9, 0.5, 0.763),
    Published::medi_swift("MediSwift-XL", 1.21e9, 0.75, 0.754),
    Published::other("PubMedBERT", 0.558),
    Published::other("BioLinkBERT-large", 0.722),
    Published::other("BioGPT-med", 0.736),
    Published::other("BioMedLM", 0.744),
    Published::other("BioGPT-large", 0.755),
];

impl Task for PubMedQa {
    fn name(&self) -> &'static str {
        "pubmedqa"
    }

    fn title(&self) -> &'static str {
        "PubMedQA"
    }

    fn labels(&self) -> &'static [&'static str] {
        LABELS
    }

    fn one_label(&self) -> bool {
        true
    }

    fn forms(&self) -> &'static [&'static str] {
        FORMS
    }

    fn splits(&self) -> &'static [&'static str] {
        SPLITS
    }

    fn stages(&self) -> &'static [&'static str] {
        &[BIOASQ, PQAA, PQAU]
    }

    /// MediSwift §3.3.1.
    fn recipe(&self) -> Recipe {
        Recipe {
            epochs: 5,
            patience: 2,
            batch: &[8, 16, 32, 64],
            lr: &[2e-4, 1e-4, 5e-5, 2.5e-5],
            prompt_tokens: 9,
        }
    }

    fn load(&self, request: &Request<'_>) -> Result<TaskData, Error> {
        let path = files::need(request.folders, "ori_pqal.json")?;
        let examples = read(&path, request.form)?;
        let fold = SPLITS.iter().position(|name| *name == request.split).unwrap_or(0);
        let (parts, how) = parts(request.folders, &path, &examples, fold)?;
        let [train, dev, test] = parts.map(|part| part.into_iter().cloned().collect::<Vec<_>>());
        let (mut stages, mut notes) = (Vec::new(), Vec::new());
        for &name in self.stages().iter().filter(|name| request.stages.iter().any(|s| s == *name)) {
            let file = match name {
                BIOASQ => "bioasq_train_dev.jsonl",
                PQAA => "ori_pqaa.json",
                _ => "ori_pqau.json",
            };
            let Some(path) = files::find(request.folders, file) else {
                notes.push(format!("stage {name} left out: there is no {file}"));
                continue;
            };
            stages.push(match name {
                BIOASQ => bioasq(&path)?,
                PQAA => pqaa(&path, request.form)?,
                _ => Stage {
                    name: name.into(),
                    train: unlabelled(&path, request.form)?,
                    dev: dev.clone(),
                    unlabelled: true,
                },
            });
        }
        let sizes = [train.len(), dev.len(), test.len()].map(|n| n.to_string()).join("/");
        let split = format!("{how}, {}, {sizes} questions", request.split);
        let data = TaskData { stages, train, dev, test, split, notes };
        checks::overlap(&data, request, true)?;
        Ok(data)
    }

    fn template(&self) -> &'static str {
        TEMPLATE
    }

    fn target(&self, labels: &[usize]) -> String {
        format!("{TEMPLATE} {}.", LABELS[labels[0]])
    }

    fn parse(&self, text: &str) -> Vec<String> {
        vec![
            after_template(text, TEMPLATE).filter(|word| !word.is_empty()).unwrap_or(FAILED).into(),
        ]
    }

    fn score(&self, form: &str, examples: &[Example], answers: &[Vec<String>]) -> Vec<TaskScore> {
        let truth: Vec<&str> = examples.iter().map(|e| LABELS[e.labels[0]]).collect();
        let answers: Vec<&str> = answers.iter().map(|words| &*words[0]).collect();
        let score =
            |metric, value| TaskScore { name: format!("{metric} per question, {form}"), value };
        vec![
            score("accuracy", accuracy(&truth, &answers)),
            score("macro-F1", macro_f1(&truth, &answers)),
        ]
    }

    fn published(&self) -> &'static [Published] {
        PUBLISHED
    }
}

/// An item of the official files. Fields beyond these are refused, for they may mean something.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    #[serde(rename = "QUESTION")]
    question: String,
    #[serde(rename = "CONTEXTS")]
    contexts: Vec<String>,
    #[serde(rename = "LONG_ANSWER")]
    long_answer: Option<String>,
    final_decision: Option<String>,
    #[serde(rename = "LABELS", default)]
    _sections: IgnoredAny,
    #[serde(rename = "MESHES", default)]
    _meshes: IgnoredAny,
    #[serde(rename = "YEAR", default)]
    _year: IgnoredAny,
    #[serde(rename = "reasoning_required_pred", default)]
    _required: IgnoredAny,
    #[serde(rename = "reasoning_free_pred", default)]
    _free: IgnoredAny,
}

impl Item {
    fn example(&self, path: &Path, id: &str, form: &str) -> Result<Example, Error> {
        let refuse = |what: &str| Err(Error::malformed(path, format!("item {id}: {what}")));
        let question = files::one_line(&self.question);
        if question.is_empty() {
            return refuse("QUESTION is empty");
        }
        let mut passage = files::one_line(&self.contexts.join(" "));
        if passage.is_empty() {
            return refuse("CONTEXTS is empty: there is nothing to answer from");
        }
        if form == FREE {
            let Some(answer) = &self.long_answer else {
                return refuse("LONG_ANSWER is missing, which reasoning-free shows");
            };
            passage += &format!(" answer: {}", files::one_line(answer));
        }
        let labels = match &self.final_decision {
            None => Vec::new(),
            Some(word) => vec![label(path, id, "final_decision", word)?],
        };
        Ok(example(id, &question, passage, labels))
    }
}

fn example(id: &str, question: &str, passage: String, labels: Vec<usize>) -> Example {
    Example { id: id.into(), head: format!("question: {question} context:"), passage, labels }
}

fn label(path: &Path, id: &str, field: &str, word: &str) -> Result<usize, Error> {
    LABELS.iter().position(|label| *label == word).ok_or_else(|| {
        Error::malformed(
            path,
            format!("item {id}: {field} is '{word}', but must be yes, no or maybe"),
        )
    })
}

fn items(path: &Path, form: &str) -> Result<Vec<Example>, Error> {
    let Entries(items) = files::json::<Entries<Object<Item>>>(path)?;
    items.iter().map(|(id, Object(item))| item.example(path, id, form)).collect()
}

/// Reads items that all have a label.
fn read(path: &Path, form: &str) -> Result<Vec<Example>, Error> {
    let examples = items(path, form)?;
    match examples.iter().find(|example| example.labels.is_empty()) {
        Some(example) => {
            Err(Error::malformed(path, format!("item {}: final_decision is missing", example.id)))
        }
        None => Ok(examples),
    }
}

/// Train, dev and test of one fold, and who made the split.
fn parts<'e>(
    folders: &[PathBuf],
    path: &Path,
    examples: &'e [Example],
    fold: usize,
) -> Result<([Vec<&'e Example>; 3], &'static str), Error> {
    let truth = match files::find(folders, "test_ground_truth.json") {
        Some(path) => Some((files::json::<Entries<String>>(&path)?.0, path)),
        None => None,
    };
    let by_id: HashMap<&str, &Example> = examples.iter().map(|e| (&*e.id, e)).collect();
    let (parts, how) = match files::find(folders, "pqal_splits.json") {
        Some(path) => (listed(&path, &by_id, fold)?, "split as listed"),
        None => {
            let split = split(examples);
            let (train, dev) = split.fold(fold);
            if dev.is_empty() || train.is_empty() || split.test.is_empty() {
                let count = examples.len();
                return Err(Error::malformed(
                    path,
                    format!("{count} items are too few for fold {fold}"),
                ));
            }
            ([train, dev, split.test], "official split")
        }
    };
    if let Some((truth, path)) = truth {
        check_truth(&truth, &parts[2], &path)?;
    }
    Ok((parts, how))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    test: Vec<String>,
    folds: Vec<Object<ListedFold>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedFold {
    train: Vec<String>,
    dev: Vec<String>,
}

fn listed<'e>(
    path: &Path,
    by_id: &HashMap<&str, &'e Example>,
    fold: usize,
) -> Result<[Vec<&'e Example>; 3], Error> {
    let listed: Listed = files::json(path)?;
    let Some(Object(chosen)) = listed.folds.get(fold) else {
        return Err(Error::malformed(
            path,
            format!("it has {} folds, but no fold {fold}", listed.folds.len()),
        ));
    };
    let find = |ids: &Vec<String>, part: &str| -> Result<Vec<&'e Example>, Error> {
        checks::ids(path, &format!("{part}: "), ids.iter().map(String::as_str))?;
        let find = |id: &String| {
            by_id.get(&**id).copied().ok_or_else(|| {
                Error::malformed(
                    path,
                    format!("{part} lists {id}, which ori_pqal.json does not hold"),
                )
            })
        };
        ids.iter().map(find).collect()
    };
    Ok([find(&chosen.train, "train")?, find(&chosen.dev, "dev")?, find(&listed.test, "test")?])
}

fn check_truth(truth: &[(String, String)], test: &[&Example], path: &Path) -> Result<(), Error> {
    let truth: HashMap<&str, &str> = truth.iter().map(|(id, word)| (&**id, &**word)).collect();
    for example in test {
        let (id, ours) = (&example.id, LABELS[example.labels[0]]);
        match truth.get(&**id) {
            None => {
                return Err(Error::malformed(
                    path,
                    format!("it lacks {id}, which is in the test split"),
                ));
            }
            Some(word) if *word != ours => {
                let what = format!("{id} is '{word}', but '{ours}' in ori_pqal.json");
                return Err(Error::malformed(path, what));
            }
            Some(_) => {}
        }
    }
    if truth.len() != test.len() {
        let what = format!("it has {} answers for {} test questions", truth.len(), test.len());
        return Err(Error::malformed(path, what));
    }
    Ok(())
}

/// The official division of PQA-L.
pub struct Split<'e> {
    /// The test set.
    pub test: Vec<&'e Example>,
    /// Dev sets of the folds.
    dev: Vec<Vec<&'e Example>>,
}

impl<'e> Split<'e> {
    /// Train and dev of a fold: all other folds, and this one.
    fn fold(&self, fold: usize) -> (Vec<&'e Example>, Vec<&'e Example>) {
        let others = self.dev.iter().enumerate().filter(|(other, _)| *other != fold);
        (others.flat_map(|(_, part)| part).copied().collect(), self.dev[fold].clone())
    }
}

/// The official procedure (`split_dataset.py pqal`); few items leave later folds empty.
fn split(examples: &[Example]) -> Split<'_> {
    let mut random = PythonRandom::new(0);
    let all: Vec<&Example> = examples.iter().collect();
    let mut halves = parts_of(&all, 2, &mut random);
    let test = halves.pop().expect("two parts");
    let dev = parts_of(&halves[0], SPLITS.len(), &mut random);
    Split { test, dev }
}

/// `count` parts with the same mix of labels.
fn parts_of<'e>(
    examples: &[&'e Example],
    count: usize,
    random: &mut PythonRandom,
) -> Vec<Vec<&'e Example>> {
    let mut parts = vec![Vec::new(); count];
    for label in 0..LABELS.len() {
        let mut of_label: Vec<&Example> =
            examples.iter().copied().filter(|e| e.labels[0] == label).collect();
        random.shuffle(&mut of_label);
        let chunk = of_label.len().div_ceil(count);
        for (at, part) in parts.iter_mut().enumerate() {
            let start = (at * chunk).min(of_label.len());
            let end =
                if at + 1 == count { of_label.len() } else { (start + chunk).min(of_label.len()) };
            part.extend(&of_label[start..end]);
        }
    }
    // The last part got what was left: one of each other part fills it up.
    let (last, others) = parts.split_last_mut().expect("there are parts");
    if others.first().is_some_and(|first| first.len() != last.len()) {
        for part in others.iter_mut().filter(|part| !part.is_empty()) {
            let drawn = random.choice(part.len());
            last.push(part.remove(drawn));
        }
    }
    parts
}

/// PQA-A with its official split: shuffled, 200,000 to train on. Of a smaller file, 5 % are dev.
fn pqaa(path: &Path, form: &str) -> Result<Stage, Error> {
    let mut examples = read(path, form)?;
    PythonRandom::new(0).shuffle(&mut examples);
    let count = examples.len();
    let train = if count > PQAA_TRAIN { PQAA_TRAIN } else { count - count.div_ceil(20) };
    if train == 0 {
        return Err(Error::malformed(path, format!("{count} items are too few to train on")));
    }
    let dev = examples.split_off(train);
    Ok(Stage { name: PQAA.into(), train: examples, dev, unlabelled: false })
}

fn unlabelled(path: &Path, form: &str) -> Result<Vec<Example>, Error> {
    let examples = items(path, form)?;
    match examples.iter().find(|example| !example.labels.is_empty()) {
        Some(example) => {
            let what = format!("item {} has a final_decision: PQA-U has none", example.id);
            Err(Error::malformed(path, what))
        }
        None if examples.is_empty() => Err(Error::malformed(path, "it holds no item")),
        None => Ok(examples),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BioAsq {
    id: String,
    question: String,
    context: String,
    answer: String,
    split: String,
}

/// BioASQ's yes/no questions.
fn bioasq(path: &Path) -> Result<Stage, Error> {
    let (mut train, mut dev) = (Vec::new(), Vec::new());
    for (line, item) in files::json_lines::<BioAsq>(path)? {
        let refuse = |what: String| Err(Error::malformed(path, format!("line {line}: {what}")));
        let (question, passage) = (files::one_line(&item.question), files::one_line(&item.context));
        if question.is_empty() || passage.is_empty() {
            return refuse("question or context is empty".into());
        }
        let labels = vec![label(path, &item.id, "answer", &item.answer)?];
        let example = example(&item.id, &question, passage, labels);
        match &*item.split {
            "train" => train.push(example),
            "dev" => dev.push(example),
            other => return refuse(format!("split is '{other}', but must be train or dev")),
        }
    }
    checks::ids(path, "", train.iter().chain(&dev).map(|e| &*e.id))?;
    if train.is_empty() || dev.is_empty() {
        return Err(Error::malformed(path, "it needs both train and dev items"));
    }
    Ok(Stage { name: BIOASQ.into(), train, dev, unlabelled: false })
}

#[cfg(test)]
mod tests;
