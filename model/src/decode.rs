//! [`Decoder`]: one token at a time, with a key-value cache.
//!
//! The same network as [`crate::gpt`] in plain vectors: linear layers go through SpMV and GEMV,
//! at the speed at which the weights stream from memory. Keys are cached as `[feature][position]`
//! and values as `[position][feature]`, so that both loops of attention run along contiguous memory.
//! A prompt is read in one pass through the network on tiles, which fills the cache.

use crate::error::Error;
use crate::gpt::{Gpt, Linear, Norm};
use mediswift_engine::ops::EPSILON;
use mediswift_engine::{Arena, Tape, Tiles, TokenLayout};
use mediswift_kernels::LANES;
use mediswift_kernels::ops::gemv;

/// Reads tokens and predicts the next one. A clone goes on from the same place.
#[derive(Clone)]
pub struct Decoder<'a> {
    gpt: &'a Gpt,
    caches: Vec<Cache>,
    position: usize,
    /// What the output head reads.
    hidden: Vec<f32>,
}

/// Keys and values of one block.
#[derive(Clone)]
struct Cache {
    /// `[feature][position]`.
    keys: Vec<f32>,
    /// `[position][feature]`.
    values: Vec<f32>,
}

impl<'a> Decoder<'a> {
    /// A decoder that has read nothing.
    pub fn new(gpt: &'a Gpt) -> Self {
        let len = gpt.size.context * gpt.size.d_model;
        let cache = || Cache { keys: vec![0.0; len], values: vec![0.0; len] };
        Self {
            gpt,
            caches: gpt.blocks.iter().map(|_| cache()).collect(),
            position: 0,
            hidden: vec![0.0; gpt.size.d_model],
        }
    }

    /// Tokens read so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Whether the model has no position left for another token.
    pub fn is_full(&self) -> bool {
        self.position == self.gpt.size.context
    }

    /// Reads tokens: those that come first in one pass.
    /// # Errors
    /// If one is neither in the vocabulary nor virtual, or the model has too few positions left; then
    /// none is read.
    pub fn read(&mut self, ids: &[u32]) -> Result<(), Error> {
        let size = &self.gpt.size;
        if self.position + ids.len() > size.context {
            let (tokens, positions) = (self.position + ids.len(), size.context);
            return Err(Error::SequenceTooLong { tokens, positions });
        }
        self.gpt.check_inputs(ids)?;
        if self.position > 0 || ids.len() < 2 {
            return ids.iter().try_for_each(|&id| self.feed(id));
        }
        let layout = TokenLayout { sequences: 1, context: ids.len() };
        let mut arena = Arena::default();
        let mut tape = Tape::new(layout, &mut arena);
        let mut caches = self.caches.iter_mut();
        let last = self.gpt.infer(ids, &mut tape, &mut |qkv| {
            caches.next().expect("one cache per block").fill(qkv, size.context);
        });
        let (tile, lane) = ((ids.len() - 1) / LANES, (ids.len() - 1) % LANES);
        let tile = tape.value(last).tile(tile).chunks_exact(LANES);
        self.hidden = tile.map(|line| line[lane]).collect();
        self.position = ids.len();
        Ok(())
    }

    /// Reads one token.
    /// # Errors
    /// If the token is neither in the vocabulary nor virtual, or the model has no position left.
    pub fn feed(&mut self, id: u32) -> Result<(), Error> {
        let (gpt, d) = (self.gpt, self.gpt.size.d_model);
        self.gpt.check_inputs(&[id])?;
        if self.is_full() {
            return Err(Error::ContextFull { positions: gpt.size.context });
        }
        let token = gpt.embedding(id);
        let place = &gpt.parameters[gpt.pos_embed][self.position * d..][..d];
        let mut x: Vec<f32> = token.iter().zip(place).map(|(a, b)| a + b).collect();
        for (block, cache) in gpt.blocks.iter().zip(&mut self.caches) {
            let h = norm(gpt, &block.ln1, &x);
            let h = linear(gpt, &block.qkv, &h);
            let h = cache.attend(&h, self.position, gpt.size.heads, gpt.size.context);
            add(&mut x, &linear(gpt, &block.proj, &h));
            let h = norm(gpt, &block.ln2, &x);
            let mut h = linear(gpt, &block.up, &h);
            h.iter_mut().for_each(|x| *x = gelu(*x));
            add(&mut x, &linear(gpt, &block.down, &h));
        }
        self.hidden = norm(gpt, &gpt.ln_final, &x);
        self.position += 1;
        Ok(())
    }

    /// Logits `[vocabulary]` of the token after those read.
    pub fn logits(&self) -> Vec<f32> {
        let mut logits = vec![0.0; self.gpt.size.vocabulary];
        gemv(&self.gpt.parameters[self.gpt.tok_embed], &self.hidden, &mut logits);
        logits
    }
}

impl Cache {
    /// Takes keys and values from the first tokens' `qkv` `[3 · features]`.
    fn fill(&mut self, qkv: &Tiles, context: usize) {
        let d = qkv.features() / 3;
        for tile in 0..qkv.layout().tiles() {
            let (first, count) = (tile * LANES, qkv.layout().tokens_in_tile(tile));
            let (_, kv) = qkv.tile(tile).split_at(d * LANES);
            let (k, v) = kv.split_at(d * LANES);
            let keys = self.keys.chunks_exact_mut(context).zip(k.chunks_exact(LANES));
            for (keys, line) in keys {
                keys[first..first + count].copy_from_slice(&line[..count]);
            }
            for (feature, line) in v.chunks_exact(LANES).enumerate() {
                for (lane, &value) in line[..count].iter().enumerate() {
                    self.values[(first + lane) * d + feature] = value;
                }
            }
        }
    }

    /// Appends key and value of `qkv` `[3 · features]` at `position`, and attends from its query
    /// to all positions so far: softmax(q · k / √d_head) · v for every head.
    fn attend(&mut self, qkv: &[f32], position: usize, heads: usize, context: usize) -> Vec<f32> {
        let d = qkv.len() / 3;
        let (q, kv) = qkv.split_at(d);
        let (k, v) = kv.split_at(d);
        for (keys, &k) in self.keys.chunks_exact_mut(context).zip(k) {
            keys[position] = k;
        }
        self.values[position * d..][..d].copy_from_slice(v);

        let d_head = d / heads;
        let scale = 1.0 / (d_head as f32).sqrt();
        let mut out = vec![0.0; d];
        let mut scores = vec![0.0; position + 1];
        for (head, (out, q)) in out.chunks_exact_mut(d_head).zip(q.chunks_exact(d_head)).enumerate()
        {
            scores.fill(0.0);
            let keys = self.keys[head * d_head * context..].chunks_exact(context);
            for (q, keys) in q.iter().zip(keys) {
                axpy(q * scale, &keys[..=position], &mut scores);
            }
            let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.iter_mut().for_each(|s| *s = (*s - largest).exp());
            let total: f32 = scores.iter().sum();
            for (at, score) in scores.iter().enumerate() {
                let values = &self.values[at * d + head * d_head..][..d_head];
                axpy(score / total, values, out);
            }
        }
        out
    }
}

/// y += a · x.
fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}

fn add(x: &mut [f32], y: &[f32]) {
    axpy(1.0, y, x);
}

/// (x − mean) / √(variance + ε) · gain + bias.
fn norm(gpt: &Gpt, norm: &Norm, x: &[f32]) -> Vec<f32> {
    let n = x.len() as f32;
    let mean = x.iter().sum::<f32>() / n;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
    let scale = 1.0 / (variance + EPSILON).sqrt();
    let affine = gpt.parameters[norm.gain].iter().zip(&gpt.parameters[norm.bias]);
    x.iter().zip(affine).map(|(x, (gain, bias))| (x - mean) * scale * gain + bias).collect()
}

/// GELU in its tanh form.
fn gelu(x: f32) -> f32 {
    let u = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + u.tanh())
}

/// y = W · x + b.
fn linear(gpt: &Gpt, linear: &Linear, x: &[f32]) -> Vec<f32> {
    let bias = &gpt.parameters[linear.bias];
    let mut y = vec![0.0; bias.len()];
    linear.layer.one_token(&gpt.parameters[linear.weight], x, &mut y);
    add(&mut y, bias);
    y
}
