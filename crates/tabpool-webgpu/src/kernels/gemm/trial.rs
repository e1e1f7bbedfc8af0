//! A GEMM as it is tried on a device.

use std::rc::Rc;

use super::{Gemm, GemmVariant, PANEL, launch, padded};
use crate::trial::{Trial, Work, made_up};

/// The most elements of a weight that a trial makes up; wider ones are tried with fewer columns.
const MOST_ELEMENTS: usize = 4 << 20;

/// The class of a product: its rows as the next power of two, and its other sizes.
pub(crate) fn class(m: usize, n: usize, k: usize) -> String {
    format!("gemm m{} n{n} k{k}", m.next_power_of_two())
}

/// A product with a bias and without an activation: that variant of a kernel most nodes share.
pub(crate) fn trial(m: usize, n: usize, k: usize, variants: &[GemmVariant]) -> Trial {
    let class = class(m, n, k);
    let fewer = (MOST_ELEMENTS / k.max(1) / PANEL * PANEL).max(PANEL);
    let of = Gemm { m, n: n.min(fewer), k, bias: true, function: 0 };
    let candidates = variants.iter().map(|&v| (v.name(), launch(v, of))).collect();
    let operations = 2 * (of.m * of.n * of.k) as u64;
    Trial { class, candidates, operations, nodes: 1, work: Rc::new(of) }
}

impl Work for Gemm {
    fn operands(&self) -> Vec<usize> {
        let (rows, columns) = padded(self.k, self.n);
        vec![self.m * self.k, rows * columns, self.n]
    }

    fn element(&self, operand: usize, i: usize) -> f32 {
        let (rows, _) = padded(self.k, self.n);
        let k = i / PANEL % rows;
        if operand == 1 && k >= self.k { 0.0 } else { made_up(operand, i) }
    }

    fn results(&self) -> usize {
        self.m * self.n
    }

    fn expected(&self, i: usize) -> (f64, f64) {
        let (row, column) = (i / self.n, i % self.n);
        let (rows, _) = padded(self.k, self.n);
        let at = |k: usize| (column / PANEL * rows + k) * PANEL + column % PANEL;
        let product = |k: usize| f64::from(made_up(0, row * self.k + k)) * f64::from(made_up(1, at(k)));
        let sum: f64 = (0..self.k).map(product).sum();
        // Products are below a quarter; an error of one rounding for each would be far beyond what happens.
        (sum + f64::from(made_up(2, column)), 1e-6 + 1e-7 * self.k as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::{GemmVariant, class, trial};

    #[test]
    fn classes_join_row_counts_up_to_a_power_of_two() {
        assert_eq!(class(100, 384, 1536), "gemm m128 n384 k1536");
        assert_eq!(class(128, 384, 1536), class(65, 384, 1536));
        assert_ne!(class(128, 384, 1536), class(129, 384, 1536));
    }

    #[test]
    fn vocabularies_are_tried_with_fewer_columns() {
        let trial = trial(4, 250_002, 768, &GemmVariant::ALL);
        assert_eq!(trial.class, "gemm m4 n250002 k768");
        assert!(trial.work.operands()[1] <= 5 << 20);
        assert_eq!(trial.candidates.len(), GemmVariant::ALL.len());
    }
}
