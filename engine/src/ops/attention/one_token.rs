//! One token at a time, with a cache.
//!
//! Keys are cached as `[feature][position]` and values as `[position][feature]`, so that both loops run
//! along contiguous memory.

use crate::{OneToken, Tiles};
use mediswift_kernels::LANES;

/// Takes keys and values from `qkv` `[3 · features]`, the tokens of one sequence.
pub(super) fn fill(qkv: &Tiles, cache: &mut [f32]) {
    let d = qkv.features() / 3;
    let (all_keys, all_values) = cache.split_at_mut(cache.len() / 2);
    let positions = all_keys.len() / d;
    for tile in 0..qkv.layout().tiles() {
        let (first, count) = (tile * LANES, qkv.layout().tokens_in_tile(tile));
        let (_, kv) = qkv.tile(tile).split_at(d * LANES);
        let (k, v) = kv.split_at(d * LANES);
        let keys = all_keys.chunks_exact_mut(positions).zip(k.chunks_exact(LANES));
        for (keys, line) in keys {
            keys[first..first + count].copy_from_slice(&line[..count]);
        }
        for (feature, line) in v.chunks_exact(LANES).enumerate() {
            for (lane, &value) in line[..count].iter().enumerate() {
                all_values[(first + lane) * d + feature] = value;
            }
        }
    }
}

/// Appends key and value of the token, and attends from its query to all positions so far:
/// softmax(q · k / √d_head) · v for every head.
pub(super) fn attend(d_head: usize, token: OneToken<'_>) {
    let (d, position) = (token.y.len(), token.position);
    let (all_keys, all_values) = token.cache.split_at_mut(token.cache.len() / 2);
    let positions = all_keys.len() / d;
    let (q, kv) = token.x[0].split_at(d);
    let (k, v) = kv.split_at(d);
    for (keys, &k) in all_keys.chunks_exact_mut(positions).zip(k) {
        keys[position] = k;
    }
    all_values[position * d..][..d].copy_from_slice(v);

    let scale = 1.0 / (d_head as f32).sqrt();
    let mut scores = vec![0.0; position + 1];
    let heads = token.y.chunks_exact_mut(d_head).zip(q.chunks_exact(d_head));
    for (head, (y, q)) in heads.enumerate() {
        scores.fill(0.0);
        let keys = all_keys[head * d_head * positions..].chunks_exact(positions);
        for (q, keys) in q.iter().zip(keys) {
            axpy(q * scale, &keys[..=position], &mut scores);
        }
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        scores.iter_mut().for_each(|s| *s = (*s - largest).exp());
        let total: f32 = scores.iter().sum();
        y.fill(0.0);
        for (at, score) in scores.iter().enumerate() {
            axpy(score / total, &all_values[at * d + head * d_head..][..d_head], y);
        }
    }
}

/// y += a · x.
fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}
