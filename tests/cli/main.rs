//! The command line, run as a user would run it: one file for each group of verbs, or promise of theirs.

mod bench;
#[path = "../common/mod.rs"]
mod common;
mod data;
#[cfg(unix)]
mod docs;
mod finetune;
mod interchange;
mod old_files;
mod plot;
mod prepared;
mod serve;
mod server;
#[cfg(target_os = "linux")]
mod settings;
#[cfg(unix)]
mod study;
#[cfg(unix)]
mod survival;
mod tokenizer;
mod train;
mod trained;
mod using;
