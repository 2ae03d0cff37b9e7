use super::choosing::{list, steps};
use super::manifest::{MANIFEST, OPTIMIZER, WEIGHTS};
use super::*;
use crate::adamw::{AdamW, Moments};
use crate::config::Config;
use crate::error::Error;
use crate::tensor_file::FileSummary;
use mediswift_engine::Tensor;
use mediswift_engine::{Gradients, Parameters, Shape};
use mediswift_kernels::AlignedBuffer;
use mediswift_kernels::sparse::mask::uniform_random;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

fn noise(len: usize, seed: usize) -> AlignedBuffer {
    (0..len).map(|i| ((i * 7919 + seed * 104_729) as f32 * 0.618).sin()).collect()
}

/// A state after `step` updates: a dense matrix, a sparse one, one without non-zeros, a vector.
struct State {
    config: Config,
    parameters: Parameters,
    step: u64,
    moments: Moments,
}

impl State {
    fn new(step: u64) -> Self {
        let mut config = Config::from_preset("micro").unwrap();
        config.set("train.clip_norm=inf").unwrap();
        let sparse = |rows, columns, sparsity| {
            Shape::Sparse(Arc::new(uniform_random(rows, columns, sparsity, 5).unwrap()))
        };
        let tensors = [
            ("z.dense", Shape::Matrix(3, 5)),
            ("a.weight", sparse(4, 6, 0.5)),
            ("b.weight", sparse(2, 2, 1.0)),
            ("a.bias", Shape::Vector(4)),
        ];
        let mut parameters = Parameters::from_tensors(tensors.map(|(name, shape)| {
            let values = noise(shape.len(), name.len());
            (name, shape, values)
        }));
        let moments = Moments::zeros(parameters.layout());
        let mut optimiser = AdamW::new(&config.optimiser, moments, vec![true, true, true, false]);
        for t in 1..=step {
            let mut gradients = Gradients::zeros(parameters.layout());
            for (_, g) in gradients.iter_mut() {
                g.copy_from_slice(&noise(g.len(), t as usize - 1));
            }
            optimiser.update(t, &mut parameters, &gradients, 1e-2, 1.0, |_, _| {}).unwrap();
        }
        let moments = optimiser.moments().clone();
        Self { config, parameters, step, moments }
    }

    fn snapshot(&self) -> Snapshot<'_> {
        let Self { config, parameters, step, moments } = self;
        let data = DataState {
            sequences: 8 * step,
            fingerprint: "data".into(),
            tokenizer: "words".into(),
        };
        let moments = Some(moments);
        let (skipped, loss_scale, masks) = (0, None, None);
        Snapshot { config, step: *step, skipped, loss_scale, masks, parameters, moments, data }
    }

    fn save(&self, run: &Path) -> PathBuf {
        save(run, &self.snapshot()).unwrap()
    }
}

/// A run with one checkpoint, of step 3.
fn saved() -> (TempDir, PathBuf) {
    let run = tempfile::tempdir().unwrap();
    let path = State::new(3).save(run.path());
    (run, path)
}

fn load(path: &Path) -> Result<(Parameters, Option<Moments>), Error> {
    let checkpoint = Checkpoint::open(path)?;
    let parameters = checkpoint.parameters()?;
    let moments = checkpoint.moments(&parameters)?;
    Ok((parameters, moments))
}

/// The message of the error that loading must give.
#[track_caller]
fn refusal(path: &Path) -> String {
    let message = load(path).map(|_| ()).expect_err("it must be refused").to_string();
    let is_short_line = message.len() < 2000 && !message.contains(char::is_control);
    assert!(is_short_line, "{message:.3000}");
    message
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

type Owned = (String, Shape, Vec<f32>);

fn tensors(parameters: &Parameters) -> Vec<Owned> {
    let tensor = |t: Tensor<'_>| (t.name.to_string(), t.shape.clone(), t.values.to_vec());
    parameters.iter().map(|(_, t)| tensor(t)).collect()
}

#[test]
fn everything_comes_back_bit_for_bit() {
    let (run, path) = saved();
    assert_eq!(path, run.path().join("step-00000003"));
    let state = State::new(3);
    let found = latest(run.path()).unwrap();
    assert!(found.skipped.is_empty());
    let checkpoint = found.checkpoint.unwrap();
    assert_eq!(checkpoint.config, state.config);
    assert_eq!(checkpoint.manifest.step, 3);
    assert_eq!(checkpoint.manifest.data.sequences, 24);
    let (parameters, moments) = load(&path).unwrap();
    let moments = moments.unwrap();
    assert_eq!(checkpoint.manifest.weights_hash, weights_hash(&parameters));
    for ((id, a), (_, b)) in state.parameters.iter().zip(parameters.iter()) {
        assert_eq!(a.name, b.name);
        assert_eq!(a.shape.extents(), b.shape.extents());
        if let (Shape::Sparse(a), Shape::Sparse(b)) = (&a.shape, &b.shape) {
            assert_eq!(a, b);
        }
        assert_eq!(bits(a.values), bits(b.values));
        assert_eq!(bits(&state.moments.first[id]), bits(&moments.first[id]));
        assert_eq!(bits(&state.moments.second[id]), bits(&moments.second[id]));
    }
}

#[test]
fn a_model_without_an_optimiser_has_no_file_of_moments() {
    let run = tempfile::tempdir().unwrap();
    let state = State::new(0);
    let path = save(run.path(), &Snapshot { moments: None, ..state.snapshot() }).unwrap();
    assert!(!path.join(OPTIMIZER).exists());
    let (parameters, moments) = load(&path).unwrap();
    assert_eq!(weights_hash(&parameters), weights_hash(&state.parameters));
    assert!(moments.is_none());
    // As older programs saved it: the same model, with moments of zeros.
    let path = state.save(run.path());
    assert!(path.join(OPTIMIZER).exists(), "another state of the same step replaces it");
    let moments = load(&path).unwrap().1.unwrap();
    let all = moments.first.iter().chain(moments.second.iter());
    assert!(all.flat_map(|(_, m)| m.values).all(|&x| x == 0.0));
}

#[test]
fn moments_find_their_parameters_in_any_order() {
    let (_run, path) = saved();
    let state = State::new(3);
    let mut tensors: Vec<_> = tensors(&state.parameters);
    tensors.reverse();
    let reversed = Parameters::from_tensors(tensors);
    assert_eq!(weights_hash(&reversed), weights_hash(&state.parameters));
    let moments = Checkpoint::open(&path).unwrap().moments(&reversed).unwrap().unwrap();
    for (id, parameter) in reversed.iter() {
        let there = state.parameters.find(parameter.name).unwrap();
        assert_eq!(moments.first[id], state.moments.first[there]);
    }
}

#[test]
fn the_hash_of_weights_sees_every_change() {
    let hash = |change: &dyn Fn(&mut [Owned])| {
        let mut tensors = tensors(&State::new(0).parameters);
        change(&mut tensors);
        weights_hash(&Parameters::from_tensors(tensors))
    };
    let hashes = HashSet::from([
        hash(&|_| {}),
        hash(&|p| p[3].2[2] += 1e-6),
        hash(&|p| p[3].0 = "a.bigs".into()),
        hash(&|p| p[0].1 = Shape::Matrix(5, 3)),
        hash(&|p| {
            let other = uniform_random(4, 6, 0.5, 6).unwrap();
            p[1].1 = Shape::Sparse(Arc::new(other));
        }),
    ]);
    assert_eq!(hashes.len(), 5);
}

#[test]
fn no_truncated_file_and_no_flipped_bit_goes_unnoticed() {
    let (_run, path) = saved();
    for name in [WEIGHTS, OPTIMIZER, MANIFEST] {
        let file = path.join(name);
        let bytes = fs::read(&file).unwrap();
        for length in (0..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
            fs::write(&file, &bytes[..length]).unwrap();
            assert!(Checkpoint::open(&path).is_err(), "{name} cut at {length}");
        }
        for at in (0..bytes.len()).step_by(7) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&file, flipped).unwrap();
            refusal(&path);
        }
        fs::write(&file, &bytes).unwrap();
    }
    load(&path).unwrap();
}

/// Makes the manifest describe the files as they are now, after `change`.
fn reseal(path: &Path, change: impl FnOnce(&mut CheckpointManifest)) {
    let mut manifest: CheckpointManifest =
        serde_json::from_slice(&fs::read(path.join(MANIFEST)).unwrap()).unwrap();
    for (name, summary) in &mut manifest.files {
        let bytes = fs::read(path.join(name)).unwrap();
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        *summary = FileSummary { bytes: bytes.len() as u64, blake3 };
    }
    change(&mut manifest);
    fs::write(path.join(MANIFEST), serde_json::to_vec(&manifest.sealed()).unwrap()).unwrap();
}

/// Rewrites header and data of a tensor file, with a manifest that vouches for the result.
fn rewrite(path: &Path, name: &str, change: impl FnOnce(&mut Value, &mut Vec<u8>)) {
    let file = path.join(name);
    let bytes = fs::read(&file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut data = bytes[8 + length..].to_vec();
    change(&mut header, &mut data);
    let header = serde_json::to_vec(&header).unwrap();
    fs::write(&file, [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()).unwrap();
    reseal(path, |_| {});
}

/// Where the elements of a tensor lie in the data.
fn at(header: &Value, name: &str) -> usize {
    header[name]["data_offsets"][0].as_u64().unwrap() as usize
}

fn rename(header: &mut Value, from: &str, to: &str) {
    let info = header.as_object_mut().unwrap().remove(from).unwrap();
    header[to] = info;
}

/// Changes the header's text, with its length and a manifest that vouches for the result.
fn rewrite_header(path: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let file = path.join(name);
    let bytes = fs::read(&file).unwrap();
    let data = 8 + bytes_of_header(&bytes);
    let mut header = bytes[8..data].to_vec();
    change(&mut header);
    let length = (header.len() as u64).to_le_bytes();
    fs::write(&file, [&length, &header[..], &bytes[data..]].concat()).unwrap();
    reseal(path, |_| {});
}

fn bytes_of_header(file: &[u8]) -> usize {
    u64::from_le_bytes(file[..8].try_into().unwrap()) as usize
}

type Change = fn(&mut Value, &mut Vec<u8>);

#[test]
fn well_sealed_nonsense_is_named() {
    let cases: &[(&str, Change, &str)] = &[
        (WEIGHTS, |h, _| rename(h, "a.weight", "c"), "sparse weight 'a.weight' is missing"),
        (
            WEIGHTS,
            |h, _| rename(h, "a.weight.row_offsets", "c"),
            "'a.weight.row_offsets' is missing from the mask of 'a.weight'",
        ),
        (
            WEIGHTS,
            |h, _| h["__metadata__"] = json!({"b.weight": "2 2"}),
            "'a.weight.column_indices' belongs to no sparse weight",
        ),
        (WEIGHTS, |h, _| h["__metadata__"]["a.weight"] = json!("4"), "extents '4'"),
        (WEIGHTS, |h, _| h["__metadata__"]["a.weight"] = json!("4 -6"), "extents '4 -6'"),
        (WEIGHTS, |h, _| h["__metadata__"]["a.weight"] = json!("4294967295 6"), "32-bit"),
        (WEIGHTS, |h, _| h["__metadata__"]["a.weight"] = json!("5 6"), "5 rows need 6"),
        (WEIGHTS, |h, _| h["__metadata__"]["a.weight"] = json!("4 1"), "has 1 columns"),
        (
            WEIGHTS,
            |h, d| d[at(h, "a.weight.row_offsets") + 4] = 200,
            "mask of 'a.weight': row offset",
        ),
        (
            WEIGHTS,
            |h, _| {
                h["a.weight"]["dtype"] = json!("U32");
                h["a.weight.column_indices"]["dtype"] = json!("F32");
            },
            "sparse weight 'a.weight' is missing",
        ),
        (WEIGHTS, |h, _| h["a.bias"]["dtype"] = json!("I32"), "'a.bias' has type I32"),
        (WEIGHTS, |h, _| h["a.bias"]["dtype"] = json!("F64"), "its header is malformed"),
        (WEIGHTS, |h, _| h["a.bias"]["shape"] = json!([1, 2, 2]), "'a.bias' has shape [1, 2, 2]"),
        (WEIGHTS, |h, _| h["a.bias"]["shape"] = json!([u64::MAX, 2]), "its header is malformed"),
        (WEIGHTS, |h, _| h["a.bias"]["data_offsets"] = json!([0, 16]), "its header is malformed"),
        (WEIGHTS, |_, d| d.extend([0; 4]), "its header is malformed"),
        (WEIGHTS, |h, _| *h = json!([]), "its header is malformed"),
        (
            WEIGHTS,
            |h, d| {
                let at = at(h, "a.bias");
                d[at + 4..at + 8].copy_from_slice(&f32::NAN.to_le_bytes());
            },
            "weight 'a.bias' is NaN at element 1",
        ),
        (OPTIMIZER, |h, _| rename(h, "m.a.bias", "m.c"), "'m.c' is no moment of this model"),
        (OPTIMIZER, |h, _| rename(h, "m.a.bias", "w.a.bias"), "'w.a.bias' is no moment"),
        (
            OPTIMIZER,
            |h, d| {
                d.truncate(at(h, "v.a.bias"));
                h.as_object_mut().unwrap().remove("v.a.bias");
            },
            "moment 'v.a.bias' is missing",
        ),
        (
            OPTIMIZER,
            |h, _| h["m.a.bias"]["shape"] = json!([2, 2]),
            "'m.a.bias' has shape [2, 2], not [4]",
        ),
        (OPTIMIZER, |h, _| h["m.a.bias"]["dtype"] = json!("U32"), "has type U32, not F32"),
        (
            OPTIMIZER,
            |h, d| {
                let at = at(h, "v.a.bias");
                d[at..at + 4].copy_from_slice(&(-1f32).to_le_bytes());
            },
            "'v.a.bias' has a negative element",
        ),
        (
            OPTIMIZER,
            |h, d| {
                let at = at(h, "m.a.bias");
                d[at..at + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
            },
            "moment 'm.a.bias' is inf at element 0",
        ),
    ];
    for (index, &(file, change, expected)) in cases.iter().enumerate() {
        let (_run, path) = saved();
        rewrite(&path, file, change);
        let message = refusal(&path);
        assert!(message.contains(expected), "case {index}: {message}\nnot: {expected}");
    }
}

#[test]
fn a_name_that_comes_twice_is_refused() {
    for (name, key) in [(WEIGHTS, "a.bias"), (WEIGHTS, "__metadata__"), (OPTIMIZER, "v.a.bias")] {
        let (_run, path) = saved();
        rewrite_header(&path, name, |header| {
            let object: Value = serde_json::from_slice(header).unwrap();
            let again = format!(",\"{key}\":{}}}", object[key]);
            let end = header.iter().rposition(|&byte| byte == b'}').unwrap();
            header.truncate(end);
            header.extend(again.bytes());
        });
        assert!(refusal(&path).contains(&format!("'{key}' comes twice")), "{}", refusal(&path));
    }
}

#[test]
fn no_byte_of_a_well_sealed_header_can_do_harm() {
    let (_run, path) = saved();
    for name in [WEIGHTS, OPTIMIZER] {
        let whole = fs::read(path.join(name)).unwrap();
        for at in 0..8 + bytes_of_header(&whole) {
            for flip in [1, 0x10, 0x80] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                fs::write(path.join(name), bytes).unwrap();
                reseal(&path, |_| {});
                // Not every change is nonsense: a tensor may well have another name.
                if load(&path).is_err() {
                    refusal(&path);
                }
            }
        }
        fs::write(path.join(name), whole).unwrap();
    }
    reseal(&path, |_| {});
    load(&path).unwrap();
}

#[test]
fn headers_that_lie_about_their_length_allocate_nothing() {
    for length in [0, 1, 100_000_001, 1 << 63, u64::MAX] {
        let (_run, path) = saved();
        let file = path.join(WEIGHTS);
        let mut bytes = fs::read(&file).unwrap();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        fs::write(&file, bytes).unwrap();
        reseal(&path, |_| {});
        assert!(refusal(&path).contains("header"), "{}", refusal(&path));
    }
    let (_run, path) = saved();
    // A file that is long enough, with nothing in it: no more of it is read than a header may have.
    let mut file = fs::File::create(path.join(WEIGHTS)).unwrap();
    file.write_all(&100_000_001u64.to_le_bytes()).unwrap();
    file.set_len(8 + 100_000_001).unwrap();
    reseal(&path, |_| {});
    assert!(refusal(&path).contains("more than 100000000"), "{}", refusal(&path));
    fs::write(path.join(WEIGHTS), [1, 2, 3]).unwrap();
    reseal(&path, |_| {});
    assert!(refusal(&path).contains("it has no header"));
}

#[test]
fn a_checkpoint_is_of_one_run_and_one_model() {
    let (_run, path) = saved();
    let (checkpoint, config) = (Checkpoint::open(&path).unwrap(), State::new(0).config);
    checkpoint.check_run(&config, "data").unwrap();
    let mut other = config.clone();
    (other.train.lr, other.model.vocabulary) = (0.5, 77);
    let error = checkpoint.check_run(&other, "others").unwrap_err().to_string();
    for expected in ["train.lr is 0.5 here", "model.vocabulary is 77 here", "the data are others"] {
        assert!(error.contains(expected), "{error}");
    }
    let error = checkpoint.model(&other).err().unwrap().to_string();
    assert!(error.contains(WEIGHTS) && error.contains("tensor '"), "{error}");
}

#[test]
fn manifests_of_other_makes_and_versions_are_refused() {
    type Change = fn(&mut CheckpointManifest);
    let cases: [(Change, &str); 8] = [
        (|m| m.skipped = m.step + 1, "skipped more steps than it made"),
        (|m| m.version = 2, "its version is 2, but this program reads version 1"),
        (|m| m.format = "other".into(), "its format is 'other'"),
        (|m| m.config = "[model]".into(), "model.preset is missing"),
        (|m| m.config = m.config.replace("heads = 2", "heads = 3"), "not divisible by"),
        // What is quoted may be anything.
        (|m| m.format = "a\n\u{7f}".repeat(100_000), "its format is 'a\\n\\u{7f}a"),
        (
            |m| m.config = m.config.replace("clip_norm", "\"clip\\u0000\""),
            "unknown key 'clip\\u{0}'",
        ),
        (|m| drop(m.files.remove(WEIGHTS)), "does not name weights.safetensors"),
    ];
    for (change, expected) in cases {
        let (_run, path) = saved();
        reseal(&path, change);
        let message = refusal(&path);
        assert!(message.contains(expected), "{message}\nnot: {expected}");
    }
    let (_run, path) = saved();
    fs::write(path.join(MANIFEST), br#"{"format": "mediswift-checkpoint", "version": 9}"#).unwrap();
    assert!(refusal(&path).contains("its version is 9"));
}

#[test]
fn what_is_no_checkpoint_is_refused_without_waiting() {
    let (run, path) = saved();
    assert!(refusal(&path.join(MANIFEST)).contains("is a file, not a checkpoint"));
    assert!(refusal(&run.path().join("nowhere")).contains("does not exist"));
    assert!(refusal(run.path()).contains("has no manifest.json"));
    for name in [WEIGHTS, MANIFEST] {
        let file = path.join(name);
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(refusal(&path).contains("it is not a regular file"));
        fs::remove_dir(&file).unwrap();
        #[cfg(unix)]
        if std::process::Command::new("mkfifo").arg(&file).status().is_ok_and(|s| s.success()) {
            assert!(refusal(&path).contains("it is not a regular file"));
            fs::remove_file(&file).unwrap();
        }
        State::new(3).save(run.path());
    }
    load(&path).unwrap();
}

#[test]
fn the_newest_complete_checkpoint_is_found() {
    let run = tempfile::tempdir().unwrap();
    let newest = || latest(run.path()).unwrap();
    assert!(newest().checkpoint.is_none() && newest().skipped.is_empty());
    assert!(latest(&run.path().join("nowhere")).unwrap().checkpoint.is_none());
    for step in 1..=4 {
        State::new(step).save(run.path());
    }
    let path = |step: u64| run.path().join(format!("step-{step:08}"));
    fs::write(path(9), "a file").unwrap();
    fs::remove_file(path(4).join(MANIFEST)).unwrap();
    fs::write(path(3).join(OPTIMIZER), "short").unwrap();
    fs::create_dir(run.path().join(".tmp-step-00000010")).unwrap();
    fs::create_dir(run.path().join("step-by-step")).unwrap();
    let found = newest();
    assert_eq!(found.checkpoint.unwrap().path, path(2));
    assert_eq!(found.skipped.len(), 3, "{:?}", found.skipped);
    for (warning, expected) in
        found.skipped.iter().zip(["step-00000009", "has no manifest", "5 bytes"])
    {
        assert!(warning.contains(expected), "{warning}");
    }
}

/// The step that is chosen, all of its content read, and how many newer ones were passed over.
fn chosen(run: &Path, choice: Choice) -> Result<Option<(u64, Vec<String>)>, String> {
    let read = |checkpoint: &Checkpoint| checkpoint.moments(&checkpoint.parameters()?).map(drop);
    let found = choose(run, choice, read).map_err(|error| error.to_string())?;
    Ok(found.map(|Chosen { checkpoint, skipped, .. }| (checkpoint.manifest.step, skipped)))
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    let at = at % bytes.len();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_checkpoint_is_chosen_by_what_it_holds() {
    let run = tempfile::tempdir().unwrap();
    let path = |step: u64| run.path().join(format!("step-{step:08}"));
    let whole = |step, passed_over: usize| {
        let (found, skipped) = chosen(run.path(), Choice::NewestWhole).unwrap().unwrap();
        assert_eq!((found, skipped.len()), (step, passed_over), "{skipped:?}");
        skipped
    };
    assert_eq!(chosen(run.path(), Choice::NewestWhole), Ok(None));
    assert_eq!(chosen(run.path(), Choice::Newest), Ok(None));
    let none = chosen(run.path(), Choice::Step(1)).unwrap_err();
    assert!(none.contains("no checkpoint after step 1 (steps: none)"), "{none}");
    (1..=5).for_each(|step| drop(State::new(step).save(run.path())));
    whole(5, 0);

    // The name of a folder decides nothing.
    fs::rename(path(2), path(99_999_999)).unwrap();
    let skipped = whole(5, 1);
    assert!(skipped[0].contains("step-99999999: holds the checkpoint after step 2"), "{skipped:?}");
    assert_eq!(latest(run.path()).unwrap().checkpoint.unwrap().path, path(5));
    for choice in [Choice::Newest, Choice::Step(99_999_999)] {
        assert_eq!(chosen(run.path(), choice).unwrap_err(), skipped[0]);
    }
    let mut config = Config::from_preset("micro").unwrap().checkpoint;
    config.keep = 3;
    prune(run.path(), &config, 5).unwrap();
    let left =
        |run: &Path| steps(run).unwrap().into_iter().map(|(step, _)| step).collect::<Vec<_>>();
    assert_eq!(left(run.path()), [3, 4, 5, 99_999_999]);
    fs::remove_dir_all(path(99_999_999)).unwrap();

    // A byte that has changed, in whatever file.
    flip(&path(5).join(WEIGHTS), 1000);
    assert!(whole(4, 1)[0].contains("step-00000005/weights.safetensors: its BLAKE3 hash"));
    for choice in [Choice::Newest, Choice::Step(5)] {
        assert!(chosen(run.path(), choice).unwrap_err().contains("step-00000005/weights"));
    }
    assert_eq!(chosen(run.path(), Choice::Step(3)), Ok(Some((3, Vec::new()))));
    let none = chosen(run.path(), Choice::Step(7)).unwrap_err();
    assert!(none.contains("no checkpoint after step 7 (steps: 3, 4, 5)"), "{none}");
    flip(&path(4).join(OPTIMIZER), 2000);
    whole(3, 2);
    // What was gone on from is not what may go.
    config.keep = 1;
    prune(run.path(), &config, 3).unwrap();
    whole(3, 2);
    flip(&path(3).join(MANIFEST), 100);
    let none = chosen(run.path(), Choice::NewestWhole).unwrap_err();
    assert!(
        none.contains("no checkpoint can be used: ") && none.contains("step-00000003"),
        "{none}"
    );

    // What speaks of no damage is no reason to look further.
    State::new(6).save(run.path());
    let refuse = |_: &Checkpoint| Err::<(), _>(Error::incompatible("a", "is of another run"));
    let refused = choose(run.path(), Choice::NewestWhole, refuse).err().unwrap();
    assert_eq!(refused.to_string(), "a: is of another run");
}

#[test]
fn wherever_a_byte_of_the_newest_has_changed_the_one_before_is_chosen() {
    let run = tempfile::tempdir().unwrap();
    State::new(2).save(run.path());
    let newest = State::new(3).save(run.path());
    for name in [WEIGHTS, OPTIMIZER, MANIFEST] {
        let file = newest.join(name);
        let bytes = fs::read(&file).unwrap();
        for at in (0..bytes.len()).step_by(13).chain([bytes.len() - 1]) {
            flip(&file, at);
            let (step, skipped) = chosen(run.path(), Choice::NewestWhole).unwrap().unwrap();
            assert_eq!((step, skipped.len()), (2, 1), "{name}, byte {at}");
            assert!(chosen(run.path(), Choice::Newest).is_err(), "{name}, byte {at}");
            fs::write(&file, &bytes).unwrap();
        }
    }
    assert_eq!(chosen(run.path(), Choice::Newest), Ok(Some((3, Vec::new()))));
}

#[test]
fn a_crash_during_a_save_leaves_the_one_before() {
    // What each instant of a save may leave on the disk: any part of the files, no name yet.
    let (_other, complete) = saved();
    let names = [WEIGHTS, OPTIMIZER, MANIFEST];
    for written in 0..=names.len() {
        let run = tempfile::tempdir().unwrap();
        let before = State::new(2).save(run.path());
        let temporary = run.path().join(".tmp-step-00000003");
        fs::create_dir(&temporary).unwrap();
        for name in &names[..written] {
            fs::copy(complete.join(name), temporary.join(name)).unwrap();
        }
        assert_eq!(latest(run.path()).unwrap().checkpoint.unwrap().path, before);
        let path = State::new(3).save(run.path());
        assert!(!temporary.exists());
        assert_eq!(latest(run.path()).unwrap().checkpoint.unwrap().path, path);
        load(&path).unwrap();
    }
}

#[test]
fn saving_a_step_again_keeps_a_good_checkpoint_and_replaces_a_bad_one() {
    let (run, path) = saved();
    let modified = |name| fs::metadata(path.join(name)).unwrap().modified().unwrap();
    let before = modified(MANIFEST);
    State::new(3).save(run.path());
    assert_eq!(modified(MANIFEST), before);
    let mut bytes = fs::read(path.join(WEIGHTS)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path.join(WEIGHTS), bytes).unwrap();
    refusal(&path);
    State::new(3).save(run.path());
    load(&path).unwrap();
    assert_eq!(list(run.path()).unwrap().len(), 1);
}

#[test]
fn pruning_keeps_the_newest_and_clears_what_crashes_left() {
    let run = tempfile::tempdir().unwrap();
    let path = |step: u64| run.path().join(format!("step-{step:08}"));
    for step in 1..=6 {
        State::new(step).save(run.path());
    }
    fs::remove_file(path(3).join(MANIFEST)).unwrap();
    fs::write(path(5).join(WEIGHTS), "damaged").unwrap();
    fs::create_dir(run.path().join(".tmp-step-00000007")).unwrap();
    let mut config = Config::from_preset("micro").unwrap().checkpoint;
    config.keep = 2;
    prune(run.path(), &config, 6).unwrap();
    let left: Vec<u64> = steps(run.path()).unwrap().into_iter().map(|(step, _)| step).collect();
    assert_eq!(left, [4, 5, 6]);
    assert_eq!(list(run.path()).unwrap().len(), 3);
}

#[test]
fn checkpoints_of_every_so_many_steps_are_kept_for_good() {
    let run = tempfile::tempdir().unwrap();
    let mut config = Config::from_preset("micro").unwrap().checkpoint;
    (config.keep, config.keep_every) = (2, 3);
    for step in 1..=8 {
        State::new(step).save(run.path());
        prune(run.path(), &config, step).unwrap();
    }
    let left: Vec<u64> = steps(run.path()).unwrap().into_iter().map(|(step, _)| step).collect();
    assert_eq!(left, [3, 6, 7, 8]);
}
