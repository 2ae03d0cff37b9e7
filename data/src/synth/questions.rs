//! Questions about synthetic trials, in the shape of PubMedQA's files.

use std::collections::BTreeMap;
use std::path::Path;

use mediswift_files as files;
use serde_json::json;

use super::draw::Draw;
use super::facts::{CLASSES, SYSTEMS, World};
use crate::DataError;

/// Questions draw from streams of their own, far from those of the documents.
const FIRST_STREAM: u64 = 1 << 40;

/// A question that an abstract answers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SynthQuestion {
    /// `synth-question-<seed>-<number>`.
    id: String,
    /// The question.
    question: String,
    /// Background, methods and results.
    contexts: Vec<String>,
    /// The conclusion.
    long_answer: String,
    /// yes, no or maybe.
    answer: &'static str,
}

/// The endless questions of a seed, about the same drugs and diseases as [`records`](super::records).
/// The results say whether a drug works; one trial in six says that it was stopped too early to
/// tell.
fn questions(seed: u64) -> impl Iterator<Item = SynthQuestion> {
    let world = World::new(seed);
    (0u64..).map(move |number| {
        let mut draw = Draw::new(seed, FIRST_STREAM + number);
        let disease = &world.diseases[draw.zipf(world.diseases.len())];
        let drug = &world.drugs[draw.zipf(world.drugs.len())];
        let works = CLASSES[drug.class].helps.contains(&disease.system);
        let [background, methods, mut results, mut conclusion] =
            world.trial(&mut draw, drug, disease).sections;
        let mut answer = if works { "yes" } else { "no" };
        if draw.below(6) == 0 {
            answer = "maybe";
            results += " The trial was stopped early, and few patients completed it.";
            conclusion = format!("Whether {} helps remains uncertain.", drug.name);
        }
        let measure = SYSTEMS[disease.system].measure;
        SynthQuestion {
            id: format!("synth-question-{seed}-{number:06}"),
            question: format!("Does {} improve {measure} in {}?", drug.name, disease.name),
            contexts: vec![background, methods, results],
            long_answer: conclusion,
            answer,
        }
    })
}

/// Writes the first `count` questions of a seed as PubMedQA's `ori_pqal.json` has them.
///
/// # Errors
/// When the disk refuses.
pub fn write_questions(path: &Path, seed: u64, count: usize) -> Result<(), DataError> {
    let item = |q: SynthQuestion| {
        let item = json!({
            "QUESTION": q.question,
            "CONTEXTS": q.contexts,
            "LONG_ANSWER": q.long_answer,
            "final_decision": q.answer,
        });
        (q.id, item)
    };
    let items: BTreeMap<String, serde_json::Value> =
        questions(seed).take(count).map(item).collect();
    let text =
        serde_json::to_string_pretty(&items).map_err(|e| DataError::io("write", path, e.into()))?;
    Ok(files::write(path, format!("{text}\n").as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_follow_from_the_results() {
        let all: Vec<SynthQuestion> = questions(1).take(300).collect();
        assert!(questions(1).take(300).eq(all.iter().cloned()));
        for question in &all {
            let [_, _, results] = &question.contexts[..] else { panic!("three sections") };
            let expected = match (results.contains("stopped early"), results.contains(" from ")) {
                (true, _) => "maybe",
                (false, true) => "yes",
                (false, false) => "no",
            };
            assert_eq!(question.answer, expected, "{question:?}");
        }
        for answer in ["yes", "no", "maybe"] {
            let count = all.iter().filter(|q| q.answer == answer).count();
            assert!((30..200).contains(&count), "{count} × {answer}");
        }
    }
}
