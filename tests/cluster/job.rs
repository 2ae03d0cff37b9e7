//! Starting jobs of several ranks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{json, run};

/// How long anything may take before a test gives up: far longer than it should.
const PATIENCE: Duration = Duration::from_secs(300);

/// The program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_mediswift");

/// Whether there is an mpirun; says so where there is none.
pub fn has_mpirun() -> bool {
    let found = Command::new("mpirun").arg("--version").output().is_ok();
    if !found {
        println!("skipped: there is no mpirun on the path");
    }
    found
}

/// `mpirun` in a folder, by Open MPI, with more ranks than CPUs if need be.
pub fn mpirun(at: &Path) -> Command {
    let mut command = Command::new("mpirun");
    command.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]);
    command.current_dir(at).env_remove("MEDISWIFT_ISA").stdin(Stdio::null());
    command
}

/// Runs the program on several ranks.
pub fn on_ranks(count: usize, at: &Path, command_line: &str) -> Output {
    let count = count.to_string();
    let words = ["-n", &count, PROGRAM].into_iter().chain(command_line.split_whitespace());
    mpirun(at).args(words).output().expect("mpirun starts")
}

/// What a job that failed says on stderr, without what mpirun adds.
#[track_caller]
pub fn failure(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty() || output.stdout.starts_with(b"---"), "{output:?}");
    let lines: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    lines[0].to_string()
}

/// The JSON object that one of several ranks prints.
#[track_caller]
pub fn report(output: &Output) -> Value {
    // Open MPI may warn on stdout when it starts.
    json(output)
}

/// A folder with `dataset/`, and another one in `other/`.
pub fn datasets() -> TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    for (seed, name) in [(4, "dataset"), (5, "other")] {
        let synth = format!("--json data synth --documents 150 --seed {seed} --out {name}.jsonl");
        json(&run(at, &synth));
        let prepare = format!("--json data prepare {name}.jsonl --out {name} --vocab-size 400");
        json(&run(at, &prepare));
    }
    folder
}

/// The processes of a job that works in this folder, by rank, as soon as there are so many.
pub fn processes(at: &Path, count: usize) -> Vec<u32> {
    let at = at.canonicalize().expect("a folder");
    wait("the ranks are there", || {
        let numbers = fs::read_dir("/proc")
            .expect("processes")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let mut ranks: Vec<(usize, u32)> = numbers
            .filter_map(|number| {
                let folder = PathBuf::from(format!("/proc/{number}"));
                let link = |name: &str| fs::read_link(folder.join(name)).ok();
                let is_ours = link("cwd")? == at && link("exe")? == Path::new(PROGRAM);
                let variables = fs::read(folder.join("environ")).ok().filter(|_| is_ours)?;
                let rank = variables
                    .split(|byte| *byte == 0)
                    .find_map(|variable| variable.strip_prefix(b"OMPI_COMM_WORLD_RANK="))?;
                Some((std::str::from_utf8(rank).ok()?.parse().ok()?, number))
            })
            .collect();
        ranks.sort_unstable();
        (ranks.len() == count).then(|| ranks.into_iter().map(|(_, number)| number).collect())
    })
}

/// Waits until a run has logged so many steps.
pub fn wait_for_steps(at: &Path, out: &str, steps: usize) {
    let log = at.join(out).join("metrics.jsonl");
    wait("steps are logged", || {
        let logged = fs::read_to_string(&log).map_or(0, |text| text.lines().count());
        (logged >= steps).then_some(())
    });
}

/// What `look` finds in the end.
#[track_caller]
pub fn wait<T>(until: &str, look: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "it takes too long until {until}");
        sleep(Duration::from_millis(5));
    }
}

/// Sends a signal to a process.
pub fn send(signal: &str, process: u32) {
    let sent = Command::new("kill").args([signal, &process.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "{signal} to {process}");
}

/// Hash of the weights that a run ended with.
pub fn weights_hash(at: &Path, out: &str) -> String {
    let text = fs::read_to_string(at.join(out).join("report.json")).expect("a report");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    report["weights_hash"].as_str().expect("a hash").to_string()
}
