//! Transcendental functions as polynomials without branches, so that LLVM vectorises loops over them.
//!
//! Errors against the oracle over the whole range are stated at each function and held by the tests. Nothing here
//! fuses multiplications and additions, so every processor gives the same bits.

/// Functions of one element.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// The element itself.
    Identity,
    /// `x * Phi(x)` with the error function.
    Gelu,
    /// GELU's tanh approximation.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `tanh(x)`.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `x * sigmoid(x)`.
    Silu,
    /// The error function.
    Erf,
    /// `exp(x)`.
    Exp,
    /// `sqrt(x)`.
    Sqrt,
    /// `-x`.
    Neg,
    /// `|x|`.
    Abs,
}

/// `a` where it is larger, otherwise `b`: one instruction, unlike `f32::max`, which treats numbers that are none
/// alike on both sides. Where `b` is no number, neither is the result.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// `a` where it is smaller, otherwise `b`; see [`larger`].
#[inline(always)]
pub(crate) fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// The square root, which without the standard library is an instruction of vectors only.
#[inline(always)]
pub(crate) fn square_root(x: f32) -> f32 {
    #[cfg(target_arch = "wasm32")]
    {
        use core::arch::wasm32::{f32x4_extract_lane, f32x4_splat, f32x4_sqrt};
        f32x4_extract_lane::<0>(f32x4_sqrt(f32x4_splat(x)))
    }
    #[cfg(not(target_arch = "wasm32"))]
    x.sqrt()
}

/// `exp(x)` after Cephes' `expf`: `x = n ln 2 + r`, a polynomial in `r`, times `2^n`. Relative error below 2e-7 for normal results.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding and taking away 1.5 * 2^23 rounds to a whole number, whose bits stand in the low end of the sum.
    const ROUNDER: f32 = 12_582_912.0;
    let x = smaller(89.0, larger(-104.0, x));
    let shifted = x * core::f32::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    // ln 2 in two parts, the first of which is exact in few bits.
    let r = x - n * (355.0 / 512.0) - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    // The power of two in two factors, so that neither leaves the range of exponents.
    let whole = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()).cast_signed();
    let half = whole >> 1;
    y * power_of_two(half) * power_of_two(whole - half)
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127).cast_unsigned()) << 23)
}

/// `tanh(x)` as Eigen's rational function of degree 13 over 6. Relative error below 5e-7.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    const LIMIT: f32 = 7.905_311;
    let c = smaller(LIMIT, larger(-LIMIT, x));
    let s = c * c;
    let p = -2.760_768_5e-16;
    let p = p * s + 2.000_188e-13;
    let p = p * s + -8.604_672e-11;
    let p = p * s + 5.122_297e-8;
    let p = p * s + 1.485_722_4e-5;
    let p = p * s + 6.372_619e-4;
    let p = p * s + 4.893_524_6e-3;
    let q = 1.198_258_4e-6;
    let q = q * s + 1.185_347_1e-4;
    let q = q * s + 2.268_434_6e-3;
    let q = q * s + 4.893_525e-3;
    // Where x cubed vanishes beside x, so would the numerator's digits for the smallest x.
    let y = if x.abs() < 4e-4 { x } else { c * p / q };
    let y = if x >= LIMIT { 1.0 } else { y };
    if x <= -LIMIT { -1.0 } else { y }
}

/// `erf(x)` as Eigen's rational function of degree 13 over 8. Absolute error below 4e-7; exactly 1 and -1 far out.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    const LIMIT: f32 = 4.0;
    let c = smaller(LIMIT, larger(-LIMIT, x));
    let s = c * c;
    let p = -2.726_142e-10;
    let p = p * s + 2.770_681_5e-8;
    let p = p * s + -2.101_024e-6;
    let p = p * s + -5.692_506_5e-5;
    let p = p * s + -7.349_906_3e-4;
    let p = p * s + -2.954_6e-3;
    let p = p * s + -1.609_603_3e-2;
    let q = -1.456_607_2e-5;
    let q = q * s + -2.133_740_5e-4;
    let q = q * s + -1.682_827e-3;
    let q = q * s + -7.373_329e-3;
    let q = q * s + -1.426_473_9e-2;
    let y = c * p / q;
    let y = if x >= LIMIT { 1.0 } else { y };
    if x <= -LIMIT { -1.0 } else { y }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * core::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    // sqrt(2 / pi) and Hendrycks and Gimpel's constant.
    0.5 * x * (1.0 + tanh(0.797_884_6 * (x + 0.044_715 * x * x * x)))
}

/// Calls `each` with the function of an operator, so that the loop inside is compiled once for each function.
macro_rules! with_unary {
    ($op:expr, $each:ident) => {
        match $op {
            Function::Identity => $each!(|x| x),
            Function::Gelu => $each!(gelu),
            Function::GeluTanh => $each!(gelu_tanh),
            Function::Relu => $each!(|x| larger(0.0, x)),
            Function::Tanh => $each!(tanh),
            Function::Sigmoid => $each!(sigmoid),
            Function::Silu => $each!(|x: f32| x * sigmoid(x)),
            Function::Erf => $each!(erf),
            Function::Exp => $each!(exp),
            Function::Sqrt => $each!(square_root),
            Function::Neg => $each!(|x: f32| -x),
            Function::Abs => $each!(|x: f32| x.abs()),
        }
    };
}

super::isa::vectorised! {
    /// Applies a function to each element, in place.
    pub fn apply_in_place(op: Function, values: &mut [f32]) {
        macro_rules! each {
            ($f:expr) => {{
                for v in values.iter_mut() {
                    *v = ($f)(*v);
                }
            }};
        }
        with_unary!(op, each);
    }
}

super::isa::vectorised! {
    /// Applies a function to each element of `x`.
    pub fn apply(op: Function, x: &[f32], out: &mut [f32]) {
        macro_rules! each {
            ($f:expr) => {{
                for (y, &x) in out.iter_mut().zip(x) {
                    *y = ($f)(x);
                }
            }};
        }
        with_unary!(op, each);
    }
}
