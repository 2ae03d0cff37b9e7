//! `mediswift bench step`: one whole optimiser step, by part.

use std::path::PathBuf;

use mediswift_kernels::isa::IsaKind;
use mediswift_kernels::probe;
use mediswift_model::Config;
use mediswift_model::bench::{StepBench, StepTimes};
use mediswift_model::config::Base;
use mediswift_model::memory::Memory;
use mediswift_model::presets::PAPER_VOCABULARY;
use serde_json::{Value, json};

use crate::chart::Files;
use crate::chart::parts::Parts;
use crate::machine::{self, DISTURBED, Load};
use crate::progress;
use crate::verb::{self, Context, Exit, Outcome, Verb};

/// Measure whole optimiser steps: time and FLOPs by part, memory, realised speedup
///
/// A step is forward, backward, clipping, AdamW and the packing of sparse weights, on random tokens.
/// Several sparsities, a dense model and its 75 % sparse twin by default, take turns step by step, so
/// that all see the same machine; speedups are against the first. Theory counts every FLOP of the step,
/// attention and output head included. Memory is estimated first, and what cannot fit is refused.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift bench step --preset small --plot step.svg
  mediswift bench step --preset med --sparsity 0.75 --batch 1 --ctx 1024
  mediswift bench step --preset xl --sparsity 0.75 --batch 1 --set train.recompute=true")]
pub struct Step {
    #[arg(long, value_name = "P", conflicts_with = "config", required_unless_present = "config",
          help = verb::preset_help())]
    preset: Option<String>,

    /// Start from the settings in a TOML file
    #[arg(long, value_name = "F")]
    config: Option<PathBuf>,

    /// Change one setting, as in train.context=512; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Sparsities, apart by commas, that take turns; speedups are against the first
    #[arg(
        long,
        value_name = "S",
        value_delimiter = ',',
        default_value = "0,0.75",
        allow_negative_numbers = true
    )]
    sparsity: Vec<f64>,

    /// Tokens of a sequence [default: train.context]
    #[arg(long, value_name = "T")]
    ctx: Option<usize>,

    /// Sequences of a step, in one pass [default: train.micro_batch]
    #[arg(long, value_name = "B")]
    batch: Option<usize>,

    /// Entries of the vocabulary [default: 2048 for layers up to 128 wide, 8192 up to 512, above the
    /// paper's 42384]
    #[arg(long, value_name = "V", value_parser = clap::value_parser!(u32).range(1..))]
    vocab: Option<u32>,

    /// Measured steps, after one to warm up
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,

    /// Draw where the time of a step goes, as SVG and as PNG beside it
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Replace pictures that are there already
    #[arg(long)]
    force: bool,

    /// Measure even what seems not to fit into memory
    #[arg(long)]
    anyway: bool,
}

impl Verb for Step {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let configs: Vec<Config> =
            self.sparsity.iter().map(|&s| self.config(s)).collect::<anyhow::Result<_>>()?;
        let memory: Memory = configs.iter().map(Memory::of_step).sum();
        if !self.anyway {
            memory.require("a step of all models at once", machine::free_memory())?;
        }
        let needed = memory.total();
        let chart = self.plot.as_deref().map(|path| Files::fresh(path, self.force)).transpose()?;
        let load = Load::now();
        let isa = IsaKind::active()?;
        let peak = probe::fma_peak(isa);
        let mut benches: Vec<StepBench> =
            configs.iter().map(StepBench::new).collect::<Result<_, _>>()?;
        let bar = progress::count(u64::from(self.steps + 1) * benches.len() as u64, "stepping");
        for _ in 0..=self.steps {
            for bench in &mut benches {
                bench.step()?;
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        let others = load.and_then(Load::others_since);
        // What got in the way of the first measurement may not get in the way of this one.
        let peak = probe::fma_peak(isa).max(peak);
        let rows: Vec<StepTimes> = benches.iter_mut().map(StepBench::times).collect();
        let memory_peak = machine::peak_memory();
        let described: Vec<Value> = rows.iter().map(|row| json_of(row, &rows[0], peak)).collect();
        let last = rows.last().expect("at least one sparsity");
        let mut json = json_of(last, &rows[0], peak);
        json["rows"] = json!(described);
        json["isa"] = json!(isa.to_string());
        json["threads"] = json!(context.threads);
        json["fma_peak"] = json!(peak);
        json["peak_memory_bytes"] = json!(memory_peak);
        json["estimated_memory_bytes"] = json!(needed);
        json["load"] = json!(others);
        let (size, layout) = (&configs[0].model, benches[0].layout());
        let mut text = format!(
            "{} × {}, {} × {} tokens a step, vocabulary {}; {isa}, {} threads, FMA peak {:.0} GFLOP/s\n\n",
            size.layers,
            size.d_model,
            layout.sequences,
            layout.context,
            size.vocabulary,
            context.threads,
            peak / 1e9,
        );
        text.push_str(&table(&rows, peak));
        for row in &rows {
            text.push_str(&parts_table(row, peak));
        }
        text.push_str(&format!(
            "\npeak memory {:.2} GB, estimated {:.2} GB\n",
            memory_peak.unwrap_or(0) as f64 / 1e9,
            needed as f64 / 1e9
        ));
        if let Some(others) = others.filter(|others| *others > DISTURBED) {
            text.push_str(&format!(
                "not to be trusted: others took {:.0} % of the CPUs meanwhile\n",
                100.0 * others
            ));
        }
        if let Some(files) = chart {
            let model = &configs[0].model.preset.name;
            let title = format!("{model}: one step of {} tokens, by part", rows[0].tokens);
            for path in files.draw(&Parts { title, rows: &rows })? {
                text.push_str(&format!("wrote {}\n", path.display()));
            }
        }
        Ok(Outcome::new(json, text))
    }
}

impl Step {
    /// The settings that the options describe, checked.
    fn config(&self, sparsity: f64) -> anyhow::Result<Config> {
        let base = match (&self.preset, &self.config) {
            (Some(preset), _) => Base::Preset(preset),
            (None, Some(file)) => Base::File(file),
            (None, None) => unreachable!("one of the two is required"),
        };
        Config::load(base, &self.set, |config| {
            config.sparsity.sparsity = sparsity;
            let vocabulary = || usual_vocabulary(config.model.d_model);
            config.model.vocabulary = self.vocab.map_or_else(vocabulary, |size| size as usize);
            config.train.context = self.ctx.unwrap_or(config.train.context);
            config.train.micro_batch = self.batch.unwrap_or(config.train.micro_batch);
            config.train.batch = config.train.micro_batch;
        })
        .map_err(Exit::settings)
    }
}

/// A vocabulary as models of that width have it: with the paper's, the smallest would be nothing but an
/// output head.
fn usual_vocabulary(d_model: usize) -> usize {
    match d_model {
        ..=128 => 2048,
        129..=512 => 8192,
        _ => PAPER_VOCABULARY,
    }
}

/// What programs read.
fn json_of(times: &StepTimes, first: &StepTimes, peak: f64) -> Value {
    let parts: Vec<Value> = times
        .parts
        .iter()
        .map(|part| json!({ "name": part.name, "seconds": part.seconds, "flops": part.flops }))
        .collect();
    json!({
        "sparsity": times.sparsity,
        "seconds_per_step": times.seconds,
        "tokens_per_second": times.tokens_per_second(),
        "flops": times.flops,
        "fraction_of_peak": times.flops_per_second() / peak,
        "realised_speedup": times.realised_speedup(first),
        "theoretical_speedup": times.theoretical_speedup(first),
        "parts": parts,
    })
}

fn parts_table(times: &StepTimes, peak: f64) -> String {
    let total: f64 = times.parts.iter().map(|part| part.seconds).sum();
    let mut text = format!(
        "\nsparsity {:.0} %, mean step by part\n{:<24}{:>10}{:>8}{:>10}{:>10}\n",
        times.sparsity * 100.0,
        "part",
        "ms",
        "time",
        "GFLOP/s",
        "of peak"
    );
    for part in &times.parts {
        let speed = part.flops / part.seconds;
        text.push_str(&format!(
            "{:<24}{:>10.2}{:>7.1}%",
            part.name,
            part.seconds * 1e3,
            100.0 * part.seconds / total
        ));
        match part.flops > 0.0 {
            true => {
                text.push_str(&format!("{:>10.0}{:>9.1}%\n", speed / 1e9, 100.0 * speed / peak))
            }
            false => text.push('\n'),
        }
    }
    text
}

fn table(rows: &[StepTimes], peak: f64) -> String {
    let mut text = format!(
        "{:<10}{:>12}{:>12}{:>10}{:>10}{:>10}{:>8}\n",
        "sparsity", "s/step", "tokens/s", "GFLOP/s", "of peak", "realised", "theory"
    );
    for row in rows {
        text.push_str(&format!(
            "{:<10}{:>12.4}{:>12.0}{:>10.0}{:>9.1}%{:>9.2}×{:>7.2}×\n",
            format!("{:.0} %", row.sparsity * 100.0),
            row.seconds,
            row.tokens_per_second(),
            row.flops_per_second() / 1e9,
            100.0 * row.flops_per_second() / peak,
            row.realised_speedup(&rows[0]),
            row.theoretical_speedup(&rows[0]),
        ));
    }
    text
}
