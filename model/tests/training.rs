//! Whole runs: invariance, interruption, and what they refuse.

mod support;

use mediswift_data::{Dataset, Split, sequential};
use mediswift_engine::TokenLayout;
use mediswift_model::checkpoint::{self, weights_hash};
use mediswift_model::evaluate::evaluate_run;
use mediswift_model::flops::{Convention, Workload};
use mediswift_model::run::{self, StepMetrics, Validation};
use mediswift_model::trainer::{Observer, Outcome, Progress, Report, Trainer};
use mediswift_model::{Config, Gpt, Optimisation, TokenBatch, tensorboard};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use support::{config, dataset};

/// Trains a new run to its end.
fn train(config: &Config, data: &Arc<Dataset>, out: &Path) -> Report {
    let trainer = Trainer::start(config.clone(), Arc::clone(data), out).unwrap();
    finished(trainer.run(&mut (), &AtomicI32::new(0)).unwrap())
}

/// Takes up a run and trains it to its end.
fn resume(config: &Config, data: &Arc<Dataset>, out: &Path) -> Report {
    let trainer = Trainer::resume(config.clone(), Arc::clone(data), out).unwrap();
    finished(trainer.run(&mut (), &AtomicI32::new(0)).unwrap())
}

fn finished(outcome: Outcome) -> Report {
    match outcome {
        Outcome::Finished(report) => *report,
        Outcome::Interrupted { .. } => panic!("nobody interrupted the run"),
    }
}

/// What must be the same in equal runs: everything but times.
fn trace(out: &Path) -> (Vec<StepMetrics>, Vec<Validation>, String) {
    let metrics = run::read_log::<StepMetrics>(out).unwrap();
    let timeless = metrics.into_iter().map(|line| StepMetrics { seconds: 0.0, ..line }).collect();
    let checkpoint = checkpoint::latest(&run::checkpoints(out)).unwrap().checkpoint.unwrap();
    let parameters = checkpoint.parameters().unwrap();
    let optimiser = checkpoint.optimiser(&parameters).unwrap();
    let moments = optimiser.first().iter().chain(optimiser.second().iter());
    let bits: Vec<u8> = moments.flat_map(|(_, m)| m).flat_map(|x| x.to_le_bytes()).collect();
    let moments = blake3::hash(&bits);
    // Their wall times differ, their number of bytes does not.
    let events = fs::metadata(out.join(tensorboard::FILE)).unwrap().len();
    let data = &checkpoint.manifest.data;
    let state = format!("{} {moments} {data:?} {events}", weights_hash(&parameters));
    (timeless, run::read_log(out).unwrap(), state)
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    for sparsity in [0.0, 0.75] {
        let traces = [1, 2, 4].map(|threads| {
            let out = folder.path().join(format!("run-{sparsity}-{threads}"));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| train(&config(sparsity), &data, &out));
            trace(&out)
        });
        assert_eq!(traces[0], traces[1]);
        assert_eq!(traces[0], traces[2]);
        assert_eq!(traces[0].0.len(), 12);
        assert_eq!(traces[0].1.iter().map(|line| line.step).collect::<Vec<_>>(), [5, 10, 12]);
    }
}

/// Sends a signal when a step is done, and keeps a copy of the folder as a crash would leave it.
struct Disturb<'a> {
    at: usize,
    signal: &'a AtomicI32,
    folder: &'a Path,
    crashed: &'a Path,
    saved: Vec<usize>,
}

impl Observer for Disturb<'_> {
    fn stepped(&mut self, progress: &Progress<'_>) {
        if progress.metrics.step == self.at {
            copy(self.folder, self.crashed);
            self.signal.store(15, Ordering::Relaxed);
        }
    }

    fn saved(&mut self, step: usize, checkpoint: &Path) {
        assert!(checkpoint.join("manifest.json").exists());
        self.saved.push(step);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn interrupted_and_resumed_runs_equal_uninterrupted_ones() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    let config = config(0.75);
    let whole = folder.path().join("whole");
    let expected = train(&config, &data, &whole);
    let epoch = data.tokens(Split::Train) / 24;
    assert!((9 * 6..10 * 6).contains(&epoch), "step 10 must begin a new epoch, not after {epoch}");
    // In warm-up, between checkpoints, before an evaluation, at a checkpoint, on both sides of the
    // edge of the epoch, and at the end.
    for at in [1, 3, 5, 8, 9, 10, 12] {
        let out = folder.path().join(format!("stopped-{at}"));
        let crashed = folder.path().join(format!("crashed-{at}"));
        let signal = AtomicI32::new(0);
        let trainer = Trainer::start(config.clone(), Arc::clone(&data), &out).unwrap();
        let mut disturb =
            Disturb { at, signal: &signal, folder: &out, crashed: &crashed, saved: Vec::new() };
        let outcome = trainer.run(&mut disturb, &signal).unwrap();
        assert_eq!(outcome, Outcome::Interrupted { signal: 15, step: at });
        assert_eq!(disturb.saved.last(), Some(&at));
        let report = resume(&config, &data, &out);
        assert_eq!(report.weights_hash, expected.weights_hash);
        assert_eq!(trace(&out), trace(&whole), "stopped after step {at}");

        // A crash leaves the folder as it is, perhaps with half a line.
        let metrics = crashed.join("metrics.jsonl");
        let torn = fs::read_to_string(&metrics).unwrap() + "{\"step\":9";
        fs::write(&metrics, torn).unwrap();
        resume(&config, &data, &crashed);
        assert_eq!(trace(&crashed), trace(&whole), "crashed after step {at}");
    }
    // A finished run has nothing left to do.
    let again = resume(&config, &data, &whole);
    assert_eq!(again.weights_hash, expected.weights_hash);
    assert_eq!(again.val_loss, expected.val_loss);
}

#[test]
fn a_small_text_is_learnt_by_heart() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    for sparsity in [0.0, 0.75] {
        let mut config = config(sparsity);
        config.model.vocabulary = data.vocab_size();
        (config.train.lr, config.train.steps) = (1e-2, 120);
        let text = sequential(&data, Split::Train, config.train.context).take(config.train.batch);
        let batch = TokenBatch::new(text);
        let mut optimisation = Optimisation::new(Gpt::new(&config).unwrap(), &config);
        let mut step = || optimisation.step(std::slice::from_ref(&batch)).unwrap().loss.mean();
        let first = step();
        let last = (1..config.train.steps).map(|_| step()).last().unwrap();
        let ignorance = (data.vocab_size() as f64).ln();
        assert!((first - ignorance).abs() < 0.2, "a new model knows nothing, but has {first}");
        assert!(last < 0.5, "{sparsity}: {first} fell to {last} only");
    }
}

#[test]
fn a_run_leaves_a_report_of_what_it_did() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    for sparsity in [0.0, 0.75] {
        let mut config = config(sparsity);
        (config.train.lr, config.train.steps, config.checkpoint.every) = (1e-2, 40, 0);
        let out = folder.path().join(format!("run-{sparsity}"));
        let report = train(&config, &data, &out);
        let first = run::read_log::<StepMetrics>(&out).unwrap()[0].loss;
        assert!(report.train_loss < first - 0.5, "{first} fell to {} only", report.train_loss);
        assert_eq!(report.step, 40);
        assert!(report.tokens_per_second > 0.0);
        config.model.vocabulary = data.vocab_size();
        let flops = Workload::of_run(&config).flops(Convention::Executed).total;
        assert!((report.flops / flops - 1.0).abs() < 1e-12);
        assert_eq!(report.layers.len(), 8);
        for layer in &report.layers {
            assert!((layer.actual - sparsity).abs() < 1e-3, "{layer:?}");
        }
        let all = evaluate_run(&out, &data).unwrap();
        assert_eq!(all.tokens, (data.tokens(Split::Validation) - 1) / 24 * 24);
        assert_eq!(all.perplexity, all.val_loss.exp());
        let card = fs::read_to_string(out.join("MODEL_CARD.md")).unwrap();
        assert!(card.contains("Not for clinical use") && card.contains(&report.weights_hash));
        for file in ["config.toml", "data.json", "environment.json", "report.json"] {
            assert!(out.join(file).exists(), "{file} is missing");
        }
        let layers = fs::read_to_string(out.join("sparsity.json")).unwrap();
        let layers: serde_json::Value = serde_json::from_str(&layers).unwrap();
        assert_eq!(layers, serde_json::to_value(&report.layers).unwrap());
    }
}

/// An error with its causes, as the command line prints it.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[test]
fn steps_that_are_not_finite_are_refused() {
    let mut config = config(0.75);
    config.model.vocabulary = 300;
    let layout = TokenLayout { sequences: 1, context: 8 };
    let batch = TokenBatch { layout, ids: vec![1; 8], targets: vec![2; 8], weights: None };
    for name in ["ln_final.bias", "blocks.1.mlp.up.weight"] {
        let mut gpt = Gpt::new(&config).unwrap();
        let id = gpt.parameters().find(name).unwrap();
        gpt.parameters_mut()[id][0] = f32::NAN;
        gpt.refresh();
        let before = weights_hash(gpt.parameters());
        let mut optimisation = Optimisation::new(gpt, &config);
        let error = whole(&optimisation.step(std::slice::from_ref(&batch)).unwrap_err());
        assert!(error.contains("step 1 made no update: loss"), "{error}");
        assert_eq!(weights_hash(optimisation.gpt().parameters()), before);
        assert_eq!(optimisation.steps_done(), 0);
    }
    let mut optimisation = Optimisation::new(Gpt::new(&config).unwrap(), &config);
    let nothing = TokenBatch { weights: Some(vec![0.0; 8]), ..batch.clone() };
    let error = whole(&optimisation.step(&[nothing]).unwrap_err());
    assert!(error.contains("no target token has a weight"), "{error}");
    assert!(optimisation.step(&[batch]).is_ok(), "the next step must be possible");
}

#[test]
fn folders_settings_and_data_that_do_not_fit_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (data, other) = (dataset(folder.path(), 1), dataset(folder.path(), 2));
    let out = folder.path().join("run");
    let start = |config: Config, out: &Path| {
        Trainer::start(config, Arc::clone(&data), out).err().unwrap().to_string()
    };
    let resume = |config: Config, data: &Arc<Dataset>, out: &Path| {
        Trainer::resume(config, Arc::clone(data), out).err().unwrap().to_string()
    };

    let missing = folder.path().join("missing");
    let error = resume(config(0.75), &data, &missing);
    assert!(error.contains("holds no run"), "{error}");
    assert!(!missing.exists());

    let mut small = config(0.75);
    small.model.vocabulary = 100;
    let error = start(small, &out);
    assert!(error.contains("model.vocabulary: is 100, but the data have"), "{error}");
    let mut long = config(0.75);
    long.train.context = 33;
    assert!(start(long, &out).contains("train.context"), "{error}");
    assert!(!out.exists(), "a refused run leaves nothing");

    let held = Trainer::start(config(0.75), Arc::clone(&data), &out).unwrap();
    let error = resume(config(0.75), &data, &out);
    assert!(error.contains("another process is writing"), "{error}");
    finished(held.run(&mut (), &AtomicI32::new(0)).unwrap());

    let before = trace(&out);
    let error = start(config(0.75), &out);
    assert!(error.contains("holds a run already"), "{error}");
    let mut changed = config(0.5);
    changed.train.lr = 1.0;
    let error = resume(changed, &data, &out);
    assert!(error.contains("train.lr is 1") && error.contains("sparsity.sparsity"), "{error}");
    let error = resume(config(0.75), &other, &out);
    assert!(error.contains("data.json") || error.contains("model.vocabulary"), "{error}");
    let error = evaluate_run(&out, &other).unwrap_err().to_string();
    assert!(error.contains("its tokenizer is not the run's"), "{error}");
    assert_eq!(trace(&out), before, "refusals change nothing");

    let error = start(config(0.75), folder.path());
    assert!(error.contains("is not empty"), "{error}");
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_none_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    let config = config(0.75);
    let out = folder.path().join("run");
    train(&config, &data, &out);
    let expected = trace(&out);
    let truncate = |step: &str| {
        let path = out.join("checkpoints").join(step).join("weights.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    };

    /// Remembers where a run was taken up.
    #[derive(Default)]
    struct Watch(Option<(usize, usize)>);
    impl Observer for Watch {
        fn resumed(&mut self, step: usize, checkpoint: Option<&Path>, skipped: &[String]) {
            assert!(checkpoint.is_some());
            self.0 = Some((step, skipped.len()));
        }
    }
    truncate("step-00000012");
    let mut watch = Watch::default();
    let trainer = Trainer::resume(config.clone(), Arc::clone(&data), &out).unwrap();
    finished(trainer.run(&mut watch, &AtomicI32::new(0)).unwrap());
    assert_eq!(watch.0, Some((8, 1)));
    assert_eq!(trace(&out), expected);

    truncate("step-00000008");
    truncate("step-00000012");
    let error = Trainer::resume(config, data, &out).err().unwrap().to_string();
    assert!(error.contains("no checkpoint can be used"), "{error}");
    assert!(run::load_model(&out).err().unwrap().to_string().contains("no complete checkpoint"));
}

#[test]
fn recomputation_changes_no_bit_and_may_change_on_resume() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    let kept = config(0.75);
    let expected = train(&kept, &data, &folder.path().join("kept"));
    let mut again = kept.clone();
    again.set("train.recompute=true").unwrap();
    let found = train(&again, &data, &folder.path().join("again"));
    assert_eq!(found.weights_hash, expected.weights_hash);
    assert_eq!(found.val_loss.to_bits(), expected.val_loss.to_bits());
    assert!(kept.differences(&again).is_empty());
}
