//! Fine-tuning at micro size: the mask falls without changing the function, prompts learn alone,
//! twenty examples are learnt by heart, and an interrupted grid repeats nothing.

use mediswift_data::{Dataset, Preparation, Tokenizer, TokenizerSource, prepare};
use mediswift_engine::{Arena, Gradients, Shape, TokenLayout};
use mediswift_files::faults::Recording;
use mediswift_model::architecture::PROMPT;
use mediswift_model::checkpoint::Choice;
use mediswift_model::decode::Decoder;
use mediswift_model::error::ErrorKind;
use mediswift_model::finetune::answer::Answerer;
use mediswift_model::finetune::encode::{ExampleEncoder, batch};
use mediswift_model::finetune::folder::read_settings;
use mediswift_model::finetune::report::TuningReport;
use mediswift_model::finetune::settings::Settings;
use mediswift_model::finetune::start::Start;
use mediswift_model::finetune::{Job, finetune};
use mediswift_model::generate::{GenerateOptions, generate};
use mediswift_model::pretrain::pretrain;
use mediswift_model::run::{self, LoadedModel};
use mediswift_model::score::{Query, Score, score};
use mediswift_model::session::Session;
use mediswift_model::tasks::metrics::{
    Flags, accuracy, example_based, macro_f1, multilabel_macro_f1, multilabel_micro_f1,
};
use mediswift_model::tasks::{Example, task};
use mediswift_model::watch::{Progress, Watch};
use mediswift_model::{Config, Error, Gpt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
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

#[test]
fn the_mask_falls_without_changing_the_function() {
    let folder = tempfile::tempdir().unwrap();
    let from = pretrained(folder.path(), 0.75);
    let loaded = run::load_model(&from).unwrap();
    let dense = Start::new(loaded.config.clone(), loaded.gpt.parameters(), &settings(&[]));
    let dense = Gpt::from_parameters(&dense.config, dense.parameters).unwrap();
    let layout = TokenLayout { sequences: 2, context: 37 };
    let ids: Vec<u32> = (0..74).map(|i| i * 31 % 300).collect();
    let (before, after) =
        (loaded.gpt.logits(&ids, layout).unwrap(), dense.logits(&ids, layout).unwrap());
    let largest = before.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    for (before, after) in before.iter().zip(&after) {
        assert!((before - after).abs() < 1e-5 * largest, "{before} became {after}");
    }
    let zeros = |gpt: &Gpt| {
        let all: usize = gpt.linear_weights().map(|w| w.values.len()).sum();
        let zero: usize =
            gpt.linear_weights().flat_map(|w| w.values.iter()).filter(|x| **x == 0.0).count();
        zero as f64 / all as f64
    };
    assert_eq!(zeros(&dense), 0.75);
    // The ablation brings them back at random, and leaves the others as they are.
    let random = settings(&["finetune.inactive=random"]);
    let random = Start::new(loaded.config.clone(), loaded.gpt.parameters(), &random);
    for (_, parameter) in loaded.gpt.parameters().iter() {
        let id = random.parameters.find(parameter.name).unwrap();
        let Shape::Sparse(pattern) = parameter.shape else { continue };
        let values = &random.parameters[id];
        assert!(values.iter().all(|&x| x != 0.0));
        for row in 0..pattern.rows() {
            for (at, &column) in pattern.row_range(row).zip(pattern.row(row)) {
                assert_eq!(values[row * pattern.columns() + column as usize], parameter.values[at]);
            }
        }
    }
    let kept = settings(&["finetune.weights=sparse"]);
    let kept = Start::new(loaded.config, loaded.gpt.parameters(), &kept);
    assert_eq!(kept.config.sparsity.sparsity, 0.75);
}

#[test]
fn a_prompt_is_a_vocabulary_that_nothing_predicts() {
    let folder = tempfile::tempdir().unwrap();
    let from = pretrained(folder.path(), 0.0);
    let loaded = run::load_model(&from).unwrap();
    let tokenizer = Tokenizer::load(&run::tokenizer_path(&from)).unwrap();
    let base = Start::new(loaded.config, loaded.gpt.parameters(), &settings(&[]));
    let text = settings(&["finetune.prompt_text=Does alpha help?"]);
    let start = base.clone().with_prompt(&text, &tokenizer, 1).unwrap();
    let gpt = Gpt::from_parameters(&start.config, start.parameters.clone()).unwrap();
    assert_eq!(gpt.prompt_tokens(), 4);
    // Started from a text, virtual tokens do what its tokens do.
    let words = tokenizer.encode("Does alpha help?");
    let v = gpt.size().vocabulary as u32;
    let layout = TokenLayout { sequences: 1, context: 6 };
    let virtual_ids = [5, v, v + 1, v + 2, v + 3, 7];
    let real_ids = [5, words[0], words[1], words[2], words[3], 7];
    let logits = gpt.logits(&virtual_ids, layout).unwrap();
    assert_eq!(logits, gpt.logits(&real_ids, layout).unwrap());
    assert_eq!(logits.len(), 6 * v as usize, "no logits for virtual tokens");
    let message = gpt.logits(&[5, v + 4, 0, 0, 0, 0], layout).unwrap_err().to_string();
    assert!(message.contains(&format!("token {} at position 1", v + 4)), "{message}");
    // The loss reaches the prompt.
    let batch = batch([(&virtual_ids[..5], &[7u32, 0][..])].into_iter());
    let mut gradients = Gradients::zeros(gpt.parameters().layout());
    gpt.loss_and_gradients(&batch, 1.0, &mut gradients, &mut Arena::default()).unwrap();
    let id = gpt.parameters().find(PROMPT).unwrap();
    let d = gpt.size().d_model;
    assert!(gradients[id].chunks(d).all(|row| row.iter().any(|x| *x != 0.0)));
    // By finite differences of the loss.
    for at in [0, d + 3, 3 * d + 1] {
        let loss = |change: f32| {
            let mut parameters = start.parameters.clone();
            parameters[id][at] += change;
            let gpt = Gpt::from_parameters(&start.config, parameters).unwrap();
            gpt.evaluate(&batch, &mut Arena::default()).unwrap().sum
        };
        let expected = (loss(1e-2) - loss(-1e-2)) / 2e-2;
        let found = f64::from(gradients[id][at]);
        assert!((found - expected).abs() < 2e-2 * expected.abs() + 1e-3, "{found}, not {expected}");
    }
    let none = settings(&["finetune.prompt_tokens=0"]);
    assert!(start.with_prompt(&none, &tokenizer, 1).unwrap().parameters.find(PROMPT).is_none());
}

#[test]
fn twenty_examples_are_learnt_by_heart() {
    let folder = tempfile::tempdir().unwrap();
    let from = pretrained_for(folder.path(), 0.75, 250);
    let task_folder = twenty(folder.path());
    let all = settings(&["finetune.lr=3e-3", "finetune.epochs=40", "finetune.patience=40"]);
    let report = finished(&from, &task_folder, &folder.path().join("dense"), &all);
    let last = report.seeds[0].cell.epochs.last().unwrap();
    assert_eq!((report.value, report.likelihood[0].mean), (1.0, 1.0), "{report:?}");
    assert!(last.dev_loss < 0.02, "{last:?}");
    assert!(report.metric.starts_with("accuracy"));

    let prompt = settings(&[
        "finetune.lr=1e-2",
        "finetune.epochs=150",
        "finetune.patience=150",
        "finetune.weights=frozen",
        "finetune.prompt_tokens=12",
        "finetune.weight_decay=0",
    ]);
    let out = folder.path().join("prompt");
    let report = finished(&from, &task_folder, &out, &prompt);
    let last = report.seeds[0].cell.epochs.last().unwrap();
    assert_eq!((report.value, report.likelihood[0].mean), (1.0, 1.0), "{last:?}");
    assert!(last.dev_loss < 0.05, "{last:?}");
    // Nothing but the prompt has changed.
    let (before, after) = (run::load_model(&from).unwrap(), run::load_model(&out).unwrap());
    for (_, parameter) in before.gpt.parameters().iter() {
        let id = after.gpt.parameters().find(parameter.name).unwrap();
        assert_eq!(after.gpt.parameters()[id], *parameter.values, "{}", parameter.name);
    }
    assert_eq!(after.gpt.prompt_tokens(), 12);
    // The prompt steers whatever reads tokens: the sampler, and the scorer of texts.
    let tokenizer = &after.tokenizer;
    let options = GenerateOptions {
        temperature: 0.0,
        end_token: Some(tokenizer.end_of_text()),
        ..GenerateOptions::default()
    };
    for i in 0..20 {
        let (question, context, answer) = question(i);
        let mut ids = vec![tokenizer.end_of_text()];
        ids.extend(tokenizer.encode(&format!("question: {question} context: {context}")));
        ids.extend(after.gpt.prompt_ids());
        let target = format!(" the answer to the question given the context is {answer}.");
        let made = generate(&after.gpt, &ids, &options, tokenizer).unwrap();
        assert_eq!(made.text, target);
        let mut decoder = Decoder::new(&after.gpt);
        ids.iter().for_each(|&id| decoder.feed(id).unwrap());
        let logits = decoder.logits();
        let likeliest = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        assert_eq!(likeliest, Some(made.ids[0] as usize), "token by token");
        let from = ids.len();
        ids.extend(made.ids);
        let query = Query { ids: &ids, from, next: false };
        let score = &score(&after.gpt, &[query], 1).unwrap()[0];
        assert!(score.is_greedy && score.tokens.len() == ids.len() - from);
        ids.push(after.gpt.prompt_ids().start);
        let refused = score_all(&after.gpt, &ids).unwrap_err().to_string();
        assert!(refused.contains("vocabulary"), "virtual tokens have no likelihood: {refused}");
    }
}

fn score_all(gpt: &Gpt, ids: &[u32]) -> Result<Vec<Score>, Error> {
    score(gpt, &[Query::all(ids)], 1)
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

#[test]
fn an_interrupted_grid_repeats_nothing_and_ends_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (from, task_folder) = (pretrained(at, 0.5), twenty(at));
    let settings = settings(&[
        "finetune.lr=[1e-3, 5e-4]",
        "finetune.batch=[5, 10]",
        "finetune.epochs=2",
        "finetune.seeds=2",
    ]);
    let mut whole = Counter::default();
    tune(&from, &task_folder, &at.join("whole"), &settings, false, &mut whole).unwrap();
    assert_eq!((whole.trained.len(), whole.known.len()), (5, 1), "a grid of 4, 1 more seed");

    let out = at.join("out");
    let mut first = Counter { stop_after_epochs: Some(5), ..Counter::default() };
    let ended = tune(&from, &task_folder, &out, &settings, false, &mut first);
    assert!(matches!(ended, Err(Error::Stopped)), "{ended:?}");
    assert_eq!(first.trained.len(), 3, "two cells finished, the third begun");
    let again = tune(&from, &task_folder, &out, &settings, false, &mut ());
    assert!(again.unwrap_err().to_string().contains("go on with --resume"));
    let mut second = Counter::default();
    tune(&from, &task_folder, &out, &settings, true, &mut second).unwrap();
    assert_eq!(second.known[..2], first.trained[..2]);
    assert_eq!(second.trained[..2], whole.trained[2..4]);
    // And once more, when all is done.
    let mut third = Counter::default();
    tune(&from, &task_folder, &out, &settings, true, &mut third).unwrap();
    assert!(third.trained.is_empty());

    // Stopped at other places each time: in training, evaluation, judging, baselines.
    let (mut stops, mut events) = (0, 1);
    let ended = loop {
        let mut counter = Counter { stop_after_events: Some(events), ..Counter::default() };
        let again = stops > 0 && at.join("parts/finetune.toml").exists();
        let parts = at.join("parts");
        match tune(&from, &task_folder, &parts, &settings, again, &mut counter) {
            Err(Error::Stopped) => assert_eq!(counter.events, events, "it went on"),
            ended => break ended,
        }
        stops += 1;
        events += 1 + events / 4;
    };
    ended.unwrap();
    assert!(stops > 12, "only {stops} stops");

    for folder in ["out", "parts"] {
        let names = ["report.md", "report.json", "predictions-seed-1.json", "seed-2.json"];
        for name in names {
            let read = |folder: &str| fs::read_to_string(at.join(folder).join(name)).unwrap();
            assert_eq!(read("whole"), read(folder), "{folder}/{name}");
        }
        let hash = |folder: &str| {
            let model = run::load_model(&at.join(folder)).unwrap();
            mediswift_model::checkpoint::weights_hash(model.gpt.parameters())
        };
        assert_eq!(hash("whole"), hash(folder));
    }

    let mut other = settings.clone();
    other.set("finetune.epochs=3").unwrap();
    let refused = tune(&from, &task_folder, &out, &other, true, &mut ()).unwrap_err();
    assert!(refused.to_string().contains("was started with other settings"), "{refused}");
    fs::write(task_folder.join("ori_pqal.json"), items(0, 21, true).to_string()).unwrap();
    fs::remove_file(task_folder.join("pqal_splits.json")).unwrap();
    let refused = tune(&from, &task_folder, &out, &settings, true, &mut ()).unwrap_err();
    assert!(refused.to_string().contains("another model, task or examples"), "{refused}");
}

#[test]
fn a_run_that_was_changed_from_outside_is_refused_or_mended() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (from, task_folder) = (pretrained_for(at, 0.5, 2), twenty(at));
    let settings = settings(&["finetune.lr=[1e-3, 5e-4]", "finetune.epochs=1", "finetune.seeds=2"]);
    let whole = finished(&from, &task_folder, &at.join("whole"), &settings);
    // Stopped when the grid is done.
    let out = at.join("out");
    let mut stop = Counter { stop_after_epochs: Some(2), ..Counter::default() };
    let mut stopping = |progress: Progress<'_>| match (stop.see(progress), progress) {
        (ControlFlow::Break(()), Progress::Passed { .. }) => ControlFlow::Continue(()),
        (flow, _) => flow,
    };
    let stopped = tune(&from, &task_folder, &out, &settings, false, &mut stopping);
    assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
    let best = fs::read_dir(out.join("cells")).unwrap().map(|entry| entry.unwrap().path());
    let best = best.filter(|path| path.is_dir()).collect::<Vec<_>>();
    assert_eq!(best.len(), 1, "{best:?}");
    let go_on = |settings: &Settings| tune(&from, &task_folder, &out, settings, true, &mut ());
    let refusal = |settings: &Settings| go_on(settings).unwrap_err().to_string();

    // The file of settings, by hand: what is there was made with others.
    let file = out.join("finetune.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("epochs = 1\npatience", "epochs = 4\npatience")).unwrap();
    let edited = read_settings(&out).unwrap();
    assert_eq!(edited.finetune.epochs, 4);
    let message = refusal(&edited);
    assert!(message.contains("finetune.epochs is 4 here, but 1 there"), "{message}");
    fs::remove_file(&file).unwrap();
    let message = tune(&from, &task_folder, &out, &settings, false, &mut ()).unwrap_err();
    assert!(message.to_string().contains("is not empty (it holds 'cells')"), "{message}");
    fs::write(&file, &text).unwrap();

    // The tokenizer, gone or another, here and where it comes from.
    for run in [&out, &from] {
        let tokenizer = run::tokenizer_path(run);
        let bytes = fs::read(&tokenizer).unwrap();
        fs::remove_file(&tokenizer).unwrap();
        let message = refusal(&settings);
        assert!(message.contains(&tokenizer.display().to_string()), "{message}");
        let other = String::from_utf8(bytes.clone()).unwrap().replacen("improved", "worsened", 1);
        fs::write(&tokenizer, other.replacen(':', ": ", 1)).unwrap();
        let message = refusal(&settings);
        assert!(message.contains(&tokenizer.display().to_string()), "{message}");
        fs::write(&tokenizer, bytes).unwrap();
    }

    // Weights of a finished training, damaged or gone: the training is made again.
    let saved: Vec<PathBuf> =
        fs::read_dir(&best[0]).unwrap().map(|entry| entry.unwrap().path()).collect();
    let weights = saved[0].join("weights.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let mut notes = Vec::new();
    let mut watch = |progress: Progress<'_>| {
        if let Progress::Noted(note) = progress
            && note.contains("trained again")
        {
            notes.push(note.to_string());
        }
        ControlFlow::Continue(())
    };
    let report = tune(&from, &task_folder, &out, &settings, true, &mut watch).unwrap();
    assert_eq!(report, whole);
    assert!(notes.len() == 1 && notes[0].contains("BLAKE3"), "{notes:?}");

    // A run of an older program does not know what it was started with.
    let identity = out.join("identity.json");
    let mut known: Value = serde_json::from_slice(&fs::read(&identity).unwrap()).unwrap();
    known.as_object_mut().unwrap().remove("settings");
    fs::write(&identity, known.to_string()).unwrap();
    assert_eq!(go_on(&settings).unwrap(), whole);
}

#[test]
fn a_grid_has_every_value_once_and_survives_one_that_diverges() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (from, task_folder) = (pretrained_for(at, 0.5, 2), twenty(at));
    let trained = |name: &str, assignments: &[&str]| {
        let mut all = vec!["finetune.epochs=1", "finetune.lr=1e-3"];
        all.extend(assignments);
        let mut counter = Counter::default();
        let watch = &mut |progress: Progress<'_>| match progress {
            // A rate that is far too large may well lose more than numbers can tell.
            Progress::Tuned { .. } => ControlFlow::Continue(()),
            progress => counter.see(progress),
        };
        let report = tune(&from, &task_folder, &at.join(name), &settings(&all), false, watch);
        (report, counter.trained)
    };
    let (once, _) = trained("once", &[]);
    let once = once.unwrap();
    let twice = ["finetune.lr=[1e-3, 0.001]", "finetune.batch=[10, 10]"];
    let (twice, trainings) = trained("twice", &twice);
    assert_eq!((twice.unwrap().per_seed, trainings.len()), (once.per_seed.clone(), 1));

    // Whether it shows in the loss, or only when the model is judged after its last step.
    for (name, diverges) in [("soon", "1e30"), ("late", "1e37")] {
        let steps = if name == "late" { "finetune.batch=20" } else { "finetune.batch=5" };
        let alone = format!("finetune.lr={diverges}");
        let (refused, _) = trained(&format!("{name}-alone"), &[steps, &alone]);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::NonFinite, "{name}");
        let both = format!("finetune.lr=[{diverges}, 1e-3]");
        let (report, trainings) = trained(name, &[steps, &both]);
        let report = report.unwrap();
        assert_eq!(trainings.len(), 2);
        let notes: Vec<_> =
            report.notes.iter().filter(|note| note.contains("came to nothing")).collect();
        assert!(notes.len() == 1 && notes[0].contains(&format!("lr{diverges}")), "{notes:?}");
        assert!(report.value.is_finite());
    }
}

#[test]
fn a_prompt_larger_than_the_model_is_refused_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (from, task_folder) = (pretrained_for(at, 0.5, 2), twenty(at));
    for tokens in ["64", "4294967296", "9223372036854775807"] {
        let settings = settings(&[&format!("finetune.prompt_tokens={tokens}")]);
        let out = at.join("out");
        let refused = tune(&from, &task_folder, &out, &settings, false, &mut ()).unwrap_err();
        let message = refused.to_string();
        let expected =
            format!("finetune.prompt_tokens: is {tokens}, but the model has 64 positions");
        assert!(message.contains(&expected), "{message}");
        assert!(!out.exists());
    }
}

#[test]
fn stages_follow_each_other_and_predictions_are_official() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let from = pretrained(at, 0.75);
    let task_folder = at.join("task");
    fs::create_dir(&task_folder).unwrap();
    fs::write(task_folder.join("ori_pqal.json"), items(0, 100, true).to_string()).unwrap();
    fs::write(task_folder.join("ori_pqaa.json"), items(1000, 60, true).to_string()).unwrap();
    fs::write(task_folder.join("ori_pqau.json"), items(2000, 40, false).to_string()).unwrap();
    let settings = settings(&["finetune.lr=3e-3", "finetune.epochs=4", "finetune.stage_lr=3e-3"]);
    let out = at.join("tuned");
    let mut counter = Counter::default();
    tune(&from, &task_folder, &out, &settings, false, &mut counter).unwrap();
    let stages: Vec<&str> = counter.trained.iter().filter_map(|n| n.split('-').next()).collect();
    assert_eq!(stages, ["pqaa", "pqau", "last"]);
    let read = |name: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(out.join(name)).unwrap()).unwrap()
    };
    let pseudo: BTreeMap<String, Vec<String>> =
        serde_json::from_value(read("pseudo-labels-pqau.json")).unwrap();
    assert_eq!(pseudo.len(), 40);
    let report: TuningReport = serde_json::from_value(read("report.json")).unwrap();
    assert_eq!(report.notes, ["stage bioasq left out: there is no bioasq_train_dev.jsonl"]);

    // The official script's arithmetic on the file of predictions.
    let predictions: BTreeMap<String, String> =
        serde_json::from_value(read("predictions-seed-1.json")).unwrap();
    assert_eq!(predictions.len(), 50, "{:?}", report.split);
    let truth: Vec<&str> = predictions.keys().map(|id| question(id.parse().unwrap()).2).collect();
    let predicted: Vec<&str> = predictions.values().map(String::as_str).collect();
    assert_eq!(report.per_seed, [accuracy(&truth, &predicted)]);
    assert_eq!(report.generation[1].mean, macro_f1(&truth, &predicted));
    assert_eq!(report.baselines.len(), 2);
    for text in [report.markdown(), report.model_card()] {
        assert!(text.to_lowercase().contains("not for clinical use"), "{text}");
    }
}

#[test]
fn sources_are_cut_where_they_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let from = pretrained(folder.path(), 0.0);
    let LoadedModel { gpt, tokenizer, .. } = run::load_model(&from).unwrap();
    let example = |head: &str, passage: &str| Example {
        id: "x".into(),
        head: head.into(),
        passage: passage.into(),
        labels: vec![2],
    };
    let short = example("question: Does alpha help? context:", "It improved.");
    let long = example(&short.head, &("Many words came first. ".repeat(30) + "It improved."));
    let hopeless = example(&"Does alpha help? ".repeat(40), "It improved.");
    let examples = [short, long, hopeless];
    let encoder = ExampleEncoder::new(task("pubmedqa").unwrap(), &tokenizer, &gpt, examples.iter());
    let (encoded, fit) = encoder.encode(&examples, &mut ()).unwrap();
    assert_eq!((fit.examples, fit.cut, fit.unusable), (3, 1, 1));
    let [Some(short), Some(long), None] = &encoded[..] else { panic!("{encoded:?}") };
    let text = |ids: &[u32]| tokenizer.decode(ids).unwrap();
    let end = tokenizer.end_of_text();
    assert_eq!(text(&short.prefix[1..]), "question: Does alpha help? context: It improved.");
    assert_eq!((short.prefix[0], *short.target.last().unwrap()), (end, end));
    let cut = text(&long.prefix[1..]);
    assert!(cut.starts_with("question: Does alpha help? context:"), "{cut}");
    assert!(cut.ends_with("came first. It improved."), "{cut}");
    assert_eq!(long.prefix.len() - 1 + encoder.longest_target(), gpt.size().context);
    assert!(fit.tokens_lost > 30);
    let target = text(&long.target[..long.target.len() - 1]);
    assert_eq!(target, " the answer to the question given the context is maybe.");
    let message = encoder.encode_to_train(&examples[2..], &mut ()).unwrap_err().to_string();
    assert!(
        message.contains("none of 1 training examples fits the model's 64 positions"),
        "{message}"
    );
}

#[test]
fn drafts_change_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let from = pretrained(folder.path(), 0.5);
    let LoadedModel { gpt, tokenizer, .. } = run::load_model(&from).unwrap();
    let pubmedqa = task("pubmedqa").unwrap();
    let examples: Vec<Example> = (0..30)
        .map(|i| {
            let (question, passage, _) = question(i);
            let head = format!("question: {question} context:");
            Example { id: i.to_string(), head, passage, labels: vec![i % 3] }
        })
        .collect();
    let encoder = ExampleEncoder::new(pubmedqa, &tokenizer, &gpt, examples.iter());
    let (encoded, _) = encoder.encode(&examples, &mut ()).unwrap();
    let mut answerer = Answerer::new(&gpt, &encoder, pubmedqa, &tokenizer, &[], 7);
    let found = answerer.generate(&encoded, &mut ()).unwrap();
    let options = GenerateOptions {
        temperature: 0.0,
        max_tokens: encoder.longest_target(),
        end_token: Some(tokenizer.end_of_text()),
        ..GenerateOptions::default()
    };
    for (encoded, found) in encoded.iter().zip(found) {
        let prefix = &encoded.as_ref().unwrap().prefix;
        let text = generate(&gpt, prefix, &options, &tokenizer).unwrap().text;
        assert_eq!(pubmedqa.parse(&text), found, "{text}");
    }
}

#[test]
fn metrics_are_scikit_learns() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/metrics.json");
    let goldens: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let close = |found: f64, expected: &Value, what: &str| {
        let expected = expected.as_f64().unwrap();
        assert!((found - expected).abs() < 1e-12, "{what}: {found}, not {expected}");
    };
    for case in goldens["single"].as_array().unwrap() {
        let words = |key: &str| serde_json::from_value::<Vec<String>>(case[key].clone()).unwrap();
        let (truth, answers) = (words("truth"), words("answers"));
        close(accuracy(&truth, &answers), &case["accuracy"], "accuracy");
        let truth: Vec<&str> = truth.iter().map(String::as_str).collect();
        let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
        close(macro_f1(&truth, &answers), &case["macro_f1"], "macro-F1");
    }
    for case in goldens["multi"].as_array().unwrap() {
        let flags = |key: &str| -> Vec<Flags> {
            let rows: Vec<Vec<u8>> = serde_json::from_value(case[key].clone()).unwrap();
            rows.iter().map(|row| row.iter().map(|&flag| flag == 1).collect()).collect()
        };
        let (truth, answers) = (flags("truth"), flags("answers"));
        close(multilabel_micro_f1(&truth, &answers), &case["micro_f1"], "micro-F1");
        close(multilabel_macro_f1(&truth, &answers), &case["macro_f1"], "macro-F1 of labels");
        close(example_based(&truth, &answers).f1, &case["example_based_f1"], "example-based F1");
    }
}

#[test]
fn a_fine_tuning_ends_the_same_whatever_stopped_it() {
    let folder = tempfile::tempdir().unwrap();
    let from = pretrained_for(folder.path(), 0.75, 2);
    let task_folder = twenty(folder.path());
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let settings = settings(&["finetune.epochs=1", "finetune.lr=[1e-3,2e-3]"]);
    let tune = |root: &Path| {
        let out = root.join("tuned");
        let resume = out.join("finetune.toml").exists();
        tune(&from, &task_folder, &out, &settings, resume, &mut ()).unwrap()
    };
    let files = |folder: &Path| {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_path_buf()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(&next).unwrap() {
                let path = entry.unwrap().path();
                found.push(path.strip_prefix(folder).unwrap().to_path_buf());
                folders.extend(path.is_dir().then_some(path));
            }
        }
        found.sort();
        found
    };
    let (report, recording) = Recording::of(&root, || tune(&root));
    let expected = (report.value, report.seeds[0].cell.dev_loss, files(&root));
    assert!(recording.steps().len() > 60, "{} steps", recording.steps().len());
    recording.each_state(folder.path(), 1, |state| {
        let report = tune(state.folder);
        let found = (report.value, report.seeds[0].cell.dev_loss, files(state.folder));
        assert_eq!(found, expected, "{:?}", (state.power_cut, state.done.last()));
    });
}
