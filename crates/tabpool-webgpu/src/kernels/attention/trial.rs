//! Attention as it is tried on a device: without biases, which every variant reads alike.

use std::rc::Rc;

use super::{Attention, AttentionVariant, launch};
use crate::trial::{Candidate, Trial, Work, made_up};

/// The class of an attention: queries and keys as the next power of two, and the heads.
pub(crate) fn class(of: &Attention) -> String {
    let (queries, keys) = (of.queries.next_power_of_two(), of.keys.next_power_of_two());
    let batches = of.batches.next_power_of_two();
    format!("attention b{batches} q{queries} k{keys} h{} d{} v{}", of.heads, of.size, of.value_size)
}

/// The trial of an attention with these variants.
pub(crate) fn trial(of: &Attention, variants: &[AttentionVariant]) -> Trial {
    let class = class(of);
    let of = Attention { biases: Vec::new(), ..of.clone() };
    let candidates = variants.iter().map(|&v| Candidate::plain(v.name(), launch(v, &of))).collect();
    let pairs = of.batches * of.heads * of.queries * of.keys;
    let operations = (2 * pairs * (of.size + of.value_size)) as u64;
    Trial { class, candidates, operations, nodes: 1, work: Rc::new(of) }
}

impl Work for Attention {
    fn operands(&self) -> Vec<usize> {
        let Attention { batches, heads, queries, keys, size, value_size, .. } = *self;
        vec![batches * queries * heads * size, batches * keys * heads * size, batches * keys * heads * value_size]
    }

    fn element(&self, operand: usize, i: usize) -> f32 {
        made_up(operand, i)
    }

    fn results(&self) -> usize {
        self.batches * self.queries * self.heads * self.value_size
    }

    fn expected(&self, i: usize) -> (f64, f64) {
        let Attention { heads, queries, keys, size, value_size, .. } = *self;
        let (row, column) = (i / (heads * value_size), i % (heads * value_size));
        let (batch, head) = (row / queries, column / value_size);
        let element = |operand: usize, i: usize| f64::from(made_up(operand, i));
        let score = |key: usize| {
            let (q, k) = ((row * heads + head) * size, ((batch * keys + key) * heads + head) * size);
            let sum: f64 = (0..size).map(|d| element(0, q + d) * element(1, k + d)).sum();
            sum * f64::from(self.scale)
        };
        let scores: Vec<f64> = (0..keys).map(score).collect();
        let most = scores.iter().copied().fold(f64::MIN, f64::max);
        let shares = scores.iter().map(|s| (s - most).exp());
        let total: f64 = shares.clone().sum();
        let value = |key: usize| element(2, ((batch * keys + key) * heads) * value_size + column);
        let sum: f64 = shares.enumerate().map(|(key, share)| share * value(key)).sum();
        (sum / total, 1e-5)
    }
}
