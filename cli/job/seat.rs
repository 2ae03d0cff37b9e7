//! [`Seat`]: where a rank runs, and what follows from where all of them do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::thread::available_parallelism;

use anyhow::Context as _;
use mediswift_kernels::isa::{ISA_VARIABLE, IsaKind};
use serde::{Deserialize, Serialize};

use super::cores::share;
use crate::outcome::Exit;
use crate::{machine, output};

/// Where a rank runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seat {
    pub host: String,
    /// What tells its machine from others.
    machine: String,
    /// CPUs that it may use.
    pub cpus: Vec<usize>,
    /// CPUs there that its job may use.
    usable: usize,
    /// Parts of the machine with memory of their own, where its CPUs are.
    pub memory_nodes: Vec<usize>,
    /// Instruction sets that it could use, best first: the first of them is what it would use by itself.
    pub isas: Vec<String>,
    pub threads: usize,
}

impl Seat {
    /// Of this process as it was started, before it has any threads.
    pub fn here() -> anyhow::Result<Self> {
        let preferred = IsaKind::preferred().context(ISA_VARIABLE)?;
        let isas = IsaKind::available().into_iter().skip_while(|isa| *isa != preferred);
        let mut seat = Self {
            host: machine::host(),
            machine: machine::identity(),
            cpus: machine::allowed_cpus(),
            usable: machine::usable_cpus(),
            memory_nodes: Vec::new(),
            isas: isas.map(|isa| isa.name().to_string()).collect(),
            threads: 1,
        };
        seat.look_where();
        Ok(seat)
    }

    fn look_where(&mut self) {
        let nodes =
            machine::places(&self.cpus).iter().map(|place| place.node).collect::<BTreeSet<_>>();
        self.memory_nodes = nodes.into_iter().collect();
    }

    /// How many of all ranks are on its machine.
    pub fn neighbours(&self, all: &[Self]) -> usize {
        all.iter().filter(|seat| seat.machine == self.machine).count()
    }

    fn shares_with(&self, other: &Self) -> bool {
        (&self.machine, &self.cpus) == (&other.machine, &other.cpus)
    }

    /// Binds this process, which is one `rank`, to its part of CPUs that other ranks may use too. Returns how
    /// many threads to start, if not one for each of its CPUs: `wished` ones have the last word, and are
    /// bound only if there are CPUs for all of them.
    pub fn take_share(
        &mut self,
        all: &[Self],
        rank: usize,
        wished: Option<usize>,
    ) -> Option<usize> {
        let parts = all.iter().filter(|seat| seat.shares_with(self)).count();
        let part = all[..rank].iter().filter(|seat| seat.shares_with(self)).count();
        if parts == 1 {
            return wished;
        }
        // A container may have less time than CPUs.
        let time = available_parallelism().map_or(1, usize::from);
        let Some(cpus) = share(&machine::places(&self.cpus), part, parts) else {
            return Some(wished.unwrap_or(1));
        };
        let threads = wished.unwrap_or((time * cpus.len() / self.cpus.len()).max(1));
        if threads <= cpus.len() {
            match machine::bind(&cpus) {
                Ok(()) => self.cpus = cpus,
                Err(error) => output::warning(&format!("cannot bind to CPUs: {error}")),
            }
            self.look_where();
        }
        Some(threads)
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, cpus, memory_nodes, isas, threads, .. } = self;
        let (cpus, nodes) = (machine::list(cpus), machine::list(memory_nodes));
        let isa = IsaKind::active().map_or(isas[0].clone(), |isa| isa.to_string());
        let plural = if *threads == 1 { "" } else { "s" };
        write!(f, "{host}, CPUs {cpus}, memory node {nodes}, {isa}, {threads} thread{plural}")
    }
}

/// Lets every rank compute with the same instruction set.
/// # Errors
/// If they would not by themselves, and the `lowest` is not wanted.
pub fn decide_isa(seats: &[Seat], lowest: bool) -> anyhow::Result<()> {
    let first = &seats[0].isas[0];
    let other = seats.iter().position(|seat| seat.isas[0] != *first);
    if let (Some(other), false) = (other, lowest) {
        return Err(Exit::usage(format!(
            "rank 0 on {} would compute with {first}, rank {other} on {} with {}, and results may depend \
             on it: choose machines that are alike, or --lowest-isa",
            seats[0].host, seats[other].host, seats[other].isas[0]
        ))
        .into());
    }
    let have_all = |isa: &&String| seats.iter().all(|seat| seat.isas.contains(isa));
    let common = seats[0].isas.iter().find(have_all);
    let common = common.context("the ranks' CPUs have no instruction set in common")?;
    Ok(IsaKind::by_name(common)?.decide()?)
}

/// What makes a job slower than it could be, for each of its machines.
pub fn warnings(seats: &[Seat], launcher: &str) -> Vec<String> {
    let mut machines: BTreeMap<&str, Vec<&Seat>> = BTreeMap::new();
    for seat in seats {
        machines.entry(&seat.machine).or_default().push(seat);
    }
    let mut warnings = Vec::new();
    for seats in machines.values() {
        let cpus: BTreeSet<usize> = seats.iter().flat_map(|seat| &seat.cpus).copied().collect();
        let (host, usable, cpus) = (&seats[0].host, seats[0].usable, cpus.len());
        let threads: usize = seats.iter().map(|seat| seat.threads).sum();
        if cpus < usable {
            let remedy = match launcher {
                "mpirun" => {
                    "mpirun binds one or two ranks to a core each: give it --bind-to none, or \
                     --map-by ppr:1:numa:pe=CORES --bind-to core"
                }
                "srun" => "give srun --cpus-per-task=CORES --cpu-bind=cores",
                _ => "tell the launcher how many cores a rank gets",
            };
            warnings.push(format!("{host}: the job may use {cpus} of {usable} CPUs: {remedy}"));
        }
        if threads > cpus {
            let ranks = seats.len();
            warnings
                .push(format!("{host}: {ranks} ranks with {threads} threads share {cpus} CPUs"));
        }
    }
    warnings
}
