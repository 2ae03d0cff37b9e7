//! Weights and moments of checkpoints that vouch for them, as whole files or as a header before zeros.
#![no_main]

use std::sync::LazyLock;

use mediswift_fuzz::{TinyCheckpoint, check_model};
use mediswift_model::checkpoint::{Checkpoint, weights_hash};
use serde_json::Value;

static TINY: LazyLock<TinyCheckpoint> = LazyLock::new(TinyCheckpoint::new);

/// Most bytes of zeros.
const MOST: u64 = 1 << 20;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let file = if first & 1 == 0 { rest.to_vec() } else { with_zeros(rest) };
    let name = if first & 2 == 0 { "weights.safetensors" } else { "optimizer.safetensors" };
    let path = TINY.with(name, &file);
    let checkpoint = Checkpoint::open(&path).expect("its manifest is right");
    let read = || {
        let parameters = checkpoint.parameters()?;
        assert!(parameters.iter().all(|(_, tensor)| tensor.values.iter().all(|x| x.is_finite())));
        assert_eq!(weights_hash(&parameters).len(), 64);
        checkpoint.moments(&parameters)
    };
    if let Err(error) = read() {
        check_model(&error);
    }
});

/// A file with this header and as many zeros as it speaks of.
fn with_zeros(header: &[u8]) -> Vec<u8> {
    let tensors: Option<Value> = serde_json::from_slice(header).ok();
    let ends = tensors.iter().filter_map(Value::as_object).flat_map(|tensors| tensors.values());
    let ends = ends.filter_map(|tensor| tensor["data_offsets"][1].as_u64());
    let length = ends.max().unwrap_or(0).min(MOST) as usize;
    [&(header.len() as u64).to_le_bytes(), header, &vec![0; length]].concat()
}
