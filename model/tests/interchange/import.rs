//! What an import takes: every spelling of a GPT-2, and no other network.

use crate::support::dataset;
use crate::{Exported, Tensors, dense, logits, parameter, set};
use mediswift_data::Dataset;
use mediswift_engine::Shape;
use mediswift_kernels::Precision;
use mediswift_model::checkpoint::{self, Checkpoint, Choice, Snapshot, weights_hash};
use mediswift_model::interchange::hf::{self, Import};
use mediswift_model::optimisation::Moments;
use mediswift_model::pretrain::pretrain;
use mediswift_model::session::Session;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

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

    // Saved from inside what PyTorch wraps modules in, around the whole or a part.
    for (number, wrapped) in [
        |name: &str| format!("_orig_mod.{name}"),
        |name: &str| format!("module.transformer.{name}"),
        |name: &str| format!("module._orig_mod.transformer._orig_mod.{name}"),
        |name: &str| name.replace(".attn.", "._checkpoint_wrapped_module.attn._orig_mod."),
        |name: &str| format!("_fsdp_wrapped_module.{name}"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut inside = weights.clone();
        inside.rename(wrapped);
        inside.write(&file);
        let imported = exported.import(&format!("wrapped-{number}"), &Import::default());
        assert_eq!(imported.unwrap().weights_hash, hash, "{number}");
    }
    let mut both = weights.clone();
    both.0.insert("module.ln_f.bias".into(), weights.0["ln_f.bias"].clone());
    both.write(&file);
    assert!(exported.refusal().contains("ln_f.bias' comes twice"), "{}", exported.refusal());
    weights.write(&file);

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
        hf::export(&exported.path(method), Choice::default(), &path, Precision::F32, false)
            .unwrap();
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
        loss_scale: None,
        masks: None,
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
