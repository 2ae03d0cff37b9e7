//! A rank that cannot go on ends the job, with the reason.

use std::process::{Child, Stdio};

use crate::common::{json, run};
use crate::job::{
    PROGRAM, datasets, has_mpirun, mpirun, on_ranks, processes, report, send, wait_for_steps,
};

/// Long enough to be disturbed.
const LONG: &str = "pretrain --preset micro --data dataset --sparsity 0.5 --set train.steps=200 \
                    --set train.batch=6 --set train.micro_batch=1 --set eval.every=0 \
                    --set checkpoint.every=5";
