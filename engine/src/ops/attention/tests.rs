//! Pairs of bf16 on every instruction set, of which most only imitate them.

use super::*;
use crate::gradcheck::{assert_close, central_differences, numbers};
use crate::ops::tolerance;
use crate::{Gradients, Operand as Held};

/// Output, log-sum-exp and gradient.
fn passes(isa: IsaKind, op: &CausalAttention, layout: TokenLayout, qkv: &[f32]) -> [Vec<f32>; 3] {
    let mut x = Tiles::from_rows(layout, 3 * op.features, qkv);
    x.set_padding(3.0);
    let zeros = |features| Tiles::zeros(layout, features);
    let (mut y, mut saved) = (zeros(op.features), zeros(op.heads));
    op.forward_on::<Pairs>(isa, &x, &mut y, &mut saved);
    let dy = Tiles::from_rows(layout, op.features, &numbers(layout.tokens() * op.features, 2));
    let mut dx = [zeros(x.features())];
    let parameters = Parameters::default();
    let pass = Backward {
        x: &[Held::Exact(&x)],
        y: Held::Exact(&y),
        saved: &saved,
        dy: &dy,
        dx: &mut dx,
        accumulate: &[false],
        parameters: &parameters,
        gradients: &mut Gradients::zeros(parameters.layout()),
    };
    op.backward_on::<Pairs>(isa, pass);
    [y.to_rows(), saved.to_rows(), dx[0].to_rows()]
}

#[test]
fn pairs_are_near_the_definition_and_the_same_on_every_instruction_set() {
    let bf16 = Precision::Bf16;
    let layouts = [(2, 19, two_heads(bf16)), (1, 137, one_head(bf16)), (1, 1, one_head(bf16))];
    for (sequences, context, op) in layouts {
        let layout = TokenLayout { sequences, context };
        let qkv = numbers(layout.tokens() * 3 * op.features, 1);
        let expected = passes(IsaKind::Scalar, &op, layout, &qkv);
        let exact: Vec<f64> = qkv.iter().map(|&x| x.into()).collect();
        let y = naive(layout, &exact, op.heads, op.features);
        assert_close("attention of pairs", &expected[0], &y, tolerance(bf16));
        if layout.tokens() < 50 {
            let dy = numbers(layout.tokens() * op.features, 2);
            let dx = central_differences(&[exact], |x| {
                let y = naive(layout, &x[0], op.heads, op.features);
                y.iter().zip(dy.iter()).map(|(y, &dy)| y * f64::from(dy)).sum()
            });
            assert_close(
                "gradient of attention of pairs",
                &expected[2],
                &dx[0],
                10.0 * tolerance(bf16),
            );
        }
        for isa in IsaKind::available() {
            assert_eq!(passes(isa, &op, layout, &qkv), expected, "{isa}");
        }
    }
}
