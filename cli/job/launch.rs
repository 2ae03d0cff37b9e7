//! [`Launch`]: whether this process is one of some that a launcher started, by its environment.

/// Launchers, with the variables in which they say how many processes there are, and which one this is. The
/// first that is there decides: those below may be of a job around it. `SLURM_NTASKS` is not among them,
/// which a batch script has too.
const LAUNCHERS: [(&str, &str, &str); 3] = [
    ("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("mpiexec", "PMI_SIZE", "PMI_RANK"),
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
];

/// A process that a launcher started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The launcher, as people call it.
    pub by: &'static str,
    /// Which process this is, from 0.
    pub rank: usize,
    /// How many there are, if the launcher says.
    pub count: Option<usize>,
}

impl Launch {
    /// Looks at the environment, of which `variable` gives one value.
    pub fn detect(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |name: &str| variable(name)?.trim().parse::<usize>().ok();
        let of_launcher = |&(by, count, rank): &(&'static str, &str, &str)| {
            Some(Self { by, rank: number(rank)?, count: Some(number(count)?) })
        };
        LAUNCHERS.iter().find_map(of_launcher).or_else(|| {
            Some(Self { by: "a launcher by PMIx", rank: number("PMIX_RANK")?, count: None })
        })
    }

    /// Whether there are, or may be, others.
    pub fn is_many(self) -> bool {
        self.count != Some(1)
    }

    /// How many processes it started, as a sentence has it.
    pub fn processes(self) -> String {
        self.count.map_or("an unknown number".into(), |count| count.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(variables: &[(&str, &str)]) -> Option<Launch> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Launch::detect(|name| find(name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn launchers_are_known_by_what_they_say_and_nothing_else_is_one() {
        let launch = |by, rank, count| Some(Launch { by, rank, count });
        let slurm = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8"), ("SLURM_JOB_ID", "7")];
        assert_eq!(detect(&[]), None);
        assert_eq!(detect(&slurm), None, "a batch script");
        let step = [&slurm[..], &[("SLURM_STEP_NUM_TASKS", "8")]].concat();
        assert_eq!(detect(&step), launch("srun", 0, Some(8)));
        // mpirun starts its own processes by srun, one for a node, and one of them this one.
        let ours = [("OMPI_COMM_WORLD_SIZE", "16"), ("OMPI_COMM_WORLD_RANK", "3")];
        let both = [&step[..], &ours].concat();
        assert_eq!(detect(&both), launch("mpirun", 3, Some(16)));
        let hydra = [("PMI_SIZE", "1"), ("PMI_RANK", "0")];
        let alone = [&step[..], &hydra].concat();
        assert_eq!(detect(&alone), launch("mpiexec", 0, Some(1)));
        assert!(!detect(&alone).unwrap().is_many());
        let by_pmix = detect(&[("PMIX_RANK", "2")]);
        assert_eq!(by_pmix.map(|launch| (launch.rank, launch.count)), Some((2, None)));
        assert!(by_pmix.unwrap().is_many());
        assert_eq!(detect(&[("PMI_SIZE", "two"), ("PMI_RANK", "0")]), None);
    }
}
