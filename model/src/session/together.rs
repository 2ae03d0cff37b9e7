//! How the ranks of a run come to have the same: program, settings, data, plans and weights.

use crate::agreement::agree;
use crate::checkpoint::weights_hash;
use crate::config::Config;
use crate::error::Error;
use crate::named::Named;
use crate::reduction::Reduce;
use mediswift_data::Dataset;
use mediswift_engine::Parameters;
use mediswift_files as files;
use mediswift_ranks::Ranks;
use mediswift_ranks::collectives::from_first;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where a run begins or goes on, as rank 0 has decided.
#[derive(Serialize, Deserialize)]
pub(super) struct Origin {
    /// Its settings, plans included.
    pub(super) config: String,
    /// The checkpoint it goes on from.
    pub(super) checkpoint: Option<PathBuf>,
    /// How its gradients were and will be added up.
    pub(super) reduce: Reduce,
}

impl Origin {
    /// The settings.
    /// # Errors
    /// If they cannot be understood, as with another program.
    pub(super) fn config(&self) -> Result<Config, Error> {
        Config::from_toml(&self.config, Path::new("the settings of rank 0"))
    }
}

/// Rank 0 does something, and tells the others what they must know of it; it alone has the result.
/// # Errors
/// On all ranks, if it fails or a rank is lost.
pub(super) fn first_says<T, S: Serialize + DeserializeOwned>(
    ranks: &dyn Ranks,
    work: impl FnOnce() -> Result<(T, S), Error>,
) -> Result<(Option<T>, S), Error> {
    let done = if ranks.rank() == 0 { work().map(Some) } else { Ok(None) };
    let (result, said) = agree(ranks, done)?.unzip();
    if ranks.count() == 1 {
        return Ok((result, said.expect("rank 0 has something to say")));
    }
    let said = said.map(|said| serde_json::to_vec(&said).expect("JSON")).unwrap_or_default();
    let said = from_first(ranks, &said)?;
    Ok((result, serde_json::from_slice(&said).expect("what rank 0 said")))
}

/// Checks that all ranks run the same program with the same settings on the same data, and add up in the same way.
/// # Errors
/// On all ranks, if one does not; names it, and what differs.
pub(super) fn check_equal(
    ranks: &dyn Ranks,
    reduce: Reduce,
    config: &Config,
    dataset: &Dataset,
) -> Result<(), Error> {
    if ranks.count() == 1 {
        return Ok(());
    }
    let mine = agree(ranks, program())
        .map(|program| [program, config.to_toml(), dataset.fingerprint(), reduce.name().into()])?;
    let (_, first) = first_says(ranks, || Ok(((), mine.clone())))?;
    let [program, settings, data, way] = [0, 1, 2, 3].map(|at| mine[at] == first[at]);
    let mut differences = Vec::new();
    if !program {
        differences
            .push("is another program than that of rank 0: start the same file everywhere".into());
    }
    if !settings {
        let theirs = Config::from_toml(&first[1], Path::new("the settings of rank 0"));
        differences.extend(theirs.map(|theirs| config.differences(&theirs)).unwrap_or_default());
        if differences.is_empty() {
            differences.push("has other settings than rank 0".into());
        }
    }
    if !data {
        differences.push("has other data than rank 0: give all the same dataset".into());
    }
    if !way {
        differences.push(format!("has --reduce {} here, but {} there", mine[3], first[3]));
    }
    agree(
        ranks,
        match differences.is_empty() {
            true => Ok(()),
            false => Err(Error::setting(format!("rank {}", ranks.rank()), differences.join("; "))),
        },
    )
}

/// The hash of the file that this process runs.
fn program() -> Result<String, Error> {
    let path = std::env::current_exe().map_err(Error::io("find", "this program"))?;
    Ok(blake3::hash(&files::read(&path, u64::MAX)?).to_hex().to_string())
}

/// Checks that all ranks hold the same weights under the same masks.
/// # Errors
/// On all ranks, if they do not.
pub(super) fn check_weights(ranks: &dyn Ranks, parameters: &Parameters) -> Result<(), Error> {
    if ranks.count() == 1 {
        return Ok(());
    }
    let mine = weights_hash(parameters);
    let (_, first) = first_says(ranks, || Ok(((), mine.clone())))?;
    agree(
        ranks,
        match mine == first {
            true => Ok(()),
            false => {
                let problem =
                    format!("holds other weights or masks than rank 0 ({mine}, not {first})");
                Err(Error::setting(format!("rank {}", ranks.rank()), problem))
            }
        },
    )
}
