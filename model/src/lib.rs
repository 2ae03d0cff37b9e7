//! Sparse GPTs: sizes, training, checkpoints and the accounting of their work.
//!
//! * [`config`]: a run as TOML; [`presets`]: model sizes with their defaults.
//! * [`sparsity`]: which weights exist; [`flops`] and [`memory`]: the work and the memory they
//!   cost; [`mod@bench`]: the time of optimiser steps; [`scaling`]: their time on many machines.
//! * [`architecture`]: every tensor in one table; [`gpt`]: the network, with its first weights (`init`) and
//!   forward passes alone (`inference`); [`score`]: log-likelihoods of texts; [`decode`] and
//!   [`generate`]: text from it.
//! * [`optimisation`]: one optimiser step, of AdamW (`adamw`) with its [`schedule`] of learning rates on the
//!   sum of micro-batch gradients (`gradient_tree`), which ranks make together (`reduction`, or `overlap`), and the one
//!   way in which masks change after it (`remask`).
//! * [`session`]: a run between two steps, in a [`run`] folder with [`tensorboard`] events;
//!   [`checkpoint`]: all of its state on the disk; [`mod@pretrain`]: a whole run; [`evaluate`]: its
//!   validation loss; [`curves`]: its losses so far.
//! * [`watch`]: who is told how long work gets on, and may stop it.
//! * [`interchange`]: runs as Hugging Face folders and GGUF files, and back.
//! * [`tasks`]: what to fine-tune for; [`finetune`]: dense fine-tuning and soft prompts.
//! * [`study`]: a grid of all these, and its report; `cells`: the folder of one, and of fine-tuning's.
//! * [`named`]: things that are chosen by name; [`object`]: JSON objects and nothing else; [`error`]: what can go
//!   wrong with what comes from outside.
#![warn(missing_docs)]

// The tests' support speaks of this crate by its name.
#[cfg(test)]
extern crate self as mediswift_model;

mod adamw;
mod agreement;
pub mod architecture;
pub mod bench;
mod cells;
pub mod checkpoint;
pub mod config;
pub mod curves;
pub mod decode;
pub mod error;
pub mod evaluate;
pub mod finetune;
mod finite;
pub mod flops;
pub mod generate;
pub mod gpt;
mod gradient_tree;
mod inference;
mod init;
pub mod interchange;
pub mod loss_scale;
pub mod memory;
pub mod named;
pub mod object;
pub mod optimisation;
mod overlap;
pub mod plans;
pub mod presets;
pub mod pretrain;
mod reduction;
mod rehearsal;
mod remask;
pub mod run;
pub mod scaling;
pub mod schedule;
pub mod score;
pub mod session;
pub mod sparsity;
mod step_gradients;
pub mod study;
pub mod tasks;
mod tensor_file;
pub mod tensorboard;
pub mod watch;

pub use config::Config;
pub use error::Error;
pub use gpt::{Gpt, TokenBatch};
pub use optimisation::Optimisation;
pub use reduction::Reduce;
