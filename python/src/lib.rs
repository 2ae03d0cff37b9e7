//! The module `mediswift._core`: what the Python package `mediswift` calls.
//!
//! Arrays and names come in, checked here once more whatever Python's side has seen to; all work is done by
//! the library `mediswift`, without the interpreter's lock, on threads of this module's own.
#![warn(missing_docs)]

mod activations;
mod arrays;
mod bench;
mod error;
mod layer;
mod model;
mod pattern;
mod threads;
mod tokenizer;
mod training;

/// The compiled part of the package `mediswift`.
#[pyo3::pymodule]
mod _core {
    #[pymodule_export]
    use crate::activations::Tiles;
    #[pymodule_export]
    use crate::bench::bench_layer;
    #[pymodule_export]
    use crate::layer::{Layer, instruction_set, read_plans, write_plans};
    #[pymodule_export]
    use crate::model::Model;
    #[pymodule_export]
    use crate::pattern::{Pattern, mask_names};
    #[pymodule_export]
    use crate::threads::{num_threads, set_num_threads};
    #[pymodule_export]
    use crate::tokenizer::Tokenizer;
    #[pymodule_export]
    use crate::training::{prepare_dataset, train, write_dataset};
}
