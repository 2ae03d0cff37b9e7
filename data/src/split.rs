//! Training and validation.

/// The two parts of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What to train on.
    Train,
    /// What to measure on.
    Validation,
}

impl Split {
    /// The split's name, as in its shards' file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
        }
    }

    /// Held out or not, by a draw from the document's identity.
    pub(crate) fn of(draw: u64, validation_fraction: f64) -> Self {
        // 53 bits, the precision of an f64, as a fraction in 0..1.
        if ((draw >> 11) as f64) / ((1u64 << 53) as f64) < validation_fraction {
            Self::Validation
        } else {
            Self::Train
        }
    }
}
