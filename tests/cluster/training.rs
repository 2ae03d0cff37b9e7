//! What several ranks train is what one process trains, bit for bit, or with --reduce fast as many ranks once more.

use crate::common::{json, run};
use crate::job::PROGRAM;
use crate::job::{
    datasets, failure, has_mpirun, mpirun, on_ranks, processes, report, send, wait_for_steps,
    weights_hash,
};

/// A short run: micro-batches add up to at most eight leaves of the gradient's tree, here two to each.
const SETTINGS: &str = "pretrain --preset micro --data dataset --set train.steps=6 --set train.batch=16 \
                        --set train.micro_batch=1 --set eval.every=4 --set eval.sequences=6";

/// One that is long enough to be interrupted.
const LONG: &str = "pretrain --preset micro --data dataset --sparsity 0.75 --set train.steps=300 \
                    --set train.batch=8 --set train.micro_batch=1 --set eval.every=0 \
                    --set checkpoint.every=5";

#[test]
fn any_number_of_ranks_trains_the_same_weights() {
    if !has_mpirun() {
        return;
    }
    let folder = datasets();
    let at = folder.path();
    for sparsity in ["0", "0.5", "0.75"] {
        let command = format!("--json {SETTINGS} --sparsity {sparsity} --out");
        let alone = json(&run(at, &format!("{command} alone-{sparsity}")));
        for count in 1..=4 {
            let out = format!("ranks-{count}-{sparsity}");
            let told = report(&on_ranks(count, at, &format!("{command} {out}")));
            assert_eq!(told["weights_hash"], alone["weights_hash"], "{out}");
            assert_eq!(told["val_loss"], alone["val_loss"], "{out}");
            assert_eq!(told["ranks"], count, "{out}");
            assert_eq!(weights_hash(at, &out), alone["weights_hash"].as_str().expect("a hash"));
        }
    }
}

#[test]
fn a_signal_to_one_rank_stops_all_and_another_number_of_ranks_goes_on() {
    if !has_mpirun() {
        return;
    }
    let folder = datasets();
    let at = folder.path();
    let alone = json(&run(at, &format!("--json {LONG} --out alone")));
    // Ranks first, then after the signal.
    for (signal, code, rank, first, then) in
        [("-TERM", 143, 1, 4, 2), ("-USR1", 138, 0, 2, 3), ("-INT", 130, 2, 3, 1)]
    {
        let out = format!("run{signal}");
        let mut command = mpirun(at);
        let count = first.to_string();
        command.args(["-n", &count, PROGRAM, "--json"]).args(LONG.split_whitespace());
        let child = command.args(["--out", &out]).stdout(std::process::Stdio::piped());
        let child = child.stderr(std::process::Stdio::piped()).spawn().expect("mpirun starts");
        let ranks = processes(at, first);
        wait_for_steps(at, &out, 3);
        send(signal, ranks[rank]);
        let ended = child.wait_with_output().expect("mpirun ends");
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains("saved after step"), "{stderr}");
        let resume = format!("--json pretrain --resume --data dataset --out {out}");
        let told = report(&on_ranks(then, at, &resume));
        assert_eq!(
            told["weights_hash"], alone["weights_hash"],
            "{signal}, {first} and {then} ranks"
        );
    }
}

#[test]
fn what_ranks_cannot_train_together_is_refused_by_all() {
    if !has_mpirun() {
        return;
    }
    let folder = datasets();
    let at = folder.path();
    // Nobody would have anything to do.
    let few = SETTINGS.replace("train.micro_batch=1", "train.micro_batch=8");
    let line = failure(&on_ranks(3, at, &format!("{few} --out few")), 1);
    assert!(line.contains("a step has 2 micro-batches, too few for 3 ranks"), "{line}");
    // Data that differ.
    let mut command = mpirun(at);
    command.args(["-n", "1", PROGRAM]).args(SETTINGS.split_whitespace()).args(["--out", "run"]);
    command.args([":", "-n", "1", PROGRAM]);
    command.args(SETTINGS.replace("--data dataset", "--data other").split_whitespace());
    let output = command.args(["--out", "run"]).output().expect("mpirun starts");
    let line = failure(&output, 1);
    assert!(line.contains("rank 1: has other data than rank 0"), "{line}");
    // Data that one rank lacks.
    let mut command = mpirun(at);
    command.args(["-n", "2", PROGRAM]).args(SETTINGS.split_whitespace()).args(["--out", "run"]);
    command.args([":", "-n", "1", PROGRAM]);
    command.args(SETTINGS.replace("--data dataset", "--data nowhere").split_whitespace());
    let output = command.args(["--out", "run"]).output().expect("mpirun starts");
    let line = failure(&output, 1);
    assert!(line.contains("rank 2 on ") && line.contains("nowhere"), "{line}");
    assert!(!at.join("few").exists() && !at.join("run").exists(), "nothing is written");
}

#[test]
fn two_jobs_do_not_write_one_folder() {
    if !has_mpirun() {
        return;
    }
    let folder = datasets();
    let at = folder.path();
    let mut command = mpirun(at);
    command.args(["-n", "2", PROGRAM]).args(LONG.split_whitespace()).args(["--out", "run"]);
    let mut first = command.stderr(std::process::Stdio::null()).spawn().expect("mpirun starts");
    let ranks = processes(at, 2);
    wait_for_steps(at, "run", 1);
    // It must not end before the second one has seen it.
    ranks.iter().for_each(|rank| send("-STOP", *rank));
    let resume = "pretrain --resume --data dataset --out run";
    let line = failure(&on_ranks(3, at, resume), 1);
    assert!(line.contains("another process is writing this run"), "{line}");
    ranks.iter().for_each(|rank| send("-CONT", *rank));
    send("-TERM", ranks[0]);
    assert_eq!(first.wait().expect("mpirun ends").code(), Some(143));
    report(&on_ranks(3, at, &format!("--json {resume}")));
}

#[test]
fn the_faster_sums_are_the_same_for_the_same_ranks_also_after_a_signal() {
    if !has_mpirun() {
        return;
    }
    let folder = datasets();
    let at = folder.path();
    // Of several buckets.
    let command = "--json pretrain --preset micro --data dataset --sparsity 0.5 --set model.d_model=512 \
                   --set model.heads=8 --set model.layers=4 --set train.context=32 --set train.steps=12 \
                   --set train.batch=8 --set train.micro_batch=1 --set eval.every=0 \
                   --set eval.sequences=4 --set checkpoint.every=4 --out";
    let alone = json(&run(at, &format!("{command} alone")));
    assert_eq!(alone["reduce"], "exact");
    for count in [2, 3] {
        let command = command.replace("--out", "--reduce fast --out");
        let output = on_ranks(count, at, &format!("{command} whole-{count}"));
        let whole = report(&output);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            stderr.contains("--reduce fast, the same bits for this number of ranks"),
            "{stderr}"
        );
        assert_eq!((&whole["reduce"], &whole["ranks"]), (&"fast".into(), &count.into()));
        let (loss, exact) = (whole["val_loss"].as_f64(), alone["val_loss"].as_f64());
        assert!((loss.expect("a loss") / exact.expect("a loss") - 1.0).abs() < 1e-3);

        let out = format!("stopped-{count}");
        let words = format!("{command} {out}");
        let mut child = mpirun(at);
        child.args(["-n", &count.to_string(), PROGRAM]).args(words.split_whitespace());
        let child = child.stderr(std::process::Stdio::piped()).spawn().expect("mpirun starts");
        let ranks = processes(at, count);
        wait_for_steps(at, &out, 3);
        send("-USR1", ranks[1]);
        let ended = child.wait_with_output().expect("mpirun ends");
        assert_eq!(ended.status.code(), Some(138), "{}", String::from_utf8_lossy(&ended.stderr));
        let resume = format!("--json pretrain --resume --reduce fast --data dataset --out {out}");
        let told = report(&on_ranks(count, at, &resume));
        assert_eq!(told["weights_hash"], whole["weights_hash"], "{count} ranks");
    }
}
