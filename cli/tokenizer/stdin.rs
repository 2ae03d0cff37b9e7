//! Standard input as text.

use std::io::Read;

use anyhow::Context as _;

/// All of stdin, exactly as it comes.
pub fn read() -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("cannot read stdin")?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("stdin, byte {at}: not UTF-8; convert the text to UTF-8")
    })
}
