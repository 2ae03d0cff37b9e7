//! What to fetch.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// The yearly baseline.
pub const BASELINE: &str = "https://ftp.ncbi.nlm.nih.gov/pubmed/baseline/";

/// More connections at a time are not polite.
pub const MAX_JOBS: usize = 8;

/// What to fetch.
#[derive(Clone, Debug)]
pub struct Download {
    /// The folder of files, as a URL.
    pub base_url: String,
    /// Numbers of files; empty: all that are listed.
    pub numbers: Vec<RangeInclusive<u32>>,
    /// The folder to put them in.
    pub out: PathBuf,
    /// Connections at a time, at most [`MAX_JOBS`].
    pub jobs: usize,
    /// Attempts at a file before it is given up.
    pub attempts: u32,
    /// Pause before the second attempt, doubled for each further one.
    pub pause: Duration,
}
