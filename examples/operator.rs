//! An operator of one's own, y = max(x, 0)², with everything that proves it: a reference in double
//! precision, from which the gradients are checked, and one token at a time.
//!
//! `cargo run --release --example operator`

use mediswift::engine::gradcheck::check;
use mediswift::engine::ops::OpCase;
use mediswift::engine::{Arena, Backward, Cost, OneToken};
use mediswift::kernels::Precision;
use mediswift::{Op, Parameters, Tape, Tiles, TokenLayout};

/// y = max(x, 0)².
struct SquaredRelu {
    features: usize,
}

impl Op for SquaredRelu {
    fn name(&self) -> &'static str {
        "squared relu"
    }

    fn out_features(&self) -> usize {
        self.features
    }

    fn forward(&self, x: &[&Tiles], _: &Parameters, y: &mut Tiles, _: &mut Tiles) {
        let elements = y.data_mut().iter_mut().zip(x[0].data());
        elements.for_each(|(y, x)| *y = x.max(0.0).powi(2));
    }

    fn backward(&self, pass: Backward<'_>) {
        let operands = pass.x[0].exact().data().iter().zip(pass.dy.data());
        for (dx, (x, dy)) in pass.dx[0].data_mut().iter_mut().zip(operands) {
            let held = if pass.accumulate[0] { *dx } else { 0.0 };
            *dx = held + 2.0 * x.max(0.0) * dy;
        }
    }

    fn one_token(&self, token: OneToken<'_>) {
        token.y.iter_mut().zip(token.x[0]).for_each(|(y, x)| *y = x.max(0.0).powi(2));
    }

    fn cost(&self, layout: TokenLayout) -> Cost {
        let elements = (layout.tokens() * self.features) as u64;
        Cost { forward_flops: 2 * elements, backward_flops: 3 * elements, bytes: 20 * elements }
    }
}

const CASE: OpCase = OpCase {
    name: "squared relu",
    // Not a whole number of tiles, so that padding is tried too.
    layout: TokenLayout { sequences: 2, context: 19 },
    input_features: &[7],
    parameters: Parameters::default,
    with_op: |_, check| check(&SquaredRelu { features: 7 }),
    reference: |_, x, _| x[0].iter().map(|x| x.max(0.0).powi(2)).collect(),
    precision: Precision::F32,
};

fn main() {
    check(&CASE);
    println!("{} equals its reference, forward, backward and one token at a time", CASE.name);

    // On a tape, where a value may go to several operators.
    let (layout, features) = (TokenLayout { sequences: 1, context: 3 }, 2);
    let x = Tiles::from_rows(layout, features, &[-1.0, 0.0, 0.5, 1.0, 2.0, 3.0]);
    let (parameters, mut arena) = (Parameters::default(), Arena::default());
    let mut tape = Tape::new(layout, &mut arena);
    let input = tape.apply(Input(x), &[], &parameters);
    let output = tape.apply(SquaredRelu { features }, &[input], &parameters);
    assert_eq!(tape.value(output).to_rows(), [0.0, 0.0, 0.25, 1.0, 4.0, 9.0]);
    println!("{:?}, {:?}", tape.value(output).to_rows(), tape.cost());
}

/// The beginning of the tape: values that come from outside.
struct Input(Tiles);

impl Op for Input {
    fn name(&self) -> &'static str {
        "input"
    }

    fn out_features(&self) -> usize {
        self.0.features()
    }

    fn forward(&self, _: &[&Tiles], _: &Parameters, y: &mut Tiles, _: &mut Tiles) {
        y.data_mut().copy_from_slice(self.0.data());
    }

    fn backward(&self, _: Backward<'_>) {}

    fn one_token(&self, token: OneToken<'_>) {
        let at = token.position * token.y.len();
        token.y.copy_from_slice(&self.0.to_rows()[at..][..token.y.len()]);
    }

    fn cost(&self, _: TokenLayout) -> Cost {
        Cost::default()
    }
}
