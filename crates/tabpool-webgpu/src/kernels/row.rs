//! Kernels that work on rows: who computes one, and how that is tried on a device.

use std::rc::Rc;

use super::layer_norm::{self, LayerNorm};
use super::{Groups, Kernel, Launch, rms_norm, softmax, word};
use crate::report::AdapterKind;
use crate::trial::{Candidate, Trial, Work, made_up};

/// The fewest rows that keep the vector lanes of a software adapter busy with a row each.
const ENOUGH_ROWS: usize = 16;
/// The most elements that a trial makes up; longer operands are tried with fewer rows.
const MOST_ELEMENTS: usize = 4 << 20;

/// A way to compute softmax, layer normalisation and their kind. Both give the same result up to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowVariant {
    /// A workgroup a row: for GPUs, and for rows of any length.
    Across,
    /// An invocation a row, without barriers: rows that are multiples of four long.
    Each,
}

impl RowVariant {
    /// Every variant.
    pub const ALL: [RowVariant; 2] = [RowVariant::Across, RowVariant::Each];

    /// The name people and databases see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RowVariant::Across => "across",
            RowVariant::Each => "each",
        }
    }

    /// The variant of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.name() == name)
    }

    /// Whether it can compute rows of this length.
    pub(crate) fn fits(self, n: usize) -> bool {
        self == RowVariant::Across || n.is_multiple_of(4)
    }

    /// The variants worth timing on an adapter, likely best first.
    pub(crate) fn candidates(rows: usize, n: usize, adapter: AdapterKind) -> Vec<RowVariant> {
        let each_first = adapter.is_software() && rows >= ENOUGH_ROWS;
        let order = if each_first { [RowVariant::Each, RowVariant::Across] } else { Self::ALL };
        order.into_iter().filter(|v| v.fits(n)).collect()
    }

    /// The kernel that computes so.
    pub(super) fn of(self, across: &'static Kernel, each: &'static Kernel) -> &'static Kernel {
        match self {
            RowVariant::Across => across,
            RowVariant::Each => each,
        }
    }

    /// The workgroups for so many rows.
    pub(super) fn groups(self, rows: usize) -> Groups {
        Groups::Line(word(match self {
            RowVariant::Across => rows,
            RowVariant::Each => rows.div_ceil(8),
        }))
    }
}

/// What is computed of each row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rowwise {
    Softmax,
    LayerNorm(LayerNorm),
    RmsNorm { epsilon: f32 },
}

/// Rows and what is computed of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) of: Rowwise,
    pub(crate) rows: usize,
    pub(crate) n: usize,
}

impl Rows {
    /// The class of such work: what it is, its rows as the next power of two, and their length.
    pub(crate) fn class(&self) -> String {
        let name = match self.of {
            Rowwise::Softmax => "softmax",
            Rowwise::LayerNorm(LayerNorm { residual: true, .. }) => "add_layer_norm",
            Rowwise::LayerNorm(_) => "layer_norm",
            Rowwise::RmsNorm { .. } => "rms_norm",
        };
        format!("{name} r{} n{}", self.rows.next_power_of_two(), self.n)
    }

    /// A launch of a variant that fits.
    pub(crate) fn launch(&self, variant: RowVariant) -> Launch {
        match self.of {
            Rowwise::Softmax => softmax::launch(variant, self.rows, self.n),
            Rowwise::LayerNorm(of) => layer_norm::launch(variant, self.rows, self.n, of),
            Rowwise::RmsNorm { epsilon } => rms_norm::launch(variant, self.rows, self.n, epsilon),
        }
    }

    /// The trial of such work with these variants.
    pub(crate) fn trial(&self, variants: &[RowVariant]) -> Trial {
        let fewer = (MOST_ELEMENTS / self.n.max(1)).max(1);
        let of = Rows { rows: self.rows.min(fewer), ..*self };
        let candidates = variants.iter().map(|&v| Candidate::plain(v.name(), of.launch(v))).collect();
        // About what an element costs; softmax, whose exponential is the dearest of all, is not told apart.
        let operations = 8 * (of.rows * of.n) as u64;
        Trial { class: self.class(), candidates, operations, nodes: 1, work: Rc::new(of) }
    }

    /// Operand `i` of a row in 64 bits, where there is such an operand.
    fn number(has: bool, operand: usize, i: usize) -> Option<f64> {
        has.then(|| f64::from(made_up(operand, i)))
    }
}

impl Work for Rows {
    fn operands(&self) -> Vec<usize> {
        let Rows { of, rows, n } = *self;
        match of {
            Rowwise::Softmax => vec![rows * n],
            Rowwise::LayerNorm(_) => vec![rows * n, rows * n, n, n],
            Rowwise::RmsNorm { .. } => vec![rows * n, n],
        }
    }

    fn element(&self, operand: usize, i: usize) -> f32 {
        made_up(operand, i)
    }

    fn results(&self) -> usize {
        self.rows * self.n
    }

    fn expected(&self, i: usize) -> (f64, f64) {
        let (start, column) = (i / self.n * self.n, i % self.n);
        let n = self.n as f64;
        let x = |j: usize| f64::from(made_up(0, j));
        let row = start..start + self.n;
        let result = match self.of {
            Rowwise::Softmax => x(i).exp() / row.map(|j| x(j).exp()).sum::<f64>(),
            Rowwise::LayerNorm(LayerNorm { epsilon, residual, scale, shift }) => {
                let sum = |j: usize| x(j) + Self::number(residual, 1, j).unwrap_or(0.0);
                let mean = row.clone().map(sum).sum::<f64>() / n;
                let variance = row.map(|j| (sum(j) - mean).powi(2)).sum::<f64>() / n;
                let normal = (sum(i) - mean) / (variance + f64::from(epsilon)).sqrt();
                normal * Self::number(scale, 2, column).unwrap_or(1.0) + Self::number(shift, 3, column).unwrap_or(0.0)
            }
            Rowwise::RmsNorm { epsilon } => {
                let mean = row.map(|j| x(j).powi(2)).sum::<f64>() / n;
                x(i) / (mean + f64::from(epsilon)).sqrt() * f64::from(made_up(1, column))
            }
        };
        (result, 1e-5)
    }
}

#[cfg(test)]
mod tests {
    use super::{AdapterKind, RowVariant, Rows, Rowwise};

    #[test]
    fn rows_that_are_no_fours_are_computed_across() {
        let all = |rows, n, adapter| RowVariant::candidates(rows, n, adapter);
        assert_eq!(all(128, 30, AdapterKind::Software), [RowVariant::Across]);
        assert_eq!(all(128, 32, AdapterKind::Software), [RowVariant::Each, RowVariant::Across]);
        assert_eq!(all(1, 32, AdapterKind::Software)[0], RowVariant::Across);
        assert_eq!(all(128, 32, AdapterKind::Hardware)[0], RowVariant::Across);
    }

    #[test]
    fn classes_join_row_counts_up_to_a_power_of_two() {
        let class = |rows| Rows { of: Rowwise::Softmax, rows, n: 48 }.class();
        assert_eq!(class(100), "softmax r128 n48");
        assert_eq!(class(100), class(128));
    }
}
