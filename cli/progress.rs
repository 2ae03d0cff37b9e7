//! Progress bars: on a terminal, on stderr; nothing otherwise.

use std::ops::ControlFlow;

use indicatif::{ProgressBar, ProgressStyle};
use mediswift_data::prepare::{PrepareProgress, PrepareStage};

use crate::output;
use crate::signals::StopSignal;

/// A bar for work counted in bytes.
fn bytes(total: u64, message: &'static str) -> ProgressBar {
    bar(total, message, "{msg:<24} {wide_bar} {bytes}/{total_bytes} {eta}")
}

/// A bar for work counted in pieces.
pub fn count(total: u64, message: &'static str) -> ProgressBar {
    bar(total, message, "{msg:<24} {wide_bar} {human_pos}/{human_len} {eta}")
}

/// A bar for pieces of work that differ in effort.
pub fn effort(total: u64, message: &'static str) -> ProgressBar {
    bar(total, message, "{msg:<24} {wide_bar} {percent} % {eta}")
}

/// A bar for training, whose messages say how it goes and when it ends.
pub fn training(steps: u64) -> ProgressBar {
    bar(steps, "training", "{wide_bar} {human_pos}/{human_len}  {msg}")
}

/// Bars for the steps of preparing data. `work` gets the function to call with its progress; it says
/// whether to go on.
pub fn preparing<T>(
    stop: &StopSignal,
    work: impl FnOnce(&mut dyn FnMut(&PrepareProgress) -> ControlFlow<()>) -> T,
) -> T {
    let mut current: Option<(PrepareStage, ProgressBar)> = None;
    let outcome = work(&mut |now| {
        if current.as_ref().is_none_or(|(known, _)| *known != now.stage) {
            if let Some((_, bar)) = current.take() {
                bar.finish_and_clear();
            }
            // Only reading counts bytes.
            let new = if now.stage == PrepareStage::Reading { bytes } else { count };
            current = Some((now.stage, new(now.bytes_total, stage_name(now.stage))));
        }
        if let Some((_, bar)) = &current {
            bar.set_length(now.bytes_total);
            bar.set_position(now.bytes_read);
        }
        stop.flow()
    });
    if let Some((_, bar)) = current {
        bar.finish_and_clear();
    }
    outcome
}

/// What a step of preparing data is called.
pub fn stage_name(stage: PrepareStage) -> &'static str {
    match stage {
        PrepareStage::Reading => "reading",
        PrepareStage::Choosing => "finding duplicates",
        PrepareStage::Learning => "learning the vocabulary",
        PrepareStage::Tokenizing => "tokenizing",
    }
}

fn bar(total: u64, message: &'static str, template: &str) -> ProgressBar {
    if output::is_mute() {
        return ProgressBar::hidden();
    }
    // indicatif draws on stderr, and only if that is a terminal.
    let bar = ProgressBar::new(total).with_message(message);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
