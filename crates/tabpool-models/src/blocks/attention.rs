//! Attention over values that are projected already.

use tabpool_graph::{Op, ValueId};

use super::{Build, Built};

/// How attention is divided and scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Heads {
    /// Heads of queries.
    pub(crate) queries: usize,
    /// Heads of keys and values, a divisor of `queries`.
    pub(crate) keys: usize,
    /// What scores are multiplied by.
    pub(crate) scale: f32,
}

impl Heads {
    /// Heads that each have keys of their own, scaled by the root of their size.
    pub(crate) fn of(heads: usize, hidden: usize) -> Self {
        Self { queries: heads, keys: heads, scale: scale(hidden / heads.max(1)) }
    }

    /// Attention of every query to every key, or, where there is a start, to those before it.
    pub(crate) fn attend(
        self,
        b: &mut Build<'_>,
        name: &str,
        [query, key, value]: [ValueId; 3],
        biases: &[ValueId],
        start: Option<ValueId>,
    ) -> Built {
        let op = Op::Attention { heads: self.queries, kv_heads: self.keys, scale: self.scale, causal: start.is_some() };
        let mut operands = vec![query, key, value];
        operands.extend_from_slice(biases);
        operands.extend(start);
        b.node(name, op, &operands)
    }
}

/// `1 / sqrt(size)`.
#[expect(clippy::cast_precision_loss, reason = "a head's size is at most 2^16")]
pub(crate) fn scale(size: usize) -> f32 {
    1.0 / (size as f32).sqrt()
}
