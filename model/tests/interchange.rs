//! Runs as Hugging Face folders and GGUF files and back, and what an import refuses.

#[path = "interchange/gguf.rs"]
mod gguf_reader;
mod support;

use gguf_reader::{Gguf, Value};
use mediswift_data::{Dataset, Tokenizer};
use mediswift_engine::{Shape, Tensor, TokenLayout};
use mediswift_files::faults::Recording;
use mediswift_kernels::CsrMatrix;
use mediswift_model::Config;
use mediswift_model::adamw::Moments;
use mediswift_model::checkpoint::{self, Checkpoint, Snapshot, weights_hash};
use mediswift_model::evaluate::evaluate_run;
use mediswift_model::interchange::gguf::{self, Precision};
use mediswift_model::interchange::hf::{self, Import};
use mediswift_model::pretrain::pretrain;
use mediswift_model::run::{self, LoadedModel};
use mediswift_model::session::Session;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::{config, dataset};
use tempfile::TempDir;

/// A folder with a dataset, a trained run `run` and its export `hf`.
struct Exported {
    folder: TempDir,
    data: Arc<Dataset>,
}

impl Exported {
    fn new(sparsity: f64) -> Self {
        Self::of(config(sparsity))
    }

    fn of(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = dataset(folder.path(), 1);
        let run = folder.path().join("run");
        let mut session = Session::start(config.clone(), Arc::clone(&data), &run).unwrap();
        pretrain(&mut session, &mut ()).unwrap();
        let exported = hf::export(&run, &folder.path().join("hf"), false).unwrap();
        assert_eq!((exported.tensors, exported.step), (2 + 2 * 12 + 2, 12));
        let layers = run::load_model(&run).unwrap().gpt.layer_sparsity(&config.sparsity);
        assert_eq!(exported.masks, layers.iter().filter(|layer| layer.actual > 0.0).count());
        Self { folder, data }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn load(&self, name: &str) -> LoadedModel {
        run::load_model(&self.path(name)).unwrap()
    }

    /// Imports `hf` as the run `out`.
    fn import(&self, out: &str, options: &Import) -> Result<hf::Imported, String> {
        hf::import(&self.path("hf"), &self.path(out), options).map_err(|error| error.to_string())
    }

    /// What an import says that must fail and leave nothing.
    #[track_caller]
    fn refusal(&self) -> String {
        let message = self.import("refused", &Import::default()).unwrap_err();
        assert_eq!(message.lines().count(), 1, "{message}");
        let names = fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().file_name());
        let left: Vec<_> = names.filter(|n| n.to_string_lossy().contains("refused")).collect();
        assert!(left.is_empty(), "{left:?}");
        message
    }

    fn weights(&self) -> Tensors {
        Tensors::read(&self.path("hf/model.safetensors"))
    }

    fn edit_config(&self, edit: impl FnOnce(&mut Map<String, serde_json::Value>)) {
        let path = self.path("hf/config.json");
        let mut fields = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut fields);
        fs::write(&path, json!(fields).to_string()).unwrap();
    }
}

/// Type, shape and bytes of the tensors of a safetensors file.
#[derive(Clone)]
struct Tensors(BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>);

impl Tensors {
    fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |(name, view): (String, TensorView<'_>)| {
            (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        };
        Self(file.tensors().into_iter().map(tensor).collect())
    }

    fn write(&self, path: &Path) {
        let views = self.0.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let (dtype, _, bytes) = &self.0[name];
        assert_eq!(*dtype, Dtype::F32, "{name}");
        bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    fn set_floats(&mut self, name: &str, values: &[f32]) {
        self.0.get_mut(name).unwrap().2 = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    }

    fn rename(&mut self, rename: impl Fn(&str) -> String) {
        self.0 = std::mem::take(&mut self.0).into_iter().map(|(n, t)| (rename(&n), t)).collect();
    }
}

/// The matrix with its zeros.
fn dense(parameter: Tensor<'_>) -> Vec<f32> {
    match parameter.shape {
        Shape::Sparse(pattern) => {
            CsrMatrix::new(pattern.clone(), parameter.values.to_vec()).unwrap().to_dense()
        }
        _ => parameter.values.to_vec(),
    }
}

fn parameter<'a>(loaded: &'a LoadedModel, name: &str) -> Tensor<'a> {
    let parameters = loaded.gpt.parameters();
    parameters.get(parameters.find(name).unwrap())
}

fn logits(loaded: &LoadedModel) -> Vec<f32> {
    let ids: Vec<u32> = (0..20).map(|i| i * 13 % 250).collect();
    loaded.gpt.logits(&ids, TokenLayout { sequences: 2, context: 10 }).unwrap()
}

fn set(assignments: &[&str]) -> Import {
    let set = assignments.iter().map(ToString::to_string).collect();
    Import { set, ..Default::default() }
}

#[test]
fn export_and_import_restore_every_bit() {
    let mut by_groups = config(0.0);
    by_groups.set("sparsity.groups=[{ param_filter = ['*.mlp.*'], sparsity = 0.5 }]").unwrap();
    for config in [config(0.0), config(0.75), by_groups] {
        let exported = Exported::of(config.clone());
        // The folder does not tell the length of the windows of training and evaluation.
        let imported =
            exported.import("back", &set(&["train.context=24", "train.micro_batch=2"])).unwrap();
        let (before, after) = (exported.load("run"), exported.load("back"));
        assert_eq!(imported.weights_hash, weights_hash(before.gpt.parameters()));
        assert_eq!(weights_hash(after.gpt.parameters()), imported.weights_hash);
        assert_eq!(
            (imported.has_masks, imported.tensors),
            (exported.path("hf/masks.safetensors").exists(), 28)
        );
        assert_eq!(after.config.sparsity, before.config.sparsity);
        assert_eq!(after.config.model, before.config.model);
        assert_eq!(logits(&before), logits(&after));
        let hash = |run| Tokenizer::load(&run::tokenizer_path(&exported.path(run))).unwrap().hash();
        assert_eq!(hash("run"), hash("back"));
        let [loss, loss_after] = ["run", "back"].map(|run| {
            evaluate_run(&exported.path(run), &exported.data, &mut ()).unwrap().val_loss
        });
        assert_eq!(loss, loss_after);

        hf::export(&exported.path("back"), &exported.path("again"), false).unwrap();
        for name in ["model.safetensors", "masks.safetensors", "config.json", "tokenizer.json"] {
            let read = |folder: &str| fs::read(exported.path(folder).join(name)).ok();
            assert_eq!(read("hf"), read("again"), "{name}");
        }
        let card = fs::read_to_string(exported.path("again/README.md")).unwrap();
        assert!(
            card.contains("Not for clinical use") && card.contains("checkpoint `hf`"),
            "{card}"
        );
        let card = fs::read_to_string(exported.path("back/MODEL_CARD.md")).unwrap();
        assert!(card.contains("Not for clinical use") && card.contains("imported from"), "{card}");
    }
}

#[test]
fn the_folder_is_a_gpt2() {
    let exported = Exported::new(0.75);
    let (run, weights) = (exported.load("run"), exported.weights());
    let masks = Tensors::read(&exported.path("hf/masks.safetensors"));
    assert_eq!(masks.0.len(), 8);
    for (ours, theirs, rows, columns) in [
        ("blocks.0.attn.qkv.weight", "transformer.h.0.attn.c_attn.weight", 96, 32),
        ("blocks.1.attn.proj.weight", "transformer.h.1.attn.c_proj.weight", 32, 32),
        ("blocks.0.mlp.up.weight", "transformer.h.0.mlp.c_fc.weight", 128, 32),
        ("blocks.1.mlp.down.weight", "transformer.h.1.mlp.c_proj.weight", 32, 128),
    ] {
        let parameter = parameter(&run, ours);
        let (expected, found) = (dense(parameter), weights.floats(theirs));
        assert_eq!(weights.0[theirs].1, [columns, rows]);
        let (dtype, shape, mask) = &masks.0[theirs];
        assert_eq!((*dtype, &shape[..]), (Dtype::BOOL, &[columns, rows][..]));
        let Shape::Sparse(pattern) = parameter.shape else { panic!("{ours} is dense") };
        for row in 0..rows {
            for column in 0..columns {
                let at = column * rows + row;
                assert_eq!(found[at].to_bits(), expected[row * columns + column].to_bits());
                assert_eq!(mask[at] == 1, pattern.row(row).contains(&(column as u32)));
            }
        }
    }
    for (ours, theirs) in [
        ("tok_embed.weight", "transformer.wte.weight"),
        ("pos_embed.weight", "transformer.wpe.weight"),
        ("blocks.1.ln1.weight", "transformer.h.1.ln_1.weight"),
        ("blocks.0.ln2.bias", "transformer.h.0.ln_2.bias"),
        ("blocks.0.attn.qkv.bias", "transformer.h.0.attn.c_attn.bias"),
        ("ln_final.bias", "transformer.ln_f.bias"),
    ] {
        assert_eq!(weights.floats(theirs), parameter(&run, ours).values[..], "{ours}");
        assert_eq!(weights.0[theirs].1, parameter(&run, ours).shape.extents());
    }
    assert!(!weights.0.contains_key("lm_head.weight"));
    let bytes = fs::read(exported.path("hf/model.safetensors")).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    exported.edit_config(|fields| {
        for (key, value) in [
            ("architectures", json!(["GPT2LMHeadModel"])),
            ("n_ctx", json!(32)),
            ("n_inner", json!(128)),
            ("activation_function", json!("gelu_new")),
            ("tie_word_embeddings", json!(true)),
            ("eos_token_id", json!(run_end(&exported))),
        ] {
            assert_eq!(fields[key], value, "{key}");
        }
    });
}

fn run_end(exported: &Exported) -> u32 {
    Tokenizer::load(&run::tokenizer_path(&exported.path("run"))).unwrap().end_of_text()
}

#[test]
fn other_spellings_of_a_checkpoint_are_the_same_model() {
    let exported = Exported::new(0.0);
    let hash = exported.import("plain", &Import::default()).unwrap().weights_hash;
    let mut weights = exported.weights();
    let file = exported.path("hf/model.safetensors");

    // A bare GPT2Model with the buffers of old versions and a head written out.
    weights.rename(|name| name.strip_prefix("transformer.").unwrap().to_string());
    let head = weights.0["wte.weight"].clone();
    weights.0.insert("lm_head.weight".into(), head);
    for block in 0..2 {
        let causal = (Dtype::U8, vec![1, 1, 32, 32], vec![1; 1024]);
        weights.0.insert(format!("h.{block}.attn.bias"), causal);
        let fill = (Dtype::F32, vec![], (-1e4f32).to_le_bytes().to_vec());
        weights.0.insert(format!("h.{block}.attn.masked_bias"), fill);
    }
    weights.write(&file);
    exported.edit_config(|fields| {
        fields.remove("n_positions");
        fields.remove("layer_norm_epsilon");
        fields["n_inner"] = json!(null);
        fields["activation_function"] = json!("gelu_pytorch_tanh");
        fields["tie_word_embeddings"] = json!(false);
    });
    // The tokenizer as two files.
    fs::remove_file(exported.path("hf/tokenizer.json")).unwrap();
    assert_eq!(exported.import("spelt", &Import::default()).unwrap().weights_hash, hash);

    // In several files.
    fs::remove_file(&file).unwrap();
    let mut shards = [Tensors(BTreeMap::new()), Tensors(BTreeMap::new())];
    let mut map = Map::new();
    for (at, (name, tensor)) in weights.0.clone().into_iter().enumerate() {
        map.insert(name.clone(), json!(format!("model-0000{}-of-00002.safetensors", at % 2 + 1)));
        shards[at % 2].0.insert(name, tensor);
    }
    for (at, shard) in shards.iter().enumerate() {
        let name = format!("hf/model-0000{}-of-00002.safetensors", at + 1);
        shard.write(&exported.path(&name));
    }
    let index = exported.path("hf/model.safetensors.index.json");
    let write_index = |map: &Map<String, serde_json::Value>| {
        fs::write(&index, json!({ "metadata": {}, "weight_map": map }).to_string()).unwrap();
    };
    write_index(&map);
    assert_eq!(exported.import("sharded", &Import::default()).unwrap().weights_hash, hash);
    for (file, says) in [("../elsewhere", "no name of a file beside it"), ("gone", "gone")] {
        let mut map = map.clone();
        map.insert("wte.weight".into(), json!(file));
        write_index(&map);
        let message = exported.refusal();
        assert!(message.contains(says), "{message}");
    }
    fs::write(&index, "{}").unwrap();
    assert!(exported.refusal().contains("weight_map"));
}

#[test]
fn halves_are_widened() {
    let exported = Exported::new(0.0);
    let weights = exported.weights();
    let name = "transformer.wpe.weight";
    let values = weights.floats(name);
    for (dtype, round) in [
        (Dtype::F16, (|x| half::f16::from_f32(x).to_le_bytes().to_vec()) as fn(f32) -> Vec<u8>),
        (Dtype::BF16, |x| half::bf16::from_f32(x).to_le_bytes().to_vec()),
    ] {
        let mut narrow = weights.clone();
        let bytes = values.iter().flat_map(|&x| round(x)).collect();
        let shape = weights.0[name].1.clone();
        narrow.0.insert(name.into(), (dtype, shape, bytes));
        narrow.write(&exported.path("hf/model.safetensors"));
        let out = format!("{dtype:?}");
        exported.import(&out, &Import::default()).unwrap();
        let loaded = exported.load(&out);
        let found = &parameter(&loaded, "pos_embed.weight").values;
        let tolerance = if dtype == Dtype::F16 { 1.0 / 1024.0 } else { 1.0 / 128.0 };
        assert_ne!(found[..], values[..]);
        for (found, value) in found.iter().zip(&values) {
            assert!((found - value).abs() <= tolerance * value.abs() + 1e-7, "{found} {value}");
        }
    }
}

#[test]
fn a_dense_checkpoint_can_be_made_sparse() {
    let exported = Exported::new(0.0);
    let whole = exported.load("run");
    for method in ["random", "magnitude"] {
        let method_set = format!("sparsity.init_method={method}");
        let options = set(&["sparsity.sparsity=0.75", &method_set, "sparsity.seed=3"]);
        let imported = exported.import(method, &options).unwrap();
        let sparsity = &imported.config.sparsity;
        assert_eq!((sparsity.sparsity, sparsity.seed, imported.has_masks), (0.75, 3, false));
        let sparse = exported.load(method);
        let mut kept_sums = Vec::new();
        for weight in sparse.gpt.linear_weights() {
            let Shape::Sparse(pattern) = weight.shape else { panic!("dense") };
            let all = dense(parameter(&whole, weight.name));
            assert_eq!(4 * pattern.nnz(), all.len());
            for (kept, original) in dense(weight).iter().zip(&all) {
                assert!(*kept == 0.0 || kept == original);
            }
            let sum = |values: &[f32]| values.iter().map(|x| f64::from(x.abs())).sum::<f64>();
            kept_sums.push(sum(weight.values) / sum(&all));
        }
        let expected = if method == "random" { 0.2..0.3 } else { 0.4..0.8 };
        assert!(kept_sums.iter().all(|sum| expected.contains(sum)), "{method}: {kept_sums:?}");
        // And the masks travel on.
        let path = exported.path(&format!("{method}-hf"));
        hf::export(&exported.path(method), &path, false).unwrap();
        let back = exported.path(&format!("{method}-back"));
        let again = hf::import(&path, &back, &Import::default()).unwrap();
        assert_eq!(again.weights_hash, imported.weights_hash);
        assert_eq!(again.config.sparsity, *sparsity);
    }
}

#[test]
fn an_imported_run_is_trained_on() {
    let exported = Exported::new(0.75);
    let shorter = set(&["train.steps=3", "train.batch=2", "train.context=24"]);
    let imported = exported.import("more", &shorter).unwrap();
    let path = exported.path("more");
    let resume =
        |data: &Arc<Dataset>| Session::resume(imported.config.clone(), data.clone(), &path);
    let other = dataset(exported.folder.path(), 2);
    let message = resume(&other).err().unwrap().to_string();
    assert!(message.contains("tokenizer"), "{message}");

    // It has made no update, so there is nothing to know about an optimiser.
    let first = path.join("checkpoints/step-00000000");
    assert!(!first.join("optimizer.safetensors").exists());
    let older = Checkpoint::open(&first).unwrap();
    let mut session = resume(&exported.data).unwrap();
    assert_eq!(
        (session.step(), weights_hash(session.gpt().parameters())),
        (0, imported.weights_hash)
    );
    let report = pretrain(&mut session, &mut ()).unwrap();
    assert_eq!(report.step, 3);

    // Older programs saved zeros.
    exported.import("older", &shorter).unwrap();
    let parameters = older.parameters().unwrap();
    let zeros = Moments::zeros(parameters.layout());
    let snapshot = Snapshot {
        config: &older.config,
        step: 0,
        skipped: 0,
        parameters: &parameters,
        moments: Some(&zeros),
        data: older.manifest.data.clone(),
    };
    let saved = checkpoint::save(&exported.path("older/checkpoints"), &snapshot).unwrap();
    assert!(saved.join("optimizer.safetensors").exists());
    let config = imported.config.clone();
    let mut session =
        Session::resume(config, exported.data.clone(), &exported.path("older")).unwrap();
    let same = pretrain(&mut session, &mut ()).unwrap();
    assert_eq!(same.weights_hash, report.weights_hash);
    // It had learnt something before.
    assert!(report.train_loss < 300f64.ln() - 0.1, "{}", report.train_loss);
    let card = fs::read_to_string(path.join("MODEL_CARD.md")).unwrap();
    assert!(card.contains("After 3 steps") && card.contains("imported from"), "{card}");

    for (assignment, says) in [
        ("model.layers=3", "the checkpoint decides the model"),
        ("sparsity.sparsity=0.5", "has masks"),
        ("sparsity.sparsity=1", "must lie in [0, 1)"),
        ("train.stesp=1", "did you mean 'steps'?"),
        ("train.lr=-1", "train.lr"),
    ] {
        let message = exported.import("new", &set(&[assignment])).unwrap_err();
        assert!(message.contains(says), "{assignment}: {message}");
        assert!(!exported.path("new").exists());
    }
}

#[test]
fn networks_that_the_engine_does_not_have_are_refused() {
    let exported = Exported::new(0.0);
    let whole = fs::read(exported.path("hf/config.json")).unwrap();
    for (key, value, says) in [
        ("model_type", json!("llama"), "only gpt2"),
        ("model_type", json!(null), "expected gpt2"),
        ("activation_function", json!("relu"), "gelu_new"),
        ("activation_function", json!("gelu"), "gelu_new"),
        ("activation_function", json!(3), "gelu_new"),
        ("n_inner", json!(64), "4 · n_embd"),
        ("n_inner", json!("wide"), "4 · n_embd"),
        ("layer_norm_epsilon", json!(1e-6), "1e-5"),
        ("layer_norm_epsilon", json!("1e-5"), "1e-5"),
        ("scale_attn_weights", json!(false), "only has true"),
        ("scale_attn_by_inverse_layer_idx", json!(true), "only has false"),
        ("add_cross_attention", json!(true), "only has false"),
        ("add_cross_attention", json!("no"), "neither true nor false"),
        ("quantization_config", json!({ "bits": 4 }), "cannot be imported"),
        ("pruned_heads", json!({ "0": [1] }), "cannot be imported"),
        ("n_head", json!(3), "3 does not divide n_embd = 32"),
        ("n_head", json!(0), "positive"),
        ("n_head", json!(null), "missing"),
        ("n_layer", json!(-2), "positive"),
        ("n_layer", json!(1u64 << 31), "4096"),
        ("n_layer", json!(2.5), "positive"),
        ("n_embd", json!(u64::MAX), "positive"),
        ("n_embd", json!(1u64 << 31), "n_inner"),
        ("vocab_size", json!("300"), "positive"),
        ("vocab_size", json!(299), "299"),
        ("vocab_size", json!(301), "[301, 32]"),
        ("n_positions", json!(33), "[33, 32]"),
        ("n_layer", json!(3), "'transformer.h.2."),
        ("n_layer", json!(1), "has no place in a GPT-2 of 1 layers"),
        ("tie_word_embeddings", json!(false), "'lm_head.weight' is missing"),
    ] {
        exported.edit_config(|fields| {
            fields.insert(key.into(), value.clone());
        });
        let message = exported.refusal();
        assert!(message.contains(says), "{key} = {value}: {message}");
        fs::write(exported.path("hf/config.json"), &whole).unwrap();
    }
    for (text, says) in [("", "no JSON object"), ("[1]", "no JSON object"), ("{\"a\":", "column")] {
        fs::write(exported.path("hf/config.json"), text).unwrap();
        let message = exported.refusal();
        assert!(message.contains("config.json") && message.contains(says), "{message}");
    }
    fs::remove_file(exported.path("hf/config.json")).unwrap();
    assert!(exported.refusal().contains("no config.json"));
}

#[test]
fn damaged_weights_are_refused() {
    let exported = Exported::new(0.0);
    let file = exported.path("hf/model.safetensors");
    let whole = fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for length in [0, 7, 8, header / 2, header, header + 5, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        assert!(exported.refusal().contains("model.safetensors"), "{length}");
    }
    for length in [0, 1 << 20, 1 << 40, u64::MAX] {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&u64::to_le_bytes(length));
        fs::write(&file, bytes).unwrap();
        assert!(exported.refusal().contains("header"), "{length}");
    }
    fs::write(&file, &whole).unwrap();

    let weights = exported.weights();
    let (embedding, bias) = ("transformer.wte.weight", "transformer.h.1.ln_1.bias");
    type Edit<'a> = (&'a dyn Fn(&mut Tensors), &'a str);
    let edit: [Edit; 8] = [
        (&|w| drop(w.0.remove(bias)), "'transformer.h.1.ln_1.bias' is missing"),
        (
            &|w| drop(w.0.insert("score.weight".into(), w.0[bias].clone())),
            "'score.weight' comes twice or has no place",
        ),
        (
            &|w| drop(w.0.insert("h.1.ln_1.bias".into(), w.0[bias].clone())),
            "'transformer.h.1.ln_1.bias' comes twice",
        ),
        (&|w| w.0.get_mut(bias).unwrap().1 = vec![2, 16], "has shape [2, 16]"),
        (&|w| w.0.get_mut(bias).unwrap().0 = Dtype::I32, "has type I32"),
        (
            &|w| {
                let mut values = w.floats(bias);
                values[5] = f32::INFINITY;
                w.set_floats(bias, &values);
            },
            "'transformer.h.1.ln_1.bias' is inf at element 5",
        ),
        (
            &|w| {
                let mut head = w.0[embedding].clone();
                head.2[0] ^= 1;
                w.0.insert("lm_head.weight".into(), head);
            },
            "tied",
        ),
        (
            &|w| {
                let linear = w.0.get_mut("transformer.h.0.mlp.c_fc.weight").unwrap();
                linear.1.reverse();
            },
            "has shape [128, 32], but config.json asks for [32, 128]",
        ),
    ];
    for (edit, says) in edit {
        let mut damaged = weights.clone();
        edit(&mut damaged);
        damaged.write(&file);
        let message = exported.refusal();
        assert!(message.contains(says), "{says}: {message}");
    }
    fs::remove_file(&file).unwrap();
    assert!(exported.refusal().contains("safetensors"));
    fs::create_dir(&file).unwrap();
    assert!(exported.refusal().contains("regular file"));
}

#[test]
fn masks_must_fit_the_weights() {
    let exported = Exported::new(0.75);
    let (masks, weights) =
        (exported.path("hf/masks.safetensors"), exported.path("hf/model.safetensors"));
    let [whole_masks, whole_weights] = [&masks, &weights].map(|path| fs::read(path).unwrap());
    let name = "transformer.h.0.mlp.c_fc.weight";

    // Training that ignored the masks.
    let mut grown = exported.weights();
    let mut values = grown.floats(name);
    let zero = values.iter().position(|x| *x == 0.0).unwrap();
    values[zero] = 0.5;
    grown.set_floats(name, &values);
    grown.write(&weights);
    let message = exported.refusal();
    assert!(message.contains(name) && message.contains("1 weights where its mask"), "{message}");
    fs::write(&weights, whole_weights).unwrap();

    let notes = |text: &str, from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let changed = text.replace(from, to);
        assert_ne!(text, changed, "{from}");
        changed
    };
    // Bytes beyond ASCII are masks' zeros and ones, so the file is text.
    let text = String::from_utf8(whole_masks[8..].to_vec()).unwrap();
    for (from, to, says) in [
        ("mediswift-masks", "somethings-mask", "not a masks file"),
        ("\"version\":\"1\"", "\"version\":\"9\"", "version 9"),
        ("\\\"sparsity\\\":0.75", "\\\"sparsity\\\":1.75", "1.75"),
        ("\\\"sparsity\\\":0.75", "\\\"sparsity\\\":0.00", "has a mask"),
        ("\\\"sparsity\\\":0.75", "\\\"sparsity\\\":true", "'sparsity'"),
        ("random", "ramdon", "did you mean 'random'"),
        ("c_fc.weight", "c_xx.weight", "no weight that has a mask"),
        ("\"sparsity\":\"", "\"sparsely\":\"", "lack 'sparsity'"),
    ] {
        let mut bytes = whole_masks[..8].to_vec();
        bytes.extend(notes(&text, from, to).bytes());
        fs::write(&masks, bytes).unwrap();
        let message = exported.refusal();
        assert!(message.contains(says), "{from}: {message}");
    }
    for (bytes, says) in [
        (whole_masks[..whole_masks.len() - 1].to_vec(), "masks.safetensors"),
        ([&whole_masks[..whole_masks.len() - 1], &[2]].concat(), "neither 0 nor 1"),
    ] {
        fs::write(&masks, bytes).unwrap();
        let message = exported.refusal();
        assert!(message.contains(says), "{message}");
    }
    fs::write(&masks, whole_masks).unwrap();
    let mut fewer = Tensors::read(&masks);
    fewer.0.remove(name);
    let message = {
        let views = fewer.0.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        let bytes = fs::read(&masks).unwrap();
        let notes = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone();
        fs::write(&masks, safetensors::serialize(views, notes).unwrap()).unwrap();
        exported.refusal()
    };
    assert!(message.contains(&format!("the mask of '{name}' is missing")), "{message}");
    // Without its masks, the same model is dense.
    fs::remove_file(&masks).unwrap();
    let imported = exported.import("dense", &Import::default()).unwrap();
    assert_eq!(imported.config.sparsity.sparsity, 0.0);
    let (sparse, dense) = (logits(&exported.load("run")), logits(&exported.load("dense")));
    for (a, b) in sparse.iter().zip(&dense) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn tokenizers_must_fit_the_model() {
    let exported = Exported::new(0.0);
    let own = exported.path("hf/tokenizer.json");
    let text = fs::read_to_string(&own).unwrap();
    fs::write(&own, &text[..text.len() / 2]).unwrap();
    assert!(exported.refusal().contains("tokenizer.json"));
    fs::remove_file(&own).unwrap();
    fs::remove_file(exported.path("hf/merges.txt")).unwrap();
    assert!(exported.refusal().contains("--tokenizer"));
    let given = Import { tokenizer: Some(exported.path("run")), ..Default::default() };
    exported.import("given", &given).unwrap();
}

#[test]
fn exports_lose_nothing() {
    let exported = Exported::new(0.0);
    let (run, out) = (exported.path("run"), exported.path("hf"));
    let message = hf::export(&run, &out, false).unwrap_err().to_string();
    assert!(message.contains("--force"), "{message}");
    fs::write(out.join("config.json"), "old").unwrap();
    hf::export(&run, &out, true).unwrap();
    assert_ne!(fs::read_to_string(out.join("config.json")).unwrap(), "old");
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let message = hf::export(&run, &out, true).unwrap_err().to_string();
    assert!(message.contains("notes.txt"), "{message}");
    let message = hf::export(&run, &out.join("notes.txt"), true).unwrap_err().to_string();
    assert!(message.contains("not a folder"), "{message}");
    let message = exported.import("run", &Import::default()).unwrap_err();
    assert!(message.contains("holds a run already"), "{message}");
    for missing in ["absent", "hf"] {
        let out = exported.path("new");
        assert!(hf::export(&exported.path(missing), &out, false).is_err());
        assert!(gguf::export(&exported.path(missing), &out, Precision::F32).is_err());
        assert!(!out.exists());
    }
}

#[test]
fn a_gguf_file_holds_every_number() {
    for (sparsity, precision) in
        [(0.0, Precision::F32), (0.75, Precision::F32), (0.75, Precision::F16)]
    {
        let exported = Exported::new(sparsity);
        let path = exported.path("model.gguf");
        let written = gguf::export(&exported.path("run"), &path, precision).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!((written.tensors, written.bytes), (28, bytes.len() as u64));
        let file = Gguf::read(&bytes);
        let run = exported.load("run");
        assert_eq!(file.tensors.len(), 28);
        for (ours, theirs) in [
            ("tok_embed.weight", "token_embd.weight"),
            ("pos_embed.weight", "position_embd.weight"),
            ("blocks.0.ln1.weight", "blk.0.attn_norm.weight"),
            ("blocks.0.attn.qkv.weight", "blk.0.attn_qkv.weight"),
            ("blocks.1.attn.qkv.bias", "blk.1.attn_qkv.bias"),
            ("blocks.1.attn.proj.weight", "blk.1.attn_output.weight"),
            ("blocks.0.ln2.bias", "blk.0.ffn_norm.bias"),
            ("blocks.0.mlp.up.weight", "blk.0.ffn_up.weight"),
            ("blocks.1.mlp.down.weight", "blk.1.ffn_down.weight"),
            ("ln_final.weight", "output_norm.weight"),
            ("ln_final.bias", "output_norm.bias"),
        ] {
            let (parameter, tensor) = (parameter(&run, ours), &file.tensors[theirs]);
            let mut extents = parameter.shape.extents();
            extents.reverse();
            assert_eq!(tensor.dimensions, extents, "{ours}");
            let is_half =
                precision == Precision::F16 && extents.len() == 2 && !ours.starts_with("pos");
            assert_eq!(tensor.is_half, is_half, "{ours}");
            for (found, &expected) in tensor.values.iter().zip(&dense(parameter)) {
                let rounded = half::f16::from_f32(expected).to_f32();
                assert_eq!(*found, if is_half { rounded } else { expected }, "{ours}");
            }
        }
        let tokenizer = Tokenizer::load(&run::tokenizer_path(&exported.path("run"))).unwrap();
        let (size, end) = (tokenizer.vocab_size() as u32, tokenizer.end_of_text());
        for (key, value) in [
            ("general.architecture", Value::String("gpt2".into())),
            ("general.alignment", Value::Number(32.0)),
            ("general.file_type", Value::Number(f64::from(u8::from(precision == Precision::F16)))),
            ("gpt2.context_length", Value::Number(32.0)),
            ("gpt2.embedding_length", Value::Number(32.0)),
            ("gpt2.block_count", Value::Number(2.0)),
            ("gpt2.feed_forward_length", Value::Number(128.0)),
            ("gpt2.attention.head_count", Value::Number(2.0)),
            ("gpt2.attention.layer_norm_epsilon", Value::Number(f64::from(1e-5f32))),
            ("tokenizer.ggml.model", Value::String("gpt2".into())),
            ("tokenizer.ggml.eos_token_id", Value::Number(f64::from(end))),
        ] {
            assert_eq!(file.pairs[key], value, "{key}");
        }
        let ids: Vec<u32> = (0..size).collect();
        let tokens = tokenizer.tokens(&ids).unwrap().into_iter().map(|t| Value::String(t.into()));
        assert_eq!(file.pairs["tokenizer.ggml.tokens"], Value::Array(tokens.collect()));
        let kinds = ids.iter().map(|&id| Value::Number(if id == end { 3.0 } else { 1.0 }));
        assert_eq!(file.pairs["tokenizer.ggml.token_type"], Value::Array(kinds.collect()));
        let merges = tokenizer.merges().iter().map(|(l, r)| Value::String(format!("{l} {r}")));
        assert_eq!(file.pairs["tokenizer.ggml.merges"], Value::Array(merges.collect()));
    }
}

/// Every file below a folder with the hash of its bytes.
fn hashes(folder: &Path) -> BTreeMap<PathBuf, blake3::Hash> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            found.extend(hashes(&path).into_iter().map(|(below, hash)| (name.join(below), hash)));
        } else {
            found.insert(name, blake3::hash(&fs::read(&path).unwrap()));
        }
    }
    found
}

#[test]
fn exports_and_imports_are_whole_or_as_before_whatever_stops_them() {
    let dense = Exported::new(0.0);
    let sparse = Exported::new(0.75);
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    fs::create_dir(&root).unwrap();
    // The second time there is something to replace.
    for (force, exported) in [(false, &dense), (true, &sparse)] {
        let run = exported.path("run");
        let work = |root: &Path| {
            hf::export(&run, &root.join("hf"), force)?;
            gguf::export(&run, &root.join("model.gguf"), Precision::F16)
        };
        let before = hashes(&root);
        let (done, recording) = Recording::of(&root, || work(&root));
        done.unwrap();
        let after = hashes(&root);
        let part = |all: &BTreeMap<PathBuf, blake3::Hash>, name: &str| {
            let below = all.iter().filter(|(path, _)| path.starts_with(name));
            below.map(|(path, hash)| (path.clone(), *hash)).collect::<Vec<_>>()
        };
        assert!(recording.steps().len() > 40, "{} steps", recording.steps().len());
        recording.each_state(scratch.path(), 1, |state| {
            let found = hashes(state.folder);
            let last = (state.power_cut, state.done.last());
            for name in ["hf", "model.gguf"] {
                let found = part(&found, name);
                let is_whole = found == part(&before, name) || found == part(&after, name);
                assert!(is_whole, "{last:?}: {name}");
            }
            // What is whole already may not be replaced without being asked to.
            if work(state.folder).is_err() {
                assert!(!force && part(&found, "hf") == part(&after, "hf"), "{last:?}");
                gguf::export(&run, &state.folder.join("model.gguf"), Precision::F16).unwrap();
            }
            assert_eq!(hashes(state.folder), after, "{last:?}");
        });
    }
    let import = |root: &Path| {
        hf::import(&sparse.path("hf"), &root.join("run"), &Import::default()).map(drop)
    };
    let root = scratch.path().join("runs");
    fs::create_dir(&root).unwrap();
    let (done, recording) = Recording::of(&root, || import(&root));
    done.unwrap();
    let after = hashes(&root);
    recording.each_state(scratch.path(), 1, |state| {
        let last = (state.power_cut, state.done.last());
        let is_there = state.folder.join("run").exists();
        if is_there {
            run::load_model(&state.folder.join("run")).unwrap();
        }
        assert_eq!(import(state.folder).is_ok(), !is_there, "{last:?}");
        assert_eq!(hashes(state.folder), after, "{last:?}");
    });
}
