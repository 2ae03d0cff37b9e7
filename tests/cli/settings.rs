//! Every setting and every number on the command line, with extreme values: each is refused in one line,
//! or the work ends.
//!
//! Keys are the program's own, so a new one is swept too. All runs have a limit of memory
//! (`ulimit -v`), which the program takes for all that there is: what it estimates to be above is
//! refused, and what then takes more than was estimated ends in an abort, which no sweep accepts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::{json, questions, run};
use serde_json::Value;
use tempfile::TempDir;

/// Kilobytes of addresses that the program has.
const LIMIT: u64 = 2 << 20;

/// Zeros, numbers below them, subnormal, huge and not finite; numbers around the ends of types; other
/// types.
const VALUES: [&str; 30] = [
    "-9223372036854775808",
    "-1",
    "0",
    "1",
    "3",
    "4096",
    "4097",
    "2147483648",
    "4294967294",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "-0.0",
    "5e-324",
    "1e-310",
    "1e-46",
    "1e-38",
    "0.9999999999999999",
    "1.0000001",
    "3e38",
    "1e39",
    "1e308",
    "inf",
    "-inf",
    "nan",
    "true",
    "''",
    "[]",
    "{}",
];

/// A command line without what makes it extreme, and that.
struct Case {
    base: Vec<String>,
    extreme: String,
    /// What is given after the extreme: the folder to make, if one is made.
    makes: bool,
}

/// A text as arguments; no argument contains a blank.
fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_string).collect()
}

/// The assignments of all values to all keys of `settings`, as `--print-config --json` prints them.
fn assignments(settings: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (table, keys) in settings.as_object().expect("tables") {
        for (key, value) in keys.as_object().expect("keys") {
            let mut assign = |value: &str| found.push(format!("{table}.{key}={value}"));
            VALUES.iter().for_each(|value| assign(value));
            match value {
                // A list of tables: every key of the first.
                Value::Array(entries) if entries.first().is_some_and(Value::is_object) => {
                    let entry = entries[0].as_object().expect("an object");
                    for swept in entry.keys() {
                        for extreme in VALUES {
                            let keys = entry.iter().map(|(key, value)| match key == swept {
                                true => format!("{key}={extreme}"),
                                false => format!("{key}={value}"),
                            });
                            assign(&format!("[{{{}}}]", keys.collect::<Vec<_>>().join(",")));
                        }
                    }
                }
                // A list: every value beside one that is right.
                Value::Array(entries) => {
                    for extreme in VALUES {
                        let first =
                            entries.first().map_or(String::new(), |value| format!("{value},"));
                        assign(&format!("[{first}{extreme}]"));
                    }
                }
                Value::Object(entries) => {
                    for name in entries.keys() {
                        VALUES.iter().for_each(|value| assign(&format!("{{\"{name}\"={value}}}")));
                    }
                }
                _ => {}
            }
        }
    }
    found
}

fn start(at: &Path, arguments: &[String]) -> Child {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -v {LIMIT} && exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_mediswift"))
        // As text, which is short: nobody reads it before the end.
        .args(["--threads", "1"])
        .args(arguments)
        .current_dir(at)
        .env_remove("MEDISWIFT_ISA")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("a shell starts")
}

/// Whether a run has done more than the two steps that all others do, or made far more files: it would
/// go on for long.
fn goes_on(out: &Path) -> bool {
    let steps = fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default().lines().count();
    fn files(folder: &Path) -> usize {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|e| if e.path().is_dir() { files(&e.path()) } else { 1 }).sum()
    }
    steps > 2 || files(out) > 60
}

/// Whether a case was accepted, or what is wrong with how it ended.
fn ending(at: &Path, case: &Case, number: usize) -> Result<bool, String> {
    let out = PathBuf::from(format!("out-{number}"));
    let mut arguments = case.base.clone();
    arguments.push(case.extreme.clone());
    if case.makes {
        arguments.extend(["--out".to_string(), out.display().to_string()]);
    }
    let mut child = start(at, &arguments);
    let mut was_stopped = false;
    while child.try_wait().expect("a state").is_none() {
        if case.makes && !was_stopped && goes_on(&at.join(&out)) {
            was_stopped = true;
            // A child that has just ended cannot be told anything.
            let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        }
        thread::sleep(Duration::from_millis(3));
    }
    let done = child.wait_with_output().expect("its output");
    let _ = fs::remove_dir_all(at.join(&out));
    let stderr = String::from_utf8_lossy(&done.stderr);
    let errors = stderr.lines().filter(|line| line.starts_with("error: ")).count();
    let said =
        ["error: ", "warning: ", "note: ", "signal ", "training ", "stage ", "step ", "epoch "];
    let others = stderr
        .lines()
        .filter(|line| !said.iter().any(|start| line.trim_start().starts_with(start)));
    let is_right = match done.status.code() {
        Some(0) => errors == 0,
        Some(143) => was_stopped && errors == 0,
        Some(1 | 2) => errors == 1 && others.clone().count() == 0 && done.stdout.is_empty(),
        _ => false,
    };
    if is_right {
        return Ok(errors == 0);
    }
    let command = arguments.join(" ");
    Err(format!("{command}\n    ended with {}: {}", done.status, stderr.replace('\n', "\n    ")))
}

/// Runs all cases, a few at a time, and fails with all that is wrong.
fn sweep(at: &Path, cases: &[Case]) {
    let (next, problems) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let accepted = AtomicUsize::new(0);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(number) else { break };
            match ending(at, case, number) {
                Ok(done) => _ = accepted.fetch_add(usize::from(done), Ordering::Relaxed),
                Err(problem) => problems.lock().expect("no panic").push(problem),
            }
        }
    };
    thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(work)));
    });
    let problems = problems.into_inner().expect("no panic");
    assert!(
        problems.is_empty(),
        "{} of {} cases:\n{}",
        problems.len(),
        cases.len(),
        problems.join("\n")
    );
    // Some value suits every key: else it is another thing that is refused.
    let accepted = accepted.into_inner();
    assert!(10 * accepted > cases.len(), "{accepted} of {} cases were accepted", cases.len());
}

/// The smallest model there can be, and a group and a plan of it.
const SMALL: &str = "--preset micro --sparsity 0.75 --set model.layers=1 --set model.d_model=8 \
     --set model.heads=2 --set model.context=64 --set train.context=8 --set train.steps=2 \
     --set train.batch=2 --set train.micro_batch=2 --set eval.sequences=1";

/// A folder in memory, if the system has one: a sweep waits for the disk more than for anything else.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("temporary folder")
}

fn dataset() -> TempDir {
    let folder = folder();
    let at = folder.path();
    json(&run(at, "--json data synth --documents 60 --seed 4 --out corpus.jsonl"));
    let prepare =
        "--json data prepare corpus.jsonl --out dataset --vocab-size 300 --validation 0.1";
    json(&run(at, prepare));
    folder
}

fn with_set(base: &str, assignment: String) -> Case {
    let mut base = words(base);
    base.push("--set".into());
    Case { base, extreme: assignment, makes: true }
}

#[test]
fn every_setting_of_pre_training() {
    let folder = dataset();
    let at = folder.path();
    let described = format!(
        "--json pretrain {SMALL} --print-config \
         --set sparsity.groups=[{{param_filter=['*'],sparsity=0.5}}] \
         --set kernels.plans={{\"24x8@48\"=\"csr/csr/csr\"}}"
    );
    let mut assignments = assignments(&json(&run(at, &described)));
    assert!(assignments.len() > 42 * VALUES.len(), "{}", assignments.len());
    // Names with numbers in them.
    for number in ["0", "1", "64", "65537", "4294967296", "18446744073709551615", "1e9"] {
        for name in [
            "r4-v4-u1-kN-m64-p1",
            "r4-v4-u1-k64-mN-p1",
            "r4-v4-u1-k64-m64-pN",
            "rN-v4-u1-k64-m64-p1",
        ] {
            let plan = format!("panels-{}", name.replace('N', number));
            let plan = format!("kernels.plans={{\"24x8@48\"=\"{plan}/{plan}/{plan}\"}}");
            assignments.push(plan);
        }
    }
    let base = format!("pretrain {SMALL} --data dataset");
    // What decides when and how masks move, where they do.
    let moving =
        assignments.iter().filter(|set| set.starts_with("sparsity.") && !set.contains("param"));
    let moving: Vec<String> = moving.cloned().collect();
    let of_moving = |algorithm: &str| {
        let set =
            format!("--set sparsity.algorithm={algorithm} --set sparsity.update={{freq=1,stop=3}}");
        let base = format!("{base} {set}");
        moving.iter().map(move |set| with_set(&base, set.clone())).collect::<Vec<_>>()
    };
    let moving: Vec<Case> = ["rigl", "gmp"].into_iter().flat_map(of_moving).collect();
    let cases = assignments.into_iter().map(|set| with_set(&base, set)).chain(moving);
    sweep(at, &cases.collect::<Vec<_>>());
}

#[test]
fn every_setting_of_fine_tuning() {
    let folder = dataset();
    let at = folder.path();
    json(&run(at, &format!("--json pretrain {SMALL} --data dataset --out run")));
    fs::create_dir(at.join("qa")).expect("create");
    fs::write(at.join("qa/ori_pqal.json"), questions().to_string()).expect("write");
    let set = "--set finetune.epochs=1 --set finetune.seeds=1 --set finetune.batch=16 \
               --set finetune.lr=1e-3 --set finetune.prompt_tokens=1 --set finetune.stages=[]";
    let described = format!("--json finetune pubmedqa --print-config {set}");
    let assignments = assignments(&json(&run(at, &described)));
    assert!(assignments.len() > 26 * VALUES.len(), "{}", assignments.len());
    let base = format!("finetune pubmedqa --from run --data qa {set}");
    let cases: Vec<Case> = assignments.into_iter().map(|set| with_set(&base, set)).collect();
    sweep(at, &cases);
}

#[test]
fn every_number_of_measurements_and_counts() {
    let folder = folder();
    let at = folder.path();
    let step = "bench step --preset micro --vocab 40 --ctx 16 --batch 1 --steps 1";
    let layer = "bench layer --shape 16x16 --tokens 16 --rounds 1 --sparsity 0.5 --product step";
    let flops = "flops --preset tiny --convention executed";
    let options = [
        (step, vec!["--ctx", "--batch", "--vocab", "--sparsity"]),
        (layer, vec!["--shape", "--tokens", "--sparsity"]),
        (flops, vec!["--sparsity", "--vocabulary", "--tokens"]),
    ];
    let mut cases = Vec::new();
    for (command, options) in &options {
        for option in options {
            let mut base = words(command);
            // What is swept is not given twice.
            if let Some(at) = base.iter().position(|word| word == option) {
                base.drain(at..at + 2);
            }
            for value in VALUES {
                let value = match *option {
                    "--shape" => format!("{option}={value}x{value}"),
                    _ => format!("{option}={value}"),
                };
                cases.push(Case { base: base.clone(), extreme: value, makes: false });
            }
        }
    }
    for key in ["layers", "d_model", "context", "vocabulary"] {
        for value in VALUES {
            let base = words("bench step --preset micro --steps 1 --ctx 16 --batch 1 --set");
            cases.push(Case { base, extreme: format!("model.{key}={value}"), makes: false });
        }
    }
    sweep(at, &cases);
}

#[test]
fn what_does_not_fit_is_refused_with_need_and_have() {
    let folder = dataset();
    let at = folder.path();
    json(&run(at, &format!("--json pretrain {SMALL} --data dataset --out run")));
    fs::create_dir(at.join("qa")).expect("create");
    fs::write(at.join("qa/ori_pqal.json"), questions().to_string()).expect("write");
    json(&run(at, "--json export hf run --out hf"));
    let settings = fs::read_to_string(at.join("hf/config.json")).expect("read");
    let large = settings.replace("\"n_positions\":64", "\"n_positions\":4000000000");
    let large = large.replace("\"n_positions\": 64", "\"n_positions\": 4000000000");
    fs::write(at.join("hf/config.json"), large).expect("write");
    for command in [
        format!("pretrain {SMALL} --data dataset --out big --set model.d_model=1000000"),
        format!("pretrain {SMALL} --data dataset --out big --set train.batch=4294967296"),
        "finetune pubmedqa --from run --data qa --out big --set finetune.prompt_tokens=1000000000"
            .to_string(),
        "bench step --preset xl --batch 512".to_string(),
        "import hf hf --out big".to_string(),
    ] {
        let child = start(at, &words(&command));
        let message = crate::common::failure(&child.wait_with_output().expect("its output"), 1);
        assert!(message.contains("needs about") && message.contains("are free"), "{message}");
        assert!(!at.join("big").exists(), "{command}");
    }
}
