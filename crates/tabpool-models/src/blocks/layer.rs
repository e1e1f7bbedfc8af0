//! A transformer layer of attention and a small network, as most encoders have it: with its norms before the parts or
//! after them, under whatever names the family gives the parts.

use tabpool_graph::{Unary, ValueId};

use super::{Build, Built, Heads};

/// The names of a layer's parts, inside the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) query: &'static str,
    pub(crate) key: &'static str,
    pub(crate) value: &'static str,
    pub(crate) output: &'static str,
    /// The norm that belongs to attention.
    pub(crate) attention_norm: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    /// The norm that belongs to the network.
    pub(crate) norm: &'static str,
}

/// Where a layer's norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Before each part; what is added to is not normalised.
    NormFirst,
    /// After each sum.
    NormLast,
}

/// The sizes of a layer, equal in all layers of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layer {
    pub(crate) names: Names,
    pub(crate) order: Order,
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) intermediate: usize,
    pub(crate) activation: Unary,
    pub(crate) epsilon: f32,
    /// Whether queries, keys and values have biases.
    pub(crate) biases: bool,
    /// Whether keys have one too, where queries and values do.
    pub(crate) key_bias: bool,
}

impl Layer {
    /// One layer, named `base`. Where there is a start, attention is causal from it on.
    pub(crate) fn build(
        &self,
        b: &mut Build<'_>,
        base: &str,
        x: ValueId,
        biases: &[ValueId],
        start: Option<ValueId>,
    ) -> Built {
        let name = |part: &str| format!("{base}.{part}");
        let names = &self.names;
        match self.order {
            Order::NormLast => {
                let attended = self.attention(b, base, x, biases, start)?;
                let sum = b.add(&name("attention.residual"), attended, x)?;
                let x = b.norm(&name(names.attention_norm), sum, self.epsilon)?;
                let network = self.network(b, base, x)?;
                let sum = b.add(&name("residual"), network, x)?;
                b.norm(&name(names.norm), sum, self.epsilon)
            }
            Order::NormFirst => {
                let normed = b.norm(&name(names.attention_norm), x, self.epsilon)?;
                let attended = self.attention(b, base, normed, biases, start)?;
                let x = b.add(&name("attention.residual"), attended, x)?;
                let normed = b.norm(&name(names.norm), x, self.epsilon)?;
                let network = self.network(b, base, normed)?;
                b.add(&name("residual"), network, x)
            }
        }
    }

    fn attention(
        &self,
        b: &mut Build<'_>,
        base: &str,
        x: ValueId,
        biases: &[ValueId],
        start: Option<ValueId>,
    ) -> Built {
        let sizes = [self.hidden, self.hidden];
        let name = |part: &str| format!("{base}.{part}");
        let query = b.linear(&name(self.names.query), x, sizes, self.biases)?;
        let key = b.linear(&name(self.names.key), x, sizes, self.biases && self.key_bias)?;
        let value = b.linear(&name(self.names.value), x, sizes, self.biases)?;
        let heads = Heads::of(self.heads, self.hidden);
        let attended = heads.attend(b, &name("attention"), [query, key, value], biases, start)?;
        b.linear(&name(self.names.output), attended, sizes, true)
    }

    /// The network of two linear layers alone.
    pub(crate) fn network(&self, b: &mut Build<'_>, base: &str, x: ValueId) -> Built {
        let (up, down) = (format!("{base}.{}", self.names.up), format!("{base}.{}", self.names.down));
        let x = b.linear(&up, x, [self.intermediate, self.hidden], true)?;
        let x = b.unary(&format!("{base}.activation"), self.activation, x)?;
        b.linear(&down, x, [self.hidden, self.intermediate], true)
    }
}
