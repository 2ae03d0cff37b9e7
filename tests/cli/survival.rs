//! What a training run survives: kills, signals, full disks, a second writer.
//!
//! However a run was disturbed, it must end as the undisturbed one: that is the verdict of these
//! tests. When a disturbance comes is left to chance; how many come, to `MEDISWIFT_KILLS`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::{contents, failure, json, program, run};
use crate::prepared::prepared;
use serde_json::Value;
use tempfile::TempDir;

/// A run of a second or so that saves after every step.
const SETTINGS: &str = "pretrain --preset micro --data dataset --sparsity 0.75 \
                        --set train.steps=40 --set train.batch=4 --set train.micro_batch=1 \
                        --set eval.every=7 --set checkpoint.every=1";
const RESUME: &str = "pretrain --resume --data dataset --out";

/// A folder with `dataset/` and a finished run in `whole/`.
fn trained(settings: &str) -> TempDir {
    let folder = prepared(150, "--vocab-size 500 --validation 0.1");
    let at = folder.path();
    json(&run(at, &format!("--json {settings} --out whole")));
    folder
}

/// What must be the same in equal runs: report and logs, but for times.
fn result(at: &Path, out: &str) -> (Value, Vec<Value>, String) {
    let text = |name| fs::read_to_string(at.join(out).join(name)).expect("a file of the run");
    let timeless = |text: &str| {
        let mut value: Value = serde_json::from_str(text).expect("JSON");
        for key in ["seconds", "tokens_per_second"] {
            value.as_object_mut().expect("an object").remove(key);
        }
        value
    };
    let metrics = text("metrics.jsonl").lines().map(timeless).collect();
    (timeless(&text("report.json")), metrics, text("validation.jsonl"))
}

fn spawn(at: &Path, command_line: &str) -> Child {
    program(at)
        .args(command_line.split_whitespace())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts")
}

fn send(signal: &str, child: &Child) {
    // A process that has ended is nothing to signal; it is still a zombie, so nobody else's.
    let _ = Command::new("kill").args([signal, &child.id().to_string()]).status();
}

/// Numbers in [0, 1) without a pattern.
fn chances(seed: u32) -> impl Iterator<Item = f64> {
    (1u32..).map(move |i| f64::from((seed + i).wrapping_mul(2_654_435_769)) / 2f64.powi(32))
}

/// Disturbs runs until enough signals have struck, resuming after each, and compares all ends.
fn disturb(signal: &str, number: i32, seed: u32) {
    let enough = std::env::var("MEDISWIFT_KILLS").map_or(12, |n| n.parse().expect("a number"));
    let folder = trained(SETTINGS);
    let at = folder.path();
    let expected = result(at, "whole");
    let (mut struck, mut finished, mut chances) = (0, 0, chances(seed));
    let mut chance = || chances.next().expect("there is always another");
    while struck < enough || finished == 0 {
        let started = at.join("parts/config.toml").exists();
        let start = if started { RESUME } else { &format!("{SETTINGS} --out") };
        // In the end nothing disturbs.
        let threads = 1 + (3.0 * chance()) as usize;
        let mut child = spawn(at, &format!("--threads {threads} {start} parts"));
        if struck < enough {
            sleep(Duration::from_secs_f64(0.25 * chance().powi(2)));
            send(signal, &child);
        }
        let mut stderr = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut stderr).expect("text");
        let status = child.wait().expect("the program ends");
        if status.success() {
            assert_eq!(result(at, "parts"), expected, "after {struck} times {signal}");
            finished += 1;
            fs::remove_dir_all(at.join("parts")).expect("remove");
            continue;
        }
        // Before the program listens, or where it cannot, a signal ends it as the system does.
        let saved = number != 9 && status.code() == Some(128 + number);
        assert!(saved || status.signal() == Some(number), "{status}: {stderr}");
        struck += 1;
    }
    println!("{struck} times {signal}, {finished} runs finished");
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_as_if_it_never_was() {
    disturb("-KILL", 9, 1);
}

#[test]
fn a_run_that_is_terminated_even_while_it_saves_ends_as_if_it_never_was() {
    disturb("-TERM", 15, 1000);
}

#[test]
fn the_second_interrupt_ends_a_run_at_once() {
    // Steps of one large micro-batch, in which the first signal has to wait.
    let long = "pretrain --preset tiny --data dataset --set train.steps=3 --set train.batch=48 \
                --set train.micro_batch=48 --set eval.sequences=1 --set checkpoint.every=0";
    let folder = trained(&long.replace("steps=3", "steps=1"));
    let at = folder.path();
    // A signal between two steps is served at once; then once more.
    let at_once = (0..20).any(|attempt| {
        let out = at.join(format!("run-{attempt}"));
        let mut child = spawn(at, &format!("--threads 1 {long} --out run-{attempt}"));
        let log = out.join("metrics.jsonl");
        while fs::read_to_string(&log).map_or(0, |text| text.lines().count()) == 0 {
            if child.try_wait().expect("the program can be asked").is_some() {
                return false;
            }
            sleep(Duration::from_millis(1));
        }
        let begun = Instant::now();
        send("-INT", &child);
        // Two of one signal that wait together are one: the first has to be taken.
        while child.try_wait().expect("the program can be asked").is_none() {
            send("-INT", &child);
            assert!(begun.elapsed() < Duration::from_secs(120), "it does not end");
            sleep(Duration::from_millis(1));
        }
        let status = child.wait().expect("the program ends");
        if status.success() {
            return false;
        }
        assert_eq!(status.code(), Some(130));
        fs::read_dir(out.join("checkpoints")).expect("a folder").next().is_none()
    });
    assert!(at_once, "every run was saved before it ended");
}

/// A run in `parts/` that has come as far as step 2, and will save at step 4.
fn begun() -> TempDir {
    let settings = "pretrain --preset micro --data dataset --set train.steps=6 \
                    --set train.batch=4 --set checkpoint.every=2 --set checkpoint.keep=9";
    let folder = trained(settings);
    let at = folder.path();
    json(&run(at, &format!("--json {settings} --out parts")));
    for step in [4, 6] {
        let path = at.join(format!("parts/checkpoints/step-{step:08}"));
        fs::remove_dir_all(path).expect("remove");
    }
    fs::remove_file(at.join("parts/report.json")).expect("remove");
    folder
}

fn shell(at: &Path, script: &str) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_mediswift")]).current_dir(at);
    command.env_remove("MEDISWIFT_ISA").stdin(Stdio::null()).output().expect("a shell")
}

#[test]
fn a_file_that_cannot_grow_ends_a_run_and_leaves_the_last_checkpoint() {
    let folder = begun();
    let at = folder.path();
    let saved = contents(&at.join("parts/checkpoints"));
    // No file may be larger than 64 or 128 KiB; a shell decides which.
    let script = format!("ulimit -f 128; exec \"$0\" {RESUME} parts");
    for _ in 0..2 {
        let output = shell(at, &script);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let error = stderr.lines().last().expect("an error");
        let path = "parts/checkpoints/.tmp-step-00000004/weights.safetensors";
        assert!(error.starts_with(&format!("error: {path}: cannot write: ")), "{error}");
        assert!(error.contains("os error"), "{error}");
        assert_eq!(contents(&at.join("parts/checkpoints")), saved);
    }
    json(&run(at, &format!("--json {RESUME} parts")));
    assert_eq!(result(at, "parts"), result(at, "whole"));
}

#[test]
fn a_full_disk_ends_a_run_and_leaves_the_last_checkpoint() {
    let folder = begun();
    let at = folder.path();
    fs::create_dir(at.join("disk")).expect("create");
    // A disk of its own, in memory, filled up to some kilobytes; later with room again.
    let script = format!(
        "set -e
         mount -t tmpfs -o size=8m tmpfs disk || exit 77
         cp -R parts disk/parts
         dd if=/dev/zero of=disk/ballast bs=4096 2>/dev/null || true
         dd if=/dev/null of=disk/ballast bs=4096 seek=\
             $(($(wc -c < disk/ballast) / 4096 - 30)) 2>/dev/null
         code=0
         \"$0\" {RESUME} disk/parts 2> refusal || code=$?
         echo $code > code
         ls -A disk/parts/checkpoints > left
         rm disk/ballast
         \"$0\" {RESUME} disk/parts 2> resumed
         cp -R disk/parts after"
    );
    fs::write(at.join("script"), script).expect("write");
    let output = Command::new("unshare")
        .args(["-r", "-m", "sh", "-c", ". ./script", env!("CARGO_BIN_EXE_mediswift")])
        .current_dir(at)
        .env_remove("MEDISWIFT_ISA")
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {}
        other => {
            assert!(!at.join("code").exists(), "{other:?}");
            println!("skipped: no file system of its own can be mounted here");
            return;
        }
    }
    let text = |name| fs::read_to_string(at.join(name)).expect("read");
    assert_eq!(text("code"), "1\n", "{}", text("refusal"));
    let refusal = text("refusal");
    let error = refusal.lines().last().expect("an error");
    let path = "disk/parts/checkpoints/.tmp-step-00000004/";
    assert!(error.starts_with(&format!("error: {path}")), "{error}");
    assert!(error.contains("No space left on device"), "{error}");
    assert_eq!(text("left"), "step-00000002\n");
    assert!(text("resumed").contains("resumed after step 2"), "{}", text("resumed"));
    assert_eq!(result(at, "after"), result(at, "whole"));
}

#[test]
fn two_processes_cannot_write_one_run_and_a_dead_one_is_no_obstacle() {
    let folder = begun();
    let at = folder.path();
    let lock = File::options().write(true).open(at.join("parts/LOCK")).expect("open");
    lock.lock().expect("the lock");
    let before = contents(at);
    for command_line in [format!("{RESUME} parts"), format!("--threads 1 {RESUME} parts")] {
        let message = failure(&run(at, &command_line), 1);
        assert!(message.contains("parts: another process is writing this run"), "{message}");
    }
    assert_eq!(contents(at), before);
    // The file stays when its process is gone, but the lock does not.
    drop(lock);
    json(&run(at, &format!("--json {RESUME} parts")));
    assert_eq!(result(at, "parts"), result(at, "whole"));
}

#[test]
fn unusual_surroundings_are_no_trouble_or_a_clear_error() {
    let folder = begun();
    let at = folder.path();
    let call = |command: &mut Command| command.output().expect("the program starts");
    let resume = |out: &OsStr| {
        let mut command = program(at);
        command.args(["--json", "pretrain", "--resume", "--data", "dataset", "--out"]).arg(out);
        command
    };
    // A name that is no text, and neither home nor anything else in the environment.
    let name = OsStr::from_bytes(b"parts-\xff");
    let odd = fs::rename(at.join("parts"), at.join(name));
    let name = if odd.is_ok() { name } else { OsStr::new("parts") };
    let report = json(&call(resume(name).env_clear()));
    assert_eq!(report["weights_hash"], result(at, "whole").0["weights_hash"]);
    // Nobody reads what is printed.
    let full = Path::new("/dev/full");
    if full.exists() {
        let stdout = File::options().write(true).open(full).expect("open");
        let output = call(resume(name).stdout(stdout));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("error: cannot write to stdout: No space left"), "{stderr}");
    }
    assert!(shell(at, "exec \"$0\" --json flops --table >&- 2>&-").status.success());
    // Places where no run can be.
    for out in ["/dev/null/run", "dataset/dataset.json/run"] {
        let message = failure(&run(at, &format!("{SETTINGS} --out {out}")), 1);
        assert!(message.contains(out) && message.contains("cannot create"), "{message}");
    }
    let sealed = at.join("sealed");
    fs::create_dir(&sealed).expect("create");
    fs::set_permissions(&sealed, fs::Permissions::from_mode(0o555)).expect("permissions");
    if File::create(sealed.join("probe")).is_ok() {
        println!("skipped: permissions do not bind this user");
    } else {
        let message = failure(&run(at, &format!("{SETTINGS} --out sealed/run")), 1);
        assert!(message.contains("sealed/run: cannot create: Permission denied"), "{message}");
    }
    // A checkpoint that is no folder, and pipes in place of files, do not stop it for ever.
    let newest = at.join("whole/checkpoints/step-00000006");
    fs::remove_file(newest.join("weights.safetensors")).expect("remove");
    let made = Command::new("mkfifo").arg(newest.join("weights.safetensors")).status();
    if made.is_ok_and(|status| status.success()) {
        let evaluated = run(at, "eval whole --data dataset");
        let stderr = String::from_utf8_lossy(&evaluated.stderr);
        assert!(evaluated.status.success() && stderr.contains("not a regular file"), "{stderr}");
    }
    fs::remove_dir_all(&newest).expect("remove");
    File::create(&newest).expect("create").write_all(b"no folder").expect("write");
    let resumed = run(at, &format!("{RESUME} whole"));
    let stderr = String::from_utf8_lossy(&resumed.stderr);
    assert!(resumed.status.success(), "{stderr}");
    assert!(stderr.contains("step-00000006: is a file, not a checkpoint"), "{stderr}");
}
