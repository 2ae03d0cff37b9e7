//! Manifests of checkpoints, with the settings in them. The checksum is made right half of the time, or
//! the fuzzer would never come past it.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use mediswift_fuzz::{TinyCheckpoint, check_model};
use mediswift_model::checkpoint::{Checkpoint, CheckpointManifest};

static TINY: LazyLock<TinyCheckpoint> = LazyLock::new(TinyCheckpoint::new);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let mut bytes = rest.to_vec();
    if first % 2 == 0
        && let Ok(manifest) = serde_json::from_slice::<CheckpointManifest>(&bytes)
    {
        bytes = mediswift_fuzz::sealed(manifest);
    }
    let path: PathBuf = TINY.path();
    fs::write(path.join("manifest.json"), &bytes).expect("write");
    let read = || {
        let checkpoint = Checkpoint::open(&path)?;
        let parameters = checkpoint.parameters()?;
        checkpoint.moments(&parameters)?;
        checkpoint.model(&checkpoint.config)
    };
    if let Err(error) = read() {
        check_model(&error);
    }
});
