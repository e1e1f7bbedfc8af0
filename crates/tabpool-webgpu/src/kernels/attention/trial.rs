//! Attention as it is tried on a device: without biases, which every variant reads alike, and where it is causal with queries
//! that are the last ones.

use std::rc::Rc;

use super::{Attention, AttentionVariant, launch};
use crate::kernels::word;
use crate::trial::{Candidate, Trial, Work, made_up};

/// The class of an attention: queries and keys as the next power of two, and the heads.
pub(crate) fn class(of: &Attention) -> String {
    let (queries, keys) = (of.queries.next_power_of_two(), of.keys.next_power_of_two());
    let batches = of.batches.next_power_of_two();
    let causal = if of.causal { "causal_" } else { "" };
    let shared = if of.kv_heads == of.heads { String::new() } else { format!("/{}", of.kv_heads) };
    format!("{causal}attention b{batches} q{queries} k{keys} h{}{shared} d{} v{}", of.heads, of.size, of.value_size)
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

/// The operand that says where the queries begin.
const FIRST_QUERY: usize = 5;

impl Attention {
    fn first_query(&self) -> usize {
        self.keys.saturating_sub(self.queries)
    }
}

impl Work for Attention {
    fn operands(&self) -> Vec<usize> {
        let Attention { batches, heads, kv_heads, queries, keys, size, value_size, .. } = *self;
        let (k, v) = (batches * keys * kv_heads * size, batches * keys * kv_heads * value_size);
        vec![batches * queries * heads * size, k, v, 0, 0, 1]
    }

    fn element(&self, operand: usize, i: usize) -> f32 {
        made_up(operand, i)
    }

    fn words(&self, operand: usize, count: usize) -> Vec<u32> {
        if operand == FIRST_QUERY {
            return vec![word(self.first_query()); count];
        }
        (0..count).map(|i| self.element(operand, i).to_bits()).collect()
    }

    fn results(&self) -> usize {
        self.batches * self.queries * self.heads * self.value_size
    }

    fn expected(&self, i: usize) -> (f64, f64) {
        let Attention { heads, kv_heads, queries, keys, size, value_size, .. } = *self;
        let (row, column) = (i / (heads * value_size), i % (heads * value_size));
        let (batch, head) = (row / queries, column / value_size);
        let shared = head / (heads / kv_heads);
        let seen = if self.causal { keys.min(self.first_query() + row % queries + 1) } else { keys };
        let element = |operand: usize, i: usize| f64::from(made_up(operand, i));
        let score = |key: usize| {
            let (q, k) = ((row * heads + head) * size, ((batch * keys + key) * kv_heads + shared) * size);
            let sum: f64 = (0..size).map(|d| element(0, q + d) * element(1, k + d)).sum();
            sum * f64::from(self.scale)
        };
        let scores: Vec<f64> = (0..seen).map(score).collect();
        let most = scores.iter().copied().fold(f64::MIN, f64::max);
        let shares = scores.iter().map(|s| (s - most).exp());
        let total: f64 = shares.clone().sum();
        let part = column % value_size;
        let value = |key: usize| element(2, ((batch * keys + key) * kv_heads + shared) * value_size + part);
        let sum: f64 = shares.enumerate().map(|(key, share)| share * value(key)).sum();
        (sum / total, 1e-5)
    }
}
