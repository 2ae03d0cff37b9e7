//! `mediswift data fetch`.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use mediswift_data::fetch::{BASELINE, Download, MAX_JOBS, fetch};
use serde_json::json;

use crate::progress;
use crate::signals::StopSignal;
use crate::verb::{Context, Exit, Outcome, Verb};

/// Download PubMed baseline files from the National Library of Medicine
///
/// Every file is compared with its MD5; downloads that break off are continued; files that are there
/// and whole are left alone, so the same command can be run until all is there. Mind NLM's terms of
/// use: <https://www.nlm.nih.gov/databases/download/terms_and_conditions.html>
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift data fetch 1-20 --out pubmed
  mediswift data fetch all --out updates --base-url https://ftp.ncbi.nlm.nih.gov/pubmed/updatefiles/")]
pub struct Fetch {
    /// Numbers of files, as 7 or 1-20, or `all` that the server lists
    #[arg(value_name = "NUMBERS", required = true)]
    numbers: Vec<String>,

    /// The folder to put them in
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// The folder of files to fetch from: another mirror, or the updates
    #[arg(long, value_name = "URL", default_value = BASELINE)]
    base_url: String,

    /// Connections at a time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=MAX_JOBS as i64))]
    jobs: u8,

    /// Attempts at a file before it is given up
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    attempts: u32,
}

impl Verb for Fetch {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        let numbers = parse(&self.numbers).map_err(Exit::usage)?;
        let download = Download {
            base_url: self.base_url,
            numbers,
            out: self.out,
            jobs: self.jobs.into(),
            attempts: self.attempts,
            pause: Duration::from_secs(1),
        };
        let stop = StopSignal::watch()?;
        let bar = progress::count(0, "fetching");
        let fetched = fetch(&download, &mut |now| {
            bar.set_length(now.files_total as u64);
            bar.set_position(now.files as u64);
            stop.flow()
        })
        .map_err(|error| stop.explain(error))?;
        bar.finish_and_clear();
        if let Some((_, why)) = fetched.failed.first_key_value() {
            let (failed, whole) =
                (fetched.failed.len(), fetched.downloaded.len() + fetched.kept.len());
            anyhow::bail!(
                "{failed} of {} files could not be fetched; the first: {why}; the same command tries them again",
                failed + whole
            );
        }
        let (downloaded, kept) = (fetched.downloaded.len(), fetched.kept.len());
        Ok(Outcome::new(
            json!({
                "downloaded": fetched.downloaded, "kept": fetched.kept, "bytes": fetched.bytes,
                "path": download.out.display().to_string(),
            }),
            format!(
                "{}: {downloaded} files downloaded ({} bytes), {kept} were there\n",
                download.out.display(),
                fetched.bytes
            ),
        ))
    }
}

fn parse(words: &[String]) -> Result<Vec<RangeInclusive<u32>>, String> {
    if words == ["all"] {
        return Ok(Vec::new());
    }
    let range = |word: &str| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        let range = first.parse().ok()?..=last.parse().ok()?;
        (*range.start() > 0 && range.start() <= range.end()).then_some(range)
    };
    words
        .iter()
        .flat_map(|word| word.split(','))
        .map(|word| {
            range(word)
                .ok_or_else(|| format!("{word:?} is no number of a file; write 7, 1-20 or all"))
        })
        .collect()
}
