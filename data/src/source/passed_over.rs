//! What is not read among what was given.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use mediswift_files::brief;

use crate::error::InputProblem;

/// Counts of what is not read, by why.
#[derive(Default)]
pub(crate) struct PassedOver {
    /// How many, and the first.
    kinds: BTreeMap<String, (u64, String)>,
}

impl PassedOver {
    /// Something whose name ends as no input's.
    pub fn name(&mut self, name: &Path) {
        let kind = match name.extension() {
            Some(ending) => brief(format_args!(".{}", ending.to_string_lossy())),
            None => "without an ending".to_owned(),
        };
        self.add(&kind, name.display());
    }

    /// Something of a kind that is not read.
    pub fn add(&mut self, kind: &str, name: impl Display) {
        self.kinds.entry(kind.to_owned()).or_insert_with(|| (0, brief(name))).0 += 1;
    }

    /// Kinds with their counts, and the first of each.
    pub fn kinds(self) -> Vec<(String, u64, String)> {
        self.kinds.into_iter().map(|(kind, (count, first))| (kind, count, first)).collect()
    }

    /// What is to be said of it, if there is anything.
    pub fn problem(self) -> Option<InputProblem> {
        let kinds = self.kinds();
        (!kinds.is_empty()).then_some(InputProblem::PassedOver { kinds })
    }
}
