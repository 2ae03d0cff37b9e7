//! Options that say which records become documents.

use mediswift_data::clean::{Cleaning, two_letters};

use crate::output;

/// Which records to keep
#[derive(clap::Args)]
#[command(next_help_heading = "Which records to keep")]
pub struct CleaningArgs {
    /// Languages to keep, as codes separated by commas, or `any`; records that declare none are kept
    #[arg(long, value_name = "CODES", default_value = "en")]
    language: String,

    /// Drop documents with fewer words
    #[arg(long, value_name = "N", default_value_t = 5)]
    min_words: usize,

    /// Keep retracted work
    #[arg(long)]
    keep_retracted: bool,

    /// Drop documents that share this fraction of their five-word runs with an earlier one, or `off`
    #[arg(long, value_name = "SIMILARITY", default_value = "0.8", value_parser = threshold)]
    near_duplicates: Threshold,

    /// Stop at the first damaged place instead of reporting it and going on
    #[arg(long)]
    pub strict: bool,
}

/// A similarity, or none.
#[derive(Clone, Copy)]
struct Threshold(Option<f64>);

fn threshold(text: &str) -> Result<Threshold, String> {
    if text == "off" {
        return Ok(Threshold(None));
    }
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(Threshold(Some(value))),
        _ => Err("choose `off` or a number above 0, up to 1".to_owned()),
    }
}

impl CleaningArgs {
    /// The rules as the data pipeline has them.
    pub fn rules(&self) -> Cleaning {
        let languages = match self.language.as_str() {
            "any" => Vec::new(),
            codes => codes.split(',').map(two_letters).collect(),
        };
        Cleaning {
            languages,
            min_words: self.min_words,
            keep_retracted: self.keep_retracted,
            near_duplicates: self.near_duplicates.0,
        }
    }
}

/// Says on stderr where inputs were damaged, and what else should be known of them.
pub fn report_inputs(damaged: &[String], notes: &[String]) {
    const SHOWN: usize = 10;
    for (word, messages, of) in [("warning", damaged, "damaged places"), ("note", notes, "notes")] {
        for message in messages.iter().take(SHOWN) {
            output::note(&format!("{word}: {message}"));
        }
        if messages.len() > SHOWN {
            let more = messages.len() - SHOWN;
            output::note(&format!("{word}: {more} more {of}; --json and dataset.json list them"));
        }
    }
}
