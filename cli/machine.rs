//! The machine as the system describes it.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

use mediswift_files::{self as files, SMALL};
use mediswift_kernels::Precision;
use mediswift_kernels::isa::{ISA_VARIABLE, IsaKind};
use serde::Serialize;

/// All that is known of the machine without measuring.
pub struct Machine {
    pub cpu: Cpu,
    pub isa: Isa,
    /// CPUs that affinity and containers leave to this process.
    pub allowed: usize,
    pub caches: Vec<Cache>,
    pub memory: Memory,
    /// Bytes free on the disk of the current folder.
    pub disk_free: Option<u64>,
    /// Programs that wait for a CPU, over the last minute.
    pub load: Option<f64>,
    /// What there is of MPI and job schedulers.
    pub cluster: String,
}

#[derive(Serialize)]
pub struct Cpu {
    pub model: String,
    #[serde(skip)]
    flags: BTreeSet<String>,
    /// CPUs of the machine, two for a core with hyper-threading.
    pub online: Option<usize>,
    pub cores: Option<usize>,
    /// Parts of the machine with memory of their own.
    pub memory_nodes: usize,
    pub governor: Option<String>,
}

#[derive(Serialize)]
pub struct Isa {
    /// Best first.
    pub available: Vec<&'static str>,
    pub active: &'static str,
    pub forced: bool,
    /// Precisions of 16 bits that the active one multiplies faster than `f32`; others are widened.
    pub fast_precisions: Vec<&'static str>,
}

#[derive(Serialize)]
pub struct Cache {
    /// `L1d`, `L2`, ….
    pub name: String,
    /// As `/sys` has it: `48K`.
    pub size: String,
    /// The CPUs that share it with the first one.
    pub shared_by: String,
}

#[derive(Serialize)]
pub struct Memory {
    /// In bytes, like all of these.
    pub total: u64,
    pub available: u64,
    /// What a container or a job may use, if that is less than all.
    pub limit: Option<u64>,
    /// Mode of transparent huge pages.
    pub huge_pages: Option<String>,
}

impl Machine {
    pub fn look() -> anyhow::Result<Self> {
        let isa = IsaKind::active()?;
        let is_fast = |precision: &Precision| isa.multiplies(*precision);
        let of_16_bits = [Precision::Bf16, Precision::F16];
        Ok(Self {
            cpu: cpu(),
            isa: Isa {
                available: IsaKind::available().into_iter().map(IsaKind::name).collect(),
                active: isa.name(),
                forced: env::var(ISA_VARIABLE).is_ok_and(|name| !name.is_empty()),
                fast_precisions: of_16_bits
                    .into_iter()
                    .filter(is_fast)
                    .map(Precision::name)
                    .collect(),
            },
            allowed: available_parallelism().map_or(1, usize::from),
            caches: caches(),
            memory: memory(),
            disk_free: disk_free(),
            load: read("/proc/loadavg").and_then(|text| first_word(&text)?.parse().ok()),
            cluster: cluster(),
        })
    }

    /// Whether that many bytes are free now, as far as the system tells.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        self.memory.free().is_none_or(|free| bytes <= free)
    }
}

/// One CPU that programs can run on: a core, or a thread of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The part of the machine with memory of its own.
    pub node: usize,
    pub package: usize,
    pub core: usize,
    pub cpu: usize,
}

/// Where CPUs are, neighbours beside each other.
pub fn places(cpus: &[usize]) -> Vec<Place> {
    const NODES: &str = "/sys/devices/system/node";
    let nodes: Vec<Vec<usize>> = (0..folders(NODES, "node"))
        .map(|node| read(&format!("{NODES}/node{node}/cpulist")).map_or(vec![], |l| numbers(&l)))
        .collect();
    let place = |&cpu: &usize| {
        let id = |name: &str| {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/{name}");
            read(&path).and_then(|id| id.parse().ok())
        };
        Place {
            node: nodes.iter().position(|cpus| cpus.contains(&cpu)).unwrap_or(0),
            package: id("physical_package_id").unwrap_or(0),
            core: id("core_id").unwrap_or(cpu),
            cpu,
        }
    };
    let mut places: Vec<Place> = cpus.iter().map(place).collect();
    places.sort_unstable();
    places
}

/// The CPUs that affinity leaves to this thread and those that it starts.
pub fn allowed_cpus() -> Vec<usize> {
    #[cfg(target_os = "linux")]
    if let Ok(set) = rustix::thread::sched_getaffinity(None) {
        return (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
    }
    (0..available_parallelism().map_or(1, usize::from)).collect()
}

/// Leaves only these CPUs to this thread and those that it starts from now on.
pub fn bind(cpus: &[usize]) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let mut set = rustix::thread::CpuSet::new();
        cpus.iter().for_each(|cpu| set.set(*cpu));
        rustix::thread::sched_setaffinity(None, &set)?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = cpus;
    Ok(())
}

/// CPUs of this machine that are on, and of which a job that has only some of them may use those.
pub fn usable_cpus() -> usize {
    let of_job = env::var("SLURM_CPUS_ON_NODE").ok().and_then(|number| number.parse().ok());
    let online = read("/sys/devices/system/cpu/online").map(|list| numbers(&list).len());
    of_job.or(online).unwrap_or(1)
}

/// What this machine is called.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What tells this machine from all others: several containers on it have the same CPUs under other
/// names.
pub fn identity() -> String {
    read("/proc/sys/kernel/random/boot_id").unwrap_or_else(host)
}

/// The numbers of a list such as `0-3,8`.
fn numbers(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// Numbers in order as such a list.
pub fn list(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let text = |run: &[usize]| match run {
        [one] => one.to_string(),
        _ => format!("{}-{}", run[0], run[run.len() - 1]),
    };
    runs.map(text).collect::<Vec<_>>().join(",")
}

/// Bytes of memory that this process can still take, where the system tells.
pub fn free_memory() -> Option<u64> {
    memory().free()
}

impl Memory {
    fn free(&self) -> Option<u64> {
        // A machine without memory is one that does not tell.
        let available = Some(self.available).filter(|available| *available > 0);
        [available, self.limit, address_space()].into_iter().flatten().min()
    }
}

/// Bytes of addresses left to this process (`ulimit -v`), which cluster schedulers limit to what was
/// asked for.
fn address_space() -> Option<u64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current?;
    let pages: u64 = first_word(&read("/proc/self/statm")?)?.parse().ok()?;
    Some(limit.saturating_sub(pages * rustix::param::page_size() as u64))
}

impl Cpu {
    /// Whether the system lists that feature.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }
}

fn cpu() -> Cpu {
    let text = read("/proc/cpuinfo").unwrap_or_default();
    let fields: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim(), value.trim()))
        .collect();
    let first = |name: &str| fields.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    // One entry per CPU, the package before the core.
    let mut package = "";
    let mut cores = BTreeSet::new();
    for &(key, value) in &fields {
        match key {
            "physical id" => package = value,
            "core id" => {
                cores.insert((package, value));
            }
            _ => {}
        }
    }
    let online = fields.iter().filter(|(key, _)| *key == "processor").count();
    Cpu {
        model: first("model name").unwrap_or(env::consts::ARCH).to_string(),
        flags: first("flags").unwrap_or_default().split(' ').map(str::to_string).collect(),
        online: (online > 0).then_some(online),
        cores: (!cores.is_empty()).then_some(cores.len()),
        memory_nodes: folders("/sys/devices/system/node", "node").max(1),
        governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    }
}

fn caches() -> Vec<Cache> {
    const CACHES: &str = "/sys/devices/system/cpu/cpu0/cache";
    (0..folders(CACHES, "index"))
        .filter_map(|index| {
            let part = |name: &str| read(&format!("{CACHES}/index{index}/{name}"));
            let kind = match part("type")?.as_str() {
                "Data" => "d",
                "Unified" => "",
                // Instructions of these kernels are few.
                _ => return None,
            };
            Some(Cache {
                name: format!("L{}{kind}", part("level")?),
                size: part("size")?,
                shared_by: part("shared_cpu_list")?,
            })
        })
        .collect()
}

fn memory() -> Memory {
    let text = read("/proc/meminfo").unwrap_or_default();
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(1024 * first_word(line.strip_prefix(':')?)?.parse::<u64>().ok()?)
    };
    let total = bytes("MemTotal").unwrap_or(0);
    let modes = read("/sys/kernel/mm/transparent_hugepage/enabled");
    Memory {
        total,
        available: bytes("MemAvailable").unwrap_or(total),
        limit: memory_limit().filter(|limit| *limit < total),
        huge_pages: modes
            .and_then(|modes| Some(modes.split_once('[')?.1.split_once(']')?.0.to_string())),
    }
}

/// The smallest limit of the control groups that this process is in: version 2 (`0::/path`), and
/// version 1 (`4:memory:/path`).
fn memory_limit() -> Option<u64> {
    let groups = read("/proc/self/cgroup")?;
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return None,
        };
        let above = Path::new(path.trim_start_matches('/')).ancestors();
        let read_limit = |folder: &Path| {
            read(&Path::new(root).join(folder).join(file).to_string_lossy())?.parse().ok()
        };
        above.filter_map(read_limit).min()
    });
    limits.min()
}

fn disk_free() -> Option<u64> {
    let disk = rustix::fs::statvfs(".").ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn cluster() -> String {
    let programs: Vec<&str> =
        ["mpirun", "srun", "qsub"].into_iter().filter(|program| is_on_path(program)).collect();
    let found = match programs[..] {
        [] => "no mpirun, srun or qsub on the path".to_string(),
        _ => format!("{} on the path", programs.join(", ")),
    };
    match env::var("SLURM_JOB_ID").or_else(|_| env::var("PBS_JOBID")) {
        Ok(job) => format!("inside job {job}; {found}"),
        Err(_) => found,
    }
}

fn is_on_path(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

/// How many entries of a folder are called `name` and a number.
fn folders(folder: &str, name: &str) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let is_numbered = |found: &str| {
        found.strip_prefix(name).is_some_and(|number| number.parse::<usize>().is_ok())
    };
    entries.flatten().filter(|entry| is_numbered(&entry.file_name().to_string_lossy())).count()
}

/// A small text file without the white space around.
fn read(path: &str) -> Option<String> {
    files::read_text(path.as_ref(), SMALL).ok().map(|text| text.trim().to_string())
}

fn first_word(text: &str) -> Option<&str> {
    text.split_whitespace().next()
}

/// Share of the CPUs from which on others disturb a measurement.
pub const DISTURBED: f64 = 0.05;

/// How busy the machine is, at one instant: to be compared with a later one.
pub struct Load {
    /// Time of all CPUs so far, idle or not, in ticks of the system, like all of these.
    all: u64,
    /// What of it was not idle, time that a virtual machine did not get included.
    busy: u64,
    /// What of it this process had.
    own: u64,
}

impl Load {
    /// Now, where the system tells.
    pub fn now() -> Option<Self> {
        let text = read("/proc/stat")?;
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let times: Vec<u64> = line.split_whitespace().map_while(|t| t.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal; guests are counted in user already.
        let &[user, nice, system, idle, waiting, irq, soft_irq, stolen] = times.get(..8)? else {
            return None;
        };
        let busy = user + nice + system + irq + soft_irq + stolen;
        // Behind the program's name, which may hold anything, state is the first field and user and
        // system time are the twelfth and thirteenth.
        let process = read("/proc/self/stat")?;
        let fields = process.rsplit_once(')')?.1.split_whitespace();
        let own = fields.skip(11).take(2).map_while(|time| time.parse::<u64>().ok()).sum();
        Some(Self { all: busy + idle + waiting, busy, own })
    }

    /// Share of all CPUs that others have taken since, if enough time has passed to tell.
    pub fn others_since(self) -> Option<f64> {
        /// Two CPUs for half a second, by the usual hundred ticks.
        const ENOUGH: u64 = 100;
        let now = Self::now()?;
        let all = now.all.checked_sub(self.all).filter(|all| *all >= ENOUGH)?;
        let busy = now.busy.saturating_sub(self.busy);
        let others = busy.saturating_sub(now.own.saturating_sub(self.own));
        Some(others as f64 / all as f64)
    }
}

/// Most memory this process ever had resident, in bytes, where the system tells.
pub fn peak_memory() -> Option<u64> {
    let status = files::read_text("/proc/self/status".as_ref(), SMALL).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
