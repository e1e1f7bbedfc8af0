//! Functions of single elements, and the error function they need.

use tabpool_graph::{Binary, Unary};
use tabpool_tensor::{DType, Shape};

use super::layout::broadcast_offsets;
use super::{Array, Elements, round};

/// The error function, by its series of positive terms (Abramowitz and Stegun, 7.1.6):
/// `erf(x) = 2/sqrt(pi) * exp(-x^2) * sum over n of 2^n * x^(2n+1) / (1 * 3 * ... * (2n+1))`.
///
/// No term cancels another, so the relative error is a few roundings of `f64`: below 4e-15 for `|x| < 6`, as the tests
/// check against glibc's `erf`. Beyond 6 the result is 1 to the last bit.
#[must_use]
pub fn erf(x: f64) -> f64 {
    if x.is_nan() || x.abs() > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    while term.abs() > sum.abs() * 1e-17 {
        odd += 2.0;
        term *= 2.0 * x * x / odd;
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// One elementwise function, as `Unary` documents it.
pub(super) fn unary(op: Unary, x: f64) -> f64 {
    match op {
        Unary::Gelu => x * 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Unary::GeluTanh => {
            // The constants of Hendrycks and Gimpel, as PyTorch has them: sqrt(2 / pi) and 0.044715.
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Unary::Relu => x.max(0.0),
        Unary::Tanh => x.tanh(),
        Unary::Sigmoid => sigmoid(x),
        Unary::Silu => x * sigmoid(x),
        Unary::Erf => erf(x),
        Unary::Exp => x.exp(),
        Unary::Sqrt => x.sqrt(),
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::QuickGelu => x * sigmoid(1.702 * x),
        Unary::Log => x.ln(),
        Unary::Reciprocal => 1.0 / x,
        other => unreachable!("the oracle does not know the function {other:?}"),
    }
}

/// An elementwise function of two operands that broadcast to `shape`. Integers wrap around.
pub(super) fn binary(op: Binary, a: &Array, b: &Array, shape: &Shape) -> Elements {
    let (at_a, at_b) = (broadcast_offsets(&a.shape, shape), broadcast_offsets(&b.shape, shape));
    let pairs = at_a.into_iter().zip(at_b);
    if let (Elements::I32(a), Elements::I32(b)) = (&a.elements, &b.elements) {
        return Elements::I32(pairs.map(|(i, j)| integers(op, a[i], b[j])).collect());
    }
    let (a, b) = (a.floats(), b.floats());
    Elements::F32(pairs.map(|(i, j)| round(floats(op, f64::from(a[i]), f64::from(b[j])))).collect())
}

fn floats(op: Binary, a: f64, b: f64) -> f64 {
    match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Max => a.max(b),
        Binary::Min => a.min(b),
        other => unreachable!("the oracle does not know the function {other:?}"),
    }
}

fn integers(op: Binary, a: i32, b: i32) -> i32 {
    match op {
        Binary::Add => a.wrapping_add(b),
        Binary::Sub => a.wrapping_sub(b),
        Binary::Mul => a.wrapping_mul(b),
        Binary::Max => a.max(b),
        Binary::Min => a.min(b),
        other => unreachable!("{other:?} is not defined for integers"),
    }
}

/// Conversion towards zero; what is out of range becomes the nearest integer, what is no number 0.
pub(super) fn cast(x: &Array, to: DType) -> Elements {
    match (&x.elements, to) {
        #[expect(clippy::cast_precision_loss, reason = "the cast the graph asks for")]
        (Elements::I32(v), DType::F32) => Elements::F32(v.iter().map(|&v| v as f32).collect()),
        #[expect(clippy::cast_possible_truncation, reason = "the cast the graph asks for")]
        (Elements::F32(v), DType::I32) => Elements::I32(v.iter().map(|&v| v as i32).collect()),
        (same, _) => same.clone(),
    }
}
