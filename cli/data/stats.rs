//! `mediswift data stats`.

use std::path::PathBuf;

use mediswift_data::{Dataset, Split, SplitStatistics};
use plotters::coord::Shift;
use plotters::prelude::*;
use serde_json::{Value, json};

use crate::chart::{COLOURS, Files, Pen, Picture, undrawn};
use crate::verb::{Context, Outcome, Verb};

/// Describe a dataset: documents, tokens, lengths, what was dropped
///
/// Lengths are in tokens, the token between documents included. Opening a dataset verifies every
/// file of it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift data stats dataset
  mediswift data stats dataset --plot lengths.svg")]
pub struct Stats {
    /// A dataset folder
    dataset: PathBuf,

    /// Draw the distribution of lengths, as SVG and PNG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Replace pictures that are there already
    #[arg(long)]
    force: bool,
}

impl Verb for Stats {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        let files = self.plot.as_deref().map(|path| Files::fresh(path, self.force)).transpose()?;
        let dataset = Dataset::open(&self.dataset)?;
        let splits = [dataset.statistics(Split::Train)?, dataset.statistics(Split::Validation)?];
        let drawn = match files {
            Some(files) => Some(files.draw(&Lengths { splits: &splits })?),
            None => None,
        };
        let manifest = dataset.manifest();
        let mut json = json!({
            "documents": manifest.documents,
            "tokens": manifest.tokens,
            "vocab_size": manifest.vocab_size,
            "tokenizer": dataset.tokenizer()?.kind().name(),
            "tokenizer_hash": manifest.tokenizer_hash,
            "inputs": manifest.inputs,
            "dropped": manifest.dropped,
            "damaged": manifest.damaged,
            "notes": manifest.notes,
            "plot": drawn,
        });
        for split in &splits {
            json[split.split.name()] = json_of(split);
        }
        Ok(Outcome::new(json, table(&dataset, &splits, &self.dataset)))
    }
}

/// Fractions of documents that are at most so long.
const PERCENTILES: [(&str, f64); 5] =
    [("5%", 0.05), ("25%", 0.25), ("median", 0.5), ("75%", 0.75), ("95%", 0.95)];

fn json_of(split: &SplitStatistics) -> Value {
    let percentiles: serde_json::Map<String, Value> = PERCENTILES
        .iter()
        .map(|(name, fraction)| ((*name).to_owned(), json!(split.percentile(*fraction))))
        .collect();
    json!({
        "documents": split.lengths.len(),
        "tokens": split.tokens(),
        "words": split.words,
        "bytes": split.bytes,
        "unknown_tokens": split.unknown,
        "tokens_per_word": split.tokens_per_word(),
        "bytes_per_token": split.bytes_per_token(),
        "longest": split.lengths.last(),
        "shortest": split.lengths.first(),
        "lengths": percentiles,
    })
}

fn table(dataset: &Dataset, splits: &[SplitStatistics; 2], path: &std::path::Path) -> String {
    let manifest = dataset.manifest();
    let mut text = format!(
        "{}: {} documents, {} tokens of a vocabulary of {}\n\n{:<18}{:>14}{:>14}\n",
        path.display(),
        manifest.documents,
        manifest.tokens,
        manifest.vocab_size,
        "",
        "train",
        "validation",
    );
    let mut row = |name: &str, value: &dyn Fn(&SplitStatistics) -> String| {
        text.push_str(&format!("{name:<18}{:>14}{:>14}\n", value(&splits[0]), value(&splits[1])));
    };
    row("documents", &|s| s.lengths.len().to_string());
    row("tokens", &|s| s.tokens().to_string());
    row("words", &|s| s.words.to_string());
    row("tokens per word", &|s| format!("{:.3}", s.tokens_per_word()));
    row("unknown tokens", &|s| s.unknown.to_string());
    for (name, fraction) in PERCENTILES {
        row(&format!("length, {name}"), &|s| s.percentile(fraction).to_string());
    }
    row("longest", &|s| s.lengths.last().copied().unwrap_or(0).to_string());
    text.push_str(&format!(
        "\n{:<34}{:>8}{:>12}{:>12}\n",
        "input", "files", "records", "documents"
    ));
    for input in &manifest.inputs {
        text.push_str(&format!(
            "{:<34}{:>8}{:>12}{:>12}\n",
            input.name, input.files, input.records, input.documents
        ));
    }
    text.push_str("\ndropped\n");
    for (reason, count) in manifest.dropped.iter().filter(|(_, count)| **count > 0) {
        text.push_str(&format!("  {reason:<16}{count:>10}\n"));
    }
    if !manifest.damaged.is_empty() {
        text.push_str(&format!("\n{} damaged places:\n", manifest.damaged.len()));
        manifest.damaged.iter().for_each(|message| text.push_str(&format!("  {message}\n")));
    }
    if !manifest.notes.is_empty() {
        text.push_str("\nnotes:\n");
        manifest.notes.iter().for_each(|message| text.push_str(&format!("  {message}\n")));
    }
    text
}

/// The distribution of lengths.
struct Lengths<'a> {
    splits: &'a [SplitStatistics; 2],
}

/// Bars per doubling of the length.
const BINS_PER_OCTAVE: f64 = 4.0;

impl Picture for Lengths<'_> {
    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: u32,
    ) -> anyhow::Result<()>
    where
        B::ErrorType: 'static,
    {
        let pen = Pen(scale);
        let bin = |length: u64| ((length.max(1) as f64).log2() * BINS_PER_OCTAVE).floor() as usize;
        let lengths = || self.splits.iter().flat_map(|split| &split.lengths);
        let bins = lengths().max().map_or(0, |&longest| bin(longest)) + 1;
        // From where documents are, not from a length of one token.
        let first = lengths().min().map_or(0, |&shortest| bin(shortest));
        let shares: Vec<Vec<f64>> = self
            .splits
            .iter()
            .map(|split| {
                let mut counts = vec![0.0; bins];
                split.lengths.iter().for_each(|&length| counts[bin(length)] += 1.0);
                let total = (split.lengths.len() as f64).max(1.0);
                counts.iter().map(|count| 100.0 * count / total).collect()
            })
            .collect();
        let top = shares.iter().flatten().copied().fold(1.0, f64::max) * 1.1;
        area.fill(&WHITE).map_err(undrawn)?;
        let mut chart = ChartBuilder::on(area)
            .caption("Lengths of documents", pen.text(26))
            .margin(pen.px(14))
            .x_label_area_size(pen.px(56))
            .y_label_area_size(pen.px(72))
            .build_cartesian_2d(
                first as f64 / BINS_PER_OCTAVE..bins as f64 / BINS_PER_OCTAVE,
                0.0..top,
            )
            .map_err(undrawn)?;
        chart
            .configure_mesh()
            .x_desc("tokens of a document (logarithmic)")
            .y_desc("documents of the split (%)")
            .x_label_formatter(&|octave| format!("{:.0}", octave.exp2()))
            .x_labels(12)
            .label_style(pen.text(16))
            .axis_desc_style(pen.text(18))
            .light_line_style(WHITE)
            .draw()
            .map_err(undrawn)?;
        for ((split, shares), colour) in self.splits.iter().zip(&shares).zip(COLOURS) {
            // Outlines of bars: both splits stay visible.
            let corners: Vec<(f64, f64)> = shares
                .iter()
                .enumerate()
                .skip(first)
                .flat_map(|(bin, share)| {
                    let left = bin as f64 / BINS_PER_OCTAVE;
                    [(left, *share), (left + 1.0 / BINS_PER_OCTAVE, *share)]
                })
                .collect();
            let style = ShapeStyle::from(&colour).stroke_width(2 * scale);
            chart
                .draw_series(LineSeries::new(corners, style))
                .map_err(undrawn)?
                .label(format!("{} ({} documents)", split.split.name(), split.lengths.len()))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + pen.px(24), y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE)
            .border_style(BLACK.mix(0.3))
            .label_font(pen.text(16))
            .legend_area_size(pen.px(32))
            .draw()
            .map_err(undrawn)?;
        area.present().map_err(undrawn)
    }
}
