//! What a decoder's layers need to know of the run they are in: where its tokens stand, what came before them, and what
//! they may look at. The same layers serve a whole sequence at once, a part of a prompt, and one token.

use tabpool_graph::{Op, ValueId};

use super::{Build, Built};
use crate::ModelError;

/// Keys and values of an encoder's output for one layer of a decoder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cross {
    pub(crate) key: ValueId,
    pub(crate) value: ValueId,
}

/// A decoder's run.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// The tokens, `i32 [batch, tokens]`.
    pub(crate) ids: ValueId,
    /// How many each sequence has.
    pub(crate) tokens: usize,
    /// Their positions, `i32 [batch or 1, tokens]`.
    pub(crate) positions: ValueId,
    /// What all positions are below.
    pub(crate) limit: usize,
    /// The row of keys that the first token has, `i32 [1]`.
    pub(crate) start: ValueId,
    /// How many rows of keys there are.
    pub(crate) keys: usize,
    /// What is added to every query's scores, `[batch, 1, 1, keys]`.
    pub(crate) bias: Option<ValueId>,
    /// Whether keys and values stay in states for the runs that follow.
    pub(crate) cached: bool,
    /// What layers see of an encoder, a pair each.
    pub(crate) cross: Vec<Cross>,
    /// What is added to the scores of the encoder's positions.
    pub(crate) cross_bias: Option<ValueId>,
}

impl Context {
    /// A whole sequence at once, with nothing before it.
    pub(crate) fn whole(b: &mut Build<'_>, ids: ValueId) -> Result<Self, ModelError> {
        let tokens = b.sequence;
        let positions = counted(b, "positions", tokens)?;
        Ok(Self {
            ids,
            tokens,
            positions: b.reshape("positions", positions, &[1, tokens])?,
            limit: tokens,
            start: b.integers("start", &[1], vec![0])?,
            keys: tokens,
            bias: None,
            cached: false,
            cross: Vec::new(),
            cross_bias: None,
        })
    }

    /// All keys or values up to these tokens: those of the runs before and `rows`.
    pub(crate) fn remember(&self, b: &mut Build<'_>, name: &str, rows: ValueId) -> Built {
        if !self.cached {
            return Ok(rows);
        }
        let state = b.state(name)?;
        let written = b.node(name, Op::WriteRows, &[state, rows, self.start])?;
        b.next(name, written)?;
        Ok(written)
    }

    /// What a layer sees of the encoder.
    pub(crate) fn cross_of(&self, layer: usize) -> Result<Cross, ModelError> {
        let missing = || super::malformed(&format!("layer {layer}"), "sees nothing of an encoder");
        self.cross.get(layer).copied().ok_or_else(missing)
    }

    /// The additive biases of attention to what came before.
    pub(crate) fn biases(&self) -> Vec<ValueId> {
        self.bias.into_iter().collect()
    }

    /// The rows of keys that the tokens have, `i32 [tokens, 1]`, and all rows, `i32 [1, keys]`.
    pub(crate) fn rows(&self, b: &mut Build<'_>) -> Result<[ValueId; 2], ModelError> {
        let own = counted(b, "rows", self.tokens)?;
        let own = b.add("rows", own, self.start)?;
        let keys = counted(b, "keys", self.keys)?;
        Ok([b.reshape("rows", own, &[self.tokens, 1])?, b.reshape("keys", keys, &[1, self.keys])?])
    }
}

/// `0, 1, …`, as `i32 [count]`.
pub(crate) fn counted(b: &mut Build<'_>, name: &str, count: usize) -> Built {
    b.integers(name, &[count], (0..count).map(|i| i32::try_from(i).unwrap_or(i32::MAX)).collect())
}
