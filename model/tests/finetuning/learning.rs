//! The mask falls without changing the function, prompts learn alone, twenty examples are learnt by heart.

use crate::{
    Counter, finished, items, pretrained, pretrained_for, question, settings, tune, twenty,
};
use mediswift_data::Tokenizer;
use mediswift_engine::{Arena, Gradients, Shape, TokenLayout};
use mediswift_model::architecture::PROMPT;
use mediswift_model::decode::Decoder;
use mediswift_model::error::ErrorKind;
use mediswift_model::finetune::encode::batch;
use mediswift_model::finetune::report::TuningReport;
use mediswift_model::finetune::start::Start;
use mediswift_model::generate::{GenerateOptions, generate};
use mediswift_model::run;
use mediswift_model::score::{Query, Score, score};
use mediswift_model::tasks::metrics::{accuracy, macro_f1};
use mediswift_model::watch::{Progress, Watch};
use mediswift_model::{Error, Gpt};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;

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
fn what_examples_lose_is_said_before_anything_is_trained() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (from, task_folder) = (pretrained_for(at, 0.5, 2), twenty(at));
    let file = task_folder.join("ori_pqal.json");
    let mut questions: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    questions["3"]["CONTEXTS"][0] = "Many words came first. ".repeat(30).into();
    fs::write(&file, questions.to_string()).unwrap();
    let (mut said, mut trained) = (Vec::new(), false);
    let watch = &mut |progress: Progress<'_>| {
        match progress {
            Progress::Began { .. } => trained = true,
            Progress::Noted(note) if !trained => said.push(note.to_string()),
            _ => {}
        }
        ControlFlow::Continue(())
    };
    let settings = settings(&["finetune.epochs=1", "finetune.lr=1e-3"]);
    let report = tune(&from, &task_folder, &at.join("out"), &settings, false, watch).unwrap();
    said.retain(|note| !note.starts_with("stage"));
    assert_eq!(said.len(), 3, "{said:?}");
    for (note, part) in said.iter().zip(["training", "dev", "test"]) {
        assert!(note.starts_with(&format!("1 of 20 {part} examples lose the beginning")), "{note}");
        assert!(note.contains("the model has 64 positions, a context of "), "{note}");
        assert!(report.notes.contains(note), "{:?}", report.notes);
    }
    assert_eq!(report.seeds[0].fit.needed, report.seeds[0].cell.fit.needed);
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
