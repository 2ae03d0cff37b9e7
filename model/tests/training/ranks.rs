//! Runs of several ranks: the bits of one process, whatever happens on the way.

use crate::support::{config, dataset};
use crate::{trace, train};
use mediswift_data::Dataset;
use mediswift_engine::BLOCK;
use mediswift_model::checkpoint::Choice;
use mediswift_model::config::OnNonFinite;
use mediswift_model::pretrain::pretrain;
use mediswift_model::run::TrainingReport;
use mediswift_model::session::{Advance, Session};
use mediswift_model::watch::{Progress, Watch};
use mediswift_model::{Config, Error, Reduce};
use mediswift_ranks::{Faults, Ranks, Threads};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A run of 8 micro-batches a step, the last one shorter.
fn of_eight(sparsity: f64) -> Config {
    let mut config = config(sparsity);
    for assignment in ["train.batch=15", "train.micro_batch=2", "eval.sequences=5"] {
        config.set(assignment).unwrap();
    }
    config
}

/// Trains a new run or takes one up, as one of several ranks.
pub(super) fn join(
    ranks: &Arc<dyn Ranks>,
    config: &Config,
    data: &Arc<Dataset>,
    out: &Path,
    watch: &mut dyn Watch,
) -> Result<TrainingReport, Error> {
    join_by(Reduce::Exact, ranks, config, data, out, watch)
}

/// The same, adding up in that way.
pub(super) fn join_by(
    reduce: Reduce,
    ranks: &Arc<dyn Ranks>,
    config: &Config,
    data: &Arc<Dataset>,
    out: &Path,
    watch: &mut dyn Watch,
) -> Result<TrainingReport, Error> {
    let (ranks, config, data) = (Arc::clone(ranks), config.clone(), Arc::clone(data));
    let mut session = match out.join("config.toml").exists() {
        false => Session::start_among(ranks, reduce, config, data, out)?,
        true => Session::resume_among(ranks, reduce, config, data, out, Choice::default())?,
    };
    pretrain(&mut session, watch)
}

/// Stops a run on one rank once it has made so many steps, in the midst of the next one if that rank has
/// several micro-batches.
fn stop_on(rank: usize, after: usize, ranks: &Arc<dyn Ranks>) -> impl Watch + use<> {
    let (is_it, mut steps) = (ranks.rank() == rank, 0);
    move |progress: Progress<'_>| {
        let stop = match progress {
            Progress::Stepped { metrics, .. } => {
                steps = metrics.step;
                false
            }
            Progress::Accumulated { .. } | Progress::Judging { .. } => steps >= after,
            _ => steps > after,
        };
        if stop && is_it { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// The message of an error and its causes.
fn text(error: &Error) -> String {
    match std::error::Error::source(error) {
        None => error.to_string(),
        Some(cause) => format!("{error}: {cause}"),
    }
}

#[test]
fn any_number_of_ranks_trains_the_run_of_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    for sparsity in [0.0, 0.5, 0.75] {
        let config = of_eight(sparsity);
        let alone = folder.path().join(format!("alone-{sparsity}"));
        let report = train(&config, &data, &alone);
        for count in [2, 3, 4, 8] {
            let out = folder.path().join(format!("ranks-{sparsity}-{count}"));
            let reports = Threads::run(count, |ranks| {
                (join(&ranks, &config, &data, &out, &mut ()).unwrap(), ranks.traffic())
            });
            assert_eq!(trace(&out), trace(&alone), "{count} ranks, sparsity {sparsity}");
            for (other, traffic) in reports {
                assert_eq!(other.weights_hash, report.weights_hash);
                assert_eq!(other.val_loss, report.val_loss);
                assert!(traffic.sent > 0 && traffic.received > 0);
            }
        }
    }
}

#[test]
fn fewer_leaves_are_shared_unevenly_and_more_by_more_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    for (leaves, batch, count) in [(2, 15, 2), (4, 9, 3), (16, 20, 10), (8, 6, 3)] {
        let mut config = of_eight(0.5);
        (config.train.leaves, config.train.batch, config.train.steps) = (leaves, batch, 5);
        let name = format!("{leaves}-{batch}");
        let (alone, out) = (folder.path().join(format!("alone-{name}")), folder.path().join(name));
        train(&config, &data, &alone);
        Threads::run(count, |ranks| join(&ranks, &config, &data, &out, &mut ()).unwrap());
        assert_eq!(trace(&out), trace(&alone), "{leaves} leaves, {count} ranks");
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    let config = of_eight(0.75);
    let alone = folder.path().join("alone");
    train(&config, &data, &alone);
    let expected = trace(&alone);
    // Who trains, and on which rank the stop comes after how many steps.
    for (number, turns) in [
        [(4, 1, 5), (2, 0, 8), (1, 0, usize::MAX)],
        [(1, 0, 3), (3, 2, 4), (4, 3, usize::MAX)],
        [(2, 1, 0), (4, 2, 10), (3, 0, usize::MAX)],
    ]
    .into_iter()
    .enumerate()
    {
        let out = folder.path().join(number.to_string());
        for (count, stopping, after) in turns {
            let ends = Threads::run(count, |ranks| {
                let mut watch = stop_on(stopping, after, &ranks);
                join(&ranks, &config, &data, &out, &mut watch)
            });
            for end in ends {
                match after {
                    usize::MAX => assert!(end.is_ok(), "{end:?}"),
                    _ => assert!(matches!(end, Err(Error::Stopped)), "{end:?}"),
                }
            }
        }
        assert_eq!(trace(&out), expected, "{number}");
    }
}

#[test]
fn moments_are_shared_out() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    let mut config = of_eight(0.75);
    (config.model.d_model, config.train.steps) = (256, 1);
    for count in [2, 4] {
        let out = folder.path().join(count.to_string());
        let shards = Threads::run(count, |ranks| {
            let (config, data) = (config.clone(), Arc::clone(&data));
            let session = Session::start_among(ranks, Reduce::Exact, config, data, &out).unwrap();
            let held = session.moments().first.held().remove(0);
            (held, session.gpt().parameters().layout().len())
        });
        for (rank, (held, all)) in shards.iter().enumerate() {
            assert_eq!(held.start, if rank == 0 { 0 } else { shards[rank - 1].0.end });
            assert!(held.len() <= all / count + BLOCK, "{held:?} of {all}");
        }
        assert_eq!(shards[count - 1].0.end, shards[0].1);
    }
}

#[test]
fn late_messages_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    let mut config = of_eight(0.75);
    config.train.steps = 3;
    let (alone, out) = (folder.path().join("alone"), folder.path().join("late"));
    train(&config, &data, &alone);
    let faults = Faults { delay: Duration::from_millis(2), ..Faults::default() };
    Threads::run_with(4, faults, |ranks| join(&ranks, &config, &data, &out, &mut ()).unwrap());
    assert_eq!(trace(&out), trace(&alone));
}

#[test]
fn a_rank_that_falls_silent_ends_the_job_and_the_run_goes_on_from_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    let config = of_eight(0.75);
    let alone = folder.path().join("alone");
    train(&config, &data, &alone);
    for (silent, after) in [(0, 3), (1, 40), (2, 150), (1, 400)] {
        let out = folder.path().join(format!("{silent}-{after}"));
        let patience = Duration::from_secs(2);
        let faults = Faults { silent: Some((silent, after)), patience, ..Faults::default() };
        let ends =
            Threads::run_with(3, faults, |ranks| join(&ranks, &config, &data, &out, &mut ()));
        assert!(ends.iter().all(|end| matches!(end, Err(Error::Lost(_)))), "{ends:?}");
        Threads::run(2, |ranks| join(&ranks, &config, &data, &out, &mut ()).unwrap());
        assert_eq!(trace(&out), trace(&alone), "rank {silent} silent after {after} messages");
    }
}

#[test]
fn ranks_with_something_else_are_named_with_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let data = [dataset(folder.path(), 1), dataset(folder.path(), 2)];
    let config = of_eight(0.5);
    let out = folder.path().join("run");
    let refused = |start: &(dyn Fn(Arc<dyn Ranks>) -> Result<Session, Error> + Sync),
                   expected: &str| {
        let ends = Threads::run(3, |ranks| start(ranks).map(|_| ()).map_err(|error| text(&error)));
        for end in &ends {
            let error = end.as_ref().unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(!out.exists(), "nothing is begun");
    };
    refused(
        &|ranks| {
            let data = Arc::clone(&data[usize::from(ranks.rank() == 2)]);
            Session::start_among(ranks, Reduce::Exact, config.clone(), data, &out)
        },
        "rank 2: has other data than rank 0",
    );
    refused(
        &|ranks| {
            let mut config = config.clone();
            config.train.lr *= if ranks.rank() == 1 { 2.0 } else { 1.0 };
            Session::start_among(ranks, Reduce::Exact, config, Arc::clone(&data[0]), &out)
        },
        "rank 1: train.lr is 0.006 here, but 0.003 there",
    );
    refused(
        &|ranks| {
            let mut config = config.clone();
            config.train.batch = 4;
            Session::start_among(ranks, Reduce::Exact, config, Arc::clone(&data[0]), &out)
        },
        "a step has 2 micro-batches, too few for 3 ranks",
    );
    refused(
        &|ranks| {
            let mut config = config.clone();
            config.train.leaves = 2;
            Session::start_among(ranks, Reduce::Exact, config, Arc::clone(&data[0]), &out)
        },
        "a step's 8 micro-batches are 2 leaves, too few for 3 ranks: start at most 2 ranks, or set \
         train.leaves=4",
    );
}

#[test]
fn what_one_rank_cannot_do_is_an_error_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    let config = of_eight(0.5);
    // The folder is taken: only rank 0 sees it.
    let out = folder.path().join("run");
    train(&config, &data, &out);
    let ends = Threads::run(3, |ranks| {
        let session =
            Session::start_among(ranks, Reduce::Exact, config.clone(), Arc::clone(&data), &out);
        text(&session.map(|_| ()).unwrap_err())
    });
    assert!(!ends[0].starts_with("rank 0"), "{}", ends[0]);
    assert!(ends[1..].iter().all(|end| *end == format!("rank 0: {}", ends[0])), "{ends:?}");
    // A loss that is not finite, on whichever rank: the same error, and the same step made no update.
    let mut config = config;
    config.set("train.lr=1e30").unwrap();
    config.set("optimiser.warmup_fraction=0").unwrap();
    let ends = [1, 2, 4].map(|count| {
        let out = folder.path().join(format!("diverging-{count}"));
        Threads::run(count, |ranks| text(&join(&ranks, &config, &data, &out, &mut ()).unwrap_err()))
    });
    assert!(ends.iter().flatten().all(|end| *end == ends[0][0]), "{ends:?}");
    assert!(ends[0][0].starts_with("step 2 made no update: "), "{ends:?}");
}

#[test]
fn steps_are_skipped_by_all_ranks_or_by_none() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    let mut config = of_eight(0.5);
    config.train.on_nonfinite = OnNonFinite::Skip;
    // Each makes its weights too large in the first step; the evaluation is of no use then.
    for assignment in ["train.lr=1e30", "optimiser.warmup_fraction=0", "eval.every=0"] {
        config.set(assignment).unwrap();
    }
    let skipped = [1, 3].map(|count| {
        let out = folder.path().join(count.to_string());
        let ends = Threads::run(count, |ranks| {
            let (config, data) = (config.clone(), Arc::clone(&data));
            let mut session =
                Session::start_among(ranks, Reduce::Exact, config, data, &out).unwrap();
            let mut seen = Vec::new();
            for _ in 0..4 {
                seen.push(match session.advance(&mut ()).unwrap() {
                    Advance::Skipped(metrics, _) => metrics.skipped,
                    Advance::Stepped(metrics) => metrics.skipped,
                    other => panic!("{other:?}"),
                });
            }
            seen
        });
        assert!(ends.iter().all(|seen| *seen == ends[0]), "{ends:?}");
        ends[0].clone()
    });
    assert_eq!(skipped, [[0, 1, 2, 3], [0, 1, 2, 3]]);
}

/// A model of several buckets, trained for a few steps: at most eight micro-batches a step.
fn of_buckets(sparsity: f64) -> Config {
    let mut config = of_eight(sparsity);
    (config.model.d_model, config.model.layers, config.model.heads) = (512, 3, 8);
    (config.train.steps, config.checkpoint.every) = (4, 2);
    config
}

#[test]
fn the_faster_sums_are_the_same_for_the_same_number_of_ranks_and_close_to_the_exact_ones() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    for (sparsity, recompute, counts) in [(0.0, false, [1, 3]), (0.5, true, [2, 4])] {
        let mut config = of_buckets(sparsity);
        (config.train.recompute, config.train.steps) = (recompute, 2);
        let alone = folder.path().join(format!("alone-{sparsity}"));
        let exact = train(&config, &data, &alone);
        assert_eq!(exact.reduce, Reduce::Exact);
        for count in counts {
            let late = Faults { delay: Duration::from_millis(2), ..Faults::default() };
            let traces = [(1, Faults::default()), (3, late)].map(|(threads, faults)| {
                let out = folder.path().join(format!("fast-{sparsity}-{count}-{threads}"));
                let reports = Threads::run_with(count, faults, |ranks| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                    let pool = pool.build().unwrap();
                    pool.install(|| {
                        join_by(Reduce::Fast, &ranks, &config, &data, &out, &mut ()).unwrap()
                    })
                });
                let expected = if count == 1 { Reduce::Exact } else { Reduce::Fast };
                assert!(reports.iter().all(|report| report.reduce == expected));
                trace(&out)
            });
            assert_eq!(traces[0], traces[1], "{count} ranks, sparsity {sparsity}");
            let exact = trace(&alone);
            if count == 1 {
                assert_eq!(traces[0], exact);
            }
            for (line, exact) in traces[0].0.iter().zip(&exact.0) {
                assert!((line.loss / exact.loss - 1.0).abs() < 1e-5, "{line:?}, {exact:?}");
                assert!((line.grad_norm / exact.grad_norm - 1.0).abs() < 1e-4, "{line:?}");
            }
        }
    }
}

#[test]
fn a_run_with_faster_sums_goes_on_as_if_it_had_not_stopped_and_may_change_its_way() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    let config = of_buckets(0.5);
    let (whole, out) = (folder.path().join("whole"), folder.path().join("stopped"));
    let fast = |out: &Path, after: usize| {
        Threads::run(3, |ranks| {
            let mut watch = stop_on(1, after, &ranks);
            join_by(Reduce::Fast, &ranks, &config, &data, out, &mut watch)
        })
    };
    assert!(fast(&whole, usize::MAX).iter().all(Result::is_ok));
    for after in [1, 3] {
        let ends = fast(&out, after);
        assert!(ends.iter().all(|end| matches!(end, Err(Error::Stopped))), "{ends:?}");
    }
    let ends = fast(&out, usize::MAX);
    assert!(ends.iter().all(Result::is_ok), "{ends:?}");
    assert_eq!(trace(&out), trace(&whole));

    // On a laptop, with more steps: what was faster before stays known.
    let mut config = config.clone();
    config.train.steps = 5;
    let mut session =
        Session::resume_at(config.clone(), Arc::clone(&data), &out, Choice::default()).unwrap();
    let note =
        "gradients were added up by --reduce fast before, and are by --reduce exact from here on";
    assert!(session.notes().iter().any(|known| known == note), "{:?}", session.notes());
    assert_eq!(pretrain(&mut session, &mut ()).unwrap().reduce, Reduce::Fast);
    drop(session);
    let report = std::fs::read_to_string(out.join("environment.json")).unwrap();
    assert!(report.contains("\"ranks\": 1") && report.contains("\"reduce\": \"fast\""), "{report}");
    let notes = Threads::run(1, |ranks| {
        let (config, data) = (config.clone(), Arc::clone(&data));
        let choice = Choice::default();
        let session = Session::resume_among(ranks, Reduce::Fast, config, data, &out, choice);
        session.unwrap().notes().to_vec()
    });
    assert!(
        notes[0].iter().any(|note| note.starts_with("--reduce fast does nothing")),
        "{notes:?}"
    );
}

#[test]
fn what_goes_wrong_during_faster_sums_ends_all_ranks_alike() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 1);
    let config = of_buckets(0.75);
    for (silent, after) in [(0, 60), (2, 90), (1, 130)] {
        let out = folder.path().join(format!("{silent}-{after}"));
        let patience = Duration::from_secs(2);
        let faults = Faults { silent: Some((silent, after)), patience, ..Faults::default() };
        let ends = Threads::run_with(3, faults, |ranks| {
            join_by(Reduce::Fast, &ranks, &config, &data, &out, &mut ())
        });
        assert!(ends.iter().all(|end| matches!(end, Err(Error::Lost(_)))), "{after}: {ends:?}");
    }
    // A loss that is not finite.
    let mut diverging = of_eight(0.5);
    diverging.set("train.lr=1e30").unwrap();
    diverging.set("optimiser.warmup_fraction=0").unwrap();
    for count in [2, 4] {
        let out = folder.path().join(format!("diverging-{count}"));
        let ends = Threads::run(count, |ranks| {
            text(&join_by(Reduce::Fast, &ranks, &diverging, &data, &out, &mut ()).unwrap_err())
        });
        assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
        assert!(ends[0].starts_with("step 2 made no update: "), "{ends:?}");
    }
    // Ranks that would wait for each other.
    let ends = Threads::run(3, |ranks| {
        let reduce = if ranks.rank() == 1 { Reduce::Fast } else { Reduce::Exact };
        let out = folder.path().join("mixed");
        text(&join_by(reduce, &ranks, &config, &data, &out, &mut ()).unwrap_err())
    });
    let expected = "rank 1: has --reduce fast here, but exact there";
    assert!(ends.iter().all(|end| end.contains(expected)), "{ends:?}");
}
