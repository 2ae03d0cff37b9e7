//! [`TokenBatch`]: what a model reads and is to predict.

use mediswift_data::Sequence;
use mediswift_engine::TokenLayout;

/// Sequences of equal length with the tokens to predict, `[sequence][position]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenBatch {
    /// Sequences and their length.
    pub layout: TokenLayout,
    /// Tokens read.
    pub ids: Vec<u32>,
    /// Token that follows each.
    pub targets: Vec<u32>,
    /// Weight of each target in the loss; all 1 without.
    pub weights: Option<Vec<f32>>,
}

impl TokenBatch {
    /// Joins sequences of equal length; all targets weigh the same.
    /// # Panics
    /// If there is none, or their lengths differ.
    #[track_caller]
    pub fn new(sequences: impl Iterator<Item = Sequence>) -> Self {
        let (mut ids, mut targets, mut count, mut context) = (Vec::new(), Vec::new(), 0, 0);
        for sequence in sequences {
            context = sequence.inputs.len();
            ids.extend(sequence.inputs);
            targets.extend(sequence.targets);
            count += 1;
        }
        assert!(count > 0 && ids.len() == count * context, "sequences must be equally long");
        let layout = TokenLayout { sequences: count, context };
        Self { layout, ids, targets, weights: None }
    }

    /// Sum of the weights of all targets.
    pub fn weight(&self) -> f64 {
        match &self.weights {
            Some(weights) => weights.iter().map(|&w| f64::from(w)).sum(),
            None => self.targets.len() as f64,
        }
    }
}
