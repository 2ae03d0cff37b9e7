//! Whole runs: invariance, interruption, and what they refuse.

mod masks;
mod precision;
mod ranks;
#[path = "../support/mod.rs"]
mod support;

use mediswift_data::{Dataset, Split, sequential};
use mediswift_engine::TokenLayout;
use mediswift_model::checkpoint::{self, Choice, weights_hash};
use mediswift_model::config::OnNonFinite;
use mediswift_model::evaluate::evaluate_run;
use mediswift_model::flops::{Convention, Workload};
use mediswift_model::pretrain::pretrain;
use mediswift_model::run::{self, LoadedModel, StepMetrics, TrainingReport, Validation};
use mediswift_model::session::{Advance, Session};
use mediswift_model::sparsity::MaskUpdate;
use mediswift_model::watch::{Progress, Watch};
use mediswift_model::{Config, Error, Gpt, Optimisation, TokenBatch, tensorboard};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use support::{config, dataset};

/// Trains a new run to its end.
fn train(config: &Config, data: &Arc<Dataset>, out: &Path) -> TrainingReport {
    let mut session = Session::start(config.clone(), Arc::clone(data), out).unwrap();
    pretrain(&mut session, &mut ()).unwrap()
}

/// Takes up a run and trains it to its end.
fn resume(config: &Config, data: &Arc<Dataset>, out: &Path) -> TrainingReport {
    let mut session = Session::resume(config.clone(), Arc::clone(data), out).unwrap();
    pretrain(&mut session, &mut ()).unwrap()
}

/// What must be the same in equal runs: everything but times.
fn trace(out: &Path) -> (Vec<StepMetrics>, Vec<Validation>, String) {
    let metrics = run::read_log::<StepMetrics>(out).unwrap();
    let timeless = metrics.into_iter().map(|line| {
        let masks = line.masks.map(|masks| MaskUpdate { seconds: 0.0, ..masks });
        StepMetrics { seconds: 0.0, masks, ..line }
    });
    let timeless = timeless.collect();
    let checkpoint = checkpoint::latest(&run::checkpoints(out)).unwrap().checkpoint.unwrap();
    let parameters = checkpoint.parameters().unwrap();
    let moments = checkpoint.moments(&parameters).unwrap().unwrap();
    let moments = moments.first.iter().chain(moments.second.iter());
    let bits: Vec<u8> = moments.flat_map(|(_, m)| m.values).flat_map(|x| x.to_le_bytes()).collect();
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

/// A piece of work of a run, by name, and how many steps were done before it.
type Place = (&'static str, usize);

/// Where in a run it is told of progress.
fn place(progress: Progress<'_>, step: &mut usize) -> Option<Place> {
    let name = match progress {
        Progress::Stepped { metrics, .. } => {
            *step = metrics.step;
            "stepped"
        }
        Progress::Accumulated { done: 1, all: 3 } => "1 micro-batch",
        Progress::Accumulated { done: 2, all: 3 } => "2 micro-batches",
        Progress::Judging { done: 0, all: 3 } => "evaluation begun",
        Progress::Judging { done: 2, all: 3 } => "evaluation under way",
        Progress::Evaluated(_) => "evaluated",
        Progress::Saved { .. } => "saved",
        Progress::Resumed { .. } => return None,
        other => panic!("{other:?}"),
    };
    Some((name, *step))
}

/// Asks a run to stop at one place, and keeps a copy of its folder as a crash there would leave it.
struct Disturb<'a> {
    at: Place,
    folder: &'a Path,
    crashed: &'a Path,
    step: usize,
    struck: bool,
    saved: Vec<usize>,
}

impl Watch for Disturb<'_> {
    fn see(&mut self, progress: Progress<'_>) -> ControlFlow<()> {
        if let Progress::Saved { step, checkpoint } = progress {
            assert!(checkpoint.join("manifest.json").exists());
            self.saved.push(step);
        }
        if self.struck {
            // Stopped, it saves itself and does nothing else.
            assert!(matches!(progress, Progress::Saved { .. }), "{progress:?}");
        } else if place(progress, &mut self.step) == Some(self.at) {
            copy(self.folder, self.crashed);
            self.struck = true;
        }
        if self.struck { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
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
    let mut config = config(0.75);
    config.optimiser.warmup_fraction = 0.4;
    assert_eq!(config.warmup_steps(), 5);
    let whole = folder.path().join("whole");
    let expected = train(&config, &data, &whole);
    let epoch = data.tokens(Split::Train) / 24;
    assert!((9 * 6..10 * 6).contains(&epoch), "step 10 must begin a new epoch, not after {epoch}");
    let (mut places, mut step) = (Vec::new(), 0);
    let watched = folder.path().join("watched");
    let mut session = Session::start(config.clone(), Arc::clone(&data), &watched).unwrap();
    let mut watch = |progress: Progress<'_>| {
        places.extend(place(progress, &mut step));
        ControlFlow::Continue(())
    };
    pretrain(&mut session, &mut watch).unwrap();
    // 12 steps of 3 micro-batches, 3 evaluations of 2 passes, 3 checkpoints: in and after warm-up, on
    // both sides of the edge of the epoch, at every micro-batch and between them.
    assert_eq!(places.len(), 12 * 3 + 3 * 3 + 3);
    for (index, at) in places.into_iter().enumerate() {
        let out = folder.path().join(format!("stopped-{index}"));
        let crashed = folder.path().join(format!("crashed-{index}"));
        let mut session = Session::start(config.clone(), Arc::clone(&data), &out).unwrap();
        let (step, struck, saved) = (0, false, Vec::new());
        let mut disturb = Disturb { at, folder: &out, crashed: &crashed, step, struck, saved };
        let stopped = pretrain(&mut session, &mut disturb);
        assert!(matches!(stopped, Err(Error::Stopped)), "{at:?}: {stopped:?}");
        assert_eq!((session.step(), disturb.saved.last()), (at.1, Some(&at.1)), "{at:?}");
        drop(session);
        let threads = [1, 2, 8][index % 3];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let report = pool.install(|| resume(&config, &data, &out));
        assert_eq!(report.weights_hash, expected.weights_hash);
        assert_eq!(report.val_loss, expected.val_loss);
        assert_eq!(trace(&out), trace(&whole), "stopped at {at:?}");

        // A crash leaves the folder as it is, perhaps with half a line; a power cut, perhaps with
        // zeros where lines were not yet on the disk.
        for (log, litter) in
            [("metrics.jsonl", &b"{\"step\":9"[..]), ("validation.jsonl", b"\0\0\0\n\0\0")]
        {
            let log = crashed.join(log);
            let torn = [&fs::read(&log).unwrap()[..], litter].concat();
            fs::write(&log, torn).unwrap();
        }
        pool.install(|| resume(&config, &data, &crashed));
        assert_eq!(trace(&crashed), trace(&whole), "crashed at {at:?}");
        let validations = |run: &Path| fs::read(run.join("validation.jsonl")).unwrap();
        assert_eq!(validations(&crashed), validations(&whole));
    }
    // A finished run has nothing left to do.
    let again = resume(&config, &data, &whole);
    assert_eq!(again.weights_hash, expected.weights_hash);
    assert_eq!(again.val_loss, expected.val_loss);
}

#[test]
fn sessions_may_take_turns_and_be_saved_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    let path = |name: &str| folder.path().join(name);
    let expected = train(&config(0.0), &data, &path("dense"));
    train(&config(0.75), &data, &path("sparse"));
    let start =
        |sparsity, out| Session::start(config(sparsity), Arc::clone(&data), &path(out)).unwrap();
    let mut sessions = [start(0.0, "dense-in-turn"), start(0.75, "sparse-in-turn")];
    for step in 1..=12 {
        for session in &mut sessions {
            // A step that is given up is made by the next call.
            let stopped = session.advance(&mut |_: Progress<'_>| ControlFlow::Break(()));
            assert!(matches!(stopped, Ok(Advance::Stopped)), "{stopped:?}");
            let Ok(Advance::Stepped(metrics)) = session.advance(&mut ()) else {
                panic!("step {step} made no update")
            };
            assert_eq!((metrics.step, session.step()), (step, step));
            assert_eq!(session.pace().steps, 12);
            // Where the configuration does not ask for it, and twice: nothing comes of it.
            if step == 7 {
                assert_eq!(session.save().unwrap(), session.save().unwrap());
            }
            if session.is_evaluation_due() {
                session.evaluate(&mut ()).unwrap();
            }
            assert!(!session.is_evaluation_due());
        }
    }
    let [dense, sparse] = &mut sessions;
    for session in [&mut *dense, sparse] {
        assert!(matches!(session.advance(&mut ()), Ok(Advance::Finished)));
        assert!(session.is_save_due());
        session.save().unwrap();
        assert!(!session.is_save_due());
    }
    let found = dense.finish().unwrap();
    assert_eq!((found.weights_hash, found.val_loss), (expected.weights_hash, expected.val_loss));
    assert_eq!(trace(&path("dense-in-turn")), trace(&path("dense")));
    assert_eq!(trace(&path("sparse-in-turn")), trace(&path("sparse")));
}

#[test]
fn a_small_text_is_learnt_by_heart() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    for sparsity in [0.0, 0.75] {
        let mut config = config(sparsity);
        config.model.vocabulary = data.vocab_size();
        (config.train.lr, config.train.steps) = (1e-2, 120);
        let text =
            sequential(&data, Split::Train, config.train.context).unwrap().take(config.train.batch);
        let batch = TokenBatch::new(text.map(Result::unwrap));
        let mut optimisation = Optimisation::new(Gpt::new(&config).unwrap(), &config).unwrap();
        let mut step =
            || optimisation.step(std::slice::from_ref(&batch), &mut ()).unwrap().loss.mean();
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
        let all = evaluate_run(&out, &data, &mut ()).unwrap();
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
        let mut optimisation = Optimisation::new(gpt, &config).unwrap();
        let error = whole(&optimisation.step(std::slice::from_ref(&batch), &mut ()).unwrap_err());
        let expected = format!("step 1 made no update: weight '{name}' is NaN at element 0");
        assert!(error.contains(&expected), "{error}");
        assert_eq!(weights_hash(optimisation.gpt().parameters()), before);
        assert_eq!(optimisation.steps(), 0);
    }
    let mut optimisation = Optimisation::new(Gpt::new(&config).unwrap(), &config).unwrap();
    let nothing = TokenBatch { weights: Some(vec![0.0; 8]), ..batch.clone() };
    let error = whole(&optimisation.step(&[nothing], &mut ()).unwrap_err());
    assert!(error.contains("no target token has a weight"), "{error}");
    assert!(optimisation.step(&[batch], &mut ()).is_ok(), "the next step must be possible");
}

/// A run whose weights explode in its first update.
fn exploding(on_nonfinite: OnNonFinite) -> Config {
    let mut config = config(0.75);
    (config.train.lr, config.optimiser.clip_norm) = (1e30, f64::INFINITY);
    (config.optimiser.warmup_fraction, config.eval.every) = (0.0, 0);
    config.train.on_nonfinite = on_nonfinite;
    config
}

/// Counts what it is told, and stops a run.
#[derive(Default)]
struct Count {
    skipped: usize,
    stop: Option<usize>,
}

impl Watch for Count {
    fn see(&mut self, progress: Progress<'_>) -> ControlFlow<()> {
        match progress {
            Progress::Skipped(problem) => {
                assert!(whole(problem).contains("is NaN"), "{}", whole(problem));
                self.skipped += 1;
            }
            Progress::Stepped { metrics, .. } => {
                assert_eq!(metrics.skipped, metrics.step as u64 - 1);
                if self.stop == Some(metrics.step) {
                    return ControlFlow::Break(());
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

#[test]
fn a_run_stops_at_what_is_not_finite_or_skips_it_when_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    let end = |mut session: Session, count: &mut Count| {
        whole(&pretrain(&mut session, count).expect_err("no model comes of this"))
    };

    let stopped = folder.path().join("stopped");
    let config = exploding(OnNonFinite::Stop);
    let session = Session::start(config.clone(), Arc::clone(&data), &stopped).unwrap();
    let error = end(session, &mut Count::default());
    assert!(
        error.starts_with("step 2 made no update: loss 'micro-batch 1 of 3' is NaN")
            && error.ends_with("a smaller learning rate may help"),
        "{error}"
    );
    assert_eq!(run::read_log::<StepMetrics>(&stopped).unwrap().len(), 1);

    // All later steps are skipped, the state is saved as always, and the end has no loss to report.
    let config = exploding(OnNonFinite::Skip);
    let out = folder.path().join("whole");
    let mut count = Count::default();
    let error = end(Session::start(config.clone(), Arc::clone(&data), &out).unwrap(), &mut count);
    assert!(error.starts_with("loss 'validation' is NaN"), "{error}");
    assert_eq!(count.skipped, 11);
    let state = |out: &Path| {
        let lines = trace(out).0.into_iter().map(|line| serde_json::to_string(&line).unwrap());
        (lines.collect::<Vec<_>>(), trace(out).2)
    };
    let checkpoints = run::checkpoints(&out);
    let newest = checkpoint::latest(&checkpoints).unwrap().checkpoint.unwrap().manifest;
    assert_eq!((newest.step, newest.skipped), (8, 7));

    // The run that stopped may go on, skipping; interrupted again, it ends as the other one did.
    let mut session = Session::resume(config.clone(), Arc::clone(&data), &stopped).unwrap();
    let mut count = Count { stop: Some(6), ..Count::default() };
    let ended = pretrain(&mut session, &mut count);
    assert!(matches!(ended, Err(Error::Stopped)), "{ended:?}");
    assert_eq!(session.step(), 6);
    drop(session);
    let session = Session::resume(config, Arc::clone(&data), &stopped).unwrap();
    end(session, &mut Count::default());
    assert_eq!(state(&stopped), state(&out));
}

#[test]
fn folders_settings_and_data_that_do_not_fit_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (data, other) = (dataset(folder.path(), 1), dataset(folder.path(), 2));
    let out = folder.path().join("run");
    let start = |config: Config, out: &Path| {
        Session::start(config, Arc::clone(&data), out).err().unwrap().to_string()
    };
    let resume = |config: Config, data: &Arc<Dataset>, out: &Path| {
        Session::resume(config, Arc::clone(data), out).err().unwrap().to_string()
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

    let mut held = Session::start(config(0.75), Arc::clone(&data), &out).unwrap();
    let error = resume(config(0.75), &data, &out);
    assert!(error.contains("another process is writing"), "{error}");
    pretrain(&mut held, &mut ()).unwrap();
    drop(held);

    let before = trace(&out);
    let error = start(config(0.75), &out);
    assert!(error.contains("holds a run already"), "{error}");
    let mut changed = config(0.5);
    changed.train.lr = 1.0;
    let error = resume(changed, &data, &out);
    assert!(error.contains("train.lr is 1") && error.contains("sparsity.sparsity"), "{error}");
    let error = resume(config(0.75), &other, &out);
    assert!(error.contains("data.json") || error.contains("model.vocabulary"), "{error}");
    let error = evaluate_run(&out, &other, &mut ()).unwrap_err().to_string();
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

    truncate("step-00000012");
    let mut session = Session::resume(config.clone(), Arc::clone(&data), &out).unwrap();
    let Some(Progress::Resumed { step: 8, checkpoint: Some(_), skipped }) = session.resumed()
    else {
        panic!("{:?}", session.resumed())
    };
    assert_eq!(skipped.len(), 1);
    pretrain(&mut session, &mut ()).unwrap();
    drop(session);
    assert_eq!(trace(&out), expected);

    // One of another run, though whole, is no way to go on.
    let other = folder.path().join("other");
    let mut other_config = config.clone();
    other_config.train.seed = 2;
    train(&other_config, &data, &other);
    let newest = out.join("checkpoints/step-00000012");
    fs::remove_dir_all(&newest).unwrap();
    copy(&other.join("checkpoints/step-00000012"), &newest);
    let error = Session::resume(config.clone(), Arc::clone(&data), &out).err().unwrap().to_string();
    assert!(error.contains("step-00000012: is of another run: train.seed is 1 here"), "{error}");

    truncate("step-00000008");
    truncate("step-00000012");
    let error = Session::resume(config, data, &out).err().unwrap().to_string();
    assert!(error.contains("no checkpoint can be used"), "{error}");
    assert!(run::load_model(&out).err().unwrap().to_string().contains("no checkpoint can be used"));
}

#[test]
fn a_flipped_byte_in_the_newest_checkpoint_costs_its_steps_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    let mut config = config(0.75);
    config.checkpoint.keep = 2;
    let whole = folder.path().join("whole");
    train(&config, &data, &whole);
    let expected = trace(&whole);
    for (number, name) in ["weights.safetensors", "optimizer.safetensors"].into_iter().enumerate() {
        let out = folder.path().join(format!("run-{number}"));
        copy(&whole, &out);
        let file = out.join("checkpoints/step-00000012").join(name);
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::write(&file, bytes).unwrap();
        // Told to, it is refused, and nothing has changed.
        let strict = |data| Session::resume_at(config.clone(), data, &out, Choice::Newest);
        let error = strict(Arc::clone(&data)).err().unwrap().to_string();
        assert!(error.contains(name) && error.contains("BLAKE3"), "{error}");
        // A model does not need its moments.
        let loaded = run::load_model(&out).unwrap();
        let is_needed = name == "weights.safetensors";
        assert_eq!((loaded.step, loaded.skipped.len()), if is_needed { (8, 1) } else { (12, 0) });
        assert_eq!(LoadedModel::load(&out, Choice::Newest).is_err(), is_needed);
        assert_eq!(LoadedModel::load(&out, Choice::Step(8)).unwrap().step, 8);
        let evaluated = evaluate_run(&out, &data, &mut ()).unwrap();
        assert_eq!(evaluated.skipped.len(), usize::from(is_needed));

        // Nor is the older one lost, however few are kept.
        config.checkpoint.keep = 1;
        let mut session = Session::resume(config.clone(), Arc::clone(&data), &out).unwrap();
        let Some(Progress::Resumed { step: 8, checkpoint: Some(older), skipped }) =
            session.resumed()
        else {
            panic!("{:?}", session.resumed())
        };
        assert!(older.join("manifest.json").exists());
        assert!(skipped.len() == 1 && skipped[0].contains(name), "{skipped:?}");
        pretrain(&mut session, &mut ()).unwrap();
        drop(session);
        assert_eq!(trace(&out), expected, "{name}");
        config.checkpoint.keep = 2;
    }
}

#[test]
fn a_run_whose_logs_are_damaged_or_lost_says_so_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    let config = config(0.75);
    let whole = folder.path().join("whole");
    let expected = train(&config, &data, &whole);
    let begun = folder.path().join("begun");
    let mut session = Session::start(config.clone(), Arc::clone(&data), &begun).unwrap();
    let mut stop = |progress: Progress<'_>| match progress {
        Progress::Saved { step: 8, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    assert!(matches!(pretrain(&mut session, &mut stop), Err(Error::Stopped)));
    drop(session);
    let all = |text: &str| Some(text.to_string());
    let without = |text: &str, lost: usize| {
        let kept = text.lines().enumerate().filter(|(at, _)| *at != lost).map(|(_, line)| line);
        Some(kept.map(|line| format!("{line}\n")).collect())
    };
    let damaged = |text: &str| Some(text.replacen("\"step\":3", "\"step\":?", 1));
    type Change<'a> = &'a dyn Fn(&str) -> Option<String>;
    type Expected = Option<(usize, &'static str)>;
    let cases: [(&str, Change<'_>, Expected); 9] = [
        ("metrics.jsonl", &all, None),
        ("metrics.jsonl", &|_| None, Some((0, "holds 0 of the steps 1 to 8"))),
        ("metrics.jsonl", &|_| Some(String::new()), Some((0, "holds 0 of the steps"))),
        ("metrics.jsonl", &|text| without(text, 4), Some((7, "holds 7 of the steps 1 to 8;"))),
        ("metrics.jsonl", &|text| without(text, 7), Some((7, "holds 7 of the steps 1 to 8;"))),
        ("metrics.jsonl", &damaged, Some((7, "metrics.jsonl: line 3: "))),
        ("metrics.jsonl", &|text| Some(text.repeat(2)), Some((8, ""))),
        ("validation.jsonl", &|_| None, None),
        ("validation.jsonl", &|text| Some(format!("damage\n{text}")), Some((8, "line 1: "))),
    ];
    for (number, (name, change, expected_note)) in cases.into_iter().enumerate() {
        let out = folder.path().join(format!("run-{number}"));
        copy(&begun, &out);
        let text = fs::read_to_string(out.join(name)).unwrap();
        fs::remove_file(out.join(name)).unwrap();
        if let Some(text) = change(&text) {
            fs::write(out.join(name), text).unwrap();
        }
        let mut session = Session::resume(config.clone(), Arc::clone(&data), &out).unwrap();
        let notes = session.notes().to_vec();
        let (kept, says) = expected_note.unwrap_or((8, ""));
        assert!(notes.iter().all(|note| note.contains(says)), "{number}: {notes:?}");
        assert_eq!(notes.len(), usize::from(!says.is_empty()), "{number}: {notes:?}");
        let report = pretrain(&mut session, &mut ()).unwrap();
        drop(session);
        assert_eq!(report.weights_hash, expected.weights_hash, "{number}");
        assert_eq!((report.val_loss, report.train_loss), (expected.val_loss, expected.train_loss));
        assert!(report.tokens_per_second.is_finite() && report.tokens_per_second > 0.0);
        let steps: Vec<usize> =
            run::read_log::<StepMetrics>(&out).unwrap().iter().map(|line| line.step).collect();
        assert_eq!(steps.len(), kept + 4, "{number}");
        assert_eq!(steps[kept..], [9, 10, 11, 12], "{number}");
        assert!(run::read_log::<Validation>(&out).is_ok(), "{number}");
        // And once more, when all is done; the account of the last step may be gone then.
        fs::remove_file(out.join("metrics.jsonl")).unwrap();
        let report = resume(&config, &data, &out);
        assert_eq!(report.weights_hash, expected.weights_hash);
        assert!(report.train_loss.is_nan() && report.step == 12);
    }
}

#[test]
fn a_finished_run_may_get_more_steps() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    let config = config(0.75);
    let mut longer = config.clone();
    longer.train.steps = 20;
    let start = folder.path().join("start");
    train(&config, &data, &start);
    let path = |name: &str| {
        let path = folder.path().join(name);
        copy(&start, &path);
        path
    };
    let whole = path("whole");
    let mut session = Session::resume(longer.clone(), Arc::clone(&data), &whole).unwrap();
    let [note] = session.notes() else { panic!("{:?}", session.notes()) };
    assert!(note.starts_with("all 12 steps are done, and 20 are wanted now"), "{note}");
    let report = pretrain(&mut session, &mut ()).unwrap();
    drop(session);
    assert_eq!(report.step, 20);
    let (metrics, validations, _) = trace(&whole);
    assert_eq!(metrics.len(), 20);
    assert_eq!(validations.iter().map(|line| line.step).collect::<Vec<_>>(), [5, 10, 12, 15, 20]);
    // The rates are those that a run of 20 steps has there.
    let fresh = folder.path().join("fresh");
    train(&longer, &data, &fresh);
    let rates = |metrics: &[StepMetrics]| metrics.iter().map(|line| line.lr).collect::<Vec<_>>();
    assert_eq!(rates(&metrics)[12..], rates(&trace(&fresh).0)[12..]);
    assert_ne!(rates(&metrics)[..12], rates(&trace(&fresh).0)[..12]);
    assert_eq!(run::read_config(&whole).unwrap().train.steps, 20);

    // However often it is stopped, by its own settings from then on.
    for stop_at in 12..20 {
        let out = path(&format!("stopped-{stop_at}"));
        let mut session = Session::resume(longer.clone(), Arc::clone(&data), &out).unwrap();
        let mut stop = |progress: Progress<'_>| match progress {
            Progress::Accumulated { .. } if stop_at == 12 => ControlFlow::Break(()),
            Progress::Stepped { metrics, .. } if metrics.step == stop_at => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        assert!(matches!(pretrain(&mut session, &mut stop), Err(Error::Stopped)));
        drop(session);
        let own = run::read_config(&out).unwrap();
        resume(&own, &data, &out);
        assert_eq!(trace(&out), trace(&whole), "stopped at {stop_at}");
    }

    let refusal = |out: &Path, steps: usize| {
        let mut other = longer.clone();
        other.train.steps = steps;
        Session::resume(other, Arc::clone(&data), out).err().unwrap().to_string()
    };
    let error = refusal(&whole, 19);
    assert!(error.contains("train.steps is 19 here, but 20 there"), "{error}");
    let out = path("unfinished");
    fs::remove_dir_all(out.join("checkpoints/step-00000012")).unwrap();
    let error = refusal(&out, 20);
    assert!(error.contains("it can get more once its 12 are done"), "{error}");
    fs::remove_dir_all(out.join("checkpoints")).unwrap();
    let error = refusal(&out, 20);
    assert!(error.contains("train.steps is 20 here, but 12 there"), "{error}");
    assert_eq!(run::read_config(&out).unwrap().train.steps, 12);
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
