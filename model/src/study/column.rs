//! [`Column`]: what a report tells of an arm, and how.

use super::record::{Outcome, Pretrained};
use crate::error::{Error, Place};

/// What a report tells of an arm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// Weights of linear layers that are there.
    Kept,
    /// Tokens trained on.
    Tokens,
    /// Operations executed.
    Flops,
    /// Seconds of training steps.
    Seconds,
    /// Tokens per second of training steps.
    Speed,
    /// Training loss of the last step.
    TrainLoss,
    /// Validation loss at the end.
    Loss,
    /// How much higher it is than the reference's.
    Gap,
    /// How many times fewer operations a token costs than with the reference.
    Theory,
    /// How many times as many tokens per second it reads as the reference.
    Realised,
    /// Seconds until the validation loss is as low as that of the worst arm of the table at its end.
    ToLoss,
    /// How many times sooner it is there than the reference.
    Sooner,
    /// Loss on other data, or score of a task.
    Score(String),
}

/// Names in files, and headings.
const COLUMNS: [(&str, &str, Column); 12] = [
    ("kept", "linear weights", Column::Kept),
    ("tokens", "tokens", Column::Tokens),
    ("flops", "training FLOPs", Column::Flops),
    ("seconds", "seconds", Column::Seconds),
    ("speed", "tokens/s", Column::Speed),
    ("train_loss", "training loss", Column::TrainLoss),
    ("loss", "validation loss", Column::Loss),
    ("gap", "loss above the reference", Column::Gap),
    ("theory", "theoretical speedup", Column::Theory),
    ("realised", "realised speedup", Column::Realised),
    ("to_loss", "seconds to that loss", Column::ToLoss),
    ("sooner", "times sooner there", Column::Sooner),
];

impl Column {
    /// What losses can be drawn against.
    pub const AXES: [Column; 3] = [Column::Tokens, Column::Flops, Column::Seconds];

    /// What a table has that names no columns.
    pub(super) fn usual(scores: &[String]) -> Vec<Self> {
        use Column::{Flops, Kept, Loss, Realised, Seconds, Speed, Theory, Tokens};
        let usual = [Kept, Tokens, Flops, Seconds, Speed, Theory, Realised, Loss];
        usual.into_iter().chain(scores.iter().cloned().map(Column::Score)).collect()
    }

    /// Whether every study has a column of that name.
    pub(super) fn is_known(name: &str) -> bool {
        COLUMNS.iter().any(|(known, ..)| *known == name)
    }

    /// The column of that name, where there are such scores.
    pub(super) fn named(
        name: &str,
        scores: &[String],
        place: &Place,
        key: &str,
    ) -> Result<Self, Error> {
        if let Some((.., column)) = COLUMNS.iter().find(|(known, ..)| *known == name) {
            return Ok(column.clone());
        }
        if scores.iter().any(|score| score == name) {
            return Ok(Column::Score(name.into()));
        }
        let known = COLUMNS.iter().map(|(known, ..)| *known);
        let known = known.chain(scores.iter().map(String::as_str));
        Err(Error::unknown(place.within(key), "column", name, known))
    }

    /// Its name in files.
    pub fn name(&self) -> &str {
        match self {
            Column::Score(name) => name,
            column => Self::row(column).0,
        }
    }

    /// What stands above it.
    pub fn heading(&self) -> &str {
        match self {
            Column::Score(name) => name,
            column => Self::row(column).1,
        }
    }

    fn row(column: &Column) -> &'static (&'static str, &'static str, Column) {
        COLUMNS.iter().find(|(.., known)| known == column).expect("every column has a row")
    }

    /// Whether less of it is better.
    pub fn is_cost(&self) -> bool {
        !matches!(self, Column::Speed | Column::Realised | Column::Sooner | Column::Theory)
    }

    /// What it says of one run of pre-training, where it needs no other.
    pub(super) fn of(&self, run: &Pretrained) -> Option<f64> {
        Some(match self {
            Column::Kept => run.nnz as f64,
            Column::Tokens => run.tokens as f64,
            Column::Flops => run.flops,
            Column::Seconds => run.seconds,
            Column::Speed => run.tokens as f64 / run.seconds,
            Column::TrainLoss => run.train_loss?,
            Column::Loss => run.val_loss,
            _ => return None,
        })
    }

    /// What it says of other work: values, one or several.
    pub(super) fn of_other(outcome: &Outcome) -> Vec<f64> {
        match outcome {
            Outcome::Pretrained(_) => Vec::new(),
            Outcome::Evaluated { val_loss, .. } => vec![*val_loss],
            Outcome::Tuned { per_seed, .. } => per_seed.iter().map(|value| 100.0 * value).collect(),
        }
    }

    /// A value in few letters, and its deviation if it has one.
    pub fn show(&self, Spread { mean, std, .. }: Spread) -> String {
        let with = |shown: &dyn Fn(f64) -> String| match std {
            Some(std) => format!("{} ± {}", shown(mean), shown(std)),
            None => shown(mean),
        };
        match self {
            Column::Kept | Column::Tokens => whole(mean),
            Column::Flops => power(mean),
            Column::Speed => with(&whole),
            Column::Seconds | Column::ToLoss => with(&|value| match mean {
                ..10.0 => format!("{value:.2}"),
                10.0..100.0 => format!("{value:.1}"),
                _ => format!("{value:.0}"),
            }),
            // A count, the same for all seeds.
            Column::Theory => format!("{mean:.2}×"),
            Column::Realised | Column::Sooner => with(&|value| format!("{value:.2}")) + "×",
            // What rounds to nothing has no sign.
            Column::Gap | Column::Loss | Column::TrainLoss => {
                with(&|value| format!("{:.3}", (1e3 * value).round() / 1e3 + 0.0))
            }
            Column::Score(_) => with(&|value| format!("{value:.2}")),
        }
    }
}

/// Mean and deviation over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation of a sample, of two at least.
    pub std: Option<f64>,
    /// How many there are.
    pub count: usize,
}

impl Spread {
    /// Of values, if there are any.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let std = (count > 1).then(|| (squares / (count - 1) as f64).sqrt());
        (count > 0).then_some(Self { mean, std, count })
    }
}

/// A whole number with commas.
fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", &*digits), |rest| ("-", rest));
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    sign.to_string() + &text
}

/// A large number as a power of ten.
fn power(value: f64) -> String {
    let text = format!("{value:.2e}");
    let (digits, exponent) = text.split_once('e').expect("a number with an exponent");
    let raised = |digit: char| match digit.to_digit(10) {
        Some(digit) => ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][digit as usize],
        None => '⁻',
    };
    format!("{digits} × 10{}", exponent.chars().map(raised).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_short() {
        let spread = |values: &[f64]| Spread::of(values).unwrap();
        assert_eq!(Column::Loss.show(spread(&[4.0, 5.0])), "4.500 ± 0.707");
        assert_eq!(Column::Loss.show(spread(&[4.0])), "4.000");
        assert_eq!(Column::Gap.show(spread(&[-1e-5])), "0.000");
        assert_eq!(Column::Gap.show(spread(&[-0.0126])), "-0.013");
        assert_eq!(Column::Flops.show(spread(&[1.234e14])), "1.23 × 10¹⁴");
        assert_eq!(Column::Tokens.show(spread(&[1_234_567.0])), "1,234,567");
        assert_eq!(Column::Kept.show(spread(&[999.0])), "999");
        assert_eq!(Spread::of(&[]), None);
    }
}
