//! Dense fine-tuning and soft prompts (MediSwift §2.2, §2.3, §3.3).
//!
//! A run goes through stages. An earlier stage is one training; the last is a grid of batch sizes
//! and learning rates, searched with the first seed, whose best cell by dev is trained with every
//! further seed and judged on test. What is finished is on disk: an interrupted run repeats no
//! finished training.
//!
//! * [`settings`]: what decides a run; [`start`]: the model it starts from.
//! * [`encode`]: examples as tokens; [`answer`]: a model's answers; [`train`]: one training.
//! * [`folder`]: the run on disk, and `identity`, what it must go on with; [`report`]: what came of it; [`compare`]: several runs
//!   side by side.

pub mod answer;
pub mod compare;
pub mod encode;
pub mod folder;
mod identity;
pub mod report;
pub mod settings;
pub mod start;
pub mod train;

use crate::checkpoint::{self, Choice};
use crate::config::Config;
use crate::error::{Error, ErrorKind};
use crate::gpt::Gpt;
use crate::run::{self, LoadedModel};
use crate::tasks::baselines::baselines;
use crate::tasks::{Example, Request, Stage, Task, TaskData};
use crate::watch::{Progress, Watch};
use answer::{Answerer, by_likelihood, candidates};
use encode::ExampleEncoder;
use folder::Folder;
use identity::Identity;
use mediswift_data::Tokenizer;
use mediswift_engine::Parameters;
use report::{REPORT, SeedReport, SourceModel, TuningReport};
use settings::Settings;
use start::Start;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use train::{Cell, CellReport, Training};

/// Name of the last stage, in cells.
const LAST: &str = "last";

/// What to fine-tune, on what, and where.
pub struct Job<'a> {
    /// The task.
    pub task: &'a dyn Task,
    /// The settings.
    pub settings: Settings,
    /// The run folder of the pre-trained model.
    pub from: &'a Path,
    /// Which of its checkpoints.
    pub choice: Choice,
    /// Folders with the task's files, its own first.
    pub folders: &'a [PathBuf],
    /// Whether test examples may be trained on.
    pub allow_overlap: bool,
    /// The run folder to make.
    pub out: &'a Path,
    /// Whether to go on with the run in `out`.
    pub resume: bool,
}

/// A run under way.
struct Run<'a> {
    task: &'a dyn Task,
    settings: &'a Settings,
    tokenizer: Tokenizer,
    folder: Folder,
}

/// Fine-tunes, judges and reports.
/// # Errors
/// [`Error::Stopped`] if `watch` asks to stop: finished trainings are saved then, and repeated by no
/// later run with [`Job::resume`]. If a model, an example or a setting does not fit, the folder is in
/// use, or a loss is not finite.
pub fn finetune(job: &Job<'_>, watch: &mut dyn Watch) -> Result<TuningReport, Error> {
    let (task, settings) = (job.task, &job.settings);
    settings.validate(task)?;
    let data = examples(task, settings, job.folders, job.allow_overlap)?;
    let loaded = LoadedModel::load(job.from, job.choice)?;
    let LoadedModel { config, gpt, tokenizer, skipped, step } = loaded;
    let source = SourceModel::of(job.from, &config, &gpt);
    let identity = Identity::new(task, &gpt, &data, settings);
    start::check_prompt(settings, &config)?;
    let folder = Folder::open(job.out, settings, identity, &tokenizer, job.resume)?;
    for problem in &skipped {
        let note = format!("passed over for the model after step {step}: {problem}");
        watch.tell(Progress::Noted(&note))?;
    }
    data.notes.iter().try_for_each(|note| watch.tell(Progress::Noted(note)))?;
    let base = Start::new(config, gpt.parameters(), settings);
    drop(gpt);
    let run = Run { task, settings, tokenizer, folder };
    let (seeds, notes) = run.stages(&data, base, watch)?;
    run.finish(&data, source, seeds, notes, watch)
}

/// The examples that a run with those settings has, of the files in some folders.
fn examples(
    task: &dyn Task,
    settings: &Settings,
    folders: &[PathBuf],
    allow_overlap: bool,
) -> Result<TaskData, Error> {
    let tune = &settings.finetune;
    let (form, split, stages) = (&*tune.form, &*tune.split, &*tune.stages);
    task.load(&Request { folders, form, split, stages, allow_overlap })
}

/// What these examples are known by: their BLAKE3.
/// # Errors
/// As for [`Task::load`].
pub fn examples_hash(
    task: &dyn Task,
    settings: &Settings,
    folders: &[PathBuf],
) -> Result<String, Error> {
    Ok(identity::examples_hash(&examples(task, settings, folders, false)?))
}

impl Run<'_> {
    /// All stages: what came of every seed, and notes for the reader.
    fn stages(
        &self,
        data: &TaskData,
        base: Start,
        watch: &mut dyn Watch,
    ) -> Result<(Vec<SeedReport>, Vec<String>), Error> {
        let tune = &self.settings.finetune;
        // Earlier stages train the prompt too; every seed of the last one starts from theirs.
        let mut start = base.clone().with_prompt(self.settings, &self.tokenizer, tune.seed)?;
        let training = self.training(&data.train, &data.dev, tune.epochs);
        let parts = [("training", &*data.train), ("dev", &data.dev), ("test", &data.test)];
        let mut notes = self.losses(&training, &parts, &start, watch)?;
        for stage in &data.stages {
            let train = self.labelled(stage, &start, watch)?;
            let cell = Cell {
                stage: stage.name.clone(),
                batch: tune.stage_batch,
                lr: tune.stage_lr,
                seed: tune.seed,
            };
            let training = self.training(&train, &stage.dev, tune.stage_epochs);
            let part = format!("{} training", stage.name);
            notes.extend(self.losses(&training, &[(&part, &train)], &start, watch)?);
            let report = self.cell(&training, &cell, (1, 1), &start, watch)?;
            (_, start.parameters) = self.weights(&training, &report, &start, watch)?;
        }

        let mut grid: Vec<Cell> = Vec::new();
        for &batch in &tune.batch {
            for &lr in &tune.lr {
                let cell = Cell { stage: LAST.into(), batch, lr, seed: tune.seed };
                // A value may be named twice; its training is the same.
                if !grid.contains(&cell) {
                    grid.push(cell);
                }
            }
        }
        let (mut best, mut problem): (Option<CellReport>, Option<Error>) = (None, None);
        for (cell, index) in grid.iter().zip(1..) {
            let report = match self.cell(&training, cell, (index, grid.len()), &start, watch) {
                // One rate may be too large; the others are tried all the same.
                Err(error) if error.kind() == ErrorKind::NonFinite => {
                    let note = format!("{} came to nothing: {}", cell.name(), with_cause(&error));
                    watch.tell(Progress::Noted(&note))?;
                    notes.push(note);
                    problem = Some(error);
                    continue;
                }
                report => report?,
            };
            match &best {
                Some(known) if !report.beats(known) => self.folder.forget(cell)?,
                Some(known) => {
                    self.folder.forget(&known.cell)?;
                    best = Some(report);
                }
                None => best = Some(report),
            }
        }
        let Some(best) = best else { return Err(problem.expect("a grid has a cell")) };
        let mut seeds = Vec::new();
        for (seed, index) in (tune.seed..).zip(1..=tune.seeds) {
            let cell = Cell { seed, ..best.cell.clone() };
            let fresh = data.stages.is_empty() && seed != tune.seed;
            let own = match fresh {
                true => Some(base.clone().with_prompt(self.settings, &self.tokenizer, seed)?),
                false => None,
            };
            let start = own.as_ref().unwrap_or(&start);
            let report = self.cell(&training, &cell, (index, tune.seeds), start, watch)?;
            seeds.push(self.judge(data, &training, report, start, watch)?);
        }
        Ok((seeds, notes))
    }

    /// What the examples of some parts lose in this model, said before it is trained with them: only
    /// another pre-training gives a model more positions.
    fn losses(
        &self,
        training: &Training<'_>,
        parts: &[(&str, &[Example])],
        start: &Start,
        watch: &mut dyn Watch,
    ) -> Result<Vec<String>, Error> {
        let gpt = Gpt::from_parameters(&start.config, start.parameters.clone())?;
        let known = training.train.iter().chain(training.dev);
        let encoder = ExampleEncoder::new(self.task, &self.tokenizer, &gpt, known);
        let mut notes = Vec::new();
        for (part, examples) in parts {
            let (_, fit) = encoder.encode(examples, watch)?;
            if let Some(note) = fit.note(part, gpt.size().context) {
                watch.tell(Progress::Noted(&note))?;
                notes.push(note);
            }
        }
        Ok(notes)
    }

    fn training<'t>(
        &'t self,
        train: &'t [Example],
        dev: &'t [Example],
        epochs: usize,
    ) -> Training<'t> {
        let (task, settings, tokenizer) = (self.task, self.settings, &self.tokenizer);
        Training { task, tokenizer, settings, train, dev, epochs }
    }

    /// A training, the `index`th of `count` in its stage, if it is not known yet.
    fn cell(
        &self,
        training: &Training<'_>,
        cell: &Cell,
        (index, count): (usize, usize),
        start: &Start,
        watch: &mut dyn Watch,
    ) -> Result<CellReport, Error> {
        let known = self.folder.cell(cell)?;
        let (name, is_known) = (cell.name(), known.is_some());
        watch.tell(Progress::Began { training: &name, index, count, known: is_known })?;
        if let Some(known) = known {
            return Ok(known);
        }
        self.train(training, cell, start, watch)
    }

    /// A training, which is saved.
    fn train(
        &self,
        training: &Training<'_>,
        cell: &Cell,
        start: &Start,
        watch: &mut dyn Watch,
    ) -> Result<CellReport, Error> {
        let (report, parameters) = training.run(cell, start, watch)?;
        let config =
            self.settings.training(&start.config, cell.batch, cell.lr, report.steps.max(1));
        self.folder.save_cell(&report, &config, &parameters)?;
        Ok(report)
    }

    /// The weights of a finished training and their settings. If they are damaged or gone, it is made
    /// again: the same comes of it.
    fn weights(
        &self,
        training: &Training<'_>,
        report: &CellReport,
        start: &Start,
        watch: &mut dyn Watch,
    ) -> Result<(Config, Parameters), Error> {
        let damage = match self.folder.weights(&report.cell) {
            Err(damage) if matches!(damage.kind(), ErrorKind::Damaged | ErrorKind::NotFound) => {
                damage
            }
            weights => return weights,
        };
        watch.tell(Progress::Noted(&format!("{damage}; it is trained again")))?;
        self.train(training, &report.cell, start, watch)?;
        self.folder.weights(&report.cell)
    }

    /// The training examples of a stage, labelled by the model so far where they have no labels.
    fn labelled(
        &self,
        stage: &Stage,
        start: &Start,
        watch: &mut dyn Watch,
    ) -> Result<Vec<Example>, Error> {
        if !stage.unlabelled {
            return Ok(stage.train.clone());
        }
        let file = format!("pseudo-labels-{}.json", stage.name);
        if !self.folder.has(&file) {
            let gpt = Gpt::from_parameters(&start.config, start.parameters.clone())?;
            let encoder = ExampleEncoder::new(self.task, &self.tokenizer, &gpt, [].iter());
            let mut labels: BTreeMap<&str, Vec<String>> = BTreeMap::new();
            let targets = candidates(self.task, &encoder);
            let mut answerer = self.answerer(&gpt, &encoder, &[]);
            for part in stage.train.chunks(256) {
                let unlabelled: Vec<Example> = part
                    .iter()
                    .map(|example| Example { labels: vec![0], ..example.clone() })
                    .collect();
                let (encoded, _) = encoder.encode(&unlabelled, watch)?;
                let likelihoods = answerer.likelihoods(&encoded, &targets, watch)?;
                let answers = by_likelihood(self.task, &likelihoods, 0.0);
                labels.extend(part.iter().map(|example| &*example.id).zip(answers));
            }
            self.folder.write(&file, &labels)?;
        }
        let labels: BTreeMap<String, Vec<String>> = self.folder.read(&file)?;
        let label = |example: &Example| {
            let words = labels.get(&example.id)?;
            let labels: Vec<usize> = words.iter().filter_map(|w| self.task.label(w)).collect();
            // What does not fit the model has no label.
            (!labels.is_empty()).then(|| Example { labels, ..example.clone() })
        };
        Ok(stage.train.iter().filter_map(label).collect())
    }

    fn answerer<'t>(
        &'t self,
        gpt: &'t Gpt,
        encoder: &ExampleEncoder<'t>,
        known: &[encode::Encoded],
    ) -> Answerer<'t> {
        let micro_batch = self.settings.micro_batch();
        Answerer::new(gpt, encoder, self.task, &self.tokenizer, known, micro_batch)
    }

    /// Answers the test examples with the weights of a cell.
    fn judge(
        &self,
        data: &TaskData,
        training: &Training<'_>,
        cell: CellReport,
        start: &Start,
        watch: &mut dyn Watch,
    ) -> Result<SeedReport, Error> {
        let seed = cell.cell.seed;
        let file = format!("seed-{seed}.json");
        if self.folder.has(&file) {
            return self.folder.read(&file);
        }
        let (config, parameters) = self.weights(training, &cell, start, watch)?;
        let gpt = Gpt::from_parameters(&config, parameters)?;
        let known = data.train.iter().chain(&data.dev);
        let encoder = ExampleEncoder::new(self.task, &self.tokenizer, &gpt, known);
        let (train, _) = encoder.encode_to_train(&data.train, watch)?;
        let (test, fit) = encoder.encode(&data.test, watch)?;
        let mut answerer = self.answerer(&gpt, &encoder, &train);
        let generated = answerer.generate(&test, watch)?;
        let targets = candidates(self.task, &encoder);
        let mut threshold = 0.0;
        if !self.task.one_label() {
            let (dev, _) = encoder.encode(&data.dev, watch)?;
            threshold = self.threshold(&data.dev, &answerer.likelihoods(&dev, &targets, watch)?);
        }
        let likelihoods = answerer.likelihoods(&test, &targets, watch)?;
        let likely = by_likelihood(self.task, &likelihoods, threshold);
        let form = &self.settings.finetune.form;
        let failed = |words: &&Vec<String>| *words == &[crate::tasks::FAILED];
        let report = SeedReport {
            seed,
            generation: self.task.score(form, &data.test, &generated),
            likelihood: self.task.score(form, &data.test, &likely),
            unparsable: generated.iter().filter(failed).count(),
            threshold,
            fit,
            cell,
        };
        let (main, other) = match self.settings.by_likelihood() {
            true => (&likely, &generated),
            false => (&generated, &likely),
        };
        let others = if self.settings.by_likelihood() { "generation" } else { "likelihood" };
        self.folder.write(&format!("predictions-seed-{seed}.json"), &self.named(data, main))?;
        self.folder.write(&format!("{others}-seed-{seed}.json"), &self.named(data, other))?;
        self.folder.write(&file, &report)?;
        Ok(report)
    }

    /// Answers by id: a word where every example has one label (the official format), else a list.
    fn named(&self, data: &TaskData, answers: &[Vec<String>]) -> serde_json::Value {
        let answer = |words: &Vec<String>| match self.task.one_label() {
            true => serde_json::json!(words[0]),
            false => serde_json::json!(words),
        };
        let named = data.test.iter().zip(answers).map(|(e, words)| (e.id.clone(), answer(words)));
        serde_json::Value::Object(named.collect())
    }

    /// The threshold with which likelihoods answer dev best.
    fn threshold(&self, dev: &[Example], likelihoods: &[Option<Vec<f64>>]) -> f64 {
        let count = self.task.labels().len();
        let margins = likelihoods.iter().flatten();
        let mut known: Vec<f64> =
            margins.flat_map(|l| l[..count].iter().map(|x| x - l[count])).collect();
        known.sort_by(f64::total_cmp);
        // A hundred thresholds between the margins that occur.
        let steps = known.len().div_ceil(100).max(1);
        let score = |threshold: f64| {
            let answers = by_likelihood(self.task, likelihoods, threshold);
            self.task.score(&self.settings.finetune.form, dev, &answers)[0].value
        };
        let scored = known.iter().step_by(steps).map(|&threshold| (score(threshold), threshold));
        let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.map_or(0.0, |(_, threshold)| threshold)
    }

    /// Publishes the model of the seed that is best on dev, and reports.
    fn finish(
        &self,
        data: &TaskData,
        source: SourceModel,
        seeds: Vec<SeedReport>,
        notes: Vec<String>,
        watch: &mut dyn Watch,
    ) -> Result<TuningReport, Error> {
        let better = |best: usize, next: usize| {
            if seeds[next].cell.beats(&seeds[best].cell) { next } else { best }
        };
        let best = (0..seeds.len()).reduce(better).expect("a run has a seed");
        let cell = &seeds[best].cell;
        let form = &self.settings.finetune.form;
        let baselines = baselines(self.task, form, data, watch)?;
        let checkpoints = run::checkpoints(&self.folder.path(""));
        if checkpoint::latest(&checkpoints)?.checkpoint.is_none() {
            let (config, parameters) = self.folder.weights(&cell.cell)?;
            self.folder.publish(cell.steps, &config, &parameters)?;
        }
        let mut report =
            TuningReport::new(self.task, self.settings, data, source, seeds, baselines);
        report.notes.extend(notes);
        self.folder.write_text("MODEL_CARD.md", &report.model_card())?;
        self.folder.write_text("report.md", &report.markdown())?;
        self.folder.write(REPORT, &report)?;
        for seed in &report.seeds {
            self.folder.forget(&seed.cell.cell)?;
        }
        Ok(report)
    }
}

/// An error and what caused it, in one line.
fn with_cause(error: &Error) -> String {
    let cause = std::error::Error::source(error);
    cause.map_or(error.to_string(), |cause| format!("{error}: {cause}"))
}
