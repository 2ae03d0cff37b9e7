//! Several ranks: what launchers start, what it makes of the machine, what it trains, and how it ends when
//! something goes wrong. Whoever builds without the feature `mpi` gets only what such a program does.
#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "mpi")]
mod failures;
#[cfg(feature = "mpi")]
mod hosts;
#[cfg(feature = "mpi")]
mod job;
#[cfg(feature = "mpi")]
mod launch;
#[cfg(feature = "mpi")]
mod training;

/// The environment that launchers make: how many processes, and which.
#[cfg(not(feature = "mpi"))]
const LAUNCHERS: [&[(&str, &str)]; 3] = [
    &[("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "0")],
    &[("PMI_SIZE", "4"), ("PMI_RANK", "0")],
    &[("SLURM_STEP_NUM_TASKS", "4"), ("SLURM_PROCID", "0")],
];

#[cfg(not(feature = "mpi"))]
#[test]
fn a_program_without_mpi_does_not_train_as_many_copies_as_are_started() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for variables in LAUNCHERS {
        for (command, says) in [
            ("pretrain --preset micro --data dataset --out run", "built without MPI: build it"),
            ("doctor", "built without MPI: build it"),
            ("data synth --documents 3 --out corpus.jsonl", "works in one process"),
        ] {
            let mut program = common::program(folder.path());
            program.envs(variables.iter().copied()).args(command.split(' '));
            let line = common::failure(&program.output().expect("it starts"), 2);
            assert!(line.contains(says) && line.contains("started 4"), "{line}");
        }
    }
    // Nobody stops this one, so it speaks for itself in the end.
    let mut alone = common::program(folder.path());
    alone.envs([("PMI_SIZE", "4"), ("PMI_RANK", "3")]).arg("doctor");
    let line = common::failure(&alone.output().expect("it starts"), 2);
    assert!(line.contains("rank 3: mpiexec started 4"), "{line}");
    assert!(common::contents(folder.path()).is_empty(), "nothing is written");
}

#[test]
fn one_process_is_no_job_whatever_started_it() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let batch = [("SLURM_JOB_ID", "7"), ("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0")];
    let alone = [("OMPI_COMM_WORLD_SIZE", "1"), ("OMPI_COMM_WORLD_RANK", "0")];
    for variables in [&batch[..], &alone] {
        let command = "--json data synth --documents 3 --out corpus.jsonl --force";
        let mut program = common::program(folder.path());
        program.envs(variables.iter().copied()).args(command.split(' '));
        common::json(&program.output().expect("it starts"));
    }
}
