//! A GGUF file, read back by what its description says.

use crate::gguf_reader::{Gguf, Value};
use crate::{Exported, dense, parameter};
use mediswift_data::Tokenizer;
use mediswift_kernels::Precision;
use mediswift_model::checkpoint::Choice;
use mediswift_model::interchange::gguf;
use mediswift_model::run;
use std::fs;

#[test]
fn a_gguf_file_holds_every_number() {
    for (sparsity, precision, file_type) in [
        (0.0, Precision::F32, 0.0),
        (0.75, Precision::F32, 0.0),
        (0.75, Precision::F16, 1.0),
        (0.0, Precision::F16, 1.0),
        (0.75, Precision::Bf16, 32.0),
    ] {
        let exported = Exported::new(sparsity);
        let path = exported.path("model.gguf");
        let written =
            gguf::export(&exported.path("run"), Choice::default(), &path, precision).unwrap();
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
            let is_rounded = extents.len() == 2 && !ours.starts_with("pos");
            let precision = if is_rounded { precision } else { Precision::F32 };
            assert_eq!(tensor.precision, precision, "{ours}");
            for (found, &expected) in tensor.values.iter().zip(&dense(parameter)) {
                assert_eq!(*found, precision.round(expected), "{ours}");
            }
        }
        let tokenizer = Tokenizer::load(&run::tokenizer_path(&exported.path("run"))).unwrap();
        let (size, end) = (tokenizer.vocab_size() as u32, tokenizer.end_of_text());
        for (key, value) in [
            ("general.architecture", Value::String("gpt2".into())),
            ("general.alignment", Value::Number(32.0)),
            ("general.file_type", Value::Number(file_type)),
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
