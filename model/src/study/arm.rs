//! [`Arm`]: a way to pre-train, made of a table of the file, and its cells.

use super::baseline::{Rule, dense, narrower};
use super::cell::{Cell, Work};
use super::file::{ArmTable, BaseTable, Baseline, at_path};
use crate::config::Config;
use crate::config::text::Tables;
use crate::error::{Error, Place};
use crate::named::Named;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use toml::{Table as Toml, Value};

/// Most cells of a study: more are a slip of the pen.
pub(super) const MOST_CELLS: usize = 10_000;

/// A way to pre-train.
#[derive(Clone, Debug)]
pub struct Arm {
    /// Its name in files.
    pub name: String,
    /// Its name for people.
    pub label: String,
    /// The name in the file, which several may share.
    pub group: String,
    /// Its seeds.
    pub seeds: Vec<u64>,
    /// Its settings, but for the seed.
    pub(super) config: Config,
    /// What decides its number of steps.
    pub(super) steps: Steps,
}

/// What decides how many steps an arm makes: its settings, or those of arms of these names.
#[derive(Clone, Debug)]
pub(super) enum Steps {
    Given,
    /// As many as cost the operations of that arm.
    Flops {
        of: String,
    },
    /// As many as take the time of that arm, at the speed of the dense one.
    Seconds {
        of: String,
        dense: String,
    },
}

/// The arms that a table of the file stands for: all combinations, and their baselines.
pub(super) fn expand(
    table: ArmTable,
    base: &BaseTable,
    seeds: &[u64],
    folder: &Path,
    key: &str,
    place: &Place,
) -> Result<Vec<Arm>, Error> {
    let ArmTable { name, label, preset, config, set, vary, seeds: own, baselines } = table;
    check_name(&name, &format!("{key}.name"), place)?;
    let seeds = if own.is_empty() { seeds.to_vec() } else { own };
    check_seeds(&seeds, &format!("{key}.seeds"), place)?;
    let (preset, file) = match (&*preset, &*config) {
        ("", "") => (&*base.preset, &*base.config),
        own => own,
    };
    let mut start = match (preset, file) {
        ("", "") => {
            let problem = "name a preset or a config, in [base] or in the arm";
            return Err(Error::setting(place.within(key), problem));
        }
        (preset, "") => Config::from_preset(preset).map_err(|error| within(error, place, key))?,
        ("", file) => {
            let path = folder.join(file);
            Config::from_toml(&mediswift_files::read_text(&path, mediswift_files::SMALL)?, &path)?
        }
        _ => {
            let problem = "has both a preset and a config: name one";
            return Err(Error::setting(place.within(key), problem));
        }
    };
    change(&mut start, base.set.0.clone(), &place.within("base.set"))?;
    change(&mut start, set.0, &place.within(&format!("{key}.set")))?;
    let axes: Vec<(String, Vec<Value>)> = vary
        .each()
        .into_iter()
        .map(|(path, values)| match values {
            Value::Array(values) => (path, values.clone()),
            one => (path, vec![one.clone()]),
        })
        .collect();
    let mut grid = vec![(name.clone(), if label.is_empty() { name.clone() } else { label }, start)];
    for (path, values) in &axes {
        if values.is_empty() {
            let problem = format!("vary.{path} has no values");
            return Err(Error::setting(place.within(key), problem));
        }
        if grid.len().saturating_mul(values.len()) > MOST_CELLS {
            let problem = format!("has more than {MOST_CELLS} combinations");
            return Err(Error::setting(place.within(key), problem));
        }
        let short = path.rsplit('.').next().unwrap_or(path);
        let mut wider = Vec::new();
        for (name, label, config) in &grid {
            for value in values {
                let mut config = config.clone();
                let over = at_path(path, value.clone());
                change(&mut config, over, &place.within(&format!("{key}.vary")))?;
                let said = match value {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                let kept: String = said.chars().filter(|&letter| is_plain(letter)).collect();
                let label = format!("{label}, {} {said}", short.replace('_', " "));
                wider.push((format!("{name}-{short}{kept}"), label, config));
            }
        }
        grid = wider;
    }
    let mut arms = Vec::new();
    for (of, label, config) in grid {
        config.validate().map_err(|error| within(error, place, key))?;
        let arm = |suffix: &str, label: String, config: Config, steps: Steps| Arm {
            name: format!("{of}{suffix}"),
            group: format!("{name}{suffix}"),
            label,
            seeds: seeds.clone(),
            config,
            steps,
        };
        arms.push(arm("", label.clone(), config.clone(), Steps::Given));
        for baseline in &baselines {
            let suffix = format!("-{}", baseline.name());
            let of = of.clone();
            let (what, config, steps) = match baseline {
                Baseline::Weights => ("weights", narrower(&config), Steps::Given),
                Baseline::Operations => ("operations", dense(&config), Steps::Flops { of }),
                Baseline::Time => {
                    ("time", dense(&config), Steps::Seconds { of, dense: String::new() })
                }
            };
            config.validate().map_err(|error| within(error, place, key))?;
            arms.push(arm(&suffix, format!("dense, {what} of {label}"), config, steps));
        }
    }
    Ok(arms)
}

/// Finds the arm whose speed says how many steps a dense model makes in the time of another.
pub(super) fn find_dense_twins(arms: &mut [Arm], place: &Place) -> Result<(), Error> {
    let given = arms.iter().rev().filter(|arm| matches!(arm.steps, Steps::Given));
    // The first of several.
    let given: HashMap<String, String> =
        given.map(|arm| (arm.config.to_toml(), arm.name.clone())).collect();
    for arm in arms {
        let Steps::Seconds { of, dense } = &mut arm.steps else { continue };
        let Some(twin) = given.get(&arm.config.to_toml()) else {
            let problem = format!(
                "arm '{of}': equal-seconds needs the speed of its dense twin: add an arm with the same \
                 settings and no sparsity"
            );
            return Err(Error::setting(place.clone(), problem));
        };
        dense.clone_from(twin);
    }
    Ok(())
}

/// The cells of all arms, those whose steps are given first.
pub(super) fn pretraining(arms: &[Arm]) -> Vec<Cell> {
    let seeds: BTreeMap<&str, &[u64]> = arms.iter().map(|arm| (&*arm.name, &*arm.seeds)).collect();
    let cell = |arm: &Arm, seed: u64| {
        // An arm that lacks the seed stands in with its first.
        let other = |name: &str| {
            let there = seeds[name];
            cell_name(name, if there.contains(&seed) { seed } else { there[0] })
        };
        let rule = match &arm.steps {
            Steps::Given => Rule::Given,
            Steps::Flops { of } => Rule::Flops { of: other(of) },
            Steps::Seconds { of, dense } => Rule::Seconds { of: other(of), dense: other(dense) },
        };
        let mut config = Box::new(arm.config.clone());
        (config.train.seed, config.sparsity.seed) = (seed, seed);
        let (name, arm) = (cell_name(&arm.name, seed), arm.name.clone());
        Cell { name, arm, seed, work: Work::Pretrain { config, rule } }
    };
    let is_given = |arm: &&Arm| matches!(arm.steps, Steps::Given);
    let first = arms.iter().filter(is_given);
    let ordered = first.chain(arms.iter().filter(|arm| !is_given(arm)));
    ordered.flat_map(|arm| arm.seeds.iter().map(move |&seed| cell(arm, seed))).collect()
}

pub(super) fn cell_name(arm: &str, seed: u64) -> String {
    format!("{arm}-seed{seed}")
}

/// Changes settings, except what is not a setting of a study's arm.
fn change(config: &mut Config, over: Toml, place: &Place) -> Result<(), Error> {
    for (table, key, why) in [
        ("model", "preset", "choose it with preset ="),
        ("train", "seed", "choose seeds with seeds ="),
        ("sparsity", "seed", "choose seeds with seeds ="),
    ] {
        if over.get(table).is_some_and(|keys| keys.get(key).is_some()) {
            return Err(Error::setting(place.clone(), format!("{table}.{key}: {why}")));
        }
    }
    config.overlay(over, place)
}

/// Names of the arms that a list names, by their own names or by those in the file; all for none.
pub(super) fn select(
    arms: &[Arm],
    names: &[String],
    key: &str,
    place: &Place,
) -> Result<Vec<String>, Error> {
    if names.is_empty() {
        return Ok(arms.iter().map(|arm| arm.name.clone()).collect());
    }
    let mut found: Vec<String> = Vec::new();
    for name in names {
        let named = arms.iter().filter(|arm| arm.name == *name || arm.group == *name);
        let before = found.len();
        found.extend(named.map(|arm| arm.name.clone()));
        if found.len() == before {
            let known = arms.iter().map(|arm| &*arm.name);
            return Err(Error::unknown(place.within(key), "arm", name, known));
        }
    }
    let mut known = BTreeSet::new();
    found.retain(|name| known.insert(name.clone()));
    Ok(found)
}

/// An error of a value, with the place in the file that it stands in.
pub(super) fn within(error: Error, place: &Place, key: &str) -> Error {
    Error::setting(place.within(key), error.to_string())
}

fn is_plain(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_')
}

/// Checks a name that becomes one of a file.
pub(super) fn check_name(name: &str, key: &str, place: &Place) -> Result<(), Error> {
    let is_good = name.chars().all(is_plain) && name.starts_with(|l: char| l.is_alphanumeric());
    match is_good && name.len() <= 100 {
        true => Ok(()),
        false => {
            let name = mediswift_files::brief(name);
            let problem = format!(
                "'{name}' is no name of a file: use letters, digits, dots and dashes, at most 100"
            );
            Err(Error::setting(place.within(key), problem))
        }
    }
}

/// Checks that no seed is there twice.
pub(super) fn check_seeds(seeds: &[u64], key: &str, place: &Place) -> Result<(), Error> {
    let mut known = BTreeSet::new();
    match seeds.iter().find(|seed| !known.insert(**seed)) {
        None => Ok(()),
        Some(seed) => Err(Error::setting(place.within(key), format!("seed {seed} is there twice"))),
    }
}
