//! The file of a study, as it stands there: tables of keys, read one by one.

use crate::config::tables::tables;
use crate::config::text::{Comment, Section, parse};
use crate::config::value::{Setting, wrong_type};
use crate::error::{Error, Place};
use crate::named::named;
use mediswift_files::{self as files, SMALL};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::path::Path;
use toml::{Table, Value};

named! {
    /// A dense model to compare a sparse one with.
    pub enum Baseline: "baseline" {
        /// As many weights in linear layers as the sparse model keeps: it is narrower.
        Weights = "equal-active",
        /// The same size, trained for as many operations: fewer steps.
        Operations = "equal-flops",
        /// The same size, trained for as long: as many steps as its own speed allows.
        Time = "equal-seconds",
    }
}

named! {
    /// What a figure shows.
    pub enum FigureKind: "figure" {
        /// Loss curves.
        Losses = "losses",
        /// One point per arm, and which of them no other beats in both.
        Pareto = "pareto",
    }
}

tables! {
    /// A study: what it is called, and its seeds.
    ["study"] StudyTable: Default {
        /// Title of the report.
        title: String,
        /// A sentence or more below it.
        about: String,
        /// Seeds of every arm, each a run: of weights, masks and the order of data. [1] if there are none.
        seeds: Vec<u64>,
    }

    /// What all arms start from.
    ["base"] BaseTable: Default {
        /// A model size with its defaults, as pretrain --preset.
        preset: String,
        /// Or a file of settings, as pretrain --config, relative to the study's.
        config: String,
        /// Settings that differ from those: set.train.steps = 500.
        set: Changes,
    }

    /// A way to pre-train.
    ["arm"] ArmTable: Default {
        /// Its name in files and in lists of arms: letters, digits, dots, dashes.
        name: String,
        /// Its name in tables and figures, if that is another.
        label: String,
        /// Another model size than the base's.
        preset: String,
        /// Another file of settings.
        config: String,
        /// Settings that differ from the base's.
        set: Changes,
        /// Settings to vary, each with a list of values: an arm for every combination.
        vary: Changes,
        /// Other seeds than the study's.
        seeds: Vec<u64>,
        /// Dense models to compare it with, an arm each: equal-active, equal-flops, equal-seconds.
        baselines: Vec<Baseline>,
    }

    /// Measure every trained model on other data too.
    ["evaluate"] EvaluateTable: Default {
        /// What the data is called: --data NAME=FOLDER says where it is.
        data: String,
        /// Arms whose models are measured; all if there are none.
        arms: Vec<String>,
    }

    /// Fine-tune every trained model.
    ["finetune"] FinetuneTable: Default {
        /// The task.
        task: String,
        /// What its data is called, if not like the task: --data NAME=FOLDER says where it is.
        data: String,
        /// Arms whose models are fine-tuned; all if there are none.
        arms: Vec<String>,
        /// Settings that differ from the task's recipe: set.finetune.epochs = 2.
        set: Changes,
    }

    /// A table of the report; one of everything if there is none.
    ["table"] TableTable: Default {
        /// What stands above it.
        title: String,
        /// Its rows; all arms if there are none.
        arms: Vec<String>,
        /// Its columns, among them names of evaluations and of tasks; most of them if there are none.
        columns: Vec<String>,
        /// The arm that others are compared with; the first row if there is none.
        reference: String,
    }

    /// A figure of the report; losses and a Pareto picture if there is neither a table nor a figure.
    ["figure"] FigureTable: Default {
        /// Its file: NAME.svg and NAME.png.
        name: String,
        /// What stands above it.
        title: String,
        /// What it shows: losses, or pareto.
        kind: String,
        /// Its arms; all if there are none.
        arms: Vec<String>,
        /// What losses are drawn against, side by side: tokens, flops, seconds. Or the column along which a
        /// Pareto picture has its points.
        x: Vec<String>,
        /// Column of a Pareto picture's heights; the validation loss if there is none.
        y: String,
    }
}

/// Settings that change others, as nested tables.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Changes(pub Table);

impl Setting for Changes {
    /// Takes `train.steps = 5` and `"train.steps" = 5`, which TOML tells apart.
    fn read(value: Value, key: &str, place: &Place) -> Result<Self, Error> {
        let Value::Table(given) = value else {
            return Err(wrong_type(place, key, "table", &value));
        };
        let mut nested = Table::new();
        for (name, value) in given {
            if !name.contains('.') && !value.is_table() {
                let path = format!("{key}.{name}");
                return Err(wrong_type(place, &path, "table of settings", &value));
            }
            if let Err(path) = merge(&mut nested, at_path(&name, value)) {
                return Err(Error::setting(place.clone(), format!("{key}.{path} is given twice")));
            }
        }
        Ok(Self(nested))
    }
}

/// A value within as many tables as its path has names.
pub(super) fn at_path(path: &str, value: Value) -> Table {
    let within =
        |value: Value, key: &str| Value::Table(Table::from_iter([(key.to_string(), value)]));
    match path.rsplit('.').fold(value, within) {
        Value::Table(table) => table,
        _ => unreachable!("a path has a name"),
    }
}

/// Adds the values of a table to another; the path of one that both have is the error.
fn merge(into: &mut Table, from: Table) -> Result<(), String> {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (None, value) => _ = into.insert(key, value),
            (Some(Value::Table(known)), Value::Table(more)) => {
                merge(known, more).map_err(|path| format!("{key}.{path}"))?;
            }
            (Some(_), _) => return Err(key),
        }
    }
    Ok(())
}

impl Changes {
    /// Every setting by its path, as `train.steps`, with its value.
    pub fn each(&self) -> Vec<(String, &Value)> {
        fn walk<'v>(path: &str, table: &'v Table, each: &mut Vec<(String, &'v Value)>) {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match value {
                    Value::Table(keys) => walk(&path, keys, each),
                    value => each.push((path, value)),
                }
            }
        }
        let mut each = Vec::new();
        walk("", &self.0, &mut each);
        each
    }
}

/// A file of a study, with its place for messages.
pub(super) struct File {
    pub place: Place,
    pub study: StudyTable,
    pub base: BaseTable,
    pub arms: Vec<ArmTable>,
    pub evaluations: Vec<EvaluateTable>,
    pub tunings: Vec<FinetuneTable>,
    pub tables: Vec<TableTable>,
    pub figures: Vec<FigureTable>,
}

/// The tables that a file may have besides its own keys.
const TABLES: [&str; 6] = ["base", "arm", "evaluate", "finetune", "table", "figure"];

impl File {
    /// Reads the file at `path`.
    /// # Errors
    /// If it cannot be read, is no TOML, or has an unknown key or one of the wrong type.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let place = Place::file(path);
        let mut table = parse(&files::read_text(path, SMALL)?, &place)?;
        let [base, arms, evaluations, tunings, tables, figures] =
            TABLES.map(|name| (name, table.remove(name)));
        let base = base.1.map_or(Ok(BaseTable::default()), |base| section(base, "base", &place))?;
        let mut study = StudyTable::default();
        for (key, value) in table {
            if !study.keys().contains(&&*key) {
                let known = study.keys().iter().copied().chain(TABLES);
                return Err(Error::unknown(place, "key", &key, known));
            }
            study.set(&key, value, &key, &place)?;
        }
        Ok(Self {
            study,
            base,
            arms: sections(arms, &place)?,
            evaluations: sections(evaluations, &place)?,
            tunings: sections(tunings, &place)?,
            tables: sections(tables, &place)?,
            figures: sections(figures, &place)?,
            place,
        })
    }
}

/// Tables of one kind, from 1.
fn sections<S: Section + Default>(
    (name, value): (&str, Option<Value>),
    place: &Place,
) -> Result<Vec<S>, Error> {
    let values = match value {
        None => Vec::new(),
        Some(Value::Array(values)) => values,
        Some(one) => vec![one],
    };
    let read = |(at, value)| section(value, &format!("{name}[{}]", at + 1), place);
    values.into_iter().enumerate().map(read).collect()
}

/// A table that may lack keys.
fn section<S: Section + Default>(value: Value, path: &str, place: &Place) -> Result<S, Error> {
    let Value::Table(table) = value else {
        return Err(wrong_type(place, path, "table", &value));
    };
    let mut section = S::default();
    for (key, value) in table {
        if !section.keys().contains(&&*key) {
            let known = section.keys().iter().copied();
            return Err(Error::unknown(place.within(path), "key", &key, known));
        }
        section.set(&key, value, &format!("{path}.{key}"), place)?;
    }
    Ok(section)
}

/// Every table of a study and its keys with what they mean, in Markdown.
pub fn reference() -> String {
    let mut text = String::new();
    let mut table = |name: &str, heading: &str, keys: &[&str]| {
        let said = |path: &str| {
            let lines = ArmTable::comment(path).unwrap_or_default();
            lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
        };
        text += &format!("### {heading}\n\n{}\n\n| key | is |\n|---|---|\n", said(name));
        for key in keys {
            text += &format!("| `{key}` | {} |\n", said(&format!("{name}.{key}")));
        }
        text.push('\n');
    };
    table("study", "First of all", StudyTable::default().keys());
    table("base", "`[base]`", BaseTable::default().keys());
    table("arm", "`[[arm]]`", ArmTable::default().keys());
    table("evaluate", "`[[evaluate]]`", EvaluateTable::default().keys());
    table("finetune", "`[[finetune]]`", FinetuneTable::default().keys());
    table("table", "`[[table]]`", TableTable::default().keys());
    table("figure", "`[[figure]]`", FigureTable::default().keys());
    text.truncate(text.trim_end().len());
    text + "\n"
}
