//! `mediswift bench scaling`: training steps on many machines, predicted.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mediswift_files::{self as files, LARGE};
use mediswift_kernels::isa::IsaKind;
use mediswift_model::config::Base;
use mediswift_model::memory::Memory;
use mediswift_model::named::Named;
use mediswift_model::presets::PAPER_VOCABULARY;
use mediswift_model::scaling::{Computing, Prediction, Work, measured_models, steps_to_measure};
use mediswift_model::{Config, Reduce};
use mediswift_ranks::link::Link;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::chart::Files;
use crate::chart::scaling::{Curve, Scaling as Picture};
use crate::machine::{self, DISTURBED, Load, Machine};
use crate::progress;
use crate::verb::{self, Context, Exit, Outcome, Verb};

/// Predict training steps on many machines: time, efficiency, tokens per second
///
/// Computing is measured on this machine, with all threads, on models of one and three layers, whose
/// difference is what every further layer adds; --from and --step-seconds take it from elsewhere.
/// Everything else is computed: bytes of the model's own layout, moments and update shared by all machines,
/// links by the α–β model, which `bench comm` measures. Nothing is computed while something is sent, but for what
/// --reduce fast sends during the last backward pass. A step has the preset's batch, whose micro-batches are
/// summed in a tree with a leaf for every machine; efficiency is against one machine, and 1 would be perfect.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift bench scaling --plot scaling.svg
  mediswift bench scaling --preset med --gbit 10 --alpha 35 --nodes 1,2,4
  mediswift bench scaling --json > node.json && mediswift bench scaling --from node.json --gbit 400
  mediswift bench scaling --preset med --sparsity 0,0.75 --step-seconds med:0=6.1,med:0.75=3.3")]
pub struct Scaling {
    /// Model sizes, apart by commas
    #[arg(long, value_name = "P", value_delimiter = ',', default_value = "med,large,xl")]
    preset: Vec<String>,

    /// Sparsities, apart by commas
    #[arg(
        long,
        value_name = "S",
        value_delimiter = ',',
        default_value = "0,0.5,0.75",
        allow_negative_numbers = true
    )]
    sparsity: Vec<f64>,

    /// Numbers of machines, apart by commas
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,2,4,8,16,32,64,128,256,512",
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    nodes: Vec<u32>,

    /// Speeds of the machines' links in Gbit/s, apart by commas
    #[arg(long, value_name = "G", value_delimiter = ',', default_value = "10,25,100,200",
          value_parser = positive)]
    gbit: Vec<f64>,

    /// Microseconds that a message takes, however short
    #[arg(long, value_name = "US", default_value = "20", value_parser = not_negative)]
    alpha: f64,

    /// Sequences of a forward and backward pass
    #[arg(long, value_name = "B", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    micro_batch: u32,

    /// Most leaves of the tree that sums gradients, a power of two, as train.leaves [default: one
    /// for every machine]
    #[arg(long, value_name = "L", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    leaves: Option<u32>,

    /// How machines add up gradients, as pretrain's option of that name: exact or fast
    #[arg(long, value_name = "MODE", default_value = "exact", value_parser = verb::reduce)]
    reduce: Reduce,

    /// Change one setting of all models, as in train.batch=1024; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Measured steps of each model, after one to warm up
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,

    /// Take computing from what `bench scaling --json` printed, on another machine perhaps
    #[arg(long, value_name = "F", conflicts_with = "step_seconds")]
    from: Option<PathBuf>,

    /// Seconds of a forward and backward pass instead of measuring, as in med:0=6.1,med:0.75=3.3; sums,
    /// update and packing then take no time
    #[arg(long, value_name = "P:S=T", value_delimiter = ',', value_parser = given)]
    step_seconds: Vec<Given>,

    /// Assume machines that compute so many times faster, such as 16 where 2 of a machine's 32 cores were
    /// measured
    #[arg(long, value_name = "X", default_value = "1", value_parser = positive)]
    faster: f64,

    /// Draw tokens per second and efficiency, as SVG and as PNG beside it
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Replace pictures that are there already
    #[arg(long)]
    force: bool,
}

/// What one machine needs for one model.
#[derive(Clone, Serialize, Deserialize)]
struct Machines {
    preset: String,
    sparsity: f64,
    micro_batch_sequences: u32,
    micro_batch_seconds: f64,
    update_seconds: f64,
    packing_seconds: f64,
    sum_seconds: f64,
}

/// What `bench scaling --json` printed, as far as it is read again.
#[derive(Deserialize)]
struct Printed {
    computing: Vec<Machines>,
    source: String,
}

/// Seconds that somebody knows.
#[derive(Clone)]
struct Given {
    preset: String,
    sparsity: f64,
    seconds: f64,
}

fn given(text: &str) -> Result<Given, String> {
    let parts = || {
        let (model, seconds) = text.split_once('=')?;
        let (preset, sparsity) = model.split_once(':')?;
        let (preset, sparsity) = (preset.to_string(), sparsity.parse().ok()?);
        Some(Given { preset, sparsity, seconds: positive(seconds).ok()? })
    };
    parts().ok_or_else(|| "write PRESET:SPARSITY=SECONDS, as in med:0.75=3.3".to_string())
}

fn positive(text: &str) -> Result<f64, String> {
    not_negative(text)
        .ok()
        .filter(|number| *number > 0.0)
        .ok_or_else(|| "must be above 0".to_string())
}

fn not_negative(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=1e9).contains(number));
    number.ok_or_else(|| "must be a number from 0 to 1e9".to_string())
}

/// One model with all that is predicted of it.
struct Predicted {
    preset: String,
    sparsity: f64,
    work: Work,
    computing: Computing,
    /// For every speed, the machines that have something to do.
    links: Vec<Vec<Prediction>>,
}

impl Verb for Scaling {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let models = self.models()?;
        let chart = self.plot.as_deref().map(|path| Files::fresh(path, self.force)).transpose()?;
        let (computing, source, others) = self.computing(&models, context)?;
        let predicted: Vec<Predicted> = models
            .iter()
            .zip(&computing)
            .map(|(config, machine)| self.predict(config, machine))
            .collect();
        self.outcome(&predicted, &computing, &source, others, chart)
    }
}

impl Scaling {
    /// Settings of all models, preset by preset.
    fn models(&self) -> anyhow::Result<Vec<Config>> {
        let most = self.nodes.iter().copied().max().unwrap_or(1);
        let leaves = self.leaves.unwrap_or(most.next_power_of_two()) as usize;
        let pairs =
            self.preset.iter().flat_map(|preset| self.sparsity.iter().map(move |s| (preset, *s)));
        pairs
            .map(|(preset, sparsity)| {
                Config::load(Base::Preset(preset), &self.set, |config| {
                    config.sparsity.sparsity = sparsity;
                    config.model.vocabulary = PAPER_VOCABULARY;
                    config.train.micro_batch = self.micro_batch as usize;
                    config.train.leaves = leaves;
                })
                .map_err(Exit::settings)
            })
            .collect()
    }

    /// What one machine needs for each model, where that is known from, and how much of this one others took while
    /// it was measured.
    fn computing(
        &self,
        models: &[Config],
        context: &Context,
    ) -> anyhow::Result<(Vec<Machines>, String, Option<f64>)> {
        let row = |config: &Config, computing: Computing| Machines {
            preset: config.model.preset.name.to_string(),
            sparsity: config.sparsity.sparsity,
            micro_batch_sequences: self.micro_batch,
            micro_batch_seconds: computing.micro_batch,
            update_seconds: computing.update,
            packing_seconds: computing.packing,
            sum_seconds: computing.sum,
        };
        if let Some(path) = &self.from {
            let printed = printed(path)?;
            let rows = models.iter().map(|config| {
                let fits = |known: &&Machines| {
                    is_of(config, &known.preset, known.sparsity)
                        && known.micro_batch_sequences == self.micro_batch
                };
                printed.computing.iter().find(fits).cloned().with_context(|| {
                    format!(
                        "{}: has no measurement of {}, {} sequences at a time",
                        path.display(),
                        name(config),
                        self.micro_batch
                    )
                })
            });
            return Ok((rows.collect::<anyhow::Result<_>>()?, printed.source, None));
        }
        if !self.step_seconds.is_empty() {
            let rows = models.iter().map(|config| {
                let fits = |known: &&Given| is_of(config, &known.preset, known.sparsity);
                let known = self.step_seconds.iter().find(fits).ok_or_else(|| {
                    Exit::usage(format!("--step-seconds says nothing of {}", name(config)))
                })?;
                let computing = Computing { micro_batch: known.seconds, ..Computing::default() };
                Ok(row(config, computing))
            });
            return Ok((
                rows.collect::<anyhow::Result<_>>()?,
                "given: --step-seconds".into(),
                None,
            ));
        }
        let free = machine::free_memory();
        for small in models.iter().flat_map(measured_models) {
            Memory::of_step(&small).require("a step to measure", free)?;
        }
        let steps = self.steps as usize;
        let load = Load::now();
        let all = models.iter().map(|config| steps_to_measure(config, steps)).sum::<usize>();
        let bar = progress::count(all as u64, "stepping");
        let measured = models
            .iter()
            .map(|config| Ok(row(config, Computing::measure(config, steps, || bar.inc(1))?)));
        let measured = measured.collect::<anyhow::Result<_>>()?;
        bar.finish_and_clear();
        let source = format!(
            "measured: {}, {}, {} threads; medians of {steps} steps of models of 1 and 3 layers, extrapolated",
            Machine::look()?.cpu.model,
            IsaKind::active()?,
            context.threads,
        );
        Ok((measured, source, load.and_then(Load::others_since)))
    }

    fn predict(&self, config: &Config, machine: &Machines) -> Predicted {
        let computing = Computing {
            micro_batch: machine.micro_batch_seconds / self.faster,
            update: machine.update_seconds / self.faster,
            packing: machine.packing_seconds / self.faster,
            sum: machine.sum_seconds / self.faster,
        };
        let work = Work::new(config, self.reduce);
        let on = |gbit: &f64| {
            let link = Link::new(*gbit, 1e-6 * self.alpha);
            let nodes = self.nodes.iter();
            nodes.filter_map(|&nodes| work.on(nodes as usize, &computing, link)).collect()
        };
        let links = self.gbit.iter().map(on).collect();
        let (preset, sparsity) = (machine.preset.clone(), machine.sparsity);
        Predicted { preset, sparsity, work, computing, links }
    }

    fn outcome(
        &self,
        predicted: &[Predicted],
        computing: &[Machines],
        source: &str,
        others: Option<f64>,
        chart: Option<Files>,
    ) -> anyhow::Result<Outcome> {
        let measured = source;
        let faster = match self.faster {
            1.0 => String::new(),
            faster => format!("; assumed {faster} times as fast"),
        };
        let source = format!("{source}{faster}");
        let mut text = format!("computing {source}\n");
        if let Some(others) = others.filter(|others| *others > DISTURBED) {
            text += &format!(
                "not to be trusted: others took {:.0} % of the CPUs meanwhile\n",
                100.0 * others
            );
        }
        text += &format!(
            "{:<22}{:>14}{:>11}{:>11}{:>11}\n",
            "seconds of one machine", "micro-batch", "update", "packing", "sum"
        );
        for model in predicted {
            let Computing { micro_batch, update, packing, sum } = model.computing;
            text += &format!(
                "{:<22}{micro_batch:>14.4}{update:>11.4}{packing:>11.4}{sum:>11.4}\n",
                model.name()
            );
        }
        text += &format!(
            "\nall that follows is computed: --reduce {}, α {} µs, {}; step in seconds, efficiency, tokens per second\n",
            self.reduce.name(),
            self.alpha,
            match self.reduce {
                Reduce::Exact => "nothing overlaps",
                Reduce::Fast => "gradients travel during the last backward pass",
            }
        );
        let mut rows: Vec<Value> = Vec::new();
        for models in predicted.chunk_by(|a, b| a.preset == b.preset) {
            text += &self.table(models);
            for model in models {
                rows.extend(self.rows(model));
            }
        }
        let mut json = json!({
            "source": measured,
            "faster": self.faster,
            "alpha_seconds": 1e-6 * self.alpha,
            "reduce": self.reduce,
            "computing": computing,
            "load": others,
            "rows": rows,
        });
        if let Some(files) = chart {
            let picture = self.picture(predicted, &source);
            let files = files.draw(&picture)?;
            for path in &files {
                text += &format!("wrote {}\n", path.display());
            }
            json["files"] = json!(files);
        }
        Ok(Outcome::new(json, text))
    }

    /// All sparsities of one preset side by side.
    fn table(&self, models: &[Predicted]) -> String {
        let work = &models[0].work;
        let mut text = format!(
            "\n{}, {} tokens a step, at most {} machines\n{:<16}",
            models[0].preset,
            work.tokens(),
            work.leaves(),
            ""
        );
        for model in models {
            text += &format!(
                "{:>26}",
                format!("{}, {:.2} GB", model.sparsity_name(), 4e-9 * model.work.values() as f64)
            );
        }
        text.push('\n');
        for (at, gbit) in self.gbit.iter().enumerate() {
            for row in 0..models[0].links[at].len() {
                text += &format!("{gbit:>4} Gbit/s{:>5} ", models[0].links[at][row].machines);
                for model in models {
                    let Prediction { step, efficiency, tokens_per_second, .. } =
                        model.links[at][row];
                    text += &format!(
                        "{:>10.2}{:>5.0} %{:>9.0}",
                        step.seconds(),
                        100.0 * efficiency,
                        tokens_per_second
                    );
                }
                text.push('\n');
            }
        }
        text
    }

    fn rows(&self, model: &Predicted) -> Vec<Value> {
        let of_link = |(gbit, predictions): (&f64, &Vec<Prediction>)| {
            let row = |prediction: &Prediction| {
                let mut row = json!({
                    "preset": model.preset,
                    "sparsity": model.sparsity,
                    "gbit": gbit,
                    "nodes": prediction.machines,
                    "step_seconds": prediction.step.seconds(),
                    "efficiency": prediction.efficiency,
                    "tokens_per_second": prediction.tokens_per_second,
                    "bytes_sent": prediction.bytes,
                });
                for (name, seconds) in prediction.step.parts() {
                    row[format!("{name}_seconds")] = json!(seconds);
                }
                row
            };
            predictions.iter().map(row).collect::<Vec<_>>()
        };
        self.gbit.iter().zip(&model.links).flat_map(of_link).collect()
    }

    /// Curves of the first and the last sparsity of each preset.
    fn picture(&self, predicted: &[Predicted], source: &str) -> Picture {
        let ends = |models: &[Predicted]| {
            let last = models.len() - 1;
            let curves = |(at, model): (usize, &Predicted)| {
                let curve = |(gbit, points): (&f64, &Vec<Prediction>)| Curve {
                    gbit: *gbit,
                    is_dashed: at == 0 && last > 0,
                    points: points
                        .iter()
                        .map(|p| (p.machines as f64, p.tokens_per_second, p.efficiency))
                        .collect(),
                };
                self.gbit.iter().zip(&model.links).map(curve).collect::<Vec<_>>()
            };
            let drawn = models.iter().enumerate().filter(|(at, _)| *at == 0 || *at == last);
            (models[0].preset.clone(), drawn.flat_map(curves).collect())
        };
        let first = predicted.first().map(Predicted::sparsity_name).unwrap_or_default();
        let last = predicted.last().map(Predicted::sparsity_name).unwrap_or_default();
        Picture {
            subtitle: format!(
                "one machine {source}; all else computed, --reduce {}, α {} µs",
                self.reduce.name(),
                self.alpha
            ),
            dashed: first,
            solid: last,
            gbit: self.gbit.clone(),
            panels: predicted.chunk_by(|a, b| a.preset == b.preset).map(ends).collect(),
        }
    }
}

impl Predicted {
    fn sparsity_name(&self) -> String {
        match self.sparsity {
            0.0 => "dense".to_string(),
            sparsity => format!("{} % sparse", 100.0 * sparsity),
        }
    }

    fn name(&self) -> String {
        format!("{}, {}", self.preset, self.sparsity_name())
    }
}

fn is_of(config: &Config, preset: &str, sparsity: f64) -> bool {
    config.model.preset.name == preset && config.sparsity.sparsity == sparsity
}

fn name(config: &Config) -> String {
    format!("{}:{}", config.model.preset.name, config.sparsity.sparsity)
}

/// What `bench scaling --json` printed.
fn printed(path: &Path) -> anyhow::Result<Printed> {
    serde_json::from_str(&files::read_text(path, LARGE)?)
        .with_context(|| format!("{}: not the output of `bench scaling --json`", path.display()))
}
