//! Transcendental functions as polynomials without branches.
//!
//! They are written once, over `Number`s: natively one `f32`, for LLVM vectorises loops over those well and as wide as the
//! processor's level allows; in a browser two vectors of four, so that rows shorter than LLVM unrolls are vectorised as well,
//! coefficients are loaded once for both, and sums are fused where relaxed SIMD has that. Errors against the oracle over the whole
//! range are stated at each function and held by the tests; natively nothing is fused, so every processor gives the same bits.

mod number;

use core::convert::identity;

pub(crate) use number::{Fourfold, Number, ROUNDER, Vector};

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
    /// `x * sigmoid(1.702 * x)`.
    QuickGelu,
    /// The natural logarithm.
    Log,
    /// `1 / x`.
    Reciprocal,
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

/// A number that is known when this is compiled, everywhere in a [`Number`].
macro_rules! constant {
    ($number:ty, $x:expr) => {
        <$number as $crate::math::Number>::constant(const { &$crate::math::Fourfold::of($x) })
    };
}
pub(crate) use constant;

/// `exp(x)` after Cephes' `expf`: `x = n ln 2 + r`, a polynomial in `r`, times `2^n`. Relative error below 2e-7 for normal results.
#[inline(always)]
pub(crate) fn exp<T: Number>(x: T) -> T {
    let x = constant!(T, 89.0).smaller(constant!(T, -104.0).larger(x));
    let [y, shifted] = exp_parts(x);
    // The power of two in two factors, so that neither leaves the range of exponents.
    let [a, b] = shifted.powers_of_two();
    y * a * b
}

/// The same of -87 to 88, where the result is normal.
#[inline(always)]
pub(crate) fn exp_normal<T: Number>(x: T) -> T {
    let [y, shifted] = exp_parts(x);
    y.times_power_of_two(shifted)
}

/// `exp(r)`, and [`ROUNDER`] plus `n`.
#[inline(always)]
fn exp_parts<T: Number>(x: T) -> [T; 2] {
    // Adding and taking away 1.5 * 2^23 rounds to a whole number, whose bits stand in the low end of the sum.
    let rounder = constant!(T, ROUNDER);
    let shifted = x.fused(constant!(T, core::f32::consts::LOG2_E), rounder);
    let n = shifted - rounder;
    // ln 2 in two parts, the first of which is exact in few bits.
    let r = n.fused(constant!(T, -355.0 / 512.0), x);
    let r = n.fused(constant!(T, 2.121_944_4e-4), r);
    let p = polynomial(
        r,
        const { &Fourfold::each([1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]) },
    );
    [p.fused(r * r, r) + constant!(T, 1.0), shifted]
}

/// `tanh(x)` as Eigen's rational function of degree 13 over 6. Relative error below 5e-7.
#[inline(always)]
pub(crate) fn tanh<T: Number>(x: T) -> T {
    let limit = constant!(T, 7.905_311);
    let c = limit.smaller((-limit).larger(x));
    let s = c * c;
    let p = polynomial(
        s,
        const {
            &Fourfold::each([
                -2.760_768_5e-16,
                2.000_188e-13,
                -8.604_672e-11,
                5.122_297e-8,
                1.485_722_4e-5,
                6.372_619e-4,
                4.893_524_6e-3,
            ])
        },
    );
    let q = polynomial(s, const { &Fourfold::each([1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3]) });
    // Where x cubed vanishes beside x, so would the numerator's digits for the smallest x.
    let y = x.absolute().where_less(constant!(T, 4e-4), x, c * p / q);
    saturated(x, limit, y)
}

/// `erf(x)` as Eigen's rational function of degree 13 over 8. Absolute error below 4e-7; exactly 1 and -1 far out.
#[inline(always)]
pub(crate) fn erf<T: Number>(x: T) -> T {
    let limit = constant!(T, 4.0);
    let c = limit.smaller((-limit).larger(x));
    let s = c * c;
    let p = polynomial(
        s,
        const {
            &Fourfold::each([
                -2.726_142e-10,
                2.770_681_5e-8,
                -2.101_024e-6,
                -5.692_506_5e-5,
                -7.349_906_3e-4,
                -2.954_6e-3,
                -1.609_603_3e-2,
            ])
        },
    );
    let q = polynomial(
        s,
        const { &Fourfold::each([-1.456_607_2e-5, -2.133_740_5e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2]) },
    );
    saturated(x, limit, c * p / q)
}

/// A polynomial, the highest power's coefficient first: by Horner's rule in the square of `x`, of pairs that are made beside it.
/// It is as many operations as with `x`, but half as many of them wait for each other.
#[inline(always)]
fn polynomial<T: Number, const N: usize>(x: T, coefficients: &'static [Fourfold; N]) -> T {
    let square = x * x;
    let (first, pairs) = coefficients.split_at(if N.is_multiple_of(2) { 2 } else { 1 });
    let mut sum = T::constant(&first[0]);
    if let [_, second] = first {
        sum = sum.fused(x, T::constant(second));
    }
    for [a, b] in pairs.as_chunks().0 {
        sum = sum.fused(square, T::constant(a).fused(x, T::constant(b)));
    }
    sum
}

/// `y`, but exactly 1 and -1 from a limit on.
#[inline(always)]
fn saturated<T: Number>(x: T, limit: T, y: T) -> T {
    let y = x.where_less(limit, y, constant!(T, 1.0));
    (-limit).where_less(x, y, constant!(T, -1.0))
}

#[inline(always)]
fn sigmoid<T: Number>(x: T) -> T {
    constant!(T, 1.0) / (constant!(T, 1.0) + exp(-x))
}

#[inline(always)]
fn silu<T: Number>(x: T) -> T {
    x * sigmoid(x)
}

#[inline(always)]
fn quick_gelu<T: Number>(x: T) -> T {
    x * sigmoid(constant!(T, 1.702) * x)
}

/// `ln(x)` after Cephes' `logf`: the exponent times ln 2, and a polynomial of what is left, of `sqrt(0.5)` to `sqrt(2)`. Relative
/// error below 3e-7, absolute below 1e-7 around 1.
#[inline(always)]
pub(crate) fn log<T: Number>(x: T) -> T {
    let (one, least) = (constant!(T, 1.0), constant!(T, f32::MIN_POSITIVE));
    // What is subnormal has too few bits where a fraction's are; 2^25 times it is normal.
    let normal = x.where_less(least, x * constant!(T, 33_554_432.0), x);
    let less = x.where_less(least, constant!(T, -25.0), constant!(T, 0.0));
    let [fraction, exponent] = normal.fraction_and_exponent();
    let root = constant!(T, core::f32::consts::FRAC_1_SQRT_2);
    let n = exponent + less - fraction.where_less(root, one, constant!(T, 0.0));
    let r = fraction.where_less(root, fraction + fraction, fraction) - one;
    let p = polynomial(
        r,
        const {
            &Fourfold::each([
                7.037_683_6e-2,
                -1.151_461e-1,
                1.167_699_9e-1,
                -1.242_014_1e-1,
                1.424_932_3e-1,
                -1.666_805_7e-1,
                2.000_071_4e-1,
                -2.499_999_4e-1,
                3.333_333e-1,
            ])
        },
    );
    let square = r * r;
    // ln 2 in two parts, the first of which is exact in few bits.
    let y = p * r * square + n * constant!(T, -2.121_944_4e-4) - constant!(T, 0.5) * square;
    let y = r + y + n * constant!(T, 355.0 / 512.0);
    // What is no number stays none; then what is infinite, and nothing and less.
    let y = constant!(T, f32::MAX).where_less(x, x, y + x * constant!(T, 0.0));
    let y = x.where_less(constant!(T, 1e-45), constant!(T, f32::NEG_INFINITY), y);
    x.where_less(constant!(T, 0.0), constant!(T, f32::NAN), y)
}

#[inline(always)]
fn gelu<T: Number>(x: T) -> T {
    constant!(T, 0.5) * x * (constant!(T, 1.0) + erf(x * constant!(T, core::f32::consts::FRAC_1_SQRT_2)))
}

#[inline(always)]
fn gelu_tanh<T: Number>(x: T) -> T {
    // sqrt(2 / pi) and Hendrycks and Gimpel's constant.
    let inner = constant!(T, 0.797_884_6) * (x + constant!(T, 0.044_715) * x * x * x);
    constant!(T, 0.5) * x * (constant!(T, 1.0) + tanh(inner))
}

/// Calls `each` with the function of an operator, so that the loop inside is compiled once for each function.
macro_rules! with_unary {
    ($op:expr, $each:ident) => {
        match $op {
            Function::Identity => $each!(identity),
            Function::Gelu => $each!(gelu),
            Function::GeluTanh => $each!(gelu_tanh),
            Function::Relu => $each!(|x: Vector| constant!(Vector, 0.0).larger(x)),
            Function::Tanh => $each!(tanh),
            Function::Sigmoid => $each!(sigmoid),
            Function::Silu => $each!(silu),
            Function::Erf => $each!(erf),
            Function::Exp => $each!(exp),
            Function::Sqrt => $each!(Number::square_root),
            Function::Neg => $each!(|x: Vector| -x),
            Function::Abs => $each!(Number::absolute),
            Function::QuickGelu => $each!(quick_gelu),
            Function::Log => $each!(log),
            Function::Reciprocal => $each!(|x: Vector| constant!(Vector, 1.0) / x),
        }
    };
}

super::isa::vectorised! {
    /// Applies a function to each element, in place.
    pub fn apply_in_place(op: Function, values: &mut [f32]) {
        macro_rules! each {
            ($f:expr) => {
                Vector::map_in_place(values, $f)
            };
        }
        with_unary!(op, each);
    }
}

super::isa::vectorised! {
    /// Applies a function to each element of `x`.
    pub fn apply(op: Function, x: &[f32], out: &mut [f32]) {
        macro_rules! each {
            ($f:expr) => {
                Vector::map(x, out, $f)
            };
        }
        with_unary!(op, each);
    }
}
