//! [`MaskSchedule`]: a way to move masks while a model is trained.

use crate::named::named;
use serde::{Serialize, Serializer};
use std::fmt;

/// Where the weights come from that a mask gains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// From nowhere: a mask only loses weights.
    Nothing,
    /// They are drawn, every place being equally likely.
    Random,
    /// Those whose gradient is largest, which is computed for all places of a matrix.
    Gradient,
}

/// A way to move masks while a model is trained. Settings and messages know it by its name.
///
/// *When* masks move is the same for all (`sparsity.update`); *what* moves follows from two answers. Where a
/// mask gains nothing, an update leaves as many weights as [`MaskSchedule::sparsity`] says. Where it gains
/// some, an update drops a fraction of them (`sparsity.drop_fraction`) and adds as many. Dropped are the smallest.
///
/// A program's own schedule works wherever settings are handed over as a value; settings in files know those
/// of this crate alone.
pub trait MaskSchedule: Sync {
    /// Its name in `sparsity.algorithm`.
    fn name(&self) -> &'static str;

    /// Whether masks ever move.
    fn moves(&self) -> bool {
        true
    }

    /// Whether they move once, at the first of all updates.
    fn is_once(&self) -> bool {
        false
    }

    /// Where new weights come from.
    fn growth(&self) -> Growth {
        Growth::Nothing
    }

    /// The sparsity of a layer that is to have `target`, once a fraction `progress` of all updates is made: 0
    /// before the first, 1 after the last. A layer whose sparsity is 0 is dense.
    fn sparsity(&self, target: f64, _progress: f64) -> f64 {
        target
    }
}

impl dyn MaskSchedule {
    /// Whether updates change how many weights a mask keeps.
    pub(crate) fn changes_size(&self) -> bool {
        self.moves() && self.growth() == Growth::Nothing
    }
}

impl fmt::Debug for dyn MaskSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PartialEq for dyn MaskSchedule {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Serialize for dyn MaskSchedule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

named! {
    /// How the fraction of weights that an update drops changes over a run.
    pub enum DropShape: "drop fraction" {
        /// It falls along half a cosine to 0.
        Cosine = "cosine",
        /// It stays.
        Constant = "constant",
    }
}

named! {
    /// How the sparsity of a model is shared out among its layers.
    pub enum Distribution: "distribution" {
        /// The same in all.
        Uniform = "uniform",
        /// Densities in proportion to (inputs + outputs) / (inputs · outputs), at most 1: Erdős–Rényi (Mocanu et al.,
        /// 2018).
        Er = "er",
        /// The same with the extents of convolution kernels (Evci et al., 2020), which linear layers have none of.
        Erk = "erk",
    }
}
