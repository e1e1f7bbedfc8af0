//! The conformance suite on every level of instructions this machine has, with one thread and with several; and the error of
//! the kernels' functions, for the oracle is here.

use std::num::NonZeroUsize;

use tabpool_kernels::math::{self, Function};

use super::{CpuBackend, CpuOptions, Isa};
use crate::backend::Backend;
use crate::{conformance, oracle};

fn conforms(isa: Isa, threads: usize) {
    let options = CpuOptions::new().threads(NonZeroUsize::new(threads).expect("at least one"));
    let backend = CpuBackend::with_isa(&options, isa).expect("threads");
    let results = pollster::block_on(conformance::run(&backend));
    let wrong: Vec<_> = results.iter().filter(|r| !r.passed()).map(ToString::to_string).collect();
    assert!(
        wrong.is_empty(),
        "{}: {} of {} cases:\n{}",
        backend.info().device,
        wrong.len(),
        results.len(),
        wrong.join("\n")
    );
    assert!(results.len() > 500, "only {} cases ran", results.len());
}

#[test]
fn one_thread_conforms_with_every_instruction_set() {
    for isa in Isa::all() {
        conforms(isa, 1);
    }
}

#[test]
fn three_threads_conform() {
    conforms(Isa::detect(), 3);
}

/// The largest error over a sweep of every exponent and of a dense range, absolute below `floor` and relative above.
fn worst(function: Function, floor: f64, truth: impl Fn(f64) -> f64) -> (f64, f32) {
    let mut x: Vec<f32> = (-30_000i16..=30_000).map(|i| f32::from(i) * 4e-3).collect();
    x.extend((0..255u32).flat_map(|e| [e << 23 | 0x2a_aaaa, 1 << 31 | e << 23 | 0x55_5555]).map(f32::from_bits));
    let mut worst = (0.0, 0.0);
    for isa in Isa::all() {
        let mut y = vec![0.0; x.len()];
        math::apply(isa, function, &x, &mut y);
        let mut z = x.clone();
        math::apply_in_place(isa, function, &mut z);
        assert_eq!(
            y.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
            z.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        );
        for (&x, &y) in x.iter().zip(&y) {
            let want = truth(f64::from(x));
            #[expect(clippy::cast_possible_truncation, reason = "what f32 can show of the true value")]
            let error = if f64::from(y) == want || (want as f32) == y {
                0.0
            } else {
                (f64::from(y) - want).abs() / want.abs().max(floor)
            };
            assert!(!error.is_nan(), "{function:?}({x}) is {y}, should be {want}");
            if error > worst.0 {
                worst = (error, x);
            }
        }
    }
    worst
}

#[test]
fn approximations_are_as_good_as_they_say() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let gelu = |x: f64| x * 0.5 * (1.0 + oracle::erf(x * std::f64::consts::FRAC_1_SQRT_2));
    let check = |function, floor, limit, truth: &dyn Fn(f64) -> f64| {
        let (error, at) = worst(function, floor, truth);
        assert!(error < limit, "{function:?} is off by {error:.2e} at {at}");
    };
    check(Function::Exp, 1e-37, 2e-7, &f64::exp);
    check(Function::Tanh, 1e-37, 5e-7, &f64::tanh);
    check(Function::Erf, 1.0, 4e-7, &oracle::erf);
    // Below 3e-39 the exponential it divides by is infinite.
    check(Function::Sigmoid, 1e-30, 4e-7, &sigmoid);
    check(Function::Silu, 1e-6, 6e-7, &|x| x * sigmoid(x));
    check(Function::Gelu, 1.0, 1e-6, &gelu);
    let inner = |x: f64| (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    // The factor before the exponential is rounded, and so is the product with it.
    check(Function::QuickGelu, 1e-6, 1.2e-6, &|x| x * sigmoid(f64::from(1.702f32) * x));
    check(Function::GeluTanh, 1.0, 1e-6, &|x| 0.5 * x * (1.0 + inner(x).tanh()));
}

#[test]
fn logarithms_of_every_size_are_right() {
    let mut x: Vec<f32> = (0..255u32).flat_map(|e| [e << 23 | 0x2a_aaaa, e << 23 | 1]).map(f32::from_bits).collect();
    x.extend((1..=40_000u16).map(|i| f32::from(i) * 5e-5));
    let odd = [0.0, -0.0, f32::INFINITY, -1.0, f32::NEG_INFINITY, f32::NAN, f32::MAX];
    for isa in Isa::all() {
        let mut y = vec![0.0; x.len()];
        math::apply(isa, Function::Log, &x, &mut y);
        for (&x, &y) in x.iter().zip(&y) {
            let want = f64::from(x).ln();
            let error = (f64::from(y) - want).abs();
            assert!(error <= (want.abs() * 3e-7).max(1e-7), "log({x}) is {y}, should be {want}");
        }
        let mut y = odd;
        math::apply_in_place(isa, Function::Log, &mut y);
        let want = [f32::NEG_INFINITY, f32::NEG_INFINITY, f32::INFINITY, f32::NAN, f32::NAN, f32::NAN, f32::MAX.ln()];
        for ((x, y), want) in odd.iter().zip(y).zip(want) {
            assert!(y == want || y.is_nan() && want.is_nan(), "log({x}) is {y}, should be {want}");
        }
    }
}
