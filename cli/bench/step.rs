//! `mediswift bench step`: one whole optimiser step, by part.

use std::path::PathBuf;
use std::time::Instant;

use mediswift_engine::{Pass, TokenLayout};
use mediswift_kernels::isa::IsaKind;
use mediswift_kernels::probe;
use mediswift_model::config::Base;
use mediswift_model::memory::Memory;
use mediswift_model::presets::PAPER_VOCABULARY;
use mediswift_model::{Config, Gpt, Optimisation, TokenBatch};
use serde_json::{Value, json};

use crate::machine::Machine;
use crate::progress;
use crate::verb::{Context, Exit, Outcome, Verb};

/// Measure whole optimiser steps: time and FLOPs by part, memory, realised speedup
///
/// A step is forward, backward, clipping, AdamW and the packing of sparse weights, on random tokens.
/// Several sparsities take turns step by step, so that all see the same machine; speedups are against
/// the first. Theory counts every FLOP of the step, attention and output head included. Memory is
/// estimated first, and what cannot fit is refused.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift bench step --preset small --sparsity 0,0.75
  mediswift bench step --preset med --sparsity 0.75 --batch 1 --ctx 1024
  mediswift bench step --preset xl --sparsity 0.75 --batch 1 --set train.recompute=true")]
pub struct Step {
    /// Start from the settings of a model size: micro, tiny, small, base, med, large or xl
    #[arg(long, value_name = "P", conflicts_with = "config", required_unless_present = "config")]
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
        default_value = "0.75",
        allow_negative_numbers = true
    )]
    sparsity: Vec<f64>,

    /// Tokens of a sequence [default: train.context]
    #[arg(long, value_name = "T")]
    ctx: Option<usize>,

    /// Sequences of a step, in one pass [default: train.micro_batch]
    #[arg(long, value_name = "B")]
    batch: Option<usize>,

    /// Entries of the vocabulary
    #[arg(long, value_name = "V", default_value_t = PAPER_VOCABULARY)]
    vocab: usize,

    /// Measured steps, after one to warm up
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,

    /// Measure even what seems not to fit into memory
    #[arg(long)]
    anyway: bool,
}

impl Verb for Step {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let configs: Vec<Config> =
            self.sparsity.iter().map(|&s| self.config(s)).collect::<anyhow::Result<_>>()?;
        let needed: u64 = configs.iter().map(|config| Memory::of_step(config).total()).sum();
        let machine = Machine::look()?;
        if !machine.has_room_for(needed) && !self.anyway {
            anyhow::bail!(
                "it takes about {:.1} GB, more than this machine has free: choose a smaller model, \
                 --batch or --ctx, fewer sparsities at a time, or --anyway",
                needed as f64 / 1e9
            );
        }
        let isa = IsaKind::active()?;
        let peak = probe::fma_peak(isa);
        let mut twins: Vec<Twin> =
            configs.into_iter().map(Twin::new).collect::<anyhow::Result<_>>()?;
        let bar = progress::count(u64::from(self.steps + 1) * twins.len() as u64, "stepping");
        for step in 0..=self.steps {
            for twin in &mut twins {
                twin.step(step)?;
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        let rows: Vec<Row> = twins.iter_mut().map(|twin| Row::of(twin, peak)).collect();
        let memory_peak = peak_memory();
        let described: Vec<Value> = rows.iter().map(|row| row.json(&rows[0])).collect();
        let last = rows.last().expect("at least one sparsity");
        let mut json = last.json(&rows[0]);
        json["rows"] = json!(described);
        json["isa"] = json!(isa.to_string());
        json["threads"] = json!(context.threads);
        json["fma_peak"] = json!(peak);
        json["peak_memory_bytes"] = json!(memory_peak);
        json["estimated_memory_bytes"] = json!(needed);
        let size = &twins[0].config.model;
        let mut text = format!(
            "{} × {}, {} × {} tokens a step, vocabulary {}; {isa}, {} threads, FMA peak {:.0} GFLOP/s\n\n",
            size.layers,
            size.d_model,
            twins[0].layout.sequences,
            twins[0].layout.context,
            size.vocabulary,
            context.threads,
            peak / 1e9,
        );
        text.push_str(&table(&rows));
        for row in &rows {
            text.push_str(&row.parts_table());
        }
        text.push_str(&format!(
            "\npeak memory {:.2} GB, estimated {:.2} GB\n",
            memory_peak.unwrap_or(0) as f64 / 1e9,
            needed as f64 / 1e9
        ));
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
            config.model.vocabulary = self.vocab;
            config.train.context = self.ctx.unwrap_or(config.train.context);
            config.train.micro_batch = self.batch.unwrap_or(config.train.micro_batch);
            config.train.batch = config.train.micro_batch;
        })
        .map_err(Exit::settings)
    }
}

/// One of the models that take turns.
struct Twin {
    config: Config,
    layout: TokenLayout,
    optimisation: Optimisation,
    seconds: Vec<f64>,
}

impl Twin {
    fn new(config: Config) -> anyhow::Result<Self> {
        let layout = TokenLayout { sequences: config.train.batch, context: config.train.context };
        let optimisation = Optimisation::new(Gpt::new(&config)?, &config)?;
        Ok(Self { config, layout, optimisation, seconds: Vec::new() })
    }

    fn step(&mut self, step: u32) -> anyhow::Result<()> {
        let batch = self.random_batch(step);
        let started = Instant::now();
        self.optimisation.step(std::slice::from_ref(&batch), &mut ())?;
        match step {
            // The first step allocates what the others reuse.
            0 => self.optimisation.profile().start(),
            _ => self.seconds.push(started.elapsed().as_secs_f64()),
        }
        Ok(())
    }

    fn random_batch(&self, step: u32) -> TokenBatch {
        let (tokens, vocabulary) = (self.layout.tokens(), self.config.model.vocabulary as u32);
        let token = |at: usize| (at as u32 + 31 * step).wrapping_mul(2_654_435_761) >> 7;
        let ids: Vec<u32> = (0..=tokens).map(|at| token(at) % vocabulary).collect();
        TokenBatch {
            layout: self.layout,
            targets: ids[1..].to_vec(),
            ids: ids[..tokens].to_vec(),
            weights: None,
        }
    }
}

/// What was measured of one model.
struct Row {
    sparsity: f64,
    tokens: usize,
    /// Median over steps.
    seconds: f64,
    flops: u64,
    peak: f64,
    parts: Vec<Part>,
}

/// One part of a mean step.
struct Part {
    name: String,
    seconds: f64,
    flops: f64,
}

impl Row {
    fn of(twin: &mut Twin, peak: f64) -> Self {
        let steps = twin.seconds.len() as f64;
        let parts = twin.optimisation.profile().parts().iter().map(|part| Part {
            name: match part.pass {
                Pass::Forward => format!("{} forward", part.name),
                Pass::Backward => format!("{} backward", part.name),
                Pass::Update => part.name.to_owned(),
            },
            seconds: part.seconds / steps,
            flops: part.flops as f64 / steps,
        });
        let parts = parts.collect();
        twin.seconds.sort_by(f64::total_cmp);
        let cost = twin.optimisation.gpt().cost(twin.layout);
        Self {
            sparsity: twin.config.sparsity.sparsity,
            tokens: twin.layout.tokens(),
            seconds: twin.seconds[twin.seconds.len() / 2],
            flops: cost.forward_flops + cost.backward_flops,
            peak,
            parts,
        }
    }

    fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }

    fn fraction_of_peak(&self) -> f64 {
        self.flops as f64 / self.seconds / self.peak
    }

    fn realised(&self, first: &Row) -> f64 {
        first.seconds / self.seconds
    }

    fn theoretical(&self, first: &Row) -> f64 {
        first.flops as f64 / self.flops as f64
    }

    fn json(&self, first: &Row) -> Value {
        let parts: Vec<Value> = self
            .parts
            .iter()
            .map(|part| json!({ "name": part.name, "seconds": part.seconds, "flops": part.flops }))
            .collect();
        json!({
            "sparsity": self.sparsity,
            "seconds_per_step": self.seconds,
            "tokens_per_second": self.tokens_per_second(),
            "flops": self.flops,
            "fraction_of_peak": self.fraction_of_peak(),
            "realised_speedup": self.realised(first),
            "theoretical_speedup": self.theoretical(first),
            "parts": parts,
        })
    }

    fn parts_table(&self) -> String {
        let total: f64 = self.parts.iter().map(|part| part.seconds).sum();
        let mut text = format!(
            "\nsparsity {:.0} %, mean step by part\n{:<24}{:>10}{:>8}{:>10}{:>10}\n",
            self.sparsity * 100.0,
            "part",
            "ms",
            "time",
            "GFLOP/s",
            "of peak"
        );
        for part in &self.parts {
            let speed = part.flops / part.seconds;
            text.push_str(&format!(
                "{:<24}{:>10.2}{:>7.1}%",
                part.name,
                part.seconds * 1e3,
                100.0 * part.seconds / total
            ));
            match part.flops > 0.0 {
                true => text.push_str(&format!(
                    "{:>10.0}{:>9.1}%\n",
                    speed / 1e9,
                    100.0 * speed / self.peak
                )),
                false => text.push('\n'),
            }
        }
        text
    }
}

fn table(rows: &[Row]) -> String {
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
            row.flops as f64 / row.seconds / 1e9,
            100.0 * row.fraction_of_peak(),
            row.realised(&rows[0]),
            row.theoretical(&rows[0]),
        ));
    }
    text
}

/// Most memory this process ever had resident, in bytes, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
