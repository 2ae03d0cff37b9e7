//! `mediswift flops`.

use indicatif::HumanCount;
use mediswift_model::Config;
use mediswift_model::config::Base;
use mediswift_model::flops::{Convention, Workload, table6};
use mediswift_model::named::Named;
use mediswift_model::presets::{PAPER_VOCABULARY, Preset};
use serde_json::{Value, json};

use crate::verb::{Context, Exit, Outcome, Verb};

/// Count the floating-point operations of a training run
///
/// Conventions: table6 is the accounting that reproduces the paper's table, hoffmann the literal
/// "backward is twice forward", executed what this program really computes.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift flops --preset xl --sparsity 0.75
  mediswift flops --preset small --sparsity 0.5 --convention executed --vocabulary 8192 --tokens 1000000
  mediswift flops --table")]
pub struct Flops {
    #[arg(long, value_name = "P", required_unless_present = "table",
          help = format!("A model size: {}", <&Preset>::names()))]
    preset: Option<String>,

    /// Fraction of the linear layers' weights that is left out
    #[arg(long, value_name = "S", default_value_t = 0.0, allow_negative_numbers = true)]
    sparsity: f64,

    /// What counts as an operation: table6, hoffmann or executed
    #[arg(long, value_name = "C", default_value = "table6")]
    convention: String,

    /// Entries of the vocabulary [default: the paper's 42,384]
    #[arg(long, value_name = "V", value_parser = clap::value_parser!(u32).range(1..))]
    vocabulary: Option<u32>,

    /// Tokens to train on [default: what the preset trains on]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    tokens: Option<u64>,

    /// Print the paper's Table 6 beside this program's figures
    #[arg(
        long,
        conflicts_with_all = ["preset", "sparsity", "convention", "vocabulary", "tokens"]
    )]
    table: bool,
}

impl Verb for Flops {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        match &self.preset {
            None => Ok(table()),
            Some(preset) => self.count(preset),
        }
    }
}

impl Flops {
    fn count(&self, preset: &str) -> anyhow::Result<Outcome> {
        let convention = Convention::named(&self.convention, "flops").map_err(Exit::settings)?;
        let config = Config::load(Base::Preset(preset), &[""; 0], |config| {
            config.sparsity.sparsity = self.sparsity;
            config.model.vocabulary = self.vocabulary.map_or(PAPER_VOCABULARY, |v| v as usize);
        })
        .map_err(Exit::settings)?;

        let work = Workload::of_run(&config);
        let of_run = (work.sequences * work.context) as u64;
        let tokens = self.tokens.unwrap_or(of_run);
        // FLOPs are proportional to sequences, and the rest of one counts in proportion.
        let share = tokens as f64 / of_run as f64;
        let flops = work.flops(convention);
        let total = share * flops.total;
        let ratio = work.ratio_to_dense(convention);

        let mut parts = serde_json::Map::new();
        let mut text = format!(
            "{preset}, {} % sparse, vocabulary {}, {} tokens, convention {}\n",
            100.0 * self.sparsity,
            HumanCount(work.model.vocabulary as u64),
            HumanCount(tokens),
            convention.name(),
        );
        for (name, part) in &flops.parts {
            parts.insert(name.replace(' ', "_"), json!(share * part));
            let percent = 100.0 * part / flops.total;
            text += &format!("  {name:<16} {:>10.3e}  {percent:>5.1} %\n", share * part);
        }
        text += &format!(
            "  {:<16} {total:>10.3e}  {ratio:.3} of the dense model's, {:.2} times fewer\n",
            "total",
            1.0 / ratio,
        );
        let json = json!({
            "preset": preset,
            "sparsity": self.sparsity,
            "convention": convention.name(),
            "vocabulary": work.model.vocabulary,
            "tokens": tokens,
            "total_flops": total,
            "ratio_to_dense": ratio,
            "theoretical_speedup": work.theoretical_speedup(convention),
            "parts": parts,
        });
        Ok(Outcome::new(json, text))
    }
}

/// The paper's Table 6 beside ours.
fn table() -> Outcome {
    let mut text = String::from(
        "Pre-training FLOPs, MediSwift Table 6        paper             ours        difference\n",
    );
    let mut rows: Vec<Value> = Vec::new();
    for entry in table6() {
        text += &format!(
            "  {:<6} {:>2.0} % sparse              {:.3e} {:.2}x   {:.3e} {:.2}x   {:>+7.2} %\n",
            entry.preset,
            100.0 * entry.sparsity,
            entry.printed,
            entry.printed_ratio,
            entry.computed,
            entry.computed_ratio,
            100.0 * entry.relative_difference,
        );
        rows.push(json!({
            "preset": entry.preset,
            "sparsity": entry.sparsity,
            "printed_flops": entry.printed,
            "printed_ratio_to_dense": entry.printed_ratio,
            "total_flops": entry.computed,
            "ratio_to_dense": entry.computed_ratio,
            "relative_difference": entry.relative_difference,
        }));
    }
    Outcome::new(json!({ "convention": Convention::Table6.name(), "rows": rows }), text)
}
