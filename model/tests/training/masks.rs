//! Masks that move: what an update does, and that it is part of a run like all else.

use crate::ranks::join_by;
use crate::support::{config, dataset};
use crate::{resume, trace, train};
use mediswift_engine::{Arena, Gradients, Parameters, Shape, TokenLayout};
use mediswift_kernels::Precision;
use mediswift_model::optimisation::Moments;
use mediswift_model::pretrain::pretrain;
use mediswift_model::run::{self, StepMetrics, TrainingReport};
use mediswift_model::session::Session;
use mediswift_model::sparsity::{MaskState, SCHEDULES};
use mediswift_model::watch::Progress;
use mediswift_model::{Config, Error, Gpt, Optimisation, Reduce, TokenBatch};
use mediswift_ranks::Threads;
use std::collections::HashMap;
use std::ops::ControlFlow;

/// A run of twelve steps, whose masks move after the third, the sixth and the ninth.
fn moving(algorithm: &str, sparsity: f64) -> Config {
    let mut config = config(sparsity);
    config.set(&format!("sparsity.algorithm={algorithm}")).unwrap();
    config.set("sparsity.update={start=3, freq=3, stop=10}").unwrap();
    config
}

/// Algorithms that move masks.
fn algorithms() -> impl Iterator<Item = &'static str> {
    SCHEDULES.iter().filter(|schedule| schedule.moves()).map(|schedule| schedule.name())
}

/// A micro-batch whose tokens depend on `seed`.
fn batch(seed: u32) -> TokenBatch {
    let layout = TokenLayout { sequences: 2, context: 24 };
    let tokens = |from: u32| (from..from + 48).map(|i| i * 7919 % 100).collect();
    TokenBatch { layout, ids: tokens(seed), targets: tokens(seed + 1), weights: None }
}

/// The value, the moments and the place of every weight of a sparse tensor, by row and column.
fn weights(
    parameters: &Parameters,
    moments: &Moments,
    name: &str,
) -> HashMap<(usize, u32), [f32; 3]> {
    let id = parameters.find(name).unwrap();
    let Shape::Sparse(pattern) = parameters.get(id).shape else { panic!("{name} is dense") };
    let of_row = |row| {
        pattern.row_range(row).zip(pattern.row(row)).map(move |(at, &column)| {
            let [w, m, v] =
                [parameters, &moments.first, &moments.second].map(|store| store[id][at]);
            ((row, column), [w, m, v])
        })
    };
    (0..pattern.rows()).flat_map(of_row).collect()
}

#[test]
fn weights_keep_value_and_state_and_new_ones_have_none() {
    for precision in Precision::ALL {
        for algorithm in ["set", "rigl"] {
            let mut config = moving(algorithm, 0.75);
            (config.model.vocabulary, config.train.precision) = (100, precision);
            let start = || Optimisation::new(Gpt::new(&config).unwrap(), &config).unwrap();
            let mut still = start();
            let mut moved = start().with_moving_masks(&config, MaskState::default());
            let batches = [batch(1), batch(50)];
            let mut before = None;
            for step in 1..=3 {
                before = Some(still.gpt().parameters().clone());
                still.step(&batches, &mut ()).unwrap();
                let done = moved.step(&batches, &mut ()).unwrap();
                assert_eq!(done.masks.is_some(), step == 3);
                if let Some(update) = done.masks {
                    assert!(update.dropped > 0 && update.dropped == update.grown, "{update:?}");
                    assert_eq!(update.kept, 2 * 12 * 32 * 32 / 4);
                }
            }
            let before = before.unwrap();
            assert_eq!(moved.mask_state().unwrap().updates, 1);
            let (there, here) = (still.gpt().parameters(), moved.gpt().parameters());
            let names: Vec<String> =
                still.gpt().linear_weights().map(|weight| weight.name.to_string()).collect();
            for name in &names {
                let old = weights(there, still.moments(), name);
                let new = weights(here, moved.moments(), name);
                assert_eq!(old.len(), new.len(), "{name}");
                let dropped: Vec<_> = old.keys().filter(|place| !new.contains_key(place)).collect();
                assert!(!dropped.is_empty(), "{algorithm} {name}");
                // Those to drop are the smallest after the step, or with the weights of the gradient.
                let chosen_by = if algorithm == "set" { there } else { &before };
                let magnitudes = weights(chosen_by, still.moments(), name);
                if !name.ends_with("qkv.weight") {
                    let size = |place| magnitudes[place][0].abs();
                    let largest = dropped.iter().map(|&place| size(place)).fold(0.0, f32::max);
                    let fraction = 0.15 * (1.0 + (std::f64::consts::PI * 0.3).cos());
                    let candidates = (fraction * old.len() as f64).round() as usize;
                    let smaller = old.keys().filter(|&place| size(place) < largest).count();
                    assert!(dropped.len() <= candidates && smaller < candidates, "{name}");
                }
                for (place, state) in &new {
                    let expected = old.get(place).copied().unwrap_or_default();
                    assert_eq!(state.map(f32::to_bits), expected.map(f32::to_bits), "{name}");
                }
            }
            // All other tensors are as without the update, and the next step is an ordinary one.
            for (id, tensor) in there.iter().filter(|(_, t)| !names.iter().any(|n| n == t.name)) {
                assert_eq!(&here[id], tensor.values, "{}", tensor.name);
            }
            assert!(moved.step(&batches, &mut ()).unwrap().masks.is_none());
        }
    }
}

#[test]
fn what_gradients_choose_is_what_those_of_a_dense_model_say() {
    let mut config = moving("rigl", 0.75);
    config.model.vocabulary = 100;
    config.set("sparsity.update={start=1, freq=1, stop=2}").unwrap();
    let sparse = Gpt::new(&config).unwrap();
    let mut dense_config = config.clone();
    dense_config.set("sparsity.sparsity=0").unwrap();
    dense_config.set("sparsity.algorithm=static").unwrap();
    let mut dense = Gpt::new(&dense_config).unwrap();
    for (_, values) in dense.parameters_mut().iter_mut() {
        values.fill(0.0);
    }
    dense.parameters_mut().carry_over(sparse.parameters());
    dense.refresh();
    let mut gradients = Gradients::zeros(dense.parameters().layout());
    dense.loss_and_gradients(&batch(1), 96.0, &mut gradients, &mut Arena::default()).unwrap();
    let before = sparse.parameters().clone();
    let optimisation = Optimisation::new(sparse, &config).unwrap();
    let mut optimisation = optimisation.with_moving_masks(&config, MaskState::default());
    // The first micro-batch alone decides.
    optimisation.step(&[batch(1), batch(50)], &mut ()).unwrap().masks.unwrap();
    let after = optimisation.gpt().parameters();
    for weight in optimisation.gpt().linear_weights() {
        let id = after.find(weight.name).unwrap();
        let has = |parameters: &Parameters, row: usize, column: usize| {
            let Shape::Sparse(mask) = parameters.get(id).shape else { panic!("it is sparse") };
            mask.row(row).binary_search(&(column as u32)).is_ok()
        };
        let extents = weight.shape.extents();
        let parts = if weight.name.ends_with("qkv.weight") { 3 } else { 1 };
        let rows = extents[0] / parts;
        for part in 0..parts {
            let (mut least, mut most, mut grown) = (f32::INFINITY, 0f32, 0);
            for (row, column) in (0..rows).flat_map(|row| (0..extents[1]).map(move |c| (row, c))) {
                let row = part * rows + row;
                let size = gradients[id][row * extents[1] + column].abs();
                match (has(&before, row, column), has(after, row, column)) {
                    (false, true) => (least, grown) = (least.min(size), grown + 1),
                    (_, false) => most = most.max(size),
                    (true, true) => {}
                }
            }
            assert!(grown > 0 && least > 0.9999 * most, "{}: {least}, {most}", weight.name);
        }
    }
}

/// Steps and their updates.
fn updates(metrics: &[StepMetrics]) -> Vec<usize> {
    metrics.iter().filter(|line| line.masks.is_some()).map(|line| line.step).collect()
}

#[test]
fn threads_interruptions_and_ranks_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    for (algorithm, precision) in algorithms()
        .map(|algorithm| (algorithm, Precision::F32))
        .chain([("rigl", Precision::Bf16), ("gmp", Precision::F16)])
    {
        let mut config = moving(algorithm, 0.75);
        config.train.precision = precision;
        let at = |what: &str| folder.path().join(format!("{algorithm}-{precision}-{what}"));
        let whole = at("whole");
        let report = train(&config, &data, &whole);
        let (metrics, _, _) = trace(&whole);
        let once = algorithm == "one-shot";
        assert_eq!(updates(&metrics), if once { vec![3] } else { vec![3, 6, 9] }, "{algorithm}");
        assert_eq!(report.mask_updates, Some(if once { 1 } else { 3 }));
        assert!(report.layers.iter().all(|layer| (layer.actual - 0.75).abs() < 1e-3));
        // Stopped before an update, after it and between, and gone on with other threads and ranks.
        for (stop, threads, ranks) in [(2, 1, 3), (3, 4, 1), (8, 2, 2)] {
            let (out, mut steps) = (at(&format!("stopped-{stop}")), 0);
            let mut watch = |progress: Progress<'_>| {
                steps += usize::from(matches!(progress, Progress::Stepped { .. }));
                if steps == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut session = Session::start(config.clone(), data.clone(), &out).unwrap();
            let stopped = pool.install(|| pretrain(&mut session, &mut watch));
            assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
            drop(session);
            if ranks == 1 {
                let resumed = pool.install(|| resume(&config, &data, &out));
                assert_eq!(resumed.flops, report.flops);
            } else {
                Threads::run(ranks, |ranks| {
                    join_by(Reduce::Exact, &ranks, &config, &data, &out, &mut ()).unwrap()
                });
            }
            assert_eq!(trace(&out), trace(&whole), "{algorithm}, {precision}, {stop}");
        }
        let out = at("ranks");
        let reports = Threads::run(3, |ranks| {
            join_by(Reduce::Exact, &ranks, &config, &data, &out, &mut ()).unwrap()
        });
        assert_eq!(trace(&out), trace(&whole), "{algorithm}, {precision}, 3 ranks");
        assert!(reports.iter().all(|other| other.weights_hash == report.weights_hash));
    }
}

#[test]
fn ranks_that_add_up_faster_agree_on_masks() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    for algorithm in algorithms() {
        let config = moving(algorithm, 0.75);
        let run = |number: usize| -> Vec<TrainingReport> {
            let out = folder.path().join(format!("{algorithm}-{number}"));
            Threads::run(3, |ranks| {
                join_by(Reduce::Fast, &ranks, &config, &data, &out, &mut ()).unwrap()
            })
        };
        let (one, other) = (run(1), run(2));
        assert!(one.iter().chain(&other).all(|report| report.weights_hash == one[0].weights_hash));
        // One rank takes the run up.
        let last = folder.path().join(format!("{algorithm}-1"));
        let mut longer = config.clone();
        longer.train.steps = 14;
        let report = resume(&longer, &data, &last);
        assert_eq!(report.step, 14);
        assert_eq!(report.nnz, one[0].nnz);
    }
}

#[test]
fn what_a_run_spends_and_says_follows_its_masks() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    let report = |algorithm: &str, sparsity: f64| {
        let out = folder.path().join(format!("{algorithm}-{sparsity}"));
        let mut config = moving(algorithm, sparsity);
        config.model.vocabulary = data.vocab_size();
        let report = train(&config, &data, &out);
        use mediswift_model::flops::{Convention, Workload};
        let planned = Workload::of_run(&config).flops(Convention::Executed).total;
        assert!((report.flops / planned - 1.0).abs() < 1e-6, "{algorithm}: {planned}");
        let curves = mediswift_model::curves::Curves::read(&out).unwrap();
        let last = curves.training.last().unwrap().flops;
        assert!((report.flops / last - 1.0).abs() < 1e-9, "{algorithm}: {last}");
        let file = std::fs::read_to_string(out.join("sparsity.json")).unwrap();
        let layers: serde_json::Value = serde_json::from_str(&file).unwrap();
        assert_eq!(layers, serde_json::to_value(&report.layers).unwrap());
        report
    };
    let (dense, sparse) = (report("static", 0.0), report("static", 0.75));
    assert_eq!((dense.mask_updates, sparse.mask_updates), (None, None));
    let [set, rigl, gmp, once] = ["set", "rigl", "gmp", "one-shot"].map(|name| report(name, 0.75));
    assert_eq!(set.flops, sparse.flops);
    // A dense weight gradient of two of six sequences, three times.
    let products = 3.0 * 2.0 * (2 * 12 * 32 * 32) as f64 * 2.0 * 24.0;
    assert!((rigl.flops - sparse.flops - products).abs() < 1.0);
    assert!(sparse.flops < gmp.flops && gmp.flops < dense.flops);
    // Three dense steps of twelve.
    let expected = (3.0 * dense.flops + 9.0 * sparse.flops) / 12.0;
    assert!((once.flops / expected - 1.0).abs() < 1e-9);
}

#[test]
fn past_steps_of_a_run_that_gets_more_count_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (dataset(folder.path(), 1), folder.path().join("run"));
    let mut config = moving("gmp", 0.75);
    // Until three quarters of the steps, however many those are.
    config.set("sparsity.update={start=3, freq=3, stop=0}").unwrap();
    let first = train(&config, &data, &out);
    config.train.steps = 24;
    let longer = resume(&config, &data, &out);
    let curves = mediswift_model::curves::Curves::read(&out).unwrap();
    for (step, report) in [(12, first), (24, longer)] {
        let flops = curves.training[step - 1].flops;
        assert!((report.flops / flops - 1.0).abs() < 1e-9, "after {step} steps: {flops}");
    }
}

#[test]
fn a_step_that_makes_no_update_moves_no_mask_and_the_next_one_does() {
    let mut config = moving("rigl", 0.75);
    config.model.vocabulary = 100;
    let optimisation = Optimisation::new(Gpt::new(&config).unwrap(), &config).unwrap();
    let mut optimisation = optimisation.with_moving_masks(&config, MaskState::default());
    let poison = TokenBatch { weights: Some(vec![f32::INFINITY; 48]), ..batch(0) };
    for seed in 1..3 {
        optimisation.step(&[batch(seed)], &mut ()).unwrap();
    }
    let before = optimisation.gpt().parameters().clone();
    optimisation.step(&[batch(9), poison], &mut ()).unwrap_err();
    assert_eq!(optimisation.gpt().parameters().layout(), before.layout());
    optimisation.skip();
    let update = optimisation.step(&[batch(4)], &mut ()).unwrap().masks.unwrap();
    assert!(update.grown > 0);
    assert_eq!(optimisation.mask_state().map(|masks| masks.last), Some(4));
    assert!(optimisation.step(&[batch(5)], &mut ()).unwrap().masks.is_none());
    assert!(optimisation.step(&[batch(6)], &mut ()).unwrap().masks.is_some());
}

#[test]
fn fine_tuned_and_evaluated_models_have_the_masks_of_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    let out = folder.path().join("run");
    let report = train(&moving("gmp", 0.75), &data, &out);
    let loaded = run::load_model(&out).unwrap();
    let kept: usize = loaded.gpt.linear_weights().map(|weight| weight.values.len()).sum();
    assert_eq!(kept, report.nnz);
    assert_eq!(kept, 2 * 12 * 32 * 32 / 4);
}
