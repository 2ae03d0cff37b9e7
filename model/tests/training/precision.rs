//! Runs of 16 bits: as deterministic as those of 32, and near to them.

use crate::ranks::join;
use crate::support::{config, dataset};
use crate::{resume, trace, train};
use mediswift_kernels::Precision;
use mediswift_model::pretrain::pretrain;
use mediswift_model::run;
use mediswift_model::session::{Advance, Session};
use mediswift_model::watch::Progress;
use mediswift_model::{Config, Error};
use mediswift_ranks::Threads;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

const HALVES: [Precision; 2] = [Precision::Bf16, Precision::F16];

fn half(precision: Precision, sparsity: f64) -> Config {
    let mut config = config(sparsity);
    config.train.precision = precision;
    config
}

#[test]
fn threads_interruptions_and_ranks_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    for (precision, sparsity) in HALVES.iter().flat_map(|&p| [(p, 0.0), (p, 0.75)]) {
        let config = half(precision, sparsity);
        let at = |what: &str| folder.path().join(format!("{precision}-{sparsity}-{what}"));
        let whole = at("whole");
        train(&config, &data, &whole);
        for threads in [1, 4] {
            let (out, mut steps) = (at(&format!("{threads} threads")), 0);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            // Stopped after seven steps, which no checkpoint of its own follows, and taken up.
            let mut stop = |progress: Progress<'_>| {
                steps += usize::from(matches!(progress, Progress::Stepped { .. }));
                if steps == 7 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let mut session = Session::start(config.clone(), Arc::clone(&data), &out).unwrap();
            let stopped = pool.install(|| pretrain(&mut session, &mut stop));
            assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
            drop(session);
            pool.install(|| resume(&config, &data, &out));
            assert_eq!(trace(&out), trace(&whole), "{precision}, {sparsity}, {threads} threads");
        }
        let out = at("ranks");
        Threads::run(3, |ranks| join(&ranks, &config, &data, &out, &mut ()).unwrap());
        assert_eq!(trace(&out), trace(&whole), "{precision}, {sparsity}, 3 ranks");
    }
}

#[test]
fn losses_stay_near_those_of_32_bits() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    for sparsity in [0.0, 0.75] {
        let losses = Precision::ALL.map(|precision| {
            let out = folder.path().join(format!("{precision}-{sparsity}"));
            train(&half(precision, sparsity), &data, &out);
            let metrics = run::read_log::<run::StepMetrics>(&out).unwrap();
            metrics.iter().map(|line| line.loss).collect::<Vec<_>>()
        });
        let [exact, bf16, f16] = &losses;
        for (step, exact) in exact.iter().enumerate() {
            // Rounding is there, and small.
            let differences = [bf16, f16].map(|losses| (losses[step] - exact).abs());
            assert!(differences[0] < 1e-2 && differences[1] < 2e-3, "{step}: {differences:?}");
            assert!(differences.iter().all(|&difference| difference > 0.0), "{differences:?}");
        }
    }
}

#[test]
fn steps_whose_gradients_are_too_large_for_f16_are_skipped_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    // A mean over two tokens: the gradient of a logit is nearly half of the first scale.
    let mut config = half(Precision::F16, 0.75);
    for assignment in ["train.batch=1", "train.micro_batch=1", "train.context=2"] {
        config.set(assignment).unwrap();
    }
    let out = folder.path().join("run");
    let mut session = Session::start(config.clone(), Arc::clone(&data), &out).unwrap();
    let mut skipped = 0;
    let first = loop {
        match session.advance(&mut ()).unwrap() {
            Advance::Skipped(metrics, problem) => {
                skipped += 1;
                let text = problem.to_string();
                let scale = format!("the loss is scaled by {},", 65_536 >> skipped);
                assert!(text.contains("too large for f16") && text.contains(&scale), "{text}");
                assert!(metrics.loss.is_finite() && metrics.grad_norm.is_nan());
                assert_eq!((metrics.step, metrics.skipped), (skipped, skipped as u64));
            }
            Advance::Stepped(metrics) => break metrics,
            other => panic!("{other:?}"),
        }
    };
    assert!(skipped > 0 && first.skipped == skipped as u64, "{first:?}");
    // The scale is part of the run: taken up, it goes on like one that was never stopped.
    session.save().unwrap();
    drop(session);
    let report = resume(&config, &data, &out);
    let whole = train(&config, &data, &folder.path().join("whole"));
    assert_eq!(report.weights_hash, whole.weights_hash);
    // As text, for a norm that is no number equals nothing.
    let text = |out: &Path| format!("{:?}", trace(out));
    assert_eq!(text(&out), text(&folder.path().join("whole")));
}

#[test]
fn a_run_keeps_its_precision() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (dataset(folder.path(), 1), folder.path().join("run"));
    train(&half(Precision::Bf16, 0.75), &data, &out);
    for other in [Precision::F32, Precision::F16] {
        let session = Session::resume(half(other, 0.75), Arc::clone(&data), &out);
        let error = session.err().unwrap().to_string();
        assert!(error.contains(&format!("train.precision is \"{other}\"")), "{error}");
    }
    // Its plans are of its precision too.
    let file = std::fs::read_to_string(out.join("config.toml")).unwrap();
    let plans = Config::from_toml(&file, "config.toml".as_ref()).unwrap().kernels.plans;
    assert!(!plans.is_empty() && plans.values().all(|plan| plan.starts_with("bf16:")), "{plans:?}");
    let mut mixed = half(Precision::F32, 0.75);
    mixed.kernels.plans = plans;
    let error = Session::start(mixed, data, &folder.path().join("other")).err().unwrap();
    assert!(error.to_string().contains("and train.precision is f32"), "{error}");
}
