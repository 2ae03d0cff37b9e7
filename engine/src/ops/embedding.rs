//! [`Embedding`]: token and position vectors.
//!
//! ```text
//! forward   y[t]              = tokens[id_t] + positions[p_t]     1 FLOP per element
//! backward  dtokens[id_t]    += dy[t]
//!           dpositions[p_t]  += dy[t]                             2 FLOPs per element
//! ```
//!
//! p_t is the place of token t in its sequence. With V rows of tokens, an id of V + i is virtual: its
//! vector is row i of a table of prompts (soft prompting, MediSwift §2.3). The tables are row-major,
//! so 16 tokens × 16 features are transposed in registers. The backward pass is parallel over
//! features: each task walks all tokens in order and owns sixteen columns of all tables, so rows met
//! twice need no atomics.

use super::OpCase;
use super::lines::{add_part, lines, lines_mut, load, load_part, store};
use crate::gradcheck::numbers;
use crate::{Backward, Cost, OneToken, Op, ParamId, Parameters, Shape, Tiles, TokenLayout};
use mediswift_kernels::isa::{Isa, Kernel, dispatch};
use mediswift_kernels::parallel::{Part, for_each_part};
use mediswift_kernels::{LANES, Precision};
use rayon::prelude::*;

/// y = `tokens[id] + positions[place in the sequence]`; no inputs. Padding lanes are zero.
pub struct Embedding<'a> {
    /// Token table `[vocabulary, features]`.
    pub tokens: ParamId,
    /// Position table `[at least the context, features]`.
    pub positions: ParamId,
    /// Prompt table `[virtual tokens, features]`: the rows of the ids after the vocabulary.
    pub prompt: Option<ParamId>,
    /// Token ids, `[sequence][token]` row-major; every one below the vocabulary, or virtual.
    pub ids: &'a [u32],
    /// Features of the output.
    pub features: usize,
}

impl Embedding<'_> {
    #[track_caller]
    fn check(&self, layout: TokenLayout, tokens: &[f32], prompt: &[f32], positions: &[f32]) {
        assert_eq!(self.ids.len(), layout.tokens(), "one id per token is needed");
        let vocabulary = tokens.len() / self.features;
        let rows = vocabulary + prompt.len() / self.features;
        if let Some(id) = self.ids.iter().find(|&&id| id as usize >= rows) {
            panic!("token id {id} is outside the vocabulary of {vocabulary} and its prompt");
        }
        let places = positions.len() / self.features;
        assert!(layout.context <= places, "context {} > {places} positions", layout.context);
    }
}

/// Ids of the tokens in one tile, and the place of the first in its sequence.
fn tile_ids(ids: &[u32], layout: TokenLayout, tile: usize) -> (&[u32], usize) {
    let sequence = tile / layout.tiles_per_sequence();
    let place = tile % layout.tiles_per_sequence() * LANES;
    (&ids[sequence * layout.context + place..][..layout.tokens_in_tile(tile)], place)
}

impl Op for Embedding<'_> {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn out_features(&self) -> usize {
        self.features
    }

    #[track_caller]
    fn forward(&self, _: &[&Tiles], parameters: &Parameters, y: &mut Tiles, _: &mut Tiles) {
        let (layout, features) = (y.layout(), self.features);
        let (tokens, positions) = (&parameters[self.tokens], &parameters[self.positions]);
        let prompt = self.prompt.map_or(&[][..], |prompt| &parameters[prompt]);
        self.check(layout, tokens, prompt, positions);
        let tile_len = y.tile_len();
        y.data_mut().par_chunks_mut(tile_len).enumerate().for_each(|(tile, y)| {
            let (ids, place) = tile_ids(self.ids, layout, tile);
            dispatch(Gather { tokens, prompt, positions, ids, place, features, y });
        });
    }

    fn backward(&self, pass: Backward<'_>) {
        let prompt = self.prompt;
        let (layout, gradients) = (pass.dy.layout(), pass.gradients);
        assert_eq!(pass.dy.features(), self.features, "shapes disagree");
        let of_prompt = prompt.map_or(&[][..], |prompt| &gradients[prompt]);
        self.check(layout, &gradients[self.tokens], of_prompt, &gradients[self.positions]);
        let vocabulary = gradients[self.tokens].len() / self.features;
        let (tokens, positions, prompt) = match prompt {
            None => {
                let [tokens, positions] = gradients.disjoint_mut([self.tokens, self.positions]);
                (tokens, positions, &mut [][..])
            }
            Some(prompt) => gradients.disjoint_mut([self.tokens, self.positions, prompt]).into(),
        };
        let columns = |table| Part::whole(table, self.features).into_columns(LANES);
        let tables = columns(tokens).into_iter().zip(columns(positions)).zip(columns(prompt));
        for_each_part(tables.enumerate().collect(), |(block, ((tokens, positions), prompt))| {
            let tables = Tables { tokens, vocabulary, prompt, positions };
            dispatch(Scatter { ids: self.ids, dy: pass.dy, tables, first: block * LANES });
        });
    }

    /// The ids are those of the sequence so far.
    fn one_token(&self, token: OneToken<'_>) {
        let row =
            |table, row: usize| &token.parameters[table][row * self.features..][..self.features];
        let vocabulary = token.parameters[self.tokens].len() / self.features;
        let id = self.ids[token.position] as usize;
        let of_token = match id.checked_sub(vocabulary) {
            None => row(self.tokens, id),
            Some(place) => row(self.prompt.expect("virtual ids are those of a prompt"), place),
        };
        let sums = of_token.iter().zip(row(self.positions, token.position)).map(|(a, b)| a + b);
        token.y.iter_mut().zip(sums).for_each(|(y, sum)| *y = sum);
    }

    fn cost(&self, layout: TokenLayout) -> Cost {
        let elements = (layout.tokens() * self.features) as u64;
        Cost {
            forward_flops: elements,
            backward_flops: 2 * elements,
            // Forward: two rows read, one written. Backward: dy read, two rows read and written.
            bytes: 4 * (3 + 5) * elements,
        }
    }
}

struct Gather<'a> {
    tokens: &'a [f32],
    prompt: &'a [f32],
    positions: &'a [f32],
    ids: &'a [u32],
    place: usize,
    features: usize,
    y: &'a mut [f32],
}

impl Kernel for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (block, y) in lines_mut(self.y).chunks_mut(LANES).enumerate() {
            let part = |table: &[f32], row: usize| {
                let from = row * self.features + block * LANES;
                load_part(isa, &table[from..from + y.len()])
            };
            let mut rows = [isa.splat(0.0); LANES];
            for (lane, (row, &id)) in rows.iter_mut().zip(self.ids).enumerate() {
                let token = match (id as usize).checked_sub(self.tokens.len() / self.features) {
                    None => part(self.tokens, id as usize),
                    Some(place) => part(self.prompt, place),
                };
                *row = isa.add(token, part(self.positions, self.place + lane));
            }
            for (y, v) in y.iter_mut().zip(isa.transpose(rows)) {
                store(isa, y, v);
            }
        }
    }
}

/// Some columns of the gradients of the tables.
struct Tables<'a> {
    tokens: Part<'a>,
    vocabulary: usize,
    prompt: Part<'a>,
    positions: Part<'a>,
}

/// Up to sixteen features, from `first`, of all tokens.
struct Scatter<'a> {
    ids: &'a [u32],
    dy: &'a Tiles,
    tables: Tables<'a>,
    first: usize,
}

impl Kernel for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Tables { mut tokens, vocabulary, mut prompt, mut positions } = self.tables;
        let (layout, features) = (self.dy.layout(), self.dy.features());
        let width = LANES.min(features - self.first);
        for tile in 0..layout.tiles() {
            let mut block = [isa.splat(0.0); LANES];
            let dy = &lines(self.dy.tile(tile))[self.first..self.first + width];
            for (v, line) in block.iter_mut().zip(dy) {
                *v = load(isa, line);
            }
            let (ids, place) = tile_ids(self.ids, layout, tile);
            for ((lane, &id), row) in ids.iter().enumerate().zip(isa.transpose(block)) {
                let token = match (id as usize).checked_sub(vocabulary) {
                    None => tokens.row(id as usize),
                    Some(place) => prompt.row(place),
                };
                add_part(isa, token, row);
                add_part(isa, positions.row(place + lane), row);
            }
        }
    }
}

/// Ids of the test case: some tokens occur often, one never.
const IDS: [u32; 38] = [
    4, 0, 0, 2, 1, 4, 4, 0, 2, 1, 1, 1, 0, 2, 4, 4, 2, 0, 1, 2, 2, 2, 2, 1, 0, 4, 1, 0, 2, 1, 4, 0,
    0, 1, 2, 4, 2, 0,
];

/// Test case.
pub const CASE: OpCase = OpCase {
    name: "embedding",
    layout: TokenLayout { sequences: 2, context: 19 },
    input_features: &[],
    parameters: || {
        Parameters::from_tensors([
            ("tokens", Shape::Matrix(5, 21), numbers(5 * 21, 1)),
            ("positions", Shape::Matrix(20, 21), numbers(20 * 21, 2)),
        ])
    },
    with_op: |parameters, check| {
        let find = |name| parameters.find(name).expect("a parameter of this case");
        let (tokens, positions) = (find("tokens"), find("positions"));
        check(&Embedding { tokens, positions, prompt: None, ids: &IDS, features: 21 });
    },
    reference,
    precision: Precision::F32,
};

/// The same ids with a vocabulary of 3: 3 and 4 are virtual.
pub const PROMPT_CASE: OpCase = OpCase {
    name: "embedding with a soft prompt",
    parameters: || {
        Parameters::from_tensors([
            ("tokens", Shape::Matrix(3, 21), numbers(3 * 21, 1)),
            ("positions", Shape::Matrix(20, 21), numbers(20 * 21, 2)),
            ("prompt", Shape::Matrix(2, 21), numbers(2 * 21, 3)),
        ])
    },
    with_op: |parameters, check| {
        let find = |name| parameters.find(name).expect("a parameter of this case");
        let (tokens, positions) = (find("tokens"), find("positions"));
        let prompt = Some(find("prompt"));
        check(&Embedding { tokens, positions, prompt, ids: &IDS, features: 21 });
    },
    ..CASE
};

fn reference(layout: TokenLayout, _: &[Vec<f64>], parameters: &[Vec<f64>]) -> Vec<f64> {
    let row = |table: usize, row: usize| &parameters[table][row * 21..(row + 1) * 21];
    let vocabulary = parameters[0].len() / 21;
    let sum = |(t, &id): (usize, &u32)| {
        let token = match (id as usize).checked_sub(vocabulary) {
            None => row(0, id as usize),
            Some(place) => row(2, place),
        };
        let position = row(1, t % layout.context);
        token.iter().zip(position).map(|(a, b)| a + b).collect::<Vec<f64>>()
    };
    IDS.iter().enumerate().flat_map(sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "token id 5 is outside the vocabulary of 5")]
    fn ids_outside_the_vocabulary_are_refused() {
        let parameters = (CASE.parameters)();
        let find = |name| parameters.find(name).unwrap();
        let (tokens, positions) = (find("tokens"), find("positions"));
        let op = Embedding { tokens, positions, prompt: None, ids: &[0, 5], features: 21 };
        let layout = TokenLayout { sequences: 1, context: 2 };
        let (mut y, mut saved) = (Tiles::zeros(layout, 21), Tiles::zeros(layout, 0));
        op.forward(&[], &parameters, &mut y, &mut saved);
    }
}
