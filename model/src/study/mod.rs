//! A study: a grid of settings, every cell a run, and a report of all.
//!
//! A file lists arms, which are ways to pre-train, with their seeds; what is measured of every trained
//! model; and what to report. Each run is a cell ([`Cell`]), kept in a folder that knows what is finished
//! ([`Ledger`]): it holds the run folders, and beside each a [`Record`] with all that a report needs, small
//! enough to be kept for good. So a report is made again from records alone.
//!
//! * `file`: the file as it stands there; [`plan`]: all of it, checked; [`arm`]: ways to pre-train; `baseline`: dense
//!   models to compare with; [`cell`]: runs; [`wanted`]: tables and figures.
//! * [`ledger`]: the folder of cells; [`record`]: what is kept of one; [`sources`]: their data.
//! * [`report`]: tables and figures, from records; [`mod@column`]: what a table tells of an arm.

pub mod arm;
mod baseline;
pub mod cell;
pub mod column;
mod file;
pub mod ledger;
pub mod plan;
pub mod record;
pub mod report;
pub mod sources;
pub mod wanted;

pub use cell::{Cell, Work};
pub use file::{FigureKind, reference};
pub use ledger::Ledger;
pub use plan::Study;
pub use record::Record;
pub use report::Report;
pub use sources::Sources;
