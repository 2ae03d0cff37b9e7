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
    &[("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "RANK")],
    &[("PMI_SIZE", "4"), ("PMI_RANK", "RANK")],
    &[("SLURM_STEP_NUM_TASKS", "4"), ("SLURM_PROCID", "RANK")],
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
            let start = |rank: &str| {
                let mut program = common::program(folder.path());
                let variables =
                    variables.iter().map(|(name, value)| (name, value.replace("RANK", rank)));
                program.envs(variables).args(command.split(' ')).output().expect("it starts")
            };
            let line = common::failure(&start("0"), 2);
            assert!(line.contains(says) && line.contains("started 4"), "{line}");
            let other = start("3");
            assert_eq!(other.status.code(), Some(2));
            assert!(other.stderr.is_empty() && other.stdout.is_empty(), "{other:?}");
        }
    }
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
