//! An interrupted grid repeats nothing, and what was changed from outside is refused or made good.

use crate::{Counter, finished, items, pretrained, pretrained_for, settings, tune, twenty};
use mediswift_files::faults::{self, Recording};
use mediswift_model::Error;
use mediswift_model::finetune::folder::read_settings;
use mediswift_model::finetune::settings::Settings;
use mediswift_model::run;
use mediswift_model::watch::{Progress, Watch};
use serde_json::Value;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

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
fn a_fine_tuning_ends_the_same_whatever_stopped_it() {
    let folder = tempfile::tempdir().unwrap();
    let from = pretrained_for(folder.path(), 0.75, 2);
    let task_folder = twenty(folder.path());
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let settings = settings(&["finetune.epochs=1", "finetune.lr=[1e-3,2e-3]"]);
    let attempt = |root: &Path| {
        let out = root.join("tuned");
        let resume = out.join("finetune.toml").exists();
        tune(&from, &task_folder, &out, &settings, resume, &mut ())
    };
    let tune = |root: &Path| attempt(root).unwrap();
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
    // Nor does it matter which step was refused, as by a full disk: every one of a start, some later.
    for before in (0..20).chain((20..).step_by(7)) {
        fs::remove_dir_all(&root).unwrap();
        fs::create_dir(&root).unwrap();
        let (ended, was_refused) = faults::fail(&root, before, || attempt(&root));
        if !was_refused {
            assert!(before > 60 && ended.is_ok());
            break;
        }
        let report = tune(&root);
        let found = (report.value, report.seeds[0].cell.dev_loss, files(&root));
        assert_eq!(found, expected, "step {before}");
    }
}
