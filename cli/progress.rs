//! Progress bars: on a terminal, on stderr; nothing otherwise.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar for work counted in bytes.
pub fn bytes(total: u64, message: &'static str) -> ProgressBar {
    bar(total, message, "{msg:<24} {wide_bar} {bytes}/{total_bytes} {eta}")
}

/// A bar for work counted in pieces.
pub fn count(total: u64, message: &'static str) -> ProgressBar {
    bar(total, message, "{msg:<24} {wide_bar} {human_pos}/{human_len} {eta}")
}

/// A bar for training, whose messages say how it goes and when it ends.
pub fn training(steps: u64) -> ProgressBar {
    bar(steps, "training", "{wide_bar} {human_pos}/{human_len}  {msg}")
}

/// A bar for work in several steps. `work` gets a function to call with the step's name, whether it
/// counts pieces and not bytes, what is done and what there is to do.
pub fn stages<T>(work: impl FnOnce(&mut dyn FnMut(&'static str, bool, u64, u64)) -> T) -> T {
    let mut current: Option<(&'static str, ProgressBar)> = None;
    let outcome = work(&mut |name, pieces, done, total| {
        if current.as_ref().is_none_or(|(known, _)| *known != name) {
            if let Some((_, bar)) = current.take() {
                bar.finish_and_clear();
            }
            let new = if pieces { count(total, name) } else { bytes(total, name) };
            current = Some((name, new));
        }
        if let Some((_, bar)) = &current {
            bar.set_length(total);
            bar.set_position(done);
        }
    });
    if let Some((_, bar)) = current {
        bar.finish_and_clear();
    }
    outcome
}

fn bar(total: u64, message: &'static str, template: &str) -> ProgressBar {
    // indicatif draws on stderr, and only if that is a terminal.
    let bar = ProgressBar::new(total).with_message(message);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
