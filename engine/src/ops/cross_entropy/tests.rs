use super::CrossEntropy;
use super::cases::case_target;
use crate::gradcheck::numbers;
use crate::{Gradients, Loss, LossSum, Parameters, Profile, Shape, Tiles, TokenLayout};

const LAYOUT: TokenLayout = TokenLayout { sequences: 2, context: 17 };

fn hidden_states_and_parameters() -> (Tiles, Parameters) {
    let x = Tiles::from_rows(LAYOUT, 3, &numbers(LAYOUT.tokens() * 3, 2));
    (x, Parameters::from_tensors([("tokens", Shape::Matrix(7, 3), numbers(7 * 3, 1))]))
}

fn loss<'a>(parameters: &Parameters, targets: &'a [u32]) -> CrossEntropy<'a> {
    let weight = parameters.find("tokens").unwrap();
    let (half, weights, scale) = (None, None, 1.0);
    CrossEntropy { weight, half, vocabulary: 7, features: 3, targets, weights, scale }
}

#[test]
fn token_losses_are_those_of_the_logits_and_add_up_to_the_loss() {
    let (x, parameters) = hidden_states_and_parameters();
    let targets: Vec<u32> = (0..LAYOUT.tokens()).map(case_target::<7>).collect();
    let loss = loss(&parameters, &targets);
    let losses = loss.token_losses(&x, &parameters);
    let logits = loss.logits(&x, &parameters);
    assert_eq!(losses.len(), LAYOUT.tokens());
    for ((row, &target), loss) in logits.chunks_exact(7).zip(&targets).zip(&losses) {
        let lse = row.iter().map(|l| l.exp()).sum::<f32>().ln();
        assert!((lse - row[target as usize] - loss).abs() < 1e-5);
    }
    let LossSum { sum, weight } = loss.evaluate(&x, &parameters);
    assert_eq!(weight, LAYOUT.tokens() as f64);
    assert!((sum - losses.iter().map(|&l| f64::from(l)).sum::<f64>()).abs() < 1e-5);
}

#[test]
fn predictions_rank_the_words_of_every_token() {
    let (x, parameters) = hidden_states_and_parameters();
    let targets: Vec<u32> = (0..LAYOUT.tokens()).map(case_target::<7>).collect();
    let loss = loss(&parameters, &targets);
    let losses = loss.token_losses(&x, &parameters);
    let logits = loss.logits(&x, &parameters);
    for top in [0, 1, 3, 100] {
        let predictions = loss.predictions(&x, &parameters, top);
        assert_eq!(predictions.len(), LAYOUT.tokens());
        let rows = logits.chunks_exact(7).zip(&losses).zip(&targets);
        for (((row, &loss), &target), found) in rows.zip(predictions) {
            assert_eq!(found.logprob as f32, -loss);
            let mut ranked: Vec<u32> = (0..7).collect();
            ranked.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b)));
            ranked.truncate(top);
            assert_eq!(found.top.iter().map(|&(word, _)| word).collect::<Vec<_>>(), ranked);
            for &(word, logprob) in &found.top {
                // The target's own value, to the last bit.
                assert!(word != target || logprob == found.logprob);
                let difference = f64::from(row[word as usize] - row[target as usize]);
                assert!((logprob - found.logprob - difference).abs() < 1e-6);
            }
        }
    }
}

#[test]
fn tokens_without_weight_change_nothing() {
    let (x, parameters) = hidden_states_and_parameters();
    let targets: Vec<u32> = (0..LAYOUT.tokens()).map(case_target::<7>).collect();
    let whole = loss(&parameters, &targets);
    let all = whole.predictions(&x, &parameters, 3);
    // The last token of the first sequence has a tile of its own; so has that of the second.
    for token in [3, 16, 33] {
        let mut weights = vec![0.0; LAYOUT.tokens()];
        weights[token] = 2.0;
        let few = CrossEntropy { weights: Some(&weights), ..loss(&parameters, &targets) };
        assert_eq!(few.predictions(&x, &parameters, 3)[token], all[token]);
        let found = few.evaluate(&x, &parameters);
        assert_eq!(found, LossSum { sum: -2.0 * all[token].logprob, weight: 2.0 });
        let tokens = if token == 3 { 16 } else { 1 };
        let flops = |loss: &CrossEntropy<'_>| loss.cost(LAYOUT).forward_flops;
        assert_eq!(flops(&few) * LAYOUT.tokens() as u64, flops(&whole) * tokens);
    }
    let none = vec![0.0; LAYOUT.tokens()];
    let few = CrossEntropy { weights: Some(&none), ..loss(&parameters, &targets) };
    let mut dx = Tiles::from_rows(LAYOUT, 3, &[1.0; 34 * 3]);
    let mut gradients = Gradients::zeros(parameters.layout());
    let found =
        few.differentiate(&x, &parameters, &mut dx, &mut gradients, &mut Profile::default());
    assert_eq!((found, dx.data().iter().all(|&dx| dx == 0.0)), (LossSum::default(), true));
}

#[test]
fn large_logits_neither_overflow_nor_vanish() {
    let (mut x, parameters) = hidden_states_and_parameters();
    x.data_mut().iter_mut().for_each(|x| *x *= 1e4);
    let targets = vec![0; LAYOUT.tokens()];
    let loss = loss(&parameters, &targets);
    let logits = loss.logits(&x, &parameters);
    for (row, loss) in logits.chunks_exact(7).zip(loss.token_losses(&x, &parameters)) {
        let max = row.iter().fold(f32::MIN, |max, &l| max.max(l));
        assert!((max - row[0] - loss).abs() <= 2.0 + 1e-6 * max.abs(), "{loss}");
    }
}

#[test]
#[should_panic(expected = "target 7 is outside the vocabulary of 7")]
fn targets_outside_the_vocabulary_are_refused() {
    let (x, parameters) = hidden_states_and_parameters();
    let mut targets = vec![0; LAYOUT.tokens()];
    targets[5] = 7;
    loss(&parameters, &targets).evaluate(&x, &parameters);
}
