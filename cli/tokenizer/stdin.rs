//! Standard input as text.

use std::io::Read;

use anyhow::Context as _;
use mediswift_files::LARGE;

/// All of stdin, exactly as it comes: what is encoded comes back.
pub fn read() -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(LARGE + 1).read_to_end(&mut bytes);
    let length = read.context("cannot read stdin")? as u64;
    anyhow::ensure!(length <= LARGE, "stdin: more than {LARGE} bytes; encode it in parts");
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("stdin, byte {at}: not UTF-8; convert the text to UTF-8")
    })
}
