//! The check of a whole operator: what [`OpCase`] promises, held.

use super::{assert_close, central_differences, numbers};
use crate::ops::{OpCase, tolerance};
use crate::value::Value;
use crate::{Backward, Gradients, OneToken, Parameters, Tiles, TokenLayout};
use mediswift_kernels::AlignedBuffer;

/// Output of an operator, gradients of its inputs and of its parameters, for a projection of the output
/// on [`numbers`].
pub struct Passes {
    /// The output.
    pub y: Tiles,
    /// The gradient of each input.
    pub dx: Vec<Tiles>,
    /// The gradients of the parameters.
    pub gradients: Gradients,
}

impl Passes {
    /// Runs a case forward and backward on buffers full of garbage; or, where `held` is given, adding to
    /// gradients of that value. Gradients of parameters start from it, or from 0, in any case.
    /// # Panics
    /// If the case hands no operator over, or a shape of it is wrong.
    #[track_caller]
    pub fn of(case: &OpCase, held: Option<f32>) -> Self {
        let parameters = (case.parameters)();
        let x = inputs(case);
        let x: Vec<&Tiles> = x.iter().collect();
        let mut passes = None;
        (case.with_op)(&parameters, &mut |op| {
            let mut y = filled(case.layout, op.out_features(), f32::NAN);
            let mut saved = filled(case.layout, op.saved_features(), f32::NAN);
            op.forward(&x, &parameters, &mut y, &mut saved);
            let projection = projection(case, op.out_features());
            let dy = Tiles::from_rows(case.layout, op.out_features(), &projection);
            let start = held.unwrap_or(f32::NAN);
            let mut dx: Vec<Tiles> =
                case.input_features.iter().map(|&f| filled(case.layout, f, start)).collect();
            let mut gradients = Gradients::zeros(parameters.layout());
            gradients.iter_mut().for_each(|(_, gradient)| gradient.fill(held.unwrap_or(0.0)));
            // What the operator says that it needs, and no more.
            let left = |tiles: &Tiles, need| Value::left(tiles, need, AlignedBuffer::zeros);
            let kept: Vec<Value> =
                x.iter().enumerate().map(|(i, x)| left(x, op.needs_input(i))).collect();
            let operands: Vec<_> = kept.iter().map(Value::operand).collect();
            let output = left(&y, op.needs_output());
            op.backward(Backward {
                x: &operands,
                y: output.operand(),
                saved: &saved,
                dy: &dy,
                dx: &mut dx,
                accumulate: &vec![held.is_some(); x.len()],
                parameters: &parameters,
                gradients: &mut gradients,
            });
            passes = Some(Self { y, dx, gradients });
        });
        passes.expect("the case hands its operator over")
    }
}

/// Checks an operator by its case: the output against the reference, gradients against finite differences,
/// that gradients add to what is there, that padding stays finite and has no gradient, and that a sequence
/// gives the same one token at a time.
/// # Panics
/// If one does not hold, naming what and where.
#[track_caller]
pub fn check(case: &OpCase) {
    forward(case);
    one_token(case);
    gradients(case);
    accumulation(case);
}

/// The output equals the reference, and its padding is finite.
fn forward(case: &OpCase) {
    let Passes { y, .. } = Passes::of(case, None);
    let x: Vec<Vec<f64>> = inputs(case).iter().map(|x| doubles(&x.to_rows())).collect();
    let parameters = parameter_doubles(&(case.parameters)());
    let expected = (case.reference)(case.layout, &x, &parameters);
    assert_close(case.name, &y.to_rows(), &expected, tolerance(case.precision));
    assert_padding(case.name, &y, f32::is_finite);
}

/// One token at a time gives the output of the whole sequence.
fn one_token(case: &OpCase) {
    let expected = Passes::of(case, None).y;
    let (context, features) = (case.layout.context, expected.features());
    let x: Vec<Vec<f32>> = inputs(case).iter().map(Tiles::to_rows).collect();
    let parameters = (case.parameters)();
    (case.with_op)(&parameters, &mut |op| {
        let step = |position: usize, cache: &mut [f32]| {
            let row = |(x, &features)| row(x, features, position);
            let x: Vec<&[f32]> =
                x.iter().map(Vec::as_slice).zip(case.input_features).map(row).collect();
            let mut y = vec![f32::NAN; features];
            op.one_token(OneToken { x: &x, y: &mut y, parameters: &parameters, position, cache });
            y
        };
        // Room for more positions than the sequence has.
        let mut cache = vec![f32::NAN; (context + 3) * op.cached_features()];
        let mut after = Vec::new();
        for position in 0..context {
            let y = step(position, &mut cache);
            let expected = doubles(row(&expected.to_rows(), features, position));
            assert_close(case.name, &y, &expected, tolerance(case.precision));
            after = y;
        }
        // A pass over all but the last token leaves the same.
        let read = TokenLayout { sequences: 1, context: context - 1 };
        let head = |(x, &features): (&Vec<f32>, &usize)| {
            Tiles::from_rows(read, features, &x[..(context - 1) * features])
        };
        let head: Vec<Tiles> = x.iter().zip(case.input_features).map(head).collect();
        let mut filled = vec![f32::NAN; cache.len()];
        op.fill_cache(&head.iter().collect::<Vec<_>>(), &mut filled);
        assert_eq!(step(context - 1, &mut filled), after, "{}", case.name);
        let bits = |cache: &[f32]| cache.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&filled), bits(&cache), "{}", case.name);
    });
}

/// Gradients equal finite differences, and vanish in the padding.
fn gradients(case: &OpCase) {
    let Passes { y, dx, gradients } = Passes::of(case, None);
    let parameters = (case.parameters)();
    let mut tensors: Vec<Vec<f64>> = inputs(case).iter().map(|x| doubles(&x.to_rows())).collect();
    tensors.extend(parameter_doubles(&parameters));
    let projection = doubles(&projection(case, y.features()));
    let mut expected = central_differences(&tensors, |tensors| {
        let (x, parameters) = tensors.split_at(dx.len());
        let y = (case.reference)(case.layout, x, parameters);
        y.iter().zip(&projection).map(|(y, r)| y * r).sum()
    })
    .into_iter();
    for (dx, expected) in dx.iter().zip(&mut expected) {
        let what = format!("{}: gradient of an input", case.name);
        assert_close(&what, &dx.to_rows(), &expected, 10.0 * tolerance(case.precision));
        assert_padding(&what, dx, |x| x == 0.0);
    }
    for ((_, gradient), expected) in gradients.iter().zip(expected) {
        let what = format!("{}: gradient of '{}'", case.name, gradient.name);
        assert_close(&what, gradient.values, &expected, 10.0 * tolerance(case.precision));
    }
}

/// Gradients add to what is there.
fn accumulation(case: &OpCase) {
    let (fresh, added) = (Passes::of(case, None), Passes::of(case, Some(1.0)));
    let check = |fresh: &[f32], added: &[f32]| {
        let expected: Vec<f64> = fresh.iter().map(|&x| f64::from(x) + 1.0).collect();
        assert_close(case.name, added, &expected, tolerance(case.precision));
    };
    for (fresh, added) in fresh.dx.iter().zip(&added.dx) {
        check(fresh.data(), added.data());
    }
    for ((_, fresh), (_, added)) in fresh.gradients.iter().zip(added.gradients.iter()) {
        check(fresh.values, added.values);
    }
}

/// Hidden states with finite rubbish in the padding, as operators meet them.
fn input(layout: TokenLayout, features: usize, seed: u32) -> Tiles {
    let rows = numbers(layout.tokens() * features, seed);
    let mut tiles = Tiles::from_rows(layout, features, &rows);
    tiles.set_padding(3.0);
    tiles
}

fn inputs(case: &OpCase) -> Vec<Tiles> {
    let seeds = 10..;
    case.input_features.iter().zip(seeds).map(|(&f, seed)| input(case.layout, f, seed)).collect()
}

fn filled(layout: TokenLayout, features: usize, value: f32) -> Tiles {
    let mut tiles = Tiles::zeros(layout, features);
    tiles.data_mut().fill(value);
    tiles
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

fn parameter_doubles(parameters: &Parameters) -> Vec<Vec<f64>> {
    parameters.iter().map(|(_, p)| doubles(p.values)).collect()
}

/// The projection of the output whose gradient is taken.
fn projection(case: &OpCase, features: usize) -> AlignedBuffer {
    numbers(case.layout.tokens() * features, 99)
}

/// Row `token` of rows `[sequence][token][feature]`.
fn row(rows: &[f32], features: usize, token: usize) -> &[f32] {
    &rows[token * features..][..features]
}

/// Asserts that `is_right` holds for whatever is in lanes without a token.
/// # Panics
/// If it does not, naming `what`.
#[track_caller]
pub fn assert_padding(what: &str, tiles: &Tiles, is_right: impl Fn(f32) -> bool) {
    let mut without = tiles.clone();
    without.set_padding(0.0);
    for (&with, &without) in tiles.data().iter().zip(without.data()) {
        assert!(with.to_bits() == without.to_bits() || is_right(with), "{what}: padding is {with}");
    }
}
