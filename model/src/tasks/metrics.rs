//! Scores of answers, in the definitions of their benchmarks.
//!
//! With TP, FP and FN the right, wrong and missed answers of a class, F1 = 2·TP / (2·TP + FP + FN),
//! and 0 where that is undefined. **Macro** is the plain mean of F1 over classes, **micro** the F1
//! of the summed counts. The **example-based** F1 of BLUE takes precision and recall of every
//! example, their means over examples, and the harmonic mean of the two means.

use std::collections::BTreeSet;

/// Fraction of answers that equal the truth.
/// # Panics
/// If there are not as many answers as truths.
#[track_caller]
pub fn accuracy<T: PartialEq<U>, U>(truth: &[T], answers: &[U]) -> f64 {
    assert_eq!(truth.len(), answers.len(), "one answer per example is needed");
    let right = truth.iter().zip(answers).filter(|(truth, answer)| *truth == *answer).count();
    ratio(right, truth.len())
}

/// Mean F1 over the classes that occur in truths or answers (as scikit-learn's `f1_score` with
/// `average="macro"`).
/// # Panics
/// If there are not as many answers as truths.
#[track_caller]
pub fn macro_f1(truth: &[&str], answers: &[&str]) -> f64 {
    assert_eq!(truth.len(), answers.len(), "one answer per example is needed");
    let classes: BTreeSet<&str> = truth.iter().chain(answers).copied().collect();
    let mean = classes.iter().map(|class| {
        let mut counts = Counts::default();
        for (truth, answer) in truth.iter().zip(answers) {
            counts.add(truth == class, answer == class);
        }
        counts.f1()
    });
    mean.sum::<f64>() / classes.len().max(1) as f64
}

/// Right, given and true answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Given and true.
    pub right: usize,
    /// Given.
    pub given: usize,
    /// True.
    pub truth: usize,
}

impl Counts {
    /// Counts one decision.
    pub fn add(&mut self, truth: bool, given: bool) {
        self.right += usize::from(truth && given);
        self.given += usize::from(given);
        self.truth += usize::from(truth);
    }

    /// 2·TP / (given + true); 0 where nothing is given and nothing true.
    pub fn f1(self) -> f64 {
        ratio(2 * self.right, self.given + self.truth)
    }
}

/// Sets of labels: whether each label is in it.
pub type Flags = Vec<bool>;

/// Micro-F1 over all decisions.
/// # Panics
/// If truths and answers differ in shape.
#[track_caller]
pub fn multilabel_micro_f1(truth: &[Flags], answers: &[Flags]) -> f64 {
    let mut all = Counts::default();
    for counts in class_counts(truth, answers) {
        all.right += counts.right;
        all.given += counts.given;
        all.truth += counts.truth;
    }
    all.f1()
}

/// Mean of F1 over the labels.
/// # Panics
/// If truths and answers differ in shape.
#[track_caller]
pub fn multilabel_macro_f1(truth: &[Flags], answers: &[Flags]) -> f64 {
    let counts = class_counts(truth, answers);
    counts.iter().map(|counts| counts.f1()).sum::<f64>() / counts.len().max(1) as f64
}

#[track_caller]
fn class_counts(truth: &[Flags], answers: &[Flags]) -> Vec<Counts> {
    assert_eq!(truth.len(), answers.len(), "one answer per example is needed");
    let mut counts = vec![Counts::default(); truth.first().map_or(0, Vec::len)];
    for (truth, answer) in truth.iter().zip(answers) {
        assert_eq!((truth.len(), answer.len()), (counts.len(), counts.len()), "labels differ");
        for (counts, (&truth, &given)) in counts.iter_mut().zip(truth.iter().zip(answer)) {
            counts.add(truth, given);
        }
    }
    counts
}

/// Means over examples, and their F1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExampleBased {
    /// Mean over examples of right / given; 0 for an example with nothing given.
    pub precision: f64,
    /// Mean over examples of right / true.
    pub recall: f64,
    /// Their harmonic mean.
    pub f1: f64,
}

/// BLUE's metric, over the examples that have a label at all: the others have no recall.
/// # Panics
/// If truths and answers differ in shape.
#[track_caller]
pub fn example_based(truth: &[Flags], answers: &[Flags]) -> ExampleBased {
    assert_eq!(truth.len(), answers.len(), "one answer per example is needed");
    let (mut precision, mut recall, mut examples) = (0.0, 0.0, 0);
    for (truth, answer) in truth.iter().zip(answers) {
        assert_eq!(truth.len(), answer.len(), "labels differ");
        let mut counts = Counts::default();
        truth.iter().zip(answer).for_each(|(&truth, &given)| counts.add(truth, given));
        if counts.truth > 0 {
            precision += ratio(counts.right, counts.given);
            recall += ratio(counts.right, counts.truth);
            examples += 1;
        }
    }
    let mean = |sum: f64| if examples > 0 { sum / f64::from(examples) } else { 0.0 };
    let (precision, recall) = (mean(precision), mean(recall));
    let sum = precision + recall;
    let f1 = if sum > 0.0 { 2.0 * precision * recall / sum } else { 0.0 };
    ExampleBased { precision, recall, f1 }
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_undefined_is_zero() {
        assert_eq!(accuracy::<&str, &str>(&[], &[]), 0.0);
        assert_eq!(macro_f1(&[], &[]), 0.0);
        assert_eq!(multilabel_micro_f1(&[vec![false; 3]], &[vec![false; 3]]), 0.0);
        let nothing = example_based(&[vec![false; 3]], &[vec![true; 3]]);
        assert_eq!(nothing, ExampleBased { precision: 0.0, recall: 0.0, f1: 0.0 });
    }

    #[test]
    fn a_string_that_is_no_class_adds_a_class_of_zero() {
        assert_eq!(macro_f1(&["a", "b"], &["a", "b"]), 1.0);
        assert_eq!(macro_f1(&["a", "b", "b"], &["a", "b", "x"]), (1.0 + 2.0 / 3.0 + 0.0) / 3.0);
    }
}
