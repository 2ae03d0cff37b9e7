//! Validation: the loss on fixed windows of the held-out split.
//!
//! Windows follow each other through the split, so every token but the first is predicted once, and
//! every evaluation of every run on the same data reads the same ones.

use crate::agreement::agree_numbers;
use crate::config::Config;
use crate::error::Error;
use crate::gpt::{Gpt, TokenBatch};
use crate::reduction::share;
use crate::run::{self, LoadedModel};
use crate::watch::{Progress, Watch};
use mediswift_data::{Dataset, Split, sequential};
use mediswift_engine::{Arena, LossSum};
use mediswift_ranks::{Alone, Ranks};
use serde::Serialize;
use std::path::Path;

/// Result of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Mean loss, in nats per token.
    pub val_loss: f64,
    /// exp(loss).
    pub perplexity: f64,
    /// Tokens predicted.
    pub tokens: u64,
    /// Warnings about newer checkpoints that were passed over.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
}

/// How an evaluation reads its data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Windows {
    /// Tokens per window; the whole split where it is shorter.
    pub context: usize,
    /// Most windows to read; 0 reads them all.
    pub sequences: usize,
    /// Windows per forward pass.
    pub micro_batch: usize,
}

impl Windows {
    /// Those of evaluations during training. How many go through one pass decides the last bits of the
    /// loss, so it is the same in every evaluation.
    pub(crate) fn of(config: &Config) -> Self {
        let Config { train, eval, .. } = config;
        Self { context: train.context, sequences: eval.sequences, micro_batch: train.micro_batch }
    }
}

/// The loss of `gpt` on the validation split, whose forward passes the ranks share.
/// # Errors
/// If the split holds fewer than two tokens, or one outside the model's vocabulary; if a loss is
/// not finite; if `watch` asks to stop between two forward passes.
pub(crate) fn validation_loss(
    gpt: &Gpt,
    dataset: &Dataset,
    windows: Windows,
    ranks: &dyn Ranks,
    watch: &mut dyn Watch,
) -> Result<Evaluation, Error> {
    let passes = agree_numbers(ranks, passes(gpt, dataset, windows, ranks, watch))?;
    let passes = passes.iter().flat_map(|passes| passes.chunks_exact(2));
    let total = passes
        .fold(LossSum::default(), |sum, pass| sum + LossSum { sum: pass[0], weight: pass[1] });
    let (val_loss, tokens) = (total.mean(), total.weight as u64);
    Ok(Evaluation { val_loss, perplexity: val_loss.exp(), tokens, skipped: vec![] })
}

/// Sum and weight of the loss of this rank's share of all forward passes.
fn passes(
    gpt: &Gpt,
    dataset: &Dataset,
    windows: Windows,
    ranks: &dyn Ranks,
    watch: &mut dyn Watch,
) -> Result<Vec<f64>, Error> {
    let tokens = validation_tokens(dataset)?;
    let context = windows.context.min((tokens - 1) as usize);
    let limit = if windows.sequences == 0 { usize::MAX } else { windows.sequences };
    let all = limit.min((tokens - 1) as usize / context);
    let share = share(all.div_ceil(windows.micro_batch), ranks.count(), ranks.rank());
    let (first, end) =
        (share.start * windows.micro_batch, all.min(share.end * windows.micro_batch));
    let sequences = sequential(dataset, Split::Validation, context)?.take(end).skip(first);
    let (mut sequences, mut arena, mut losses) = (sequences, Arena::default(), Vec::new());
    for done in (0..end - first).step_by(windows.micro_batch) {
        watch.tell(Progress::Judging { done, all: end - first })?;
        let batch = sequences.by_ref().take(windows.micro_batch).collect::<Result<Vec<_>, _>>()?;
        let batch = TokenBatch::new(batch.into_iter());
        let part = gpt.evaluate(&batch, &mut arena)?;
        if !part.sum.is_finite() {
            let (what, name, value) = ("loss", "validation".to_string(), part.sum as f32);
            return Err(Error::NonFinite { what, name, position: (first + done) * context, value });
        }
        losses.extend([part.sum, part.weight]);
    }
    Ok(losses)
}

/// Tokens of the validation split.
/// # Errors
/// If there are fewer than two, with which there is nothing to predict.
pub(crate) fn validation_tokens(dataset: &Dataset) -> Result<u64, Error> {
    match dataset.tokens(Split::Validation) {
        tokens @ (0 | 1) => {
            let problem = format!("it holds {tokens} tokens: prepare data with more held out");
            Err(Error::input("validation split", problem))
        }
        tokens => Ok(tokens),
    }
}

/// The validation loss of the newest checkpoint of the run in `path` on all of `dataset`.
/// # Errors
/// If the run cannot be read; as for [`evaluate_model`].
pub fn evaluate_run(
    path: &Path,
    dataset: &Dataset,
    watch: &mut dyn Watch,
) -> Result<Evaluation, Error> {
    evaluate_model(&run::load_model(path)?, dataset, watch)
}

/// The validation loss of a run's model on all of `dataset`.
/// # Errors
/// If the data were made with another tokenizer than the run's or cannot be read, the loss is not
/// finite, or `watch` asks to stop.
pub fn evaluate_model(
    model: &LoadedModel,
    dataset: &Dataset,
    watch: &mut dyn Watch,
) -> Result<Evaluation, Error> {
    if model.tokenizer.hash() != dataset.tokenizer_hash() {
        let problem = "its tokenizer is not the run's: prepare the data with that of the run";
        return Err(Error::input("dataset", problem));
    }
    let windows = Windows { sequences: 0, ..Windows::of(&model.config) };
    let evaluation = validation_loss(&model.gpt, dataset, windows, &Alone, watch)?;
    Ok(Evaluation { skipped: model.skipped.clone(), ..evaluation })
}
