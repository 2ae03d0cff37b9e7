//! What an export writes: the folder of a GPT-2, and nothing over what it should not.

use crate::support::config;
use crate::{Exported, Tensors, dense, logits, parameter, set};
use mediswift_data::Tokenizer;
use mediswift_engine::Shape;
use mediswift_kernels::Precision;
use mediswift_model::checkpoint::{Choice, weights_hash};
use mediswift_model::evaluate::evaluate_run;
use mediswift_model::interchange::gguf;
use mediswift_model::interchange::hf::{self, Import};
use mediswift_model::run;
use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use std::fs;

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

        hf::export(
            &exported.path("back"),
            Choice::default(),
            &exported.path("again"),
            Precision::F32,
            false,
        )
        .unwrap();
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
fn exports_lose_nothing() {
    let exported = Exported::new(0.0);
    let (run, out) = (exported.path("run"), exported.path("hf"));
    let message =
        hf::export(&run, Choice::default(), &out, Precision::F32, false).unwrap_err().to_string();
    assert!(message.contains("--force"), "{message}");
    fs::write(out.join("config.json"), "old").unwrap();
    hf::export(&run, Choice::default(), &out, Precision::F32, true).unwrap();
    assert_ne!(fs::read_to_string(out.join("config.json")).unwrap(), "old");
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let message =
        hf::export(&run, Choice::default(), &out, Precision::F32, true).unwrap_err().to_string();
    assert!(message.contains("notes.txt"), "{message}");
    let message = hf::export(&run, Choice::default(), &out.join("notes.txt"), Precision::F32, true)
        .unwrap_err()
        .to_string();
    assert!(message.contains("not a folder"), "{message}");
    let message = exported.import("run", &Import::default()).unwrap_err();
    assert!(message.contains("holds a run already"), "{message}");
    for missing in ["absent", "hf"] {
        let out = exported.path("new");
        assert!(
            hf::export(&exported.path(missing), Choice::default(), &out, Precision::F32, false)
                .is_err()
        );
        assert!(
            gguf::export(&exported.path(missing), Choice::default(), &out, Precision::F32).is_err()
        );
        assert!(!out.exists());
    }
}
