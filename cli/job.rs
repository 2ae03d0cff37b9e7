//! [`Job`]: this process alone, or the ranks of which it is one.
//!
//! A launcher (mpirun, srun) starts the same command several times. Each process finds the others by MPI,
//! takes its share of the CPUs that several may use, and all agree on one instruction set, on which the
//! bits of results may depend. A process is bound to its CPUs before its threads start and before it
//! touches memory, which is therefore placed near them.

pub mod cores;
mod launch;
mod seat;

use std::panic;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mediswift_kernels::isa::{ISA_VARIABLE, IsaKind};
use mediswift_model::Error;
use mediswift_ranks::collectives::gather;
use mediswift_ranks::{Alone, Ranks};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::launch::Launch;
pub use self::seat::Seat;
use crate::outcome::{Exit, Outcome};
use crate::output;

/// What the command line says of jobs of several ranks.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "On a cluster")]
pub struct Wishes {
    /// How long a rank waits for another one before it ends the job. Must be longer than what one rank
    /// does alone, such as saving
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 600,
          value_parser = clap::value_parser!(u64).range(1..=604_800))]
    rank_timeout: u64,

    /// Where CPUs differ from rank to rank: use the best instruction set that all of them have
    #[arg(long, global = true)]
    lowest_isa: bool,
}

/// The ranks that run one command.
#[derive(Clone, Debug)]
pub struct Job {
    pub ranks: Arc<dyn Ranks>,
    /// Threads that this rank computes with.
    pub threads: usize,
    /// Where every rank is, in their order; none if nobody launched this one.
    pub seats: Vec<Seat>,
    /// What started it.
    pub launch: Option<Launch>,
}

impl Job {
    /// A process by itself, with the threads it has.
    #[cfg(test)]
    pub fn alone() -> Self {
        let threads = rayon::current_num_threads();
        Self { ranks: Arc::new(Alone), threads, seats: Vec::new(), launch: None }
    }

    /// Finds the other ranks of a command, if it `uses_ranks`.
    /// # Errors
    /// If it does not, or they cannot be found.
    pub fn find(launch: Option<Launch>, wishes: Wishes, uses_ranks: bool) -> anyhow::Result<Self> {
        let patience = Duration::from_secs(wishes.rank_timeout);
        let ranks = match launch {
            Some(launch) if launch.is_many() && !uses_ranks => {
                return Err(Exit::usage(format!(
                    "this command works in one process, but {} started {}: start one",
                    launch.by,
                    launch.processes()
                ))
                .into());
            }
            Some(launch) if launch.is_many() => start(launch, patience)?,
            _ => Arc::new(Alone),
        };
        output::speak_as(ranks.rank());
        if ranks.count() > 1 {
            end_at_panics(&ranks);
        }
        Ok(Self { ranks, threads: 1, seats: Vec::new(), launch })
    }

    /// Takes this rank's share of the CPUs, and starts its threads; `threads` of them if that is said.
    /// # Errors
    /// If instruction sets differ, or the system refuses; the same on all ranks.
    pub fn sit_down(&mut self, wishes: Wishes, threads: Option<usize>) -> anyhow::Result<()> {
        if self.launch.is_some() {
            let mut seat = self.agree(Seat::here())?;
            self.seats = self.tell(&seat)?;
            self.agree(seat::decide_isa(&self.seats, wishes.lowest_isa))?;
            let threads = seat.take_share(&self.seats, self.ranks.rank(), threads);
            let started = start_threads(threads);
            seat.threads = rayon::current_num_threads();
            self.agree(started)?;
            self.seats = self.tell(&seat)?;
            if self.ranks.count() > 1 {
                self.lines().iter().for_each(|line| output::note(line));
            }
            if threads.is_none() && !output::is_mute() {
                self.warnings().iter().for_each(|warning| output::warning(warning));
            }
        } else {
            IsaKind::active().context(ISA_VARIABLE)?;
            start_threads(threads)?;
        }
        self.threads = rayon::current_num_threads();
        Ok(())
    }

    /// Where every rank is, a line each.
    pub fn lines(&self) -> Vec<String> {
        let count = self.ranks.count();
        self.seats
            .iter()
            .enumerate()
            .map(|(r, seat)| format!("rank {r} of {count}: {seat}"))
            .collect()
    }

    /// What makes the job slower than it could be.
    pub fn warnings(&self) -> Vec<String> {
        self.launch.map_or_else(Vec::new, |launch| seat::warnings(&self.seats, launch.by))
    }

    /// What went well on every rank; otherwise the error of the first rank that has one, on all.
    /// # Errors
    /// That one, or if a rank is lost.
    pub fn agree<T>(&self, mine: anyhow::Result<T>) -> anyhow::Result<T> {
        if self.ranks.count() == 1 {
            return mine;
        }
        let told = mine.as_ref().err().map(|error| {
            let code = error.downcast_ref::<Exit>().map_or(1, |exit| exit.code);
            (code, output::with_causes(error.as_ref()))
        });
        let all = self.tell(&told)?;
        let Some((rank, first)) = all.iter().enumerate().find(|(_, told)| told.is_some()) else {
            return mine;
        };
        let (code, problem) = first.clone().expect("it was found");
        let host = self.seats.get(rank).map_or(String::new(), |seat| format!(" on {}", seat.host));
        let problem = match all.iter().all(|told| told == first) {
            true => problem,
            false => format!("rank {rank}{host}: {problem}"),
        };
        Err(Exit::agreed(code, problem).into())
    }

    /// An error of work that ranks did together, which all of them have, unless one was lost.
    pub fn shared(&self, error: Error) -> anyhow::Error {
        match error {
            error if self.ranks.count() == 1 => error.into(),
            Error::Lost(_) => error.into(),
            error => Exit::agreed(1, output::with_causes(&error)).into(),
        }
    }

    /// How many ranks share this one's machine, itself included.
    pub fn ranks_here(&self) -> usize {
        self.seats.get(self.ranks.rank()).map_or(1, |seat| seat.neighbours(&self.seats))
    }

    /// What every rank tells, in their order.
    fn tell<T: Serialize + DeserializeOwned>(&self, mine: &T) -> anyhow::Result<Vec<T>> {
        let told = gather(&*self.ranks, &serde_json::to_vec(mine)?)?;
        told.iter().map(|one| Ok(serde_json::from_slice(one)?)).collect()
    }

    /// Ends the job at once if this rank failed in a way that the others do not know of, and wait for
    /// it.
    pub fn end_if_lonely(&self, done: &anyhow::Result<Outcome>) {
        if let Err(error) = done
            && self.ranks.count() > 1
            && !error.downcast_ref::<Exit>().is_some_and(|exit| exit.is_agreed)
        {
            self.ranks.end(&output::with_causes(error.as_ref()));
        }
    }
}

/// The ranks that a launcher started.
#[cfg(feature = "mpi")]
fn start(launch: Launch, patience: Duration) -> anyhow::Result<Arc<dyn Ranks>> {
    let ranks = mediswift_ranks::Mpi::start(crate::machine::host(), patience)?;
    if launch.count.is_some_and(|count| count != ranks.count()) {
        let problem = format!(
            "{} started {} processes, but {} finds only {} of them: use the launcher of that library, or \
             srun --mpi=pmix (srun --mpi=list has others)",
            launch.by,
            launch.processes(),
            ranks.transport(),
            ranks.count(),
        );
        ranks.leave();
        return Err(Exit::usage(problem).into());
    }
    Ok(Arc::new(ranks))
}

#[cfg(not(feature = "mpi"))]
fn start(launch: Launch, _: Duration) -> anyhow::Result<Arc<dyn Ranks>> {
    let problem = format!(
        "{} started {} of this program, which was built without MPI: build it with \
         'cargo install --locked --path . --features mpi' (docs/cluster.md), or start one",
        launch.by,
        launch.processes(),
    );
    Err(Exit::usage(problem).into())
}

/// Starts the threads that compute, as many as there are CPUs unless `threads` says.
fn start_threads(threads: Option<usize>) -> anyhow::Result<()> {
    let Some(threads) = threads else { return Ok(()) };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .with_context(|| format!("cannot start {threads} threads"))
}

/// A rank that panics ends the job: the others would wait for it.
fn end_at_panics(ranks: &Arc<dyn Ranks>) {
    let ranks = Arc::clone(ranks);
    panic::set_hook(Box::new(move |panic| ranks.end(&panic.to_string().replace('\n', " "))));
}

#[cfg(test)]
mod tests {
    use mediswift_ranks::{Lost, Threads};

    use super::*;

    fn job(ranks: Arc<dyn Ranks>) -> Job {
        Job { ranks, ..Job::alone() }
    }

    #[test]
    fn what_one_rank_fails_at_all_return() {
        let ends = |fails: fn(usize) -> Option<&'static str>| {
            let ends = Threads::run(3, |ranks| {
                let mine = fails(ranks.rank()).map_or(Ok(7), |why| Err(Exit::usage(why).into()));
                job(ranks).agree(mine).map_err(|error| {
                    let exit = error.downcast_ref::<Exit>().expect("an exit");
                    assert!(exit.is_agreed && exit.code == 2);
                    error.to_string()
                })
            });
            assert!(ends.windows(2).all(|pair| pair[0] == pair[1]), "{ends:?}");
            ends[0].clone()
        };
        assert_eq!(ends(|_| None), Ok(7));
        assert_eq!(ends(|_| Some("no")), Err("no".into()));
        assert_eq!(ends(|rank| (rank > 0).then_some("no")), Err("rank 1: no".into()));
    }

    #[test]
    fn a_panic_ends_the_job_with_what_it_says() {
        let ends = Threads::run(2, |ranks| {
            if ranks.rank() == 1 {
                end_at_panics(&ranks);
                assert!(panic::catch_unwind(|| panic!("it is broken")).is_err());
                let _ = panic::take_hook();
            }
            gather(&*ranks, b"still there?").map(drop)
        });
        for end in ends {
            let Err(Lost::Ended { rank: 1, reason }) = end else { panic!("{end:?}") };
            assert!(reason.contains("job.rs") && reason.contains("it is broken"), "{reason}");
        }
    }

    /// What each process of the test below runs: ranks talk without end, by a thread of their own as during a
    /// backward pass, until one of them panics.
    #[test]
    #[ignore = "one of several processes, which the next test starts"]
    fn one_of_several() {
        let launch = Launch::detect(|name| std::env::var(name).ok());
        let wishes = Wishes { rank_timeout: 100, lowest_isa: false };
        let job = Job::find(launch, wishes, true).expect("the others");
        let ranks = &*job.ranks;
        if ranks.count() == 1 {
            return;
        }
        std::thread::scope(|scope| {
            scope.spawn(|| while gather(ranks, &[0; 1 << 16]).is_ok() {});
            std::thread::sleep(Duration::from_millis(500));
            assert_ne!(ranks.rank(), 1, "it is broken");
        });
    }

    #[cfg(feature = "mpi")]
    #[test]
    fn a_process_that_panics_ends_the_job_with_its_rank_its_host_and_why() {
        use std::process::{Command, Stdio};
        use std::time::Instant;

        if Command::new("mpirun").arg("--version").output().is_err() {
            println!("skipped: there is no mpirun on the path");
            return;
        }
        let begun = Instant::now();
        let mut command = Command::new("mpirun");
        command.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "3"]);
        command.arg(std::env::current_exe().expect("this program"));
        command.args(["--exact", "job::tests::one_of_several", "--ignored", "--nocapture"]);
        let output = command.stdin(Stdio::null()).output().expect("mpirun starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{stderr}");
        let says = format!("rank 1 of 3 on {} ends the job: panicked at ", crate::machine::host());
        let line = stderr.lines().find(|line| line.contains(&says));
        assert!(line.is_some_and(|line| line.contains("it is broken")), "{stderr}");
        // At once, and not when the others have waited for long enough.
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    }
}
