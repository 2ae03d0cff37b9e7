//! What a file wants reported: its [`Table`]s and [`Figure`]s, checked.

use super::arm::{Arm, check_name, select};
use super::column::Column;
use super::file::{FigureKind, FigureTable, TableTable};
use crate::error::{Error, Place};
use crate::named::Named;

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

/// What tables and figures can speak of.
pub(super) struct Reported<'a> {
    pub arms: &'a [Arm],
    /// Names of evaluations and tasks.
    pub scores: &'a [String],
    pub place: &'a Place,
}

impl Reported<'_> {
    /// The tables of the file, or one of everything.
    pub fn tables(&self, tables: Vec<TableTable>) -> Result<Vec<Table>, Error> {
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

    /// The figures of the file.
    pub fn figures(&self, figures: Vec<FigureTable>, title: &str) -> Result<Vec<Figure>, Error> {
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
            let problem = match kind {
                FigureKind::Losses if !y.is_empty() => Some("losses have no y but the loss"),
                FigureKind::Losses if !x.iter().all(|x| Column::AXES.contains(x)) => {
                    Some("x of losses is among tokens, flops and seconds")
                }
                FigureKind::Pareto if x.len() != 1 => Some("a Pareto picture has one x"),
                _ => None,
            };
            if let Some(problem) = problem {
                return Err(Error::setting(self.place.within(&key), problem));
            }
            let y = if y.is_empty() { Column::Loss } else { column(&y)? };
            let title = if own.is_empty() { title.to_string() } else { own };
            let arms = select(self.arms, &arms, &key, self.place)?;
            Ok(Figure { name, title, kind, arms, x, y })
        };
        figures.into_iter().zip(1..).map(figure).collect()
    }
}

/// One figure of each kind, for a file of that name that says nothing of a report.
pub(super) fn usual_figures(stem: &str) -> Vec<FigureTable> {
    let figure = |kind: FigureKind| FigureTable {
        name: format!("{stem}-{}", kind.name()),
        kind: kind.name().into(),
        ..FigureTable::default()
    };
    FigureKind::all().map(figure).collect()
}
