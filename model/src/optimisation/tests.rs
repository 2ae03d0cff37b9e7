//! Steps that fail, and what they leave.

use super::*;
use crate::checkpoint::weights_hash;
use crate::watch::Progress;
use mediswift_engine::TokenLayout;
use std::ops::ControlFlow;

fn optimisation() -> Optimisation {
    let mut config = Config::from_preset("micro").unwrap();
    (config.model.vocabulary, config.sparsity.sparsity) = (300, 0.5);
    Optimisation::new(Gpt::new(&config).unwrap(), &config).unwrap()
}

/// A micro-batch whose tokens depend on `seed`.
fn batch(seed: u32) -> TokenBatch {
    let layout = TokenLayout { sequences: 2, context: 8 };
    let tokens = |from: u32| (from..from + 16).map(|i| i * 7919 % 300).collect();
    TokenBatch { layout, ids: tokens(seed), targets: tokens(seed + 1), weights: None }
}

/// Loss and gradients of a step of one micro-batch.
fn gradients_of(optimisation: &mut Optimisation) -> Result<(LossSum, Gradients), Error> {
    let (scale, batch) = (optimisation.scale(), [batch(1)]);
    let Optimisation { gradients, gpt, .. } = optimisation;
    gradients.of_step(gpt, scale, 1, Ok(&batch), None, &mut ())
}

/// A micro-batch whose loss is not finite, though every weight of the model is.
fn poison() -> TokenBatch {
    TokenBatch { weights: Some(vec![f32::INFINITY; 16]), ..batch(0) }
}

/// Everything a step changes.
fn state(optimisation: &Optimisation) -> (String, Vec<u32>, u64) {
    let Moments { first, second } = optimisation.moments();
    let moments = first.iter().chain(second.iter());
    let bits = moments.flat_map(|(_, m)| m.values.iter().map(|x| x.to_bits())).collect();
    let updates = optimisation.steps() - optimisation.skipped();
    (weights_hash(optimisation.gpt().parameters()), bits, updates)
}

/// The cause of a step's error.
fn cause(error: &Error) -> String {
    std::error::Error::source(error).expect("a step has a cause").to_string()
}

#[test]
fn what_is_not_finite_never_reaches_the_weights_and_is_named() {
    let mut optimisation = optimisation();
    optimisation.step(&[batch(1), batch(2)], &mut ()).unwrap();
    let before = state(&optimisation);

    let error = optimisation.step(&[batch(1), poison(), batch(2)], &mut ()).unwrap_err();
    assert!(cause(&error).starts_with("loss 'micro-batch 2 of 3' is "), "{}", cause(&error));
    assert_eq!(state(&optimisation), before);

    for (name, value) in [("ln_final.bias", f32::NAN), ("blocks.1.mlp.up.weight", f32::INFINITY)] {
        let (loss, mut gradients) = gradients_of(&mut optimisation).unwrap();
        let id = optimisation.gpt().parameters().find(name).unwrap();
        gradients[id][3] = value;
        let error = optimisation.update(loss, gradients).unwrap_err().to_string();
        assert!(error.contains(&format!("gradient '{name}' is {value} at element 3")), "{error}");
        assert_eq!(state(&optimisation), before);

        let healthy = optimisation.gpt.parameters()[id][3];
        optimisation.gpt.parameters_mut()[id][3] = value;
        optimisation.gpt.refresh();
        let error = cause(&optimisation.step(&[batch(1)], &mut ()).unwrap_err());
        assert!(error.contains(&format!("weight '{name}' is {value} at element 3")), "{error}");
        optimisation.gpt.parameters_mut()[id][3] = healthy;
        optimisation.gpt.refresh();
        assert_eq!(state(&optimisation), before);
    }
    assert!(optimisation.step(&[batch(3)], &mut ()).is_ok(), "the next step must be possible");
}

#[test]
fn an_update_that_is_not_finite_is_an_error_and_no_checkpoint() {
    let mut optimisation = optimisation();
    optimisation.step(&[batch(1)], &mut ()).unwrap();
    let (loss, mut gradients) = gradients_of(&mut optimisation).unwrap();
    // So large that its square is infinite, which clipping would prevent.
    optimisation.clip_norm = f64::INFINITY;
    let id = optimisation.gpt().parameters().find("ln_final.bias").unwrap();
    gradients[id][3] = 1e30;
    let error = optimisation.update(loss, gradients).unwrap_err().to_string();
    assert!(error.starts_with("new moment 'ln_final.bias' is inf at element 3"), "{error}");
    assert_eq!(optimisation.steps(), 1);
    let folder = tempfile::tempdir().unwrap();
    let snapshot = crate::checkpoint::Snapshot {
        config: &Config::from_preset("micro").unwrap(),
        step: 1,
        loss_scale: None,
        skipped: 0,
        masks: None,
        parameters: optimisation.gpt().parameters(),
        moments: Some(optimisation.moments()),
        data: Default::default(),
    };
    let error = crate::checkpoint::save(folder.path(), &snapshot).unwrap_err().to_string();
    assert!(error.starts_with("moment 'ln_final.bias' is inf"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn gradients_too_large_for_f16_make_no_update_and_lower_the_scale() {
    let mut config = Config::from_preset("micro").unwrap();
    (config.model.vocabulary, config.sparsity.sparsity) = (300, 0.5);
    config.train.precision = mediswift_kernels::Precision::F16;
    let with = |scale| {
        let gpt = Gpt::new(&config).unwrap();
        let optimisation = Optimisation::new(gpt, &config).unwrap();
        optimisation.with_loss_scale(Some(LossScale { scale, good_steps: 3 }))
    };
    // 16 tokens: the largest gradient of a logit is nearly a sixteenth of the scale.
    let mut optimisation = with(2f64.powi(22));
    let before = state(&optimisation);
    let mut halved = 0;
    loop {
        let done = optimisation.step(&[batch(1)], &mut ()).unwrap();
        if !done.grad_norm.is_nan() {
            break;
        }
        halved += 1;
        assert!(done.loss.mean().is_finite());
        assert_eq!(state(&optimisation), before);
        assert_eq!((optimisation.steps(), optimisation.skipped()), (halved, halved));
        let scale = 2f64.powi(22 - halved as i32);
        assert_eq!(optimisation.loss_scale(), Some(LossScale { scale, good_steps: 0 }));
    }
    assert!((2..16).contains(&halved), "{halved}");
    let good = Some(LossScale { scale: 2f64.powi(22 - halved as i32), good_steps: 1 });
    assert_eq!((optimisation.skipped(), optimisation.loss_scale()), (halved, good));

    // The scale is a power of two, so it changes nothing but what lies at the edges of f16.
    let norms = [2f64.powi(8), 2f64.powi(10)]
        .map(|scale| with(scale).step(&[batch(1)], &mut ()).unwrap().grad_norm);
    assert!((norms[0] / norms[1] - 1.0).abs() < 1e-3, "{norms:?}");

    // At the floor it is an error, and what was there stays.
    let mut lost = with(1.0);
    let (loss, mut gradients) = gradients_of(&mut lost).unwrap();
    let id = lost.gpt().parameters().find("ln_final.bias").unwrap();
    gradients[id][3] = f32::INFINITY;
    let before = state(&lost);
    let error = lost.update(loss, gradients).unwrap_err().to_string();
    assert!(error.contains("the scale of the loss has been lowered to 1"), "{error}");
    assert_eq!(state(&lost), before);
}

#[test]
fn a_skipped_step_moves_the_learning_rate_alone() {
    let (mut whole, mut skipping) = (optimisation(), optimisation());
    skipping.step(&[batch(1)], &mut ()).unwrap();
    let before = state(&skipping);
    skipping.step(&[poison()], &mut ()).unwrap_err();
    skipping.skip();
    assert_eq!(state(&skipping), before);
    assert_eq!((skipping.steps(), skipping.skipped()), (2, 1));
    let rates: Vec<f64> =
        (1..4).map(|seed| whole.step(&[batch(seed)], &mut ()).unwrap().lr).collect();
    assert_eq!(skipping.step(&[batch(3)], &mut ()).unwrap().lr, rates[2]);
    assert_eq!(state(&skipping).2, 2);
}

#[test]
fn a_step_that_is_given_up_leaves_no_trace() {
    let (mut whole, mut stopped) = (optimisation(), optimisation());
    let batches = [batch(1), batch(2), batch(3)];
    for stop_at in 1..3 {
        let mut seen = Vec::new();
        let mut watch = |progress: Progress<'_>| {
            let Progress::Accumulated { done, all: 3 } = progress else { panic!("{progress:?}") };
            seen.push(done);
            if done == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let outcome = stopped.step(&batches, &mut watch);
        assert!(matches!(outcome, Err(Error::Stopped)));
        assert_eq!(seen, (1..=stop_at).collect::<Vec<_>>());
        assert_eq!(stopped.steps(), 0);
    }
    assert_eq!(stopped.step(&batches, &mut ()).unwrap(), whole.step(&batches, &mut ()).unwrap());
    assert_eq!(state(&stopped), state(&whole));
}
