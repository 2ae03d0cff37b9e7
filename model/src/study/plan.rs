//! [`Study`]: arms and cells of one or several files, checked.

use super::baseline::{Rule, dense, narrower};
use super::column::Column;
use super::file::{
    ArmTable, BaseTable, Baseline, EvaluateTable, FigureKind, FigureTable, File, FinetuneTable,
    StudyTable, TableTable, at_path,
};
use super::record::Record;
use crate::config::Config;
use crate::config::text::Tables;
use crate::error::{Error, Place};
use crate::finetune::settings::Settings;
use crate::named::Named;
use crate::tasks::{Task, task};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use toml::{Table as Toml, Value};

/// Most cells of a study: more are a slip of the pen.
const MOST_CELLS: usize = 10_000;

/// What is to be trained, measured and reported.
pub struct Study {
    /// One per file: what is reported of it.
    pub chapters: Vec<Chapter>,
    /// Every run, each after those that it needs.
    pub cells: Vec<Cell>,
}

/// What a file wants reported.
#[derive(Debug)]
pub struct Chapter {
    /// Title.
    pub title: String,
    /// A few sentences below it.
    pub about: String,
    /// Ways to pre-train, in the order of the file.
    pub arms: Vec<Arm>,
    /// Tables.
    pub tables: Vec<Table>,
    /// Figures.
    pub figures: Vec<Figure>,
}

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
    config: Config,
    /// What decides its number of steps.
    steps: Steps,
}

/// What decides how many steps an arm makes: its settings, or those of arms of these names.
#[derive(Clone, Debug)]
enum Steps {
    Given,
    Flops { of: String },
    Seconds { of: String, dense: String },
}

/// A table to report.
#[derive(Debug)]
pub struct Table {
    /// What stands above it.
    pub title: String,
    /// Names of its arms.
    pub arms: Vec<String>,
    /// What it tells of them.
    pub columns: Vec<Column>,
    /// Name of the arm that others are compared with.
    pub reference: String,
}

/// A figure to report.
#[derive(Debug)]
pub struct Figure {
    /// Name of its files.
    pub name: String,
    /// What stands above it.
    pub title: String,
    /// What it shows.
    pub kind: FigureKind,
    /// Names of its arms.
    pub arms: Vec<String>,
    /// What is drawn from left to right.
    pub x: Vec<Column>,
    /// What is drawn upwards.
    pub y: Column,
}

/// One run of a study.
#[derive(Clone)]
pub struct Cell {
    /// Its name, and that of its folder.
    pub name: String,
    /// Name of its arm.
    pub arm: String,
    /// Its seed.
    pub seed: u64,
    /// What it does.
    pub work: Work,
}

/// What a cell does.
#[derive(Clone)]
pub enum Work {
    /// Trains a model.
    Pretrain {
        /// Its settings, but for what the rule decides.
        config: Box<Config>,
        /// What decides the number of steps.
        rule: Rule,
    },
    /// Measures the model of another cell.
    Evaluate {
        /// That cell.
        of: String,
        /// What the data is called.
        data: String,
    },
    /// Fine-tunes the model of another cell.
    Finetune {
        /// That cell.
        of: String,
        /// The task.
        task: &'static dyn Task,
        /// Its settings.
        settings: Box<Settings>,
        /// What the data is called.
        data: String,
    },
}

impl Cell {
    /// Cells that must be finished before.
    pub fn after(&self) -> Vec<&str> {
        match &self.work {
            Work::Pretrain { rule, .. } => rule.sources(),
            Work::Evaluate { of, .. } | Work::Finetune { of, .. } => vec![of],
        }
    }

    /// The cell when those that it comes after are finished: nothing is left to a rule.
    pub fn decided<'r>(&self, record: impl Fn(&str) -> Option<&'r Record>) -> Option<Self> {
        let mut cell = self.clone();
        match &mut cell.work {
            Work::Pretrain { config, rule } => {
                let decided = rule.applied(config, record)?;
                cell.work = Work::Pretrain { config: decided.into(), rule: Rule::Given };
            }
            Work::Evaluate { of, .. } | Work::Finetune { of, .. } => {
                record(of)?;
            }
        }
        Some(cell)
    }

    /// All its settings, as TOML.
    pub fn settings(&self) -> String {
        match &self.work {
            Work::Pretrain { config, .. } => config.to_toml(),
            Work::Evaluate { .. } => String::new(),
            Work::Finetune { settings, .. } => settings.to_toml(),
        }
    }

    /// Settings that differ from those in the text `known`, which was found at `path`; keys that are new since
    /// are as they were by default.
    /// # Errors
    /// If the text is not one of settings.
    pub(super) fn differences(&self, known: &str, path: &Path) -> Result<Vec<String>, Error> {
        Ok(match &self.work {
            Work::Pretrain { config, .. } => {
                config.differing(&Config::from_toml(known, path)?, &[])
            }
            Work::Evaluate { .. } => Vec::new(),
            Work::Finetune { settings, task, .. } => {
                settings.differing(&Settings::from_toml(known, path, *task)?, &[])
            }
        })
    }

    /// What it does, in one line.
    pub fn describe(&self) -> String {
        match &self.work {
            Work::Pretrain { config, rule } => {
                let steps = match rule {
                    Rule::Given => format!("{} steps", config.train.steps),
                    Rule::Flops { of } => format!("as many operations as {of}"),
                    Rule::Seconds { of, .. } => format!("as many seconds as {of}"),
                };
                let kind = config.sparsity.describe(&config.model);
                format!("pre-training, {}, {kind}, {steps}", config.model.preset.name)
            }
            Work::Evaluate { of, data } => format!("loss of {of} on {data}"),
            Work::Finetune { of, task, .. } => format!("{} from {of}", task.name()),
        }
    }
}

impl Study {
    /// Reads files and lays out their cells, which they share where names and settings are the same.
    /// # Errors
    /// If a file cannot be read, a setting is wrong, a name is missing or taken, or cells collide.
    pub fn read(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut study = Self { chapters: Vec::new(), cells: Vec::new() };
        let mut figures = BTreeSet::new();
        for path in paths {
            let file = File::read(path)?;
            let place = file.place.clone();
            let (chapter, cells) = chapter(file, path)?;
            for figure in &chapter.figures {
                if !figures.insert(figure.name.clone()) {
                    let problem = format!("two figures are called '{}'", figure.name);
                    return Err(Error::setting(place, problem));
                }
            }
            let ways = |arm: &Arm| format!("{:?} {:?}", arm.steps, arm.config);
            let mut known = study.chapters.iter().flat_map(|chapter| &chapter.arms);
            let is_another = |known: &Arm| {
                let same_name = |arm: &&Arm| arm.name == known.name;
                chapter.arms.iter().find(same_name).is_some_and(|arm| ways(arm) != ways(known))
            };
            if let Some(Arm { name, .. }) = known.find(|known| is_another(known)) {
                let problem = format!(
                    "arm '{name}' has other settings than in an earlier file: give arms names that differ"
                );
                return Err(Error::setting(place, problem));
            }
            let before = study.cells.len();
            for cell in cells {
                study.add(cell, before, &place)?;
            }
            study.chapters.push(chapter);
        }
        Ok(study)
    }

    /// Adds a cell of a file; those of its own begin at `own`.
    fn add(&mut self, cell: Cell, own: usize, place: &Place) -> Result<(), Error> {
        let collide = |problem: String| Err(Error::setting(place.clone(), problem));
        let settings = identity(&cell);
        for (index, known) in self.cells.iter().enumerate() {
            let (same_name, same) = (known.name == cell.name, identity(known) == settings);
            match (same_name, same) {
                (true, true) if index < own => return Ok(()),
                (true, _) => {
                    return collide(format!(
                        "two cells are called '{}': give arms names that differ",
                        cell.name
                    ));
                }
                (false, true) => {
                    return collide(format!(
                        "cells '{}' and '{}' are the same run: leave one out, or give both arms one name \
                         where they stand in several files",
                        known.name, cell.name
                    ));
                }
                (false, false) => {}
            }
        }
        if self.cells.len() == MOST_CELLS {
            return collide(format!("more than {MOST_CELLS} cells"));
        }
        self.cells.push(cell);
        Ok(())
    }
}

/// What makes two cells the same run.
fn identity(cell: &Cell) -> String {
    let work = match &cell.work {
        Work::Pretrain { rule, .. } => format!("{rule:?}"),
        Work::Evaluate { of, data } => format!("loss of {of} on {data}"),
        Work::Finetune { of, task, data, .. } => format!("{} of {of} with {data}", task.name()),
    };
    work + &cell.settings()
}

/// What a file wants, and its cells.
fn chapter(file: File, path: &Path) -> Result<(Chapter, Vec<Cell>), Error> {
    let File { place, study, base, arms: written, evaluations, tunings, tables, figures } = file;
    let StudyTable { title, about, seeds } = study;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let title = if title.is_empty() { stem.to_string() } else { title };
    let seeds = if seeds.is_empty() { vec![1] } else { seeds };
    check_seeds(&seeds, "seeds", &place)?;
    if written.is_empty() {
        return Err(Error::setting(place, "has no [[arm]]: name a way to train"));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut arms: Vec<Arm> = Vec::new();
    for (arm, at) in written.into_iter().zip(1..) {
        let key = format!("arm[{at}]");
        for arm in expand(arm, &base, &seeds, folder, &key, &place)? {
            if arms.iter().any(|known| known.name == arm.name) {
                let problem = format!("{key}: another arm is called '{}' too", arm.name);
                return Err(Error::setting(place, problem));
            }
            arms.push(arm);
        }
    }
    find_dense_twins(&mut arms, &place)?;
    let mut cells = pretraining(&arms);
    let chosen = |names: &[String], key: &str| select(&arms, names, key, &place);
    let (mut measured, mut scores) = (Vec::new(), Vec::new());
    for (EvaluateTable { data, arms: names }, at) in evaluations.into_iter().zip(1..) {
        let key = format!("evaluate[{at}]");
        check_name(&data, &format!("{key}.data"), &place)?;
        measured.push((
            data.clone(),
            chosen(&names, &key)?,
            Work::Evaluate { of: "".into(), data },
        ));
    }
    for (FinetuneTable { task: name, data, arms: names, set }, at) in tunings.into_iter().zip(1..) {
        let key = format!("finetune[{at}]");
        let task = task(&name).map_err(|error| within(error, &place, &format!("{key}.task")))?;
        let mut settings = Settings::new(task);
        settings.overlay(set.0, &place.within(&key))?;
        settings.validate(task).map_err(|error| within(error, &place, &key))?;
        let data = if data.is_empty() { name.clone() } else { data };
        check_name(&data, &format!("{key}.data"), &place)?;
        let settings = Box::new(settings);
        measured.push((
            name,
            chosen(&names, &key)?,
            Work::Finetune { of: "".into(), task, settings, data },
        ));
    }
    for (name, names, work) in measured {
        for arm in arms.iter().filter(|arm| names.contains(&arm.name)) {
            for &seed in &arm.seeds {
                let from = cell_name(&arm.name, seed);
                let mut work = work.clone();
                if let Work::Evaluate { of, .. } | Work::Finetune { of, .. } = &mut work {
                    of.clone_from(&from);
                }
                let (arm, cell) = (arm.name.clone(), format!("{from}-{name}"));
                cells.push(Cell { name: cell, arm, seed, work });
            }
        }
        if !scores.contains(&name) {
            scores.push(name);
        }
    }
    let report = Reported { arms: &arms, scores: &scores, place: &place };
    let tables = report.tables(tables)?;
    let figures = report.figures(figures, &title, &stem)?;
    Ok((Chapter { title, about, arms, tables, figures }, cells))
}

/// The arms that a table of the file stands for: all combinations, and their baselines.
fn expand(
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
fn find_dense_twins(arms: &mut [Arm], place: &Place) -> Result<(), Error> {
    let given: Vec<Arm> =
        arms.iter().filter(|arm| matches!(arm.steps, Steps::Given)).cloned().collect();
    for arm in arms {
        let Steps::Seconds { of, dense } = &mut arm.steps else { continue };
        let twin = given.iter().find(|other| other.config == arm.config);
        let Some(twin) = twin else {
            let problem = format!(
                "arm '{of}': equal-seconds needs the speed of its dense twin: add an arm with the same \
                 settings and no sparsity"
            );
            return Err(Error::setting(place.clone(), problem));
        };
        dense.clone_from(&twin.name);
    }
    Ok(())
}

/// The cells of all arms, those whose steps are given first.
fn pretraining(arms: &[Arm]) -> Vec<Cell> {
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

fn cell_name(arm: &str, seed: u64) -> String {
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

/// An error of a value, with the place in the file that it stands in.
fn within(error: Error, place: &Place, key: &str) -> Error {
    Error::setting(place.within(key), error.to_string())
}

fn is_plain(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_')
}

/// Checks a name that becomes one of a file.
fn check_name(name: &str, key: &str, place: &Place) -> Result<(), Error> {
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
fn check_seeds(seeds: &[u64], key: &str, place: &Place) -> Result<(), Error> {
    let mut known = BTreeSet::new();
    match seeds.iter().find(|seed| !known.insert(**seed)) {
        None => Ok(()),
        Some(seed) => Err(Error::setting(place.within(key), format!("seed {seed} is there twice"))),
    }
}

/// Names of the arms that a list names, by their own names or by those in the file; all for none.
fn select(arms: &[Arm], names: &[String], key: &str, place: &Place) -> Result<Vec<String>, Error> {
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

/// What tables and figures can speak of.
struct Reported<'a> {
    arms: &'a [Arm],
    /// Names of evaluations and tasks.
    scores: &'a [String],
    place: &'a Place,
}

impl Reported<'_> {
    fn tables(&self, tables: Vec<TableTable>) -> Result<Vec<Table>, Error> {
        let tables = if tables.is_empty() { vec![TableTable::default()] } else { tables };
        let table = |(TableTable { title, arms, columns, reference }, at)| {
            let key = format!("table[{at}]");
            let arms = select(self.arms, &arms, &key, self.place)?;
            let reference = match &*reference {
                "" => arms[0].clone(),
                name => {
                    let mut named = select(self.arms, &[name.into()], &key, self.place)?;
                    named.swap_remove(0)
                }
            };
            let columns = match &columns[..] {
                [] => Column::usual(self.scores),
                names => {
                    let column = |name: &String| Column::named(name, self.scores, self.place, &key);
                    names.iter().map(column).collect::<Result<_, _>>()?
                }
            };
            Ok(Table { title, arms, columns, reference })
        };
        tables.into_iter().zip(1..).map(table).collect()
    }

    fn figures(
        &self,
        figures: Vec<FigureTable>,
        title: &str,
        stem: &str,
    ) -> Result<Vec<Figure>, Error> {
        let figures = match figures.is_empty() {
            false => figures,
            true => FigureKind::all()
                .map(|kind| FigureTable {
                    name: format!("{stem}-{}", kind.name()),
                    kind: kind.name().into(),
                    ..FigureTable::default()
                })
                .collect(),
        };
        let figure = |(FigureTable { name, title: own, kind, arms, x, y }, at)| {
            let key = format!("figure[{at}]");
            check_name(&name, &format!("{key}.name"), self.place)?;
            let kind = match &*kind {
                "" => FigureKind::Losses,
                kind => FigureKind::named(kind, self.place.within(&format!("{key}.kind")))?,
            };
            let column = |name: &String| Column::named(name, self.scores, self.place, &key);
            let x: Vec<Column> = match (&x[..], kind) {
                ([], FigureKind::Losses) => Column::AXES.to_vec(),
                ([], FigureKind::Pareto) => vec![Column::Seconds],
                (names, _) => names.iter().map(column).collect::<Result<_, _>>()?,
            };
            let y = if y.is_empty() { Column::Loss } else { column(&y)? };
            let fits = match kind {
                FigureKind::Losses => x.iter().all(|x| Column::AXES.contains(x)),
                FigureKind::Pareto => x.len() == 1,
            };
            if !fits {
                let problem = match kind {
                    FigureKind::Losses => "x of losses is among tokens, flops and seconds",
                    FigureKind::Pareto => "a Pareto picture has one x",
                };
                return Err(Error::setting(self.place.within(&key), problem));
            }
            let title = if own.is_empty() { title.to_string() } else { own };
            let arms = select(self.arms, &arms, &key, self.place)?;
            Ok(Figure { name, title, kind, arms, x, y })
        };
        figures.into_iter().zip(1..).map(figure).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn study(text: &str) -> Study {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("study.toml");
        std::fs::write(&path, text).unwrap();
        Study::read(&[path]).unwrap_or_else(|error| panic!("{error}"))
    }

    fn config<'a>(study: &'a Study, name: &str) -> &'a Config {
        let cell = study.cells.iter().find(|cell| cell.name == name);
        match cell.map(|cell| &cell.work) {
            Some(Work::Pretrain { config, .. }) => config,
            _ => panic!("no run {name}"),
        }
    }

    #[test]
    fn every_combination_is_an_arm_with_its_baselines_and_seeds() {
        let study = study(
            "seeds = [3, 4]
            [base]
            preset = 'tiny'
            set.train.steps = 7
            [[arm]]
            name = 'dense'
            seeds = [4]
            vary.train.lr = [1e-3, 2e-3]
            [[arm]]
            name = 'sparse'
            vary.sparsity.sparsity = [0.5, 0.75]
            vary.'train.lr' = [1e-3, 2e-3]
            baselines = ['equal-active', 'equal-seconds']
            [[arm]]
            name = 'moving'
            seeds = [3]
            set.sparsity = { sparsity = 0.5, algorithm = 'set' }
            set.'sparsity.update.start' = 2
            vary.sparsity.update.freq = [1, 2]
            [[table]]
            arms = ['sparse', 'dense-lr0.001']",
        );
        // Two dense ones and two that move of one seed, four sparse ones and eight baselines of two.
        assert_eq!(study.cells.len(), 2 + 2 + 2 * (4 + 8));
        let moving = &config(&study, "moving-freq2-seed3").sparsity;
        assert_eq!((moving.update.start, moving.update.freq), (2, 2));
        let sparse = config(&study, "sparse-sparsity0.75-lr0.002-seed3");
        assert_eq!((sparse.sparsity.sparsity, sparse.train.lr), (0.75, 2e-3));
        assert_eq!((sparse.train.seed, sparse.sparsity.seed, sparse.train.steps), (3, 3, 7));
        let narrow = config(&study, "sparse-sparsity0.75-lr0.002-equal-active-seed3");
        assert_eq!((narrow.model.d_model, narrow.sparsity.sparsity), (64, 0.0));
        // 128 / √2 is 90.5; four heads divide 92.
        let narrow = config(&study, "sparse-sparsity0.5-lr0.001-equal-active-seed4");
        assert_eq!(narrow.model.d_model, 92);
        let long = study
            .cells
            .iter()
            .find(|cell| cell.name == "sparse-sparsity0.5-lr0.002-equal-seconds-seed3");
        // The dense twin lacks seed 3.
        let after = long.expect("there is one").after();
        assert_eq!(after, ["sparse-sparsity0.5-lr0.002-seed3", "dense-lr0.002-seed4"]);
        let table = &study.chapters[0].tables[0];
        assert_eq!(table.arms.len(), 5);
        assert_eq!(table.reference, "sparse-sparsity0.5-lr0.001");
    }

    #[test]
    fn settings_are_told_apart_by_what_they_say() {
        let text = "[base]\npreset = 'micro'\n[[arm]]\nname = 'a'\nset.sparsity.sparsity = 0.5\n";
        let study = study(text);
        let cell = &study.cells[0];
        let path = Path::new("a.toml");
        assert_eq!(cell.differences(&cell.settings(), path).unwrap(), [""; 0]);
        let known = "[model]\npreset = 'micro'\n[sparsity]\nsparsity = 0.25\n";
        let expected = ["sparsity.sparsity is 0.5 here, but 0.25 there"];
        assert_eq!(cell.differences(known, path).unwrap(), expected);
    }
}
