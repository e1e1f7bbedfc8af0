//! Encoders of the BERT family: BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT and MPNet, with the heads that are
//! published for them.
//!
//! They differ in names, in how positions are numbered, and in what is added to scores.

mod config;
mod head;

use tabpool_graph::{Op, ValueId};

use crate::ModelError;
use crate::blocks::{Build, Embedder, Layer, Names, Order, counted, distance_bias};
use crate::bucket::Ladder;
use crate::family::{Family, Source};
use crate::model::Entry;
use crate::relative;
use crate::signature::{
    ATTENTION_MASK, Absent, Dim, INPUT_IDS, InputSpec, LAST_HIDDEN_STATE, OutputSpec, POOLER_OUTPUT, Signature,
    TOKEN_TYPE_IDS,
};

pub(crate) use config::{Encoder, Kind};
use head::Head;

/// The names of layers, and of what is in them.
struct Naming {
    layers: &'static str,
    parts: Names,
}

const BERT: Naming = Naming {
    layers: "encoder.layer",
    parts: Names {
        query: "attention.self.query",
        key: "attention.self.key",
        value: "attention.self.value",
        output: "attention.output.dense",
        attention_norm: "attention.output.LayerNorm",
        up: "intermediate.dense",
        down: "output.dense",
        norm: "output.LayerNorm",
    },
};

const DISTILBERT: Naming = Naming {
    layers: "transformer.layer",
    parts: Names {
        query: "attention.q_lin",
        key: "attention.k_lin",
        value: "attention.v_lin",
        output: "attention.out_lin",
        attention_norm: "sa_layer_norm",
        up: "ffn.lin1",
        down: "ffn.lin2",
        norm: "output_layer_norm",
    },
};

const MPNET: Naming = Naming {
    layers: BERT.layers,
    parts: Names {
        query: "attention.attn.q",
        key: "attention.attn.k",
        value: "attention.attn.v",
        output: "attention.attn.o",
        attention_norm: "attention.LayerNorm",
        ..BERT.parts
    },
};

/// A model of the family.
#[derive(Debug)]
struct Bert {
    encoder: Encoder,
    /// What the file puts before the names of the encoder's tensors.
    prefix: String,
    pooler: bool,
    embedder: Embedder,
    head: Option<Head>,
    labels: Vec<String>,
}

/// Reads BERT.
pub(crate) fn read(source: &Source<'_>) -> Result<Box<dyn Family>, ModelError> {
    open(source, Kind::Bert)
}

/// Reads RoBERTa, XLM-RoBERTa and CamemBERT, which differ in their tokenizers only.
pub(crate) fn read_roberta(source: &Source<'_>) -> Result<Box<dyn Family>, ModelError> {
    open(source, Kind::Roberta)
}

/// Reads DistilBERT.
pub(crate) fn read_distilbert(source: &Source<'_>) -> Result<Box<dyn Family>, ModelError> {
    open(source, Kind::DistilBert)
}

/// Reads MPNet.
pub(crate) fn read_mpnet(source: &Source<'_>) -> Result<Box<dyn Family>, ModelError> {
    open(source, Kind::Mpnet)
}

fn open(source: &Source<'_>, kind: Kind) -> Result<Box<dyn Family>, ModelError> {
    let encoder = Encoder::read(source.config, kind)?;
    let embedder = Embedder::new(source, encoder.hidden)?;
    let prefix = source.prefix(&[kind.prefix(), ""], "embeddings.word_embeddings.weight").to_owned();
    let pooler = source.weights.contains(&format!("{prefix}pooler.dense.weight"));
    let head = Head::read(source, kind)?;
    let labels = if head.as_ref().is_some_and(Head::tells_apart) { source.labels()? } else { Vec::new() };
    Ok(Box::new(Bert { encoder, prefix, pooler, embedder, head, labels }))
}

impl Family for Bert {
    fn entries(&self) -> Vec<Entry> {
        let e = &self.encoder;
        let hidden = Dim::Fixed(e.hidden);
        let mut outputs = vec![OutputSpec::new(LAST_HIDDEN_STATE, &[Dim::Batch, Dim::Sequence, hidden])];
        if self.pooler {
            outputs.push(OutputSpec::new(POOLER_OUTPUT, &[Dim::Batch, hidden]));
        }
        outputs.push(self.embedder.output());
        if let Some(head) = &self.head {
            outputs.extend(head.outputs(self.labels.len(), e.vocabulary));
        }
        vec![Entry { name: "model", signature: Signature::new(e.inputs(), outputs), ladder: e.ladder() }]
    }

    fn build(&self, _entry: &str, b: &mut Build<'_>) -> Result<(), ModelError> {
        let mask = b.input(ATTENTION_MASK)?;
        let mask = b.float("attention_mask.f32", mask)?;
        let hidden = self.encoder.build(b, &self.prefix, mask)?;
        b.offer(LAST_HIDDEN_STATE, hidden);
        let first = b.at("first token", hidden, 0)?;
        let mut pooled = None;
        if self.pooler {
            let value = self.encoder.pooler(b, &self.prefix, first)?;
            b.offer(POOLER_OUTPUT, value);
            pooled = Some(value);
        }
        self.embedder.offer(b, hidden, mask)?;
        match &self.head {
            Some(head) => head.build(b, &self.encoder, &self.prefix, self.labels.len(), hidden, first, pooled),
            None => Ok(()),
        }
    }

    fn labels(&self) -> &[String] {
        &self.labels
    }
}

impl Encoder {
    pub(crate) fn inputs(&self) -> Vec<InputSpec> {
        let mut inputs =
            vec![InputSpec::ids(INPUT_IDS, Dim::Sequence, self.vocabulary, self.padding_id), InputSpec::mask()];
        // A table of one row leaves nothing to choose: its row is added without an input.
        if self.token_types > 1 {
            let (dims, default) = ([Dim::Batch, Dim::Sequence], Some(Absent::Value(0)));
            inputs.push(InputSpec::integers(TOKEN_TYPE_IDS, &dims, self.token_types, 0, default));
        }
        inputs
    }

    pub(crate) fn ladder(&self) -> Ladder {
        Ladder::tokens(self.longest_sequence(), self.heads, self.hidden.max(self.intermediate))
    }

    fn layer(&self) -> (&'static str, Layer) {
        let naming = match self.kind {
            Kind::Bert | Kind::Roberta => &BERT,
            Kind::DistilBert => &DISTILBERT,
            Kind::Mpnet => &MPNET,
        };
        let Self { hidden, heads, intermediate, activation, epsilon, .. } = *self;
        let (names, order) = (naming.parts, Order::NormLast);
        let layer =
            Layer { names, order, hidden, heads, intermediate, activation, epsilon, biases: true, key_bias: true };
        (naming.layers, layer)
    }

    /// The vectors of all tokens.
    pub(crate) fn build(&self, b: &mut Build<'_>, prefix: &str, mask: ValueId) -> Result<ValueId, ModelError> {
        let mut hidden = self.embeddings(b, prefix)?;
        let mut biases = vec![b.mask_bias(mask)?];
        if self.relative_buckets > 0 {
            biases.insert(0, self.relative_bias(b, prefix)?);
        }
        let (layers, layer) = self.layer();
        for index in 0..self.layers {
            hidden = layer.build(b, &format!("{prefix}{layers}.{index}"), hidden, &biases, None)?;
        }
        Ok(hidden)
    }

    fn embeddings(&self, b: &mut Build<'_>, prefix: &str) -> Result<ValueId, ModelError> {
        let name = |part: &str| format!("{prefix}embeddings.{part}");
        let ids = b.input(INPUT_IDS)?;
        let words = b.weight(&name("word_embeddings.weight"), &[self.vocabulary, self.hidden])?;
        let words = b.gather(&name("word_embeddings"), words, ids)?;
        let table = b.weight(&name("position_embeddings.weight"), &[self.positions, self.hidden])?;
        let mut rest = match self.counted_from {
            Some(padding_id) => {
                let positions = b.node(&name("position_ids"), Op::TokenPositions { padding_id }, &[ids])?;
                b.gather(&name("position_embeddings"), table, positions)?
            }
            None => b.slice(&name("position_embeddings"), table, 0, 0, b.sequence)?,
        };
        if self.token_types > 0 {
            let part = name("token_type_embeddings");
            let mut types = b.weight(&format!("{part}.weight"), &[self.token_types, self.hidden])?;
            if self.token_types > 1 {
                let ids = b.input(TOKEN_TYPE_IDS)?;
                types = b.gather(&part, types, ids)?;
            }
            // Added to the positions first: both addends before the norm then have the same shape, and fuse with it.
            rest = b.add(&name("position_and_type"), types, rest)?;
        }
        let sum = b.add(&name("sum"), words, rest)?;
        b.norm(&name("LayerNorm"), sum, self.epsilon)
    }

    /// `[1, heads, S, S]`: what MPNet adds to the score of each pair of positions, the same in every layer.
    fn relative_bias(&self, b: &mut Build<'_>, prefix: &str) -> Result<ValueId, ModelError> {
        let name = format!("{prefix}encoder.relative_attention_bias");
        let table = b.weight(&format!("{name}.weight"), &[self.relative_buckets, self.heads])?;
        let distances = between_all(b, b.sequence)?;
        let buckets = relative::both_sides(b.sequence, config::MPNET_BUCKETS, config::MPNET_FARTHEST);
        distance_bias(b, &name, table, buckets, distances)
    }

    pub(crate) fn pooler(&self, b: &mut Build<'_>, prefix: &str, first: ValueId) -> Result<ValueId, ModelError> {
        let name = format!("{prefix}pooler.dense");
        let pooled = b.linear(&name, first, [self.hidden, self.hidden], true)?;
        b.unary(&format!("{prefix}pooler.activation"), tabpool_graph::Unary::Tanh, pooled)
    }
}

/// How far each of `count` keys is from each query, counted from `1 - count`, as [`relative::both_sides`] does.
pub(crate) fn between_all(b: &mut Build<'_>, count: usize) -> Result<ValueId, ModelError> {
    let keys = counted(b, "keys", count)?;
    let keys = b.reshape("keys", keys, &[1, count])?;
    let reversed = (0..count).rev().map(|i| i32::try_from(i).unwrap_or(i32::MAX)).collect();
    let queries = b.integers("queries", &[count, 1], reversed)?;
    b.add("distances", keys, queries)
}
