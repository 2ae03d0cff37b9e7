//! `mediswift doctor`: what this machine offers, and what would run slowly on it.
//!
//! Everything is read from the standard library, `/proc` and `/sys`; what cannot be read is left
//! out. No answer is measured: `bench` does that.

mod memory;

use std::fmt::Display;

use serde_json::json;

use self::memory::Need;
use crate::machine::Machine;
use crate::verb::{Context, Outcome, Verb};

/// Look at this machine: what it offers, and what would run slowly and why
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift doctor
  mediswift doctor --threads 8
  mpirun -n 2 mediswift doctor
  mediswift --json doctor")]
pub struct Doctor {}

impl Verb for Doctor {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let machine = Machine::look()?;
        let needs = Need::of_presets()?;
        let mut advice = advice(&machine, &needs, context);
        advice.extend(context.job.warnings());
        let text = text(&machine, &needs, &advice, context);
        let presets: Vec<_> = needs
            .iter()
            .map(|need| {
                json!({
                    "preset": need.preset,
                    "dense_bytes": need.dense,
                    "sparse75_bytes": need.sparse,
                    "dense_fits": machine.has_room_for(need.dense),
                    "sparse75_fits": machine.has_room_for(need.sparse),
                })
            })
            .collect();
        let json = json!({
            "cpu": machine.cpu,
            "isa": machine.isa,
            "threads": { "used": context.threads, "allowed": machine.allowed },
            "caches": machine.caches,
            "memory": machine.memory,
            "disk_free_bytes": machine.disk_free,
            "cluster": machine.cluster,
            "job": {
                "ranks": context.ranks().count(),
                "transport": context.ranks().transport(),
                "seats": context.job.seats,
            },
            "presets": presets,
            "advice": advice,
            "version": env!("CARGO_PKG_VERSION"),
        });
        Ok(Outcome::new(json, text))
    }

    fn uses_ranks(&self) -> bool {
        true
    }
}

/// What would run slowly, why, and what to do about it: one sentence or two each.
fn advice(machine: &Machine, needs: &[Need], context: &Context) -> Vec<String> {
    let Machine { cpu, isa, allowed, memory, .. } = machine;
    // What ranks of a job make of the CPUs, only all of them together can tell.
    let (threads, is_alone) = (context.threads, context.ranks().count() == 1);
    let mut advice = Vec::new();
    let mut say = |applies: bool, what: String| {
        if applies {
            advice.push(what);
        }
    };
    say(
        cfg!(debug_assertions),
        "this is a debug build, many times slower: build with --release".into(),
    );
    say(
        isa.forced && isa.active != isa.available[0],
        format!(
            "MEDISWIFT_ISA forces {}, but this CPU has {}: unset it",
            isa.active, isa.available[0]
        ),
    );
    say(
        isa.active == "scalar",
        "portable scalar code has no vector instructions: expect a tenth of the speed or less"
            .into(),
    );
    say(
        isa.active == "avx2",
        "AVX2 works on half the lanes of AVX-512, with half the registers: expect about half the speed"
            .into(),
    );
    say(
        cpu.has("amx_bf16") || cpu.has("amx_tile"),
        "this CPU has AMX: a dense bfloat16 program that uses it would beat the sparse kernels of this \
         one in time, though not in memory"
            .into(),
    );
    say(
        is_alone && threads == 1 && *allowed > 1,
        "one thread on several CPUs: raise --threads".into(),
    );
    say(*allowed == 1, "only one CPU: every matrix product runs on one core".into());
    say(
        threads > *allowed,
        format!("{threads} threads share {allowed} CPUs: --threads {allowed} is faster"),
    );
    say(
        is_alone && threads > 1 && threads < *allowed,
        format!(
            "{threads} threads leave {} of {allowed} CPUs idle",
            allowed.saturating_sub(threads)
        ),
    );
    let online = cpu.online.unwrap_or(*allowed);
    say(
        is_alone && *allowed < online,
        format!("affinity or a container limits this process to {allowed} of {online} CPUs"),
    );
    let load = machine.load.unwrap_or(0.0);
    say(
        load > 0.5 * online as f64,
        format!("{load:.0} threads compete for {online} CPUs already: timings will not be true"),
    );
    say(
        cpu.governor.as_deref() == Some("powersave"),
        "the CPU's frequency governor is powersave: performance is faster".into(),
    );
    say(
        cpu.memory_nodes > 1,
        format!(
            "{} memory nodes, and this program places its memory on the one it starts on: \
             numactl --interleave=all uses all of them",
            cpu.memory_nodes
        ),
    );
    let pages = memory.huge_pages.as_deref();
    say(
        pages.is_some_and(|pages| pages != "always"),
        format!(
            "transparent huge pages are on '{}': 'always' saves address translation in large models",
            pages.unwrap_or_default()
        ),
    );
    let too_large = |bytes: fn(&Need) -> u64| -> Vec<&str> {
        let large = needs.iter().filter(|need| !machine.has_room_for(bytes(need)));
        large.map(|need| need.preset).collect()
    };
    let (dense, sparse) = (too_large(|need| need.dense), too_large(|need| need.sparse));
    say(!dense.is_empty(), format!("not enough memory free to train dense: {}", dense.join(", ")));
    say(
        !sparse.is_empty(),
        format!("not enough memory free to train 75 % sparse: {}", sparse.join(", ")),
    );
    advice
}

fn text(machine: &Machine, needs: &[Need], advice: &[String], context: &Context) -> String {
    let Machine { cpu, isa, memory, .. } = machine;
    let threads = context.threads;
    let mut text = String::new();
    let mut line = |label: &str, value: &dyn Display| text += &format!("{label:<14} {value}\n");
    line("CPU", &cpu.model);
    line("vector code", &isa.active);
    let forced = if isa.forced { "; forced by MEDISWIFT_ISA" } else { "" };
    line("", &format!("available: {}{forced}", isa.available.join(", ")));
    line(
        "16 bits",
        &match isa.fast_precisions[..] {
            [] => "multiplied as f32: bf16 and f16 train no faster here".into(),
            [one] => {
                format!("{one} multiplied by an instruction, faster than f32; the other as f32")
            }
            _ => "bf16 and f16 multiplied by instructions, faster than f32".to_owned(),
        },
    );
    let cores = cpu.cores.map_or(String::new(), |cores| format!(", {cores} physical cores"));
    line("threads", &format!("{threads} used, {} CPUs allowed{cores}", machine.allowed));
    let caches: Vec<String> = machine
        .caches
        .iter()
        .map(|cache| format!("{} {} for CPUs {}", cache.name, cache.size, cache.shared_by))
        .collect();
    line("caches", &caches.join(", "));
    line("memory", &format!("{} free of {}", gigabytes(memory.available), gigabytes(memory.total)));
    if let Some(limit) = memory.limit {
        line("", &format!("limited to {} by a container or job", gigabytes(limit)));
    }
    line("huge pages", &memory.huge_pages.as_deref().unwrap_or("unknown"));
    line(
        "disk",
        &machine.disk_free.map_or("unknown".into(), |free| gigabytes(free) + " free here"),
    );
    line("cluster", &machine.cluster);
    let ranks = context.ranks();
    if ranks.count() > 1 {
        line("job", &format!("{} ranks by {}", ranks.count(), ranks.transport()));
        context.job.lines().iter().for_each(|rank| line("", rank));
    }

    text += "\nMemory to train, estimated (vocabulary 42,384)\n";
    for need in needs {
        let fits = |bytes| if machine.has_room_for(bytes) { "fits" } else { "too large" };
        text += &format!(
            "  {:<6} dense {:>8} {:<10} 75 % sparse {:>8} {}\n",
            need.preset,
            gigabytes(need.dense),
            fits(need.dense),
            gigabytes(need.sparse),
            fits(need.sparse),
        );
    }
    text += match advice {
        [] => "\nNothing stands in the way of full speed.\n",
        _ => "\nWhat to know\n",
    };
    for sentence in advice {
        text += &format!("  * {sentence}\n");
    }
    text
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}
