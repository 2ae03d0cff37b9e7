//! Every operator and loss of the engine's lists: values against the `f64` reference, gradients
//! against finite differences, accumulation, padding, and independence of threads and of the
//! instruction set.

use mediswift_engine::gradcheck::{
    Passes, assert_close, assert_padding, central_differences, check, numbers,
};
use mediswift_engine::ops::{LOSSES, LossCase, OPS, tolerance};
use mediswift_engine::{Gradients, Parameters, Profile, Tiles, TokenLayout};
use mediswift_kernels::isa::{ISA_VARIABLE, IsaKind};
use std::process::Command;

fn filled(layout: TokenLayout, features: usize, value: f32) -> Tiles {
    let mut tiles = Tiles::zeros(layout, features);
    tiles.data_mut().fill(value);
    tiles
}

/// Hidden states with finite rubbish in the padding, as operators meet them.
fn input(layout: TokenLayout, features: usize, seed: u32) -> Tiles {
    let rows = numbers(layout.tokens() * features, seed);
    let mut tiles = Tiles::from_rows(layout, features, &rows);
    tiles.set_padding(3.0);
    tiles
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

fn parameter_doubles(parameters: &Parameters) -> Vec<Vec<f64>> {
    parameters.iter().map(|(_, p)| doubles(p.values)).collect()
}

#[test]
fn operators_equal_their_references_forward_backward_and_one_token_at_a_time() {
    OPS.iter().for_each(check);
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
        let sum =
            loss.differentiate(&x, &parameters, &mut dx, &mut gradients, &mut Profile::default());
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
        assert!(
            (sum - expected).abs() < tolerance(case.precision) * expected,
            "{}: {sum} != {expected}",
            case.name
        );
        let mut expected = central_differences(&tensors, loss);
        expected.iter_mut().flatten().for_each(|g| *g *= f64::from(case.scale));
        assert_close(case.name, &dx[0].to_rows(), &expected[0], 10.0 * tolerance(case.precision));
        assert_padding(case.name, &dx[0], |x| x == 0.0);
        let (_, Passes { gradients: added, .. }) = run_loss(case, 1.0);
        let all = gradients.iter().zip(added.iter()).zip(&expected[1..]);
        for (((_, gradient), (_, added)), expected) in all {
            assert_close(case.name, gradient.values, expected, 10.0 * tolerance(case.precision));
            let expected: Vec<f64> = expected.iter().map(|g| g + 1.0).collect();
            assert_close(case.name, added.values, &expected, 10.0 * tolerance(case.precision));
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
            let ops = OPS.iter().map(|case| (case.name, 0, bits(&Passes::of(case, None))));
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
        let output =
            this_program().env(MARKER, "1").env(ISA_VARIABLE, kind.name()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "on {kind}:\n{text}");
    }
}

/// This program, by way of the emulator that cargo was told to run Arm's programs with, if it is one.
fn this_program() -> Command {
    let program = std::env::current_exe().unwrap();
    let runner = std::env::var("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    match words.next() {
        Some(emulator) if cfg!(target_arch = "aarch64") => {
            let mut command = Command::new(emulator);
            command.args(words).arg(program);
            command
        }
        _ => Command::new(program),
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
