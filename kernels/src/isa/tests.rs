//! Every instruction set of this machine against the scalar one, bit for bit.

use super::*;
use crate::LANES;

/// Runs every operation on fixed data and returns all resulting lanes.
struct Everything;

impl Kernel for Everything {
    type Output = Vec<(&'static str, Vec<f32>)>;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Output {
        let data = |seed: u32| -> [f32; LANES] {
            std::array::from_fn(|i| {
                let x = (i as u32 + 1).wrapping_mul(seed).wrapping_mul(2_654_435_761);
                (x >> 8) as f32 / (1 << 22) as f32 - 2.0
            })
        };
        // SAFETY: each array holds sixteen `f32`.
        let v = |seed| unsafe { isa.load(data(seed).as_ptr()) };
        let (a, b, c) = (v(1), v(7), v(11));
        let lanes = |v| isa.to_array(v).to_vec();
        let square: [I::V; LANES] = std::array::from_fn(|i| v(i as u32 + 3));
        let mut out = vec![
            ("splat", lanes(isa.splat(1.5))),
            // SAFETY: the array holds sixteen `f32`, thirteen of them from the fourth on.
            ("splat_four", unsafe { isa.splat_four(data(5)[3..].as_ptr()) }.map(lanes).concat()),
            ("fma", lanes(isa.fma(a, b, c))),
            ("add", lanes(isa.add(a, b))),
            ("sub", lanes(isa.sub(a, b))),
            ("mul", lanes(isa.mul(a, b))),
            ("div", lanes(isa.div(a, b))),
            ("max", lanes(isa.max(a, b))),
            ("min", lanes(isa.min(a, b))),
            ("sqrt", lanes(isa.sqrt(isa.mul(a, a)))),
            ("round", lanes(isa.round(isa.mul(a, isa.splat(9.0))))),
            ("exp2_integer", lanes(isa.exp2_integer(isa.round(isa.mul(a, isa.splat(60.0)))))),
            ("exp", lanes(math::exp(isa, isa.mul(a, isa.splat(30.0))))),
            ("tanh", lanes(math::tanh(isa, a))),
            ("sum", vec![isa.sum(a)]),
            ("sum_each", lanes(isa.sum_each(square))),
            ("sum_each by quarters", lanes(by_quarters(isa, square))),
            ("transpose", isa.transpose(square).into_iter().flat_map(lanes).collect()),
        ];
        // Words of every kind: 16-bit lines and pairs have no number that is not one of theirs.
        for seed in 0..64 {
            let (a, b, c) =
                (isa.load_line(&words(seed)), isa.load_line(&words(seed + 64)), v(seed));
            let both = |(a, b)| [lanes(a), lanes(b)].concat();
            out.push(("interleave", both(isa.interleave(a, b))));
            out.push(("widen_bf16", both(isa.widen_bf16(a))));
            out.push(("widen_f16", both(isa.widen_f16(a))));
            out.push(("narrow_bf16", lanes(isa.narrow_bf16(a, b))));
            out.push(("narrow_f16", lanes(isa.narrow_f16(a, b))));
            out.push(("pair_bf16", lanes(isa.pair_bf16(a, b))));
            out.push(("pack_bf16", lanes(isa.pack_bf16(c, a))));
            out.push(("dot", lanes(isa.dot(a, b, c))));
            out.push(("dot of dots", lanes(isa.dot(b, a, isa.dot(a, b, c)))));
            let any = isa.load_line(&words(seed + 128));
            out.push(("dot with any sum", lanes(isa.dot(a, b, any))));
            let [a, b, any] = [a, b, any].map(|v| half_words::of_words(halves(isa.to_array(v))));
            let [a, b, any] = [a, b, any].map(|v| isa.load_line(&v));
            let sum = isa.fma_halves(a, b, any);
            out.push(("halves: fma", lanes(sum)));
            out.push(("halves: near nothing", lanes(isa.fma_halves(a, b, negative(isa, sum)))));
            out.push(("halves: sum", lanes(isa.sum_halves([a, b, any, sum]))));
        }
        for n in 0..=LANES + 1 {
            out.push(("first_lanes", lanes(isa.first_lanes(n, a, b))));
        }
        out
    }
}

/// Sixteen lanes of any bits: numbers of all sizes, subnormal ones, infinities, NaNs and zeros.
fn words(seed: u32) -> [f32; LANES] {
    let mut state = u64::from(seed) << 32 | 0x9e37_79b9;
    std::array::from_fn(|_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bits = (state >> 32) as u32;
        // A third of the lanes has exponents near each other, so that sums round; a third is tiny.
        f32::from_bits(match bits % 3 {
            0 => bits & 0x83ff_83ff | 0x3c00_3c00,
            1 => bits & 0x80ff_80ff,
            _ => bits,
        })
    })
}

/// The f16 of a vector, with one NaN for all.
fn halves(line: [f32; LANES]) -> [u16; 2 * LANES] {
    half_words::words(line).map(|x| if half::f16::from_bits(x).is_nan() { 0x7e00 } else { x })
}

/// f16 of the other sign.
#[inline(always)]
fn negative<I: Isa>(isa: I, v: I::V) -> I::V {
    let words = half_words::words(isa.to_array(v)).map(|x| x ^ 0x8000);
    isa.load_line(&half_words::of_words(words))
}

/// `a · b + c` by the definition: among all f16 one of those nearest to the exact sum.
#[test]
fn sums_of_halves_are_rounded_once() {
    let exact = |x: u16| f64::from(half::f16::from_bits(x).to_f32());
    for seed in 0..20_000u32 {
        let of = |shift| half_words::words(words(seed * 4 + shift));
        let (a, b, c) = (of(0)[0], of(1)[0], of(2)[0]);
        let found = half_words::fma(a, b, c);
        // Sums of these are exact in f64 where they are not much smaller than their terms.
        let (product, c) = (exact(a) * exact(b), exact(c));
        let sum = product + c;
        if !sum.is_finite() || sum - product != c || sum - c != product {
            continue;
        }
        let off = |x: u16| (exact(x) - sum).abs();
        if exact(found).is_infinite() {
            assert!(sum.abs() >= 65_520.0, "{a:04x} · {b:04x} + {c}");
            continue;
        }
        for other in [found.wrapping_sub(1), found.wrapping_add(1)] {
            let is_tie = off(found) == off(other) && found.is_multiple_of(2);
            let beside = half::f16::from_bits(other).is_finite() && (found ^ other) < 0x8000;
            assert!(!beside || off(found) < off(other) || is_tie, "{a:04x} · {b:04x} + {c}");
        }
    }
}

/// What Arm adds up, by the definition: the exact sum, or a number with a last bit of one, less than a unit of it away.
#[test]
fn sums_of_pairs_on_arm_are_rounded_to_odd() {
    let mut inexact = 0;
    for seed in 0..20_000u32 {
        let of = |shift| words(seed * 4 + shift)[0];
        // One product of bf16 each, of two that are added to each other first.
        let [a, b, c] = [of(0), of(1), of(2)].map(|x| f32::from_bits(x.to_bits() & 0xffff_0000));
        let found = f64::from(half_words::bfdot(a, b, c));
        let sum = f64::from(a) * f64::from(b) + f64::from(c);
        let least = f64::from(f32::MIN_POSITIVE);
        let parts = [f64::from(a), f64::from(b), f64::from(a) * f64::from(b), c.into(), sum];
        if !parts.iter().all(|x| *x == 0.0 || (least..2f64.powi(100)).contains(&x.abs())) {
            continue;
        }
        let product = f64::from(a) * f64::from(b);
        let is_exact = sum - f64::from(c) == product && sum - product == f64::from(c);
        let unit = f64::from((found.abs() as f32).next_up()) - found.abs();
        let (off, lost) = ((found - sum).abs(), !is_exact);
        assert!(off < unit || lost && off == unit, "{a} · {b} + {c} = {sum}, not {found}");
        if found != sum || !is_exact {
            inexact += 1;
            assert_eq!((found as f32).to_bits() & 1, 1, "{a} · {b} + {c} = {sum}, not {found}");
        }
    }
    assert!(inexact > 1000, "{inexact}");
    let large = f32::from_bits(0x7f7f_0000);
    // A third twice; squared, and what is far smaller, and what is nothing.
    let (one, twice) = (f32::from_bits(0x3eab_0000), f32::from_bits(0x3eab_3eab));
    assert_eq!(half_words::bfdot(twice, twice, 0.0), 2.0 * one * one);
    assert_eq!(half_words::bfdot(twice, twice, 1e-30).to_bits() & 1, 1);
    assert_eq!(half_words::bfdot(0.0, 0.0, f32::MIN_POSITIVE / 2.0).to_bits(), 0);
    assert_eq!(half_words::bfdot(large, large, 1.0), f32::INFINITY);
    assert!(half_words::bfdot(f32::INFINITY, 0.0, 1.0).is_nan());
}

#[test]
fn every_isa_agrees_with_scalar_bit_for_bit() {
    let expected = IsaKind::Scalar.run(Everything);
    for kind in IsaKind::available() {
        let run = [
            IsaKind::run::<Everything>,
            IsaKind::run_pairs::<Everything>,
            IsaKind::run_halves::<Everything>,
        ];
        for results in run.map(|run| run(kind, Everything)) {
            for ((name, want), (_, got)) in expected.iter().zip(results) {
                // Which NaN comes of a NaN, the standard leaves open.
                let is_number = name.starts_with("dot") || name.starts_with("widen");
                let is_halves = ["halves: fma", "halves: near nothing"].contains(name);
                let bits = |v: &[f32]| -> Vec<u32> {
                    if is_halves {
                        let lines = v.as_chunks::<LANES>().0.iter();
                        return lines.flat_map(|&line| halves(line).map(u32::from)).collect();
                    }
                    let is_number = is_number || *name == "halves: sum";
                    let one = |x: &f32| if is_number && x.is_nan() { f32::NAN } else { *x };
                    v.iter().map(|x| one(x).to_bits()).collect()
                };
                assert_eq!(bits(want), bits(&got), "{name} on {kind}: {want:?} != {got:?}");
            }
        }
    }
}

/// The sums of `vs` by way of quarters.
#[inline(always)]
fn by_quarters<I: Isa>(isa: I, vs: [I::V; LANES]) -> I::V {
    let within = std::array::from_fn(|g| {
        isa.sum_within_quarters([vs[4 * g], vs[4 * g + 1], vs[4 * g + 2], vs[4 * g + 3]])
    });
    isa.sum_over_quarters(within)
}

#[test]
fn sum_each_and_transpose_do_what_they_say() {
    for (name, lanes) in IsaKind::available()[0].run(Everything) {
        if name.starts_with("sum_each") {
            let everything = IsaKind::Scalar.run(Everything);
            let square = &everything.iter().find(|(n, _)| *n == "transpose").unwrap().1;
            for (j, sum) in lanes.iter().enumerate() {
                let want: f64 = (0..LANES).map(|i| f64::from(square[i * LANES + j])).sum();
                assert!((f64::from(*sum) - want).abs() < 1e-5, "{j}: {sum} != {want}");
            }
        }
    }
}

/// Applies a function of one vector to a slice, sixteen at a time.
struct Map<'a>(&'a mut [f32], fn(f64) -> f64, f64);

impl Kernel for Map<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for chunk in self.0.chunks_exact(LANES) {
            // SAFETY: the chunk holds sixteen `f32`.
            let x = unsafe { isa.load(chunk.as_ptr()) };
            let is_exp = self.2 == 1.0;
            let y = isa.to_array(if is_exp { math::exp(isa, x) } else { math::tanh(isa, x) });
            for (x, y) in chunk.iter().zip(y) {
                let want = (self.1)(f64::from(*x));
                let scale = if is_exp { want } else { 1.0 };
                let error = (f64::from(y) - want).abs() / scale;
                assert!(error < 3e-7, "f({x}) = {y}, not {want}");
            }
        }
    }
}

#[test]
fn exp_and_tanh_are_accurate() {
    let mut xs: Vec<f32> = (0..16_000).map(|i| -86.9 + i as f32 * 174.0 / 16_000.0).collect();
    IsaKind::available()[0].run(Map(&mut xs, f64::exp, 1.0));
    let mut xs: Vec<f32> = (0..16_000).map(|i| -12.0 + i as f32 * 24.0 / 16_000.0).collect();
    IsaKind::available()[0].run(Map(&mut xs, f64::tanh, 0.0));
}

#[test]
fn unknown_and_missing_names_are_errors() {
    assert!(matches!(IsaKind::by_name("avx9"), Err(IsaError::Unknown(_))));
    let missing = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };
    assert!(matches!(IsaKind::by_name(missing), Err(IsaError::Missing(..))));
    assert_eq!(IsaKind::by_name("scalar"), Ok(IsaKind::Scalar));
}

/// What the code of an instruction set counts on: registers, and instructions for pairs and halves.
struct CountsOn;

impl Kernel for CountsOn {
    type Output = (usize, bool, bool);

    #[inline(always)]
    fn run<I: Isa>(self, _: I) -> Self::Output {
        (I::REGISTERS, I::MULTIPLIES_PAIRS, I::MULTIPLIES_HALVES)
    }
}

#[test]
fn the_list_and_the_code_agree() {
    for kind in IsaKind::available() {
        assert_eq!(kind.registers(), kind.run(CountsOn).0, "{kind}");
        assert_eq!(kind.multiplies(Precision::Bf16), kind.run_pairs(CountsOn).1, "{kind}");
        assert_eq!(kind.multiplies(Precision::F16), kind.run_halves(CountsOn).2, "{kind}");
    }
}
