//! Hosts: network namespaces with addresses of their own, whose ranks talk by TCP over links with a
//! given bandwidth and delay (`tests/hosts.sh`). Needs root.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::common::{json, run};
use crate::failures::disturb;
use crate::job::{PROGRAM, datasets, has_mpirun, report, send};

/// Networks are made one after the other: namespaces that appear while others do may be lost.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Some hosts.
struct Hosts {
    name: String,
    _alone: MutexGuard<'static, ()>,
}

impl Hosts {
    /// Two hosts of that name; none where the system does not let us make them, which it says.
    fn two(name: &str) -> Option<Self> {
        if !has_mpirun() {
            return None;
        }
        // A test that failed has removed its own.
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let hosts = Self { name: format!("{name}{}", std::process::id()), _alone: alone };
        let probe = format!("{}-probe", hosts.name);
        let namespace = |verb: &str| Command::new("ip").args(["netns", verb, &probe]).output();
        let may = namespace("add").is_ok_and(|added| added.status.success());
        let has_rates = Command::new("tc").arg("-V").output().is_ok();
        if !may || !has_rates {
            println!("skipped: no ip, no tc, or no right to make network namespaces");
            return None;
        }
        let _ = namespace("delete");
        let made = hosts.script(&["make", "2", "1gbit", "200us"]).status().expect("it starts");
        assert!(made.success(), "hosts cannot be made");
        Some(hosts)
    }

    fn script(&self, arguments: &[&str]) -> Command {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts.sh");
        let mut command = Command::new(path);
        command.args(arguments).env("HOSTS", &self.name).env_remove("MEDISWIFT_ISA");
        command.stdin(Stdio::null());
        command
    }

    /// `mpirun` with its ranks on both.
    fn mpirun(&self) -> Command {
        self.script(&["mpirun"])
    }

    /// Bytes that the second one has sent so far.
    fn sent(&self) -> u64 {
        let host = format!("{}-2", self.name);
        let shown =
            Command::new("ip").args(["-n", &host, "-s", "-j", "link", "show", "eth0"]).output();
        let shown: Value = serde_json::from_slice(&shown.expect("ip starts").stdout).expect("JSON");
        shown[0]["stats64"]["tx"]["bytes"].as_u64().expect("a number")
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = self.script(&["remove"]).status();
    }
}

#[test]
fn hosts_train_what_one_process_trains_and_send_only_what_is_not_zero() {
    let Some(hosts) = Hosts::two("bits") else { return };
    let folder = datasets();
    let at = folder.path();
    // Most of its weights are in linear layers.
    let settings = "--json pretrain --preset tiny --data dataset --set train.steps=4 --set train.batch=4 \
                    --set train.micro_batch=1 --set train.context=32 --set eval.every=0 \
                    --set eval.sequences=2 --set checkpoint.every=0";
    let bytes = ["0", "0.75"].map(|sparsity| {
        let settings = format!("{settings} --sparsity {sparsity} --out");
        let alone = json(&run(at, &format!("{settings} alone-{sparsity}")));
        let before = hosts.sent();
        let mut command = hosts.mpirun();
        command.current_dir(at).args(["-n", "2", PROGRAM]).args(settings.split_whitespace());
        let told = report(&command.arg(format!("two-{sparsity}")).output().expect("it starts"));
        assert_eq!(told["weights_hash"], alone["weights_hash"], "sparsity {sparsity}");
        assert_eq!(told["ranks"], 2);
        (hosts.sent() - before) as f64
    });
    println!("{} bytes sent dense, {} with 75 % left out", bytes[0], bytes[1]);
    assert!(bytes[1] < 0.5 * bytes[0], "{bytes:?}");
}

#[test]
fn a_rank_killed_on_another_host_ends_the_job() {
    let Some(hosts) = Hosts::two("kill") else { return };
    let folder = datasets();
    // mpirun hears of it, or the other rank finds its connection closed.
    let reasons = ["signal 9", "did not answer"];
    disturb(hosts.mpirun(), folder.path(), &reasons, |ranks| send("-KILL", ranks[1]));
}

#[test]
fn a_rank_frozen_on_another_host_ends_the_job() {
    let Some(hosts) = Hosts::two("stop") else { return };
    let folder = datasets();
    let reasons = ["-1 ends the job: rank 1 did not answer for "];
    disturb(hosts.mpirun(), folder.path(), &reasons, |ranks| send("-STOP", ranks[1]));
}

#[test]
fn a_link_that_is_cut_ends_the_job() {
    let Some(hosts) = Hosts::two("cuts") else { return };
    let folder = datasets();
    let [here, there] = [1, 2].map(|number| format!("{}-{number}", hosts.name));
    // The ranks' end does not depend on it, but mpirun waits for its other half as long as TCP does.
    for host in [&here, &there] {
        let set = ["netns", "exec", host, "sh", "-c", "echo 5 > /proc/sys/net/ipv4/tcp_retries2"];
        assert!(Command::new("ip").args(set).status().expect("ip starts").success());
    }
    disturb(hosts.mpirun(), folder.path(), &["ends the job: rank 1 did not answer for "], |_| {
        assert!(hosts.script(&["cut", &there]).status().expect("it starts").success());
    });
}
