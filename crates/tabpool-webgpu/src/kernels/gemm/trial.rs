//! A GEMM as it is tried on a device.

use std::rc::Rc;

use tabpool_tensor::{DType, Precision};

use super::{Gemm, GemmVariant, PANEL, Panels, integers, launch};
use crate::lower::Product;
use crate::trial::{Candidate, Trial, TrialLaunch, Work, made_up};
use crate::weights::Packer;

/// The most elements of a weight that a trial makes up; wider ones are tried with fewer columns.
const MOST_ELEMENTS: usize = 4 << 20;

/// The operands by their numbers: the rows, the weight in 32 bits, the bias, the weight in 16 and in 8 bits, and the rows
/// as integers.
const ROWS: usize = 0;
const WEIGHT: usize = 1;
const BIAS: usize = 2;
const WEIGHT_F16: usize = 3;
const WEIGHT_INT8: usize = 4;
const INTEGERS: usize = 5;
/// No operand: there is no residual.
const ABSENT: usize = usize::MAX;

/// The class of a product: what is permitted beyond 32 bits, its rows as the next power of two, and its other sizes.
pub(crate) fn class(Product { permitted, m, n, k }: Product) -> String {
    let permitted = if permitted == Precision::F32 { String::new() } else { format!("{permitted} ") };
    format!("gemm {permitted}m{} n{n} k{k}", m.next_power_of_two())
}

/// A product with a bias and without an activation: that variant of a kernel most nodes share.
pub(crate) fn trial(product: Product, variants: &[GemmVariant]) -> Trial {
    let Product { m, n, k, .. } = product;
    let fewer = (MOST_ELEMENTS / k.max(1) / PANEL * PANEL).max(PANEL);
    let of = Gemm { bias: true, ..Gemm::new(m, n.min(fewer), k) };
    let candidates = variants.iter().map(|&v| candidate(v, of)).collect();
    let operations = 2 * (of.m * of.n * of.k) as u64;
    let any = |precision| variants.iter().any(|v| v.stored() == precision);
    let work = Tried { of, f16: any(Precision::F16), int8: any(Precision::Int8) };
    Trial { class: class(product), candidates, operations, nodes: 1, work: Rc::new(work) }
}

/// Making rows integers counts as a part of a product of integers: with a node on its own it is.
fn candidate(variant: GemmVariant, of: Gemm) -> Candidate {
    let (rows, weight) = match variant.stored() {
        Precision::Int8 => (INTEGERS, WEIGHT_INT8),
        Precision::F16 => (ROWS, WEIGHT_F16),
        _ => (ROWS, WEIGHT),
    };
    let before = integers(variant, of.m, of.k, true);
    let before = before.map(|(launch, _)| TrialLaunch { launch, reads: vec![ROWS], write: Some(INTEGERS) });
    let product = TrialLaunch { launch: launch(variant, of), reads: vec![rows, weight, BIAS, ABSENT], write: None };
    Candidate { name: variant.name(), launches: before.into_iter().chain([product]).collect() }
}

/// A product and in what numbers its weight is wanted beside 32 bits.
struct Tried {
    of: Gemm,
    f16: bool,
    int8: bool,
}

impl Tried {
    fn panels(&self, precision: Precision) -> Panels {
        Panels::of(precision, self.of.n, self.of.k)
    }

    /// An element of the weight `[n, k]`.
    fn weight(&self, column: usize, k: usize) -> f32 {
        let rows = self.panels(Precision::F32).rows;
        made_up(WEIGHT, (column / PANEL * rows + k) * PANEL + column % PANEL)
    }

    fn row(&self, row: usize, k: usize) -> f32 {
        made_up(ROWS, row * self.of.k + k)
    }

    /// The weight in fewer bits, made as a load makes it.
    fn packed(&self, precision: Precision) -> Vec<u32> {
        let Gemm { n, k, .. } = self.of;
        let mut bytes = vec![0; self.panels(precision).bytes()];
        let mut write = |offset: u64, part: &[u8]| {
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            bytes[at..at + part.len()].copy_from_slice(part);
        };
        let mut packer = Packer::new(precision, DType::F32, n, k);
        for column in 0..n {
            let row: Vec<f32> = (0..k).map(|i| self.weight(column, i)).collect();
            packer.push(bytemuck::cast_slice(&row), &mut write);
        }
        packer.finish(&mut write);
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}

impl Work for Tried {
    fn operands(&self) -> Vec<usize> {
        let Gemm { m, n, k, .. } = self.of;
        let words = |wanted: bool, precision| if wanted { self.panels(precision).bytes() / 4 } else { 0 };
        let integers = if self.int8 { super::quantise::words(m, k) } else { 0 };
        vec![
            m * k,
            words(true, Precision::F32),
            n,
            words(self.f16, Precision::F16),
            words(self.int8, Precision::Int8),
            integers,
        ]
    }

    fn element(&self, operand: usize, i: usize) -> f32 {
        let rows = self.panels(Precision::F32).rows;
        let k = i / PANEL % rows;
        if operand == WEIGHT && k >= self.of.k { 0.0 } else { made_up(operand, i) }
    }

    fn words(&self, operand: usize, count: usize) -> Vec<u32> {
        match operand {
            WEIGHT_F16 if count > 0 => self.packed(Precision::F16),
            WEIGHT_INT8 if count > 0 => self.packed(Precision::Int8),
            INTEGERS => vec![0; count],
            _ => (0..count).map(|i| self.element(operand, i).to_bits()).collect(),
        }
    }

    fn results(&self) -> usize {
        self.of.m * self.of.n
    }

    fn expected(&self, i: usize) -> (f64, f64) {
        let (row, column) = (i / self.of.n, i % self.of.n);
        let product = |k: usize| f64::from(self.row(row, k)) * f64::from(self.weight(column, k));
        let sum: f64 = (0..self.of.k).map(product).sum();
        // Products are below a quarter; an error of one rounding for each would be far beyond what happens.
        (sum + f64::from(made_up(BIAS, column)), 1e-6 + 1e-7 * self.of.k as f64)
    }

    /// Each product may be off by what its operands are off by. The errors of a sum have no common sign, so they add up as
    /// their squares do: eight deviations hold for every element there will ever be, unless the plain sum is less.
    fn allowed(&self, candidate: &'static str, i: usize, otherwise: f64) -> f64 {
        let Some(variant) = GemmVariant::named(candidate) else { return otherwise };
        let (row, column) = (i / self.of.n, i % self.of.n);
        let size = |v: f32| f64::from(v.abs());
        let steps = |sizes: &mut dyn Iterator<Item = f64>| sizes.fold(0.0, f64::max) / 127.0;
        let row_step = steps(&mut (0..self.of.k).map(|k| size(self.row(row, k))));
        let weight_step = steps(&mut (0..self.of.k).map(|k| size(self.weight(column, k))));
        let off = |k: usize| {
            let (a, w) = (size(self.row(row, k)), size(self.weight(column, k)));
            match variant.stored() {
                Precision::Int8 => a * weight_step / 2.0 + (w + weight_step / 2.0) * row_step / 2.0,
                // Both operands, their product and up to three sums of four are rounded, or lost where they are subnormal.
                Precision::F16 if variant.narrows_activations() => 6.0 * F16_ROUNDING * a * w + 3.0 * F16_SMALLEST,
                Precision::F16 => a * (F16_ROUNDING * w).max(F16_SMALLEST.min(w)),
                _ => 0.0,
            }
        };
        let (sum, squares) = (0..self.of.k).map(off).fold((0.0, 0.0), |(s, q), e| (s + e, q + e * e));
        otherwise + f64::min(sum, 8.0 * squares.sqrt())
    }
}

/// Half of the distance of two neighbours in f16, as a share of their size.
const F16_ROUNDING: f64 = 1.0 / 2048.0;
/// The smallest normal number of f16; devices may take what is below for zero.
const F16_SMALLEST: f64 = 1.0 / 16384.0;

#[cfg(test)]
mod tests {
    use tabpool_tensor::Precision;

    use super::{GemmVariant, Product, class, trial};

    fn product(m: usize, n: usize, k: usize) -> Product {
        Product { permitted: Precision::F32, m, n, k }
    }

    #[test]
    fn classes_join_row_counts_up_to_a_power_of_two() {
        assert_eq!(class(product(100, 384, 1536)), "gemm m128 n384 k1536");
        assert_eq!(class(product(128, 384, 1536)), class(product(65, 384, 1536)));
        assert_ne!(class(product(128, 384, 1536)), class(product(129, 384, 1536)));
    }

    #[test]
    fn what_is_permitted_makes_a_class_of_its_own() {
        let of = |permitted| class(Product { permitted, ..product(128, 384, 384) });
        assert_eq!(of(Precision::F16), "gemm f16 m128 n384 k384");
        assert_eq!(of(Precision::Int8), "gemm int8 m128 n384 k384");
    }

    #[test]
    fn vocabularies_are_tried_with_fewer_columns() {
        let trial = trial(product(4, 250_002, 768), &GemmVariant::ALL);
        assert_eq!(trial.class, "gemm m4 n250002 k768");
        assert!(trial.work.operands()[1] <= 5 << 20);
        assert_eq!(trial.candidates.len(), GemmVariant::ALL.len());
    }

    #[test]
    fn less_exact_candidates_may_be_further_off_but_not_by_a_product() {
        let trial = trial(product(3, 33, 64), &GemmVariant::ALL);
        let allowed = |name| trial.work.allowed(name, 40, 1e-6);
        let exact = allowed("register_8x8");
        let (f16, half, int8) = (allowed("f16_split_1x16"), allowed("half_split_1x16"), allowed("int8_split_1x16"));
        assert!(exact < f16 && f16 < half && half < int8 && int8 < 0.1, "{exact} {f16} {half} {int8}");
    }
}
