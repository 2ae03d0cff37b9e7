//! A run folder: everything that one training run leaves on disk.
//!
//! ```text
//! RUN/config.toml       settings, written first: a folder is a run once it is there
//!     data.json         which data the run is trained on
//!     environment.json  processor, instruction set, threads, ranks, version of the last start; how gradients
//!                       were added up, --reduce fast if any of them were
//!     sparsity.json     target and actual sparsity of every linear layer
//!     tokenizer.json    copy of the data's tokenizer
//!     origin.json       where the first weights come from, in an imported run
//!     MODEL_CARD.md     what the model is and is not for
//!     metrics.jsonl     one line per optimiser step
//!     validation.jsonl  one line per evaluation
//!     events.out.tfevents.mediswift  both for TensorBoard
//!     checkpoints/      complete states, newest last
//!     report.json       the final report
//!     LOCK              held by the process that writes
//! ```
//!
//! An imported run has no data yet, and a checkpoint of step 0: it can be evaluated, sampled and
//! exported at once; resuming it on a dataset trains it on.
//!
//! Small files are written whole or not at all. The `.jsonl` logs are appended to, so a killed run
//! may leave a torn last line, which readers skip; a resumed run cuts them at its checkpoint's step,
//! so that no step appears twice or never. Nothing but speeds and pictures depends on them: a run whose
//! logs are damaged or lost says so and goes on.
//!
//! * `folder`: making it and taking it up; `import`: making it of a model from elsewhere, with its `origin`.
//! * [`read_log`]: the two logs; [`TrainingReport`]; the model card.
//! * [`LoadedModel`]: what evaluation, generation, export and fine-tuning take from it: the newest model,
//!   or the one after a given step, with its checked tokenizer.

mod card;
mod folder;
mod import;
pub(crate) mod json;
mod loading;
mod log;
mod origin;
mod report;
mod tokenizer;

pub(crate) use card::model_card;
pub(crate) use folder::{RunFolder, Together, check_unused, check_unused_but, read_reduce};
pub use folder::{checkpoints, read_config};
pub(crate) use folder::{is_locked, lock};
pub(crate) use import::import_run;
pub use loading::{LoadedModel, load_model};
pub use log::{Line, StepMetrics, Validation, read_log};
pub(crate) use log::{Log, Opened};
pub(crate) use origin::{Origin, read_origin};
pub use report::TrainingReport;
pub(crate) use tokenizer::load_tokenizer;
pub use tokenizer::tokenizer_path;
