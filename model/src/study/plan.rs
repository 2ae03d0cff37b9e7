//! [`Study`]: arms and cells of one or several files, checked.

use super::arm::{
    Arm, MOST_CELLS, cell_name, check_name, check_seeds, expand, find_dense_twins, pretraining,
    select, within,
};
use super::cell::{Cell, Work};
use super::column::Column;
use super::file::{EvaluateTable, File, FinetuneTable, StudyTable};
use super::wanted::{Figure, Reported, Table, usual_figures};
use crate::config::text::Tables;
use crate::error::{Error, Place};
use crate::finetune::settings::Settings;
use crate::tasks::task;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

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

impl Study {
    /// Reads files and lays out their cells, which they share where names and settings are the same.
    /// # Errors
    /// If a file cannot be read, a setting is wrong, a name is missing or taken, or cells collide.
    pub fn read(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut study = Self { chapters: Vec::new(), cells: Vec::new() };
        let (mut figures, mut places) = (BTreeSet::new(), Known::default());
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
            let here: HashMap<&str, &Arm> =
                chapter.arms.iter().map(|arm| (&*arm.name, arm)).collect();
            let mut known = study.chapters.iter().flat_map(|chapter| &chapter.arms);
            let is_another =
                |known: &Arm| here.get(&*known.name).is_some_and(|arm| ways(arm) != ways(known));
            if let Some(Arm { name, .. }) = known.find(|known| is_another(known)) {
                let problem = format!(
                    "arm '{name}' has other settings than in an earlier file: give arms names that differ"
                );
                return Err(Error::setting(place, problem));
            }
            let before = study.cells.len();
            for cell in cells {
                study.add(cell, before, &mut places, &place)?;
            }
            study.chapters.push(chapter);
        }
        Ok(study)
    }

    /// Adds a cell of a file; those of its own begin at `own`.
    fn add(
        &mut self,
        cell: Cell,
        own: usize,
        known: &mut Known,
        place: &Place,
    ) -> Result<(), Error> {
        let collide = |problem: String| Err(Error::setting(place.clone(), problem));
        let identity = cell.identity();
        match (known.names.get(&cell.name), known.runs.get(&identity)) {
            (Some(at), Some(same)) if at == same && *at < own => return Ok(()),
            (Some(_), _) => {
                return collide(format!(
                    "two cells are called '{}': give arms names that differ",
                    cell.name
                ));
            }
            (None, Some(&same)) => {
                return collide(format!(
                    "cells '{}' and '{}' are the same run: leave one out, or give both arms one name where \
                     they stand in several files",
                    self.cells[same].name, cell.name
                ));
            }
            (None, None) => {}
        }
        if self.cells.len() == MOST_CELLS {
            return collide(format!("more than {MOST_CELLS} cells"));
        }
        known.names.insert(cell.name.clone(), self.cells.len());
        known.runs.insert(identity, self.cells.len());
        self.cells.push(cell);
        Ok(())
    }
}

/// Places of cells, by their names and by what makes them the same run.
#[derive(Default)]
struct Known {
    names: HashMap<String, usize>,
    runs: HashMap<String, usize>,
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
    let (mut arms, mut names) = (Vec::<Arm>::new(), BTreeSet::new());
    for (arm, at) in written.into_iter().zip(1..) {
        let key = format!("arm[{at}]");
        for arm in expand(arm, &base, &seeds, folder, &key, &place)? {
            if !names.insert(arm.name.clone()) {
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
    for (name, _, work) in &measured {
        let is_other = |other: &Work| {
            matches!(other, Work::Evaluate { .. }) != matches!(work, Work::Evaluate { .. })
        };
        let taken = Column::is_known(name)
            || measured.iter().any(|(known, _, other)| known == name && is_other(other));
        if taken {
            let problem = format!("'{name}' is a column already: give the data another name");
            return Err(Error::setting(place, problem));
        }
    }
    for (name, names, work) in measured {
        let names: BTreeSet<String> = names.into_iter().collect();
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
    let says_nothing = tables.is_empty() && figures.is_empty();
    let tables = report.tables(tables)?;
    let figures = if says_nothing { usual_figures(&stem) } else { figures };
    let figures = report.figures(figures, &title)?;
    Ok((Chapter { title, about, arms, tables, figures }, cells))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

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
