//! Every operator and loss of the engine's lists: values against the `f64` reference, gradients
//! against finite differences, accumulation, padding, and independence of threads and of the
//! instruction set.

use mediswift_engine::gradcheck::{assert_close, central_differences, numbers};
use mediswift_engine::ops::{LOSSES, LossCase, OPS, OpCase};
use mediswift_engine::{Backward, Gradients, OneToken, Parameters, Tiles, TokenLayout};
use mediswift_kernels::isa::{ISA_VARIABLE, IsaKind};
use mediswift_kernels::{AlignedBuffer, LANES};

/// Sets the lanes without a token to `value`.
fn set_padding(tiles: &mut Tiles, value: f32) {
    let (layout, tile_len) = (tiles.layout(), tiles.tile_len());
    for (tile, lines) in tiles.data_mut().chunks_exact_mut(tile_len.max(1)).enumerate() {
        for line in lines.chunks_exact_mut(LANES) {
            line[layout.tokens_in_tile(tile)..].fill(value);
        }
    }
}

fn assert_padding(what: &str, tiles: &Tiles, is_right: impl Fn(f32) -> bool) {
    let mut without = tiles.clone();
    set_padding(&mut without, 0.0);
    for (&with, &without) in tiles.data().iter().zip(without.data()) {
        assert!(with.to_bits() == without.to_bits() || is_right(with), "{what}: padding is {with}");
    }
}

fn filled(layout: TokenLayout, features: usize, value: f32) -> Tiles {
    let mut tiles = Tiles::zeros(layout, features);
    tiles.data_mut().fill(value);
    tiles
}

/// Hidden states with finite rubbish in the padding, as operators meet them.
fn input(layout: TokenLayout, features: usize, seed: u32) -> Tiles {
    let rows = numbers(layout.tokens() * features, seed);
    let mut tiles = Tiles::from_rows(layout, features, &rows);
    set_padding(&mut tiles, 3.0);
    tiles
}

fn inputs(case: &OpCase) -> Vec<Tiles> {
    let seeds = 10..;
    case.input_features.iter().zip(seeds).map(|(&f, seed)| input(case.layout, f, seed)).collect()
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

fn parameter_doubles(parameters: &Parameters) -> Vec<Vec<f64>> {
    parameters.iter().map(|(_, p)| doubles(p.values)).collect()
}

/// Output, gradients of the inputs and of the parameters.
struct Passes {
    y: Tiles,
    dx: Vec<Tiles>,
    gradients: Gradients,
}

/// The projection of the output whose gradient is taken.
fn projection(case: &OpCase, features: usize) -> AlignedBuffer {
    numbers(case.layout.tokens() * features, 99)
}

/// Runs a case forward and backward on buffers full of `garbage`, or, where `held` is given,
/// adding to gradients of that value; parameter gradients start from it (or 0) in any case.
fn run(case: &OpCase, held: Option<f32>) -> Passes {
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
        op.backward(Backward {
            x: &x,
            y: &y,
            saved: &saved,
            dy: &dy,
            dx: &mut dx,
            accumulate: &vec![held.is_some(); x.len()],
            parameters: &parameters,
            gradients: &mut gradients,
        });
        passes = Some(Passes { y, dx, gradients });
    });
    passes.expect("the case hands its operator over")
}

#[test]
fn forward_equals_the_reference_and_padding_is_finite() {
    for case in OPS {
        let Passes { y, .. } = run(case, None);
        let x: Vec<Vec<f64>> = inputs(case).iter().map(|x| doubles(&x.to_rows())).collect();
        let parameters = parameter_doubles(&(case.parameters)());
        let expected = (case.reference)(case.layout, &x, &parameters);
        assert_close(case.name, &y.to_rows(), &expected, 1e-5);
        assert_padding(case.name, &y, f32::is_finite);
    }
}

/// Row `token` of rows `[sequence][token][feature]`.
fn row(rows: &[f32], features: usize, token: usize) -> &[f32] {
    &rows[token * features..][..features]
}

#[test]
fn one_token_at_a_time_gives_the_output_of_the_whole_sequence() {
    for case in OPS {
        let expected = run(case, None).y;
        let (context, features) = (case.layout.context, expected.features());
        let x: Vec<Vec<f32>> = inputs(case).iter().map(Tiles::to_rows).collect();
        let parameters = (case.parameters)();
        (case.with_op)(&parameters, &mut |op| {
            let step = |position: usize, cache: &mut [f32]| {
                let row = |(x, &features)| row(x, features, position);
                let x: Vec<&[f32]> =
                    x.iter().map(Vec::as_slice).zip(case.input_features).map(row).collect();
                let mut y = vec![f32::NAN; features];
                op.one_token(OneToken {
                    x: &x,
                    y: &mut y,
                    parameters: &parameters,
                    position,
                    cache,
                });
                y
            };
            // Room for more positions than the sequence has.
            let mut cache = vec![f32::NAN; (context + 3) * op.cached_features()];
            let mut after = Vec::new();
            for position in 0..context {
                let y = step(position, &mut cache);
                let expected = doubles(row(&expected.to_rows(), features, position));
                assert_close(case.name, &y, &expected, 1e-5);
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
}

#[test]
fn gradients_equal_finite_differences_and_vanish_in_the_padding() {
    for case in OPS {
        let Passes { y, dx, gradients } = run(case, None);
        let parameters = (case.parameters)();
        let mut tensors: Vec<Vec<f64>> =
            inputs(case).iter().map(|x| doubles(&x.to_rows())).collect();
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
            assert_close(&what, &dx.to_rows(), &expected, 1e-4);
            assert_padding(&what, dx, |x| x == 0.0);
        }
        for ((_, gradient), expected) in gradients.iter().zip(expected) {
            let what = format!("{}: gradient of '{}'", case.name, gradient.name);
            assert_close(&what, gradient.values, &expected, 1e-4);
        }
    }
}

#[test]
fn gradients_add_to_what_is_there() {
    for case in OPS {
        let (fresh, added) = (run(case, None), run(case, Some(1.0)));
        let check = |fresh: &[f32], added: &[f32]| {
            let expected: Vec<f64> = fresh.iter().map(|&x| f64::from(x) + 1.0).collect();
            assert_close(case.name, added, &expected, 1e-5);
        };
        for (fresh, added) in fresh.dx.iter().zip(&added.dx) {
            check(fresh.data(), added.data());
        }
        for ((_, fresh), (_, added)) in fresh.gradients.iter().zip(added.gradients.iter()) {
            check(fresh.values, added.values);
        }
    }
}

/// Value and gradients of a loss, from gradients that hold `held`.
fn run_loss(case: &LossCase, held: f32) -> (f64, Passes) {
    let parameters = (case.parameters)();
    let x = input(case.layout, case.features, 10);
    let mut result = None;
    (case.with_loss)(&parameters, &mut |loss| {
        let mut dx = filled(case.layout, case.features, f32::NAN);
        let mut gradients = Gradients::zeros(parameters.layout());
        gradients.iter_mut().for_each(|(_, gradient)| gradient.fill(held));
        let sum = loss.differentiate(&x, &parameters, &mut dx, &mut gradients);
        assert_eq!(sum, loss.evaluate(&x, &parameters), "{}: two values", case.name);
        result = Some((sum.sum, Passes { y: x.clone(), dx: vec![dx], gradients }));
    });
    result.expect("the case hands its loss over")
}

#[test]
fn losses_and_their_gradients_equal_the_reference() {
    for case in LOSSES {
        let (sum, Passes { y: x, dx, gradients }) = run_loss(case, 0.0);
        let mut tensors = vec![doubles(&x.to_rows())];
        tensors.extend(parameter_doubles(&(case.parameters)()));
        let loss = |tensors: &[Vec<f64>]| {
            let (x, parameters) = tensors.split_at(1);
            (case.reference)(case.layout, x, parameters)
        };
        let expected = loss(&tensors);
        assert!((sum - expected).abs() < 1e-5 * expected, "{}: {sum} != {expected}", case.name);
        let mut expected = central_differences(&tensors, loss);
        expected.iter_mut().flatten().for_each(|g| *g *= f64::from(case.scale));
        assert_close(case.name, &dx[0].to_rows(), &expected[0], 1e-4);
        assert_padding(case.name, &dx[0], |x| x == 0.0);
        let (_, Passes { gradients: added, .. }) = run_loss(case, 1.0);
        let all = gradients.iter().zip(added.iter()).zip(&expected[1..]);
        for (((_, gradient), (_, added)), expected) in all {
            assert_close(case.name, gradient.values, expected, 1e-4);
            let expected: Vec<f64> = expected.iter().map(|g| g + 1.0).collect();
            assert_close(case.name, added.values, &expected, 1e-4);
        }
    }
}

/// The bits of everything that the case computes.
fn bits(passes: &Passes) -> Vec<u32> {
    let tiles = std::iter::once(&passes.y).chain(&passes.dx).map(Tiles::data);
    let all = tiles.chain(passes.gradients.iter().map(|(_, gradient)| gradient.values));
    all.flatten().map(|x| x.to_bits()).collect()
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let ops = OPS.iter().map(|case| (case.name, 0, bits(&run(case, None))));
            let losses = LOSSES.iter().map(|case| {
                let (sum, passes) = run_loss(case, 0.0);
                (case.name, sum.to_bits(), bits(&passes))
            });
            ops.chain(losses).collect::<Vec<_>>()
        })
    };
    for (one, four) in on(1).into_iter().zip(on(4)) {
        assert!(one == four, "{} depends on the number of threads", one.0);
    }
}

/// Kernels use one instruction set per process: runs this program again on every other one.
#[test]
fn all_of_this_holds_on_every_instruction_set() {
    const MARKER: &str = "MEDISWIFT_TEST_CHILD";
    if std::env::var_os(MARKER).is_some() {
        return;
    }
    let active = IsaKind::active().unwrap();
    for kind in IsaKind::available().into_iter().filter(|&kind| kind != active) {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .env(MARKER, "1")
            .env(ISA_VARIABLE, kind.name())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "on {kind}:\n{text}");
    }
}

#[test]
fn costs_count_the_real_tokens_only() {
    for case in OPS {
        let parameters = (case.parameters)();
        (case.with_op)(&parameters, &mut |op| {
            let TokenLayout { sequences, context } = case.layout;
            let one = op.cost(TokenLayout { sequences: 1, context });
            let all = op.cost(TokenLayout { sequences: 7, context });
            assert_eq!(all.forward_flops, 7 * one.forward_flops, "{}", case.name);
            assert_eq!(all.backward_flops, 7 * one.backward_flops, "{}", case.name);
            assert!(op.cost(TokenLayout { sequences, context }).bytes > 0, "{}", case.name);
        });
    }
}
