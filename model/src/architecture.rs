//! The architecture in one table: every tensor of a model, with all that is decided tensor by tensor.
//!
//! Names, extents, first values, weight decay, masks, and the names that other programs use follow from
//! here: the parameters of [`crate::gpt`], what `sparsity.groups` may name, [`crate::interchange`],
//! [`crate::memory`] and [`crate::flops`]. What is computed with the tensors is the forward pass's
//! business (`Gpt::forward`).

use crate::config::ModelConfig;
use crate::init::{Init, Size};
use mediswift_engine::Shape;

/// Name of the soft prompt among the parameters.
pub const PROMPT: &str = "prompt.weight";

/// Blocks are numbered here, from 0.
const NUMBER: char = '*';

/// One extent of a tensor.
#[derive(Clone, Copy)]
enum Extent {
    Vocabulary,
    Positions,
    /// Virtual tokens of the soft prompt.
    Virtual,
    /// So many times the width `d_model`.
    D(usize),
}

/// What a row of the table says of one tensor, or of one tensor of every block.
struct Row {
    name: &'static str,
    extents: &'static [Extent],
    init: Init,
    /// Whether weight decay applies.
    decays: bool,
    /// Equal masks on top of each other, if sparsity applies; else 0.
    masks: usize,
    elsewhere: Option<Elsewhere>,
}

struct Elsewhere {
    hf: &'static str,
    /// Hugging Face's Conv1D: `[in, out]` instead of `[out, in]`.
    is_turned: bool,
    gguf: &'static str,
}

macro_rules! rows {
    ($($name:literal [$($extent:expr),+] $init:ident $decay:ident $masks:literal
        $(=> $hf:literal $($turned:ident)?, $gguf:literal)?;)+) => {
        &[$(Row {
            name: $name,
            extents: &[$($extent),+],
            init: Init::$init,
            decays: rows!($decay),
            masks: $masks,
            elsewhere: rows!(elsewhere $($hf $($turned)?, $gguf)?),
        }),+]
    };
    (decays) => { true };
    (stays) => { false };
    (elsewhere $hf:literal turned, $gguf:literal) => {
        Some(Elsewhere { hf: $hf, is_turned: true, gguf: $gguf })
    };
    (elsewhere $hf:literal, $gguf:literal) => {
        Some(Elsewhere { hf: $hf, is_turned: false, gguf: $gguf })
    };
    (elsewhere) => { None };
}

use Extent::{D, Positions, Virtual, Vocabulary};

/// Every tensor, in the order of the parameters; rows with a `*` are those of a block. Columns: name,
/// extents, first values, whether weight decay applies, masks; then names in Hugging Face's GPT-2 and in
/// GGUF, without what stands before all names there and before those of a block.
const ROWS: &[Row] = rows! {
    "tok_embed.weight"          [Vocabulary, D(1)] Weight   decays 0 => "wte.weight", "token_embd.weight";
    "pos_embed.weight"          [Positions, D(1)]  Position decays 0 => "wpe.weight", "position_embd.weight";
    "blocks.*.ln1.weight"       [D(1)]             Ones     stays  0 => "ln_1.weight", "attn_norm.weight";
    "blocks.*.ln1.bias"         [D(1)]             Zeros    stays  0 => "ln_1.bias", "attn_norm.bias";
    "blocks.*.attn.qkv.weight"  [D(3), D(1)]       Weight   decays 3 => "attn.c_attn.weight" turned, "attn_qkv.weight";
    "blocks.*.attn.qkv.bias"    [D(3)]             Zeros    stays  0 => "attn.c_attn.bias", "attn_qkv.bias";
    "blocks.*.attn.proj.weight" [D(1), D(1)]       Residual decays 1 => "attn.c_proj.weight" turned, "attn_output.weight";
    "blocks.*.attn.proj.bias"   [D(1)]             Zeros    stays  0 => "attn.c_proj.bias", "attn_output.bias";
    "blocks.*.ln2.weight"       [D(1)]             Ones     stays  0 => "ln_2.weight", "ffn_norm.weight";
    "blocks.*.ln2.bias"         [D(1)]             Zeros    stays  0 => "ln_2.bias", "ffn_norm.bias";
    "blocks.*.mlp.up.weight"    [D(4), D(1)]       Weight   decays 1 => "mlp.c_fc.weight" turned, "ffn_up.weight";
    "blocks.*.mlp.up.bias"      [D(4)]             Zeros    stays  0 => "mlp.c_fc.bias", "ffn_up.bias";
    "blocks.*.mlp.down.weight"  [D(1), D(4)]       Residual decays 1 => "mlp.c_proj.weight" turned, "ffn_down.weight";
    "blocks.*.mlp.down.bias"    [D(1)]             Zeros    stays  0 => "mlp.c_proj.bias", "ffn_down.bias";
    "ln_final.weight"           [D(1)]             Ones     stays  0 => "ln_f.weight", "output_norm.weight";
    "ln_final.bias"             [D(1)]             Zeros    stays  0 => "ln_f.bias", "output_norm.bias";
    "prompt.weight"             [Virtual, D(1)]    Weight   decays 0;
};

/// One tensor of a model of some size.
pub(crate) struct Slot {
    pub(crate) name: String,
    /// `[n]` or `[rows, columns]`.
    pub(crate) extents: Vec<usize>,
    row: &'static Row,
    /// Size of the model.
    size: Size,
}

/// Every tensor of a model of that size with a soft prompt of so many virtual tokens, in order.
pub(crate) fn slots(size: &ModelConfig, prompt_tokens: usize) -> Vec<Slot> {
    let slot = |row: &'static Row, block: Option<usize>| {
        let extent = |extent: &Extent| match extent {
            Vocabulary => size.vocabulary,
            Positions => size.context,
            Virtual => prompt_tokens,
            D(times) => times * size.d_model,
        };
        let extents = row.extents.iter().map(extent).collect();
        Slot {
            name: numbered(row.name, block),
            extents,
            row,
            size: Size { layers: size.layers, d_model: size.d_model },
        }
    };
    let mut slots = Vec::new();
    for rows in ROWS.chunk_by(|a, b| a.is_of_block() == b.is_of_block()) {
        if rows[0].is_of_block() {
            let block = |block| rows.iter().map(move |row| slot(row, Some(block)));
            slots.extend((0..size.layers).flat_map(block));
        } else {
            slots.extend(rows.iter().map(|row| slot(row, None)));
        }
    }
    slots.retain(|slot| slot.name != PROMPT || prompt_tokens > 0);
    slots
}

/// The names of all weights of a block that sparsity applies to, with `*` for its number.
pub(crate) fn sparse_weights() -> impl Iterator<Item = &'static str> {
    ROWS.iter().filter(|row| row.masks > 0).map(|row| row.name)
}

/// Whether weight decay applies to a tensor.
/// # Panics
/// If a GPT has no such tensor.
#[track_caller]
pub(crate) fn decays(name: &str) -> bool {
    row_of(name).0.decays
}

/// The names of a tensor elsewhere.
pub(crate) struct ForeignNames {
    /// In Hugging Face's GPT-2, without the `transformer.` before it.
    pub(crate) hf: String,
    /// In GGUF.
    pub(crate) gguf: String,
    /// Whether Hugging Face keeps it as a Conv1D: `[in, out]` instead of `[out, in]`.
    pub(crate) is_conv1d: bool,
}

impl ForeignNames {
    /// Those of the tensor that is called `name` here; none for a soft prompt.
    /// # Panics
    /// If a GPT has no such tensor.
    #[track_caller]
    pub(crate) fn of(name: &str) -> Option<Self> {
        let (row, block) = row_of(name);
        row.elsewhere.as_ref().map(|Elsewhere { hf, is_turned, gguf }| Self {
            hf: block.map_or_else(String::new, |block| format!("h.{block}.")) + hf,
            gguf: block.map_or_else(String::new, |block| format!("blk.{block}.")) + gguf,
            is_conv1d: *is_turned,
        })
    }
}

impl Row {
    fn is_of_block(&self) -> bool {
        self.name.contains(NUMBER)
    }
}

/// The row of the tensor `name`, and the number of its block.
#[track_caller]
fn row_of(name: &str) -> (&'static Row, Option<usize>) {
    let number = name.split('.').find_map(|part| part.parse().ok());
    let row = ROWS.iter().find(|row| numbered(row.name, number) == name);
    (row.unwrap_or_else(|| panic!("a GPT has no tensor '{name}'")), number)
}

/// A name with the number of a block.
fn numbered(name: &str, block: Option<usize>) -> String {
    block.map_or_else(|| name.to_string(), |block| name.replace(NUMBER, &block.to_string()))
}

impl Slot {
    /// Equal masks on top of each other, if sparsity applies to the tensor; else 0.
    pub(crate) fn masks(&self) -> usize {
        self.row.masks
    }

    /// Values in its dense form.
    pub(crate) fn len(&self) -> usize {
        self.extents.iter().product()
    }

    /// Its shape if it is dense.
    pub(crate) fn dense_shape(&self) -> Shape {
        match self.extents[..] {
            [n] => Shape::Vector(n),
            _ => Shape::Matrix(self.extents[0], self.extents[1]),
        }
    }

    /// Writes the first values of the tensor, which has this shape, to `to`.
    /// # Panics
    /// If the shape has not as many values as `to`.
    #[track_caller]
    pub(crate) fn initialise(&self, seed: u64, shape: &Shape, to: &mut [f32]) {
        self.row.init.fill(&self.name, shape, self.size, seed, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::collections::HashSet;

    #[test]
    fn tensors_have_names_of_their_own_everywhere() {
        let size = ModelConfig { vocabulary: 30, ..Config::from_preset("tiny").unwrap().model };
        let slots = slots(&size, 3);
        assert_eq!(
            slots.len(),
            ROWS.len() + (size.layers - 1) * ROWS.iter().filter(|r| r.is_of_block()).count()
        );
        let names = slots.iter().map(|slot| slot.name.as_str());
        let foreign: Vec<_> = names.clone().filter_map(ForeignNames::of).collect();
        assert_eq!(foreign.len(), slots.len() - 1);
        assert_eq!(names.collect::<HashSet<_>>().len(), slots.len());
        assert_eq!(foreign.iter().map(|f| &f.hf).collect::<HashSet<_>>().len(), foreign.len());
        assert_eq!(foreign.iter().map(|f| &f.gguf).collect::<HashSet<_>>().len(), foreign.len());
        for slot in &slots {
            let (row, block) = row_of(&slot.name);
            assert_eq!((row.name, numbered(row.name, block)), (slot.row.name, slot.name.clone()));
            // As PyTorch's GPTs have it: on matrices, not on biases and gains.
            assert_eq!(decays(&slot.name), slot.extents.len() == 2, "{}", slot.name);
            if slot.masks() > 0 {
                assert_eq!((slot.extents.len(), slot.extents[0] % slot.masks()), (2, 0));
            }
        }
        let last = ForeignNames::of("blocks.11.mlp.down.weight").unwrap();
        assert_eq!((&*last.hf, &*last.gguf), ("h.11.mlp.c_proj.weight", "blk.11.ffn_down.weight"));
        assert!(last.is_conv1d);
    }

    #[test]
    #[should_panic(expected = "a GPT has no tensor 'blocks.0.ln3.weight'")]
    fn other_tensors_have_no_row() {
        decays("blocks.0.ln3.weight");
    }
}
