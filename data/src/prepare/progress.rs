//! How far a preparation has come.

use std::ops::ControlFlow;

/// What [`prepare`](super::prepare()) is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrepareStage {
    /// Reading and cleaning the inputs.
    Reading,
    /// Looking for revisions and duplicates.
    Choosing,
    /// Learning a vocabulary.
    Learning,
    /// Tokenizing what stays; here progress is counted in documents.
    Tokenizing,
}

/// How far [`prepare`](super::prepare()) has come.
#[derive(Clone, Copy, Debug)]
pub struct PrepareProgress {
    /// The step under way.
    pub stage: PrepareStage,
    /// Done of this step: bytes as stored, or documents.
    pub bytes_read: u64,
    /// The step in all.
    pub bytes_total: u64,
    /// Documents so far in this step.
    pub documents: u64,
}

/// Is told how work goes on, and may stop it by returning `Break`.
pub(crate) type Watch<'a> = &'a mut dyn FnMut(&PrepareProgress) -> ControlFlow<()>;
