//! What ranks agree on before they work.

use crate::common;
use crate::job::{PROGRAM, failure, has_mpirun, mpirun, on_ranks, report};

#[test]
fn ranks_on_one_machine_divide_its_cpus() {
    if !has_mpirun() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let alone = common::json(&common::run(folder.path(), "--json doctor"));
    let all = alone["threads"]["allowed"].as_u64().expect("a number");
    assert_eq!(alone["job"]["ranks"], 1);
    for count in 1..=3 {
        let output = on_ranks(count, folder.path(), "--json doctor");
        let told = report(&output);
        assert_eq!(told["job"]["ranks"], count);
        let stderr = String::from_utf8(output.stderr).expect("text");
        let lines = stderr.lines().filter(|line| line.starts_with("rank ")).count();
        assert_eq!(lines, if count > 1 { count } else { 0 }, "{stderr}");
        let seats = told["job"]["seats"].as_array().expect("a list");
        let threads = seats.iter().map(|seat| seat["threads"].as_u64().expect("a number"));
        let threads: Vec<u64> = threads.collect();
        assert_eq!(seats.len(), count);
        // All of them, as far as they go.
        assert_eq!(threads.iter().sum::<u64>(), all.max(count as u64), "{threads:?}");
        if all >= count as u64 {
            let mut cpus: Vec<u64> = seats
                .iter()
                .flat_map(|seat| seat["cpus"].as_array().expect("a list"))
                .map(|cpu| cpu.as_u64().expect("a number"))
                .collect();
            cpus.sort_unstable();
            cpus.dedup();
            assert_eq!(cpus.len() as u64, all, "each CPU has one rank");
        }
    }
    let chosen = report(&on_ranks(2, folder.path(), "--json --threads 3 doctor"));
    assert!(chosen["job"]["seats"].as_array().expect("a list").iter().all(|s| s["threads"] == 3));
}

#[test]
fn ranks_with_other_instructions_are_refused_or_compute_with_the_least() {
    if !has_mpirun() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let mixed = |options: &[&str]| {
        let mut command = mpirun(folder.path());
        command.args(["-n", "1", PROGRAM, "--json", "doctor"]).args(options);
        command.args([":", "-n", "1", "-x", "MEDISWIFT_ISA=scalar", PROGRAM, "--json", "doctor"]);
        command.args(options).output().expect("mpirun starts")
    };
    let line = failure(&mixed(&[]), 2);
    assert!(line.contains("rank 1 on ") && line.contains("with scalar, and"), "{line}");
    assert_eq!(report(&mixed(&["--lowest-isa"]))["isa"]["active"], "scalar");
    // One that is not there is an error of one rank.
    let mut command = mpirun(folder.path());
    command.args(["-n", "1", PROGRAM, "doctor", ":", "-n", "1", "-x", "MEDISWIFT_ISA=abacus"]);
    let line = failure(&command.args([PROGRAM, "doctor"]).output().expect("mpirun starts"), 1);
    assert!(line.contains("rank 1") && line.contains("abacus"), "{line}");
}

#[test]
fn what_works_in_one_process_refuses_to_be_many() {
    if !has_mpirun() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let line =
        failure(&on_ranks(3, folder.path(), "data synth --documents 3 --out corpus.jsonl"), 2);
    assert!(line.contains("works in one process, but mpirun started 3"), "{line}");
    let line = failure(&on_ranks(2, folder.path(), "pretrain --no-such-option"), 2);
    assert!(line.contains("--no-such-option"), "{line}");
    // What only another rank has is said by that one.
    let mut command = mpirun(folder.path());
    command.args(["-n", "1", "sleep", "60", ":", "-n", "1", PROGRAM, "pretrain", "--no-such"]);
    let line = failure(&command.output().expect("mpirun starts"), 2);
    assert!(line.contains("rank 1: ") && line.contains("--no-such"), "{line}");
    assert!(common::contents(folder.path()).is_empty(), "nothing is written");
}

#[test]
fn a_launcher_that_does_not_speak_this_mpi_is_named() {
    if !has_mpirun() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut command = common::program(folder.path());
    command.envs([("PMI_SIZE", "4"), ("PMI_RANK", "0")]).arg("doctor");
    let line = common::failure(&command.output().expect("it starts"), 2);
    assert!(line.contains("mpiexec started 4") && line.contains("--mpi=pmix"), "{line}");
}
