//! Standard input as text.

use std::io::Read;

use anyhow::Context as _;
use mediswift_files::{self as files, LARGE, NotUtf8};

/// All of stdin, exactly as it comes, but for a byte-order mark before it.
pub fn read() -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(LARGE + 1).read_to_end(&mut bytes);
    let length = read.context("cannot read stdin")? as u64;
    anyhow::ensure!(length <= LARGE, "stdin: more than {LARGE} bytes; encode it in parts");
    files::text(bytes).map_err(|NotUtf8 { offset, .. }| {
        anyhow::anyhow!("stdin, byte {offset}: not UTF-8; convert the text to UTF-8")
    })
}
