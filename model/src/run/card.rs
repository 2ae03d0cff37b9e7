//! The model card: what a model is, what it is not for, and what came of its training.

use super::origin::Origin;
use super::report::TrainingReport;
use crate::config::Config;

pub(super) const CARD: &str = "MODEL_CARD.md";
pub(super) const NOT_FINISHED: &str = "The run has not finished.";
pub(super) const NOT_TRAINED_ON: &str = "It has not been trained further.";

/// A sentence on how a run ended.
pub(super) fn result(report: &TrainingReport) -> String {
    format!(
        "After {} steps: training loss {:.4}, validation loss {:.4} nats per token. {} stored \
         parameters, weights hash `{}`.",
        report.step, report.train_loss, report.val_loss, report.parameters, report.weights_hash
    )
}

/// The card of a model, in Markdown, with `result` as what came out.
pub(crate) fn model_card(config: &Config, origin: Option<&Origin>, result: &str) -> String {
    let model = &config.model;
    let start = match origin {
        Some(Origin { source, weights_hash }) => {
            format!("imported from {source} (weights hash `{weights_hash}`)")
        }
        None => "trained from scratch to predict the next token".to_string(),
    };
    let how = match config.sparsity.init_method.name() {
        "random" => "at random".to_string(),
        method => format!("by {method}"),
    };
    let when = if origin.is_some() { "" } else { " before training (arXiv 2403.00952)" };
    let kind = match config.sparsity.describe(model).as_str() {
        "dense" => "It is dense.".to_string(),
        sparse => match config.sparsity.algorithm {
            schedule if !schedule.moves() => {
                format!("Its linear layers are {sparse}: weights were left out {how}{when}.")
            }
            _ => format!(
                "Its linear layers are {sparse}: which weights there are changed during training."
            ),
        },
    };
    format!(
        "# MediSwift {preset}\n\n\
         **For research only. Not for clinical use:** this model has not been evaluated for any \
         medical purpose. Its output may be wrong, outdated or harmful, and must not inform the \
         care of anyone.\n\n\
         ## Model\n\n\
         A GPT with {layers} layers of width {d_model}, {heads} heads, {context} positions and a \
         vocabulary of {vocabulary} tokens, {start}. {kind}\n\n\
         ## Training\n\n```toml\n{toml}```\n\n\
         ## Result\n\n{result}\n",
        preset = model.preset.name,
        layers = model.layers,
        d_model = model.d_model,
        heads = model.heads,
        context = model.context,
        vocabulary = model.vocabulary,
        toml = config.to_toml(),
    )
}
