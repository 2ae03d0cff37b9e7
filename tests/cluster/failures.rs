//! A rank that cannot go on ends the job, and the run goes on from its last checkpoint to the same end.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::{json, run};
use crate::job::{
    PROGRAM, datasets, has_mpirun, mpirun, processes, send, wait, wait_for_steps, weights_hash,
};

/// Long enough to be disturbed, by ranks that do not wait for each other for long.
pub const LONG: &str = "--rank-timeout 30 pretrain --preset micro --data dataset --sparsity 0.5 \
                        --set train.steps=200 --set train.batch=6 --set train.micro_batch=1 \
                        --set eval.every=0 --set checkpoint.every=2";

/// Starts a run on two ranks with this launcher, and disturbs it, who is told the numbers of the processes,
/// once it has saved. Checks that the job ends and says one of the `reasons`, and that one process
/// completes the run as if nothing had been.
pub fn disturb(
    mut launcher: Command,
    at: &Path,
    reasons: &[&str],
    disturbance: impl FnOnce(&[u32]),
) {
    json(&run(at, &format!("--json {LONG} --out alone")));
    launcher.args(["-n", "2", PROGRAM]).args(LONG.split_whitespace()).args(["--out", "run"]);
    let mut job = launcher.current_dir(at).stderr(Stdio::piped()).spawn().expect("mpirun starts");
    let ranks = processes(at, 2);
    wait_for_steps(at, "run", 5);
    disturbance(&ranks);
    let stderr = stderr_of(&mut job);
    wait("every rank has ended", || {
        let is_there = |rank: &u32| Path::new(&format!("/proc/{rank}/exe")).canonicalize().is_ok();
        (!ranks.iter().any(is_there)).then_some(())
    });
    assert!(!job.wait().expect("mpirun ends").success(), "{stderr}");
    assert!(reasons.iter().any(|reason| stderr.contains(reason)), "{stderr}");
    json(&run(at, "--json pretrain --resume --data dataset --out run"));
    assert_eq!(weights_hash(at, "run"), weights_hash(at, "alone"));
}

fn stderr_of(job: &mut Child) -> String {
    std::io::read_to_string(job.stderr.take().expect("it is piped")).expect("text")
}

#[test]
fn a_rank_that_is_killed_ends_the_job() {
    if !has_mpirun() {
        return;
    }
    let folder = datasets();
    // mpirun sees it end.
    disturb(mpirun(folder.path()), folder.path(), &["signal 9"], |ranks| send("-KILL", ranks[1]));
}

#[test]
fn a_rank_that_hangs_ends_the_job_with_its_number() {
    if !has_mpirun() {
        return;
    }
    let folder = datasets();
    let reasons = ["ends the job: rank 0 did not answer for "];
    disturb(mpirun(folder.path()), folder.path(), &reasons, |ranks| send("-STOP", ranks[0]));
}

#[test]
fn a_rank_that_hangs_during_faster_sums_ends_the_job_with_its_number() {
    if !has_mpirun() {
        return;
    }
    let folder = datasets();
    let at = folder.path();
    let mut command = mpirun(at);
    command.args(["-n", "3", PROGRAM]).args(LONG.split_whitespace());
    command.args(["--reduce", "fast", "--out", "run"]).stderr(Stdio::piped());
    let mut job = command.spawn().expect("mpirun starts");
    let ranks = processes(at, 3);
    wait_for_steps(at, "run", 5);
    send("-STOP", ranks[2]);
    let stderr = stderr_of(&mut job);
    assert!(!job.wait().expect("mpirun ends").success(), "{stderr}");
    assert!(stderr.contains("ends the job: rank 2 did not answer for "), "{stderr}");
    json(&run(at, "--json pretrain --resume --data dataset --out run"));
}
