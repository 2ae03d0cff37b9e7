//! Progress bars: on a terminal, on stderr; nothing otherwise.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar for work counted in bytes.
pub fn bytes(total: u64, message: &'static str) -> ProgressBar {
    bar(total, message, "{msg:<14} {wide_bar} {bytes}/{total_bytes} {eta}")
}

/// A bar for work counted in pieces.
pub fn count(total: u64, message: &'static str) -> ProgressBar {
    bar(total, message, "{msg:<14} {wide_bar} {human_pos}/{human_len} {eta}")
}

fn bar(total: u64, message: &'static str, template: &str) -> ProgressBar {
    // indicatif draws on stderr, and only if that is a terminal.
    let bar = ProgressBar::new(total).with_message(message);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
