//! Linear layers where less exact arithmetic than 32 bits is permitted.
//!
//! Two kinds of cases. *Whole numbers* fit the format, products and sums included, so a kernel that loses nothing but what
//! the format makes it lose gives them exactly; they find every index that is wrong. *Random numbers* find a format that is
//! used wrongly, within a bound that is argued here:
//!
//! Of a product of K terms each term is off by what its operands are off by. Those errors have no common sign, so the sum is
//! off by about √K of them, and no element of a case is off by more than eight such deviations. The cases' operands are
//! uniform in ±2 and ±2/√K, so a term's typical size (the root of its mean square) is 4/(3√K), and K cancels:
//!
//! - f16: weight, activation, product and up to three sums of four terms are each rounded by at most 2⁻¹¹ of their size:
//!   `8 · √6 · 2⁻¹¹ · 4/3` = 1.3e-2.
//! - int8: a step is 2/127 of the activations' and of the weights' range, an error is uniform within half a step, a
//!   deviation of step/√12: `8 · √2 · 2/√3 · 2/127/√12` = 6e-2, in which 2/√3 is the typical size of the other operand.
//!
//! Activations stretch an error by at most 1.13 (GELU). A layer of an encoder has six products, and its normalisations keep the
//! numbers near 1, where an error of the bounds above is the same share; twelve of those add up as their squares do.

use tabpool_graph::{Activation, Op};
use tabpool_tensor::{DType, Precision, Tensor};

use super::case::{Case, CaseError, Fill, Sketch};
use super::encoder::{EncoderSize, encoder};
use super::product::FOLLOWING;

/// `(M, K, N)` of products of whole numbers: K holds a whole cycle of them.
const WHOLE: &[(usize, usize, usize)] =
    &[(1, 7, 3), (7, 17, 33), (17, 61, 65), (70, 129, 67), (13, 400, 49), (2, 1541, 9), (128, 64, 96), (5, 36, 128)];

/// `(M, K, N)` of products of random numbers.
const RANDOM: &[(usize, usize, usize)] =
    &[(1, 1, 1), (3, 1, 5), (5, 3, 1), (1, 129, 67), (33, 5, 127), (65, 33, 129), (13, 400, 49), (128, 64, 96)];

/// How far the random cases may be off; see the module's documentation.
fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 2e-5,
        Precision::F16 => 1.13 * 1.3e-2,
        _ => 1.13 * 6e-2,
    }
}

/// Whole numbers that fit: small ones for f16, in which products and sums of four of them are exact too; for 8 bits the
/// largest is in every row, so that a step is one.
fn whole(precision: Precision) -> (&'static [f32], &'static [f32]) {
    match precision {
        Precision::Int8 => {
            (&[127.0, -3.0, 45.0, 0.0, -126.0, 12.0, -77.0], &[-5.0, 127.0, 33.0, -64.0, 1.0, 0.0, 90.0])
        }
        _ => (&[3.0, -1.0, 4.0, 0.0, -5.0, 2.0, -3.0], &[-2.0, 5.0, 1.0, -4.0, 0.0, 3.0, -1.0]),
    }
}

/// Every case of a precision.
pub(super) fn cases(precision: Precision) -> Result<Vec<Case>, CaseError> {
    let mut all = Vec::new();
    for &(m, k, n) in WHOLE {
        all.push(exact(precision, m, k, n)?);
    }
    for (i, &(m, k, n)) in RANDOM.iter().enumerate() {
        let stored = [DType::F32, DType::F16, DType::BF16][i % 3];
        all.push(random(precision, m, k, n, stored, FOLLOWING[i % 2])?);
    }
    all.push(shared_rows(precision)?);
    let small =
        EncoderSize { batch: 2, sequence: 13, vocabulary: 100, hidden: 60, intermediate: 70, heads: 5, layers: 2 };
    let mut layers = encoder(small, DType::F32)?.optimised()?;
    layers.name = format!("{precision}: linear layers of an {}", layers.name);
    layers.tolerance = 12.0_f64.sqrt() * tolerance(precision);
    all.push(layers);
    Ok(all.into_iter().map(|case| Case { precision, ..case }).collect())
}

fn exact(precision: Precision, m: usize, k: usize, n: usize) -> Result<Case, CaseError> {
    let (activations, weights) = whole(precision);
    let mut s = Sketch::new(format!("{precision}: linear [{m}] {k} to {n} of whole numbers"));
    let x = s.input([m, k], Fill::Cycle(activations))?;
    let w = Tensor::from_f32([n, k], (0..n * k).map(|i| weights[(i + i / k) % weights.len()]).collect())?;
    let w = s.weight_of(w)?;
    let bias = s.weight_of(Tensor::from_f32([n], (0..n).map(|i| weights[i % weights.len()] / 8.0).collect())?)?;
    let y = s.node(Op::LINEAR, &[x, w, bias])?;
    s.finish(&[y], 2e-5)
}

fn random(
    precision: Precision,
    m: usize,
    k: usize,
    n: usize,
    stored: DType,
    activation: Option<Activation>,
) -> Result<Case, CaseError> {
    let followed = activation.map_or("nothing", |a| Op::Unary(a.unary()).name());
    let mut s = Sketch::new(format!("{precision}: linear [{m}] {k} to {n} {stored} then {followed}"));
    let x = s.input([m, k], Fill::PLAIN)?;
    let (w, bias) = (s.weight(stored, [n, k])?, s.weight_between(DType::F32, [n], -1.0, 1.0)?);
    let y = s.node(Op::Linear { activation, residual: false }, &[x, w, bias])?;
    s.finish(&[y], tolerance(precision))
}

/// Linear layers of one value, of a row of zeros, and of one another: what one leaves behind must not reach the next.
fn shared_rows(precision: Precision) -> Result<Case, CaseError> {
    let mut s = Sketch::new(format!("{precision}: linear layers of one value and of one another"));
    let x = s.input([9, 33], Fill::PLAIN)?;
    let zeros = s.constant(Tensor::from_f32([3, 33], vec![0.0; 99])?)?;
    let (first, second, third) =
        (s.weight(DType::F32, [21, 33])?, s.weight(DType::F16, [33, 33])?, s.weight(DType::F32, [5, 21])?);
    let one = s.node(Op::LINEAR, &[x, first])?;
    let other = s.node(Op::Linear { activation: Some(Activation::Relu), residual: false }, &[x, second])?;
    let after = s.node(Op::LINEAR, &[one, third])?;
    let again = s.node(Op::LINEAR, &[x, first])?;
    let nothing = s.node(Op::LINEAR, &[zeros, first])?;
    // Two products in a row.
    s.finish(&[one, other, after, again, nothing], 2.0 * tolerance(precision))
}
