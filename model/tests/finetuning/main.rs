//! Fine-tuning at micro size.

mod answers;
mod learning;
mod survival;

use mediswift_data::{Dataset, Preparation, TokenizerSource, prepare};
use mediswift_model::checkpoint::Choice;
use mediswift_model::finetune::report::TuningReport;
use mediswift_model::finetune::settings::Settings;
use mediswift_model::finetune::{Job, finetune};
use mediswift_model::pretrain::pretrain;
use mediswift_model::session::Session;
use mediswift_model::tasks::task;
use mediswift_model::watch::{Progress, Watch};
use mediswift_model::{Config, Error};
use serde_json::{Value, json};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DRUGS: [&str; 10] =
    ["alpha", "beta", "gamma", "delta", "kappa", "lambda", "sigma", "theta", "omega", "zeta"];

/// Question, context and answer; the context decides.
fn question(i: usize) -> (String, String, &'static str) {
    let drug = DRUGS[i % 10];
    let (verb, answer) =
        [("improved", "yes"), ("worsened", "no"), ("varied", "maybe")][(i / 2 + i) % 3];
    (format!("Does {drug} help?"), format!("With {drug} group {i} {verb}."), answer)
}

/// `count` items in the shape of PQA-L.
fn items(first: usize, count: usize, labelled: bool) -> Value {
    let item = |i: usize| {
        let (question, context, answer) = question(i);
        let mut item = json!({"QUESTION": question, "CONTEXTS": [context], "LONG_ANSWER": "."});
        if labelled {
            item["final_decision"] = json!(answer);
        }
        (i.to_string(), item)
    };
    Value::Object((first..first + count).map(item).collect())
}

/// A folder with a run `run` of the given sparsity, pre-trained for some steps on answers of which
/// a third is made up.
fn pretrained_for(at: &Path, sparsity: f64, steps: usize) -> PathBuf {
    let lines: String = (0..400)
        .map(|i| {
            let (question, context, right) = question(i * 7);
            let answer = if i % 3 > 0 { right } else { self::question(i).2 };
            let text = format!(
                "question: {question} context: {context} the answer to the question given the \
                 context is {answer}."
            );
            format!("{}\n", json!({"text": text, "id": i}))
        })
        .collect();
    fs::write(at.join("corpus.jsonl"), lines).unwrap();
    let preparation = Preparation {
        tokenizer: TokenizerSource::Train {
            kind: mediswift_data::tokenizer::Kind::ByteBpe,
            vocab_size: 360,
            min_frequency: 2,
            sample: 1.0,
        },
        cleaning: mediswift_data::clean::Cleaning { near_duplicates: None, ..Default::default() },
        strict: true,
        validation_fraction: 0.1,
        shard_tokens: 100_000,
        ..Preparation::new(vec![at.join("corpus.jsonl")], at.join("data"))
    };
    prepare(&preparation, &mut |_| ControlFlow::Continue(())).unwrap();
    let mut config = Config::from_preset("micro").unwrap();
    for assignment in ["train.batch=8", "train.lr=5e-3", "eval.sequences=4"] {
        config.set(assignment).unwrap();
    }
    config.train.steps = steps;
    config.sparsity.sparsity = sparsity;
    let dataset = Arc::new(Dataset::open(&preparation.out).unwrap());
    let out = at.join("run");
    pretrain(&mut Session::start(config, dataset, &out).unwrap(), &mut ()).unwrap();
    out
}

fn pretrained(at: &Path, sparsity: f64) -> PathBuf {
    pretrained_for(at, sparsity, 30)
}

/// A folder with the task's files: 20 items that are train, dev and test.
fn twenty(at: &Path) -> PathBuf {
    let folder = at.join("task");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("ori_pqal.json"), items(0, 20, true).to_string()).unwrap();
    let ids: Vec<String> = (0..20).map(|i| i.to_string()).collect();
    let splits = json!({"test": ids, "folds": [{"train": ids, "dev": ids}]});
    fs::write(folder.join("pqal_splits.json"), splits.to_string()).unwrap();
    folder
}

fn settings(assignments: &[&str]) -> Settings {
    let mut settings = Settings::new(task("pubmedqa").unwrap());
    let small = ["finetune.seeds=1", "finetune.batch=10", "finetune.prompt_tokens=4"];
    small.iter().chain(assignments).for_each(|a| settings.set(a).unwrap());
    settings
}

fn tune(
    from: &Path,
    folder: &Path,
    out: &Path,
    settings: &Settings,
    resume: bool,
    watch: &mut dyn Watch,
) -> Result<TuningReport, Error> {
    let folders = [folder.to_path_buf()];
    let job = Job {
        task: task("pubmedqa")?,
        settings: settings.clone(),
        from,
        choice: Choice::default(),
        folders: &folders,
        allow_overlap: true,
        out,
        resume,
    };
    finetune(&job, watch)
}

fn finished(from: &Path, folder: &Path, out: &Path, settings: &Settings) -> TuningReport {
    tune(from, folder, out, settings, false, &mut ()).unwrap()
}

/// Counts trainings, and asks to stop after some epochs, or at any event.
#[derive(Default)]
struct Counter {
    trained: Vec<String>,
    known: Vec<String>,
    epochs: usize,
    events: usize,
    stop_after_epochs: Option<usize>,
    stop_after_events: Option<usize>,
}

impl Watch for Counter {
    fn see(&mut self, progress: Progress<'_>) -> ControlFlow<()> {
        self.events += 1;
        match progress {
            Progress::Began { training, known, .. } => {
                if known { &mut self.known } else { &mut self.trained }.push(training.to_string());
            }
            Progress::Tuned { step, steps, loss, .. } => assert!(step <= steps && loss.is_finite()),
            Progress::Passed { .. } => self.epochs += 1,
            _ => {}
        }
        let enough = |stop: Option<usize>, now: usize| stop.is_some_and(|stop| now >= stop);
        if enough(self.stop_after_epochs, self.epochs)
            || enough(self.stop_after_events, self.events)
        {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}
