//! The graph of an encoder, written out in primitive operators; fusing them is the passes' work.
//!
//! Names of nodes and weights are those of the model's file, so that an error or a profile of a worker can be read
//! beside the model's published code.

use tabpool_graph::{Binary, Graph, GraphBuilder, GraphError, Op, Reduction, Unary, ValueId};
use tabpool_tensor::{DType, Tensor};

use crate::architecture::{Encoder, Family, MPNET_BUCKETS};
use crate::sentence::{Dense, Pooling, Sentence, Step};
use crate::signature::{
    ATTENTION_MASK, INPUT_IDS, LAST_HIDDEN_STATE, POOLER_OUTPUT, SENTENCE_EMBEDDING, Signature, TOKEN_TYPE_IDS,
};
use crate::weights::Weights;
use crate::{Bucket, ModelError, relative};

/// What is added to the scores of padding: so low that softmax makes it 0, and finite even where every token is padding.
const MASKED_SCORE: f32 = -1e9;

/// Everything a graph is built from.
pub(crate) struct Parts<'a> {
    pub(crate) encoder: &'a Encoder,
    pub(crate) sentence: &'a Sentence,
    pub(crate) signature: &'a Signature,
    pub(crate) weights: &'a Weights,
    /// What the file puts before the names of the encoder's tensors.
    pub(crate) prefix: &'a str,
}

/// The names of a layer's parts.
struct Names {
    layers: &'static str,
    query: &'static str,
    key: &'static str,
    value: &'static str,
    attention_output: &'static str,
    attention_norm: &'static str,
    up: &'static str,
    down: &'static str,
    norm: &'static str,
}

const BERT: Names = Names {
    layers: "encoder.layer",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    norm: "output.LayerNorm",
};

const DISTILBERT: Names = Names {
    layers: "transformer.layer",
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    attention_output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    norm: "output_layer_norm",
};

const MPNET: Names = Names {
    query: "attention.attn.q",
    key: "attention.attn.k",
    value: "attention.attn.v",
    attention_output: "attention.attn.o",
    attention_norm: "attention.LayerNorm",
    ..BERT
};

/// Builds the graph for one bucket. Every input of the signature is an input of the graph, read or not.
pub(crate) fn build(parts: &Parts<'_>, bucket: Bucket, outputs: &[&str]) -> Result<Graph, ModelError> {
    let mut build = Build { parts, bucket, b: GraphBuilder::new() };
    let mut inputs = Vec::with_capacity(parts.signature.inputs.len());
    for spec in &parts.signature.inputs {
        inputs.push((spec.name, build.b.input(spec.name, DType::I32, [bucket.batch, bucket.sequence])?));
    }
    let input = |name: &str| inputs.iter().find(|(n, _)| *n == name).map(|&(_, id)| id);
    let (Some(ids), Some(mask)) = (input(INPUT_IDS), input(ATTENTION_MASK)) else {
        return Err(build.no_output(""));
    };
    let mask = build.b.node("attention_mask.f32", Op::Cast { to: DType::F32 }, &[mask])?;
    let hidden = build.encoder(ids, mask, input(TOKEN_TYPE_IDS))?;
    for &name in outputs {
        let value = match name {
            LAST_HIDDEN_STATE => hidden,
            POOLER_OUTPUT if parts.signature.output(POOLER_OUTPUT).is_some() => build.pooler(hidden)?,
            SENTENCE_EMBEDDING => build.sentence(hidden, mask)?,
            other => return Err(build.no_output(other)),
        };
        build.b.output(name, value)?;
    }
    if outputs.is_empty() {
        return Err(build.no_output(""));
    }
    Ok(build.b.finish()?)
}

struct Build<'a> {
    parts: &'a Parts<'a>,
    bucket: Bucket,
    b: GraphBuilder,
}

impl Build<'_> {
    fn no_output(&self, got: &str) -> ModelError {
        ModelError::Output { got: got.to_owned(), available: self.parts.signature.output_names() }
    }

    /// A tensor of the encoder's file.
    fn weight(&mut self, name: &str, shape: &[usize]) -> Result<ValueId, ModelError> {
        self.tensor(&format!("{}{name}", self.parts.prefix), shape)
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<ValueId, ModelError> {
        let stored = self.parts.weights.check(name, shape)?;
        Ok(self.b.weight(name, stored, shape)?)
    }

    fn linear(&mut self, name: &str, x: ValueId, outputs: usize, inputs: usize) -> Result<ValueId, ModelError> {
        let weight = self.weight(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = self.weight(&format!("{name}.bias"), &[outputs])?;
        Ok(self.b.node(name, Op::LINEAR, &[x, weight, bias])?)
    }

    /// A layer norm. Files written before PyTorch took this name for it say `gamma` and `beta`.
    fn norm(&mut self, name: &str, x: ValueId) -> Result<ValueId, ModelError> {
        let shape = [self.parts.encoder.hidden];
        let old = self.parts.weights.contains(&format!("{}{name}.gamma", self.parts.prefix));
        let (scale, shift) = if old { ("gamma", "beta") } else { ("weight", "bias") };
        let scale = self.weight(&format!("{name}.{scale}"), &shape)?;
        let shift = self.weight(&format!("{name}.{shift}"), &shape)?;
        Ok(self.b.node(name, Op::LayerNorm { epsilon: self.parts.encoder.epsilon }, &[x, scale, shift])?)
    }

    fn binary(&mut self, name: &str, op: Binary, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
        self.b.node(name, Op::Binary(op), &[a, b])
    }

    fn reshape(&mut self, name: &str, x: ValueId, dims: &[usize]) -> Result<ValueId, GraphError> {
        self.b.node(name, Op::Reshape { shape: dims.into() }, &[x])
    }

    fn encoder(&mut self, ids: ValueId, mask: ValueId, token_types: Option<ValueId>) -> Result<ValueId, ModelError> {
        let mut hidden = self.embeddings(ids, token_types)?;
        let mut biases = vec![self.mask_bias(mask)?];
        if self.parts.encoder.relative_buckets > 0 {
            biases.insert(0, self.relative_bias()?);
        }
        let names = match self.parts.encoder.family {
            Family::Bert | Family::Roberta => &BERT,
            Family::DistilBert => &DISTILBERT,
            Family::Mpnet => &MPNET,
        };
        for layer in 0..self.parts.encoder.layers {
            hidden = self.layer(names, layer, hidden, &biases)?;
        }
        Ok(hidden)
    }

    fn embeddings(&mut self, ids: ValueId, token_types: Option<ValueId>) -> Result<ValueId, ModelError> {
        let e = self.parts.encoder;
        let words = self.weight("embeddings.word_embeddings.weight", &[e.vocabulary, e.hidden])?;
        let words = self.b.node("embeddings.word_embeddings", Op::Gather, &[words, ids])?;
        let table = self.weight("embeddings.position_embeddings.weight", &[e.positions, e.hidden])?;
        let mut rest = match e.counted_from {
            Some(padding_id) => {
                let positions = self.b.node("embeddings.position_ids", Op::TokenPositions { padding_id }, &[ids])?;
                self.b.node("embeddings.position_embeddings", Op::Gather, &[table, positions])?
            }
            None => {
                let op = Op::Slice { axis: 0, start: 0, length: self.bucket.sequence };
                self.b.node("embeddings.position_embeddings", op, &[table])?
            }
        };
        if e.token_types > 0 {
            let name = "embeddings.token_type_embeddings";
            let mut types = self.weight(&format!("{name}.weight"), &[e.token_types, e.hidden])?;
            if let Some(token_types) = token_types {
                types = self.b.node(name, Op::Gather, &[types, token_types])?;
            }
            // Added to the positions first: both addends before the norm then have the same shape, and fuse with it.
            rest = self.binary("embeddings.position_and_type", Binary::Add, types, rest)?;
        }
        let sum = self.binary("embeddings.sum", Binary::Add, words, rest)?;
        self.norm("embeddings.LayerNorm", sum)
    }

    /// `[B, 1, 1, S]`: 0 for tokens, [`MASKED_SCORE`] for padding.
    fn mask_bias(&mut self, mask: ValueId) -> Result<ValueId, GraphError> {
        let inverted = self.padding(mask)?;
        self.reshape("attention_mask.bias", inverted, &[self.bucket.batch, 1, 1, self.bucket.sequence])
    }

    /// `[B, S]`: 0 for tokens, [`MASKED_SCORE`] for padding.
    fn padding(&mut self, mask: ValueId) -> Result<ValueId, GraphError> {
        let one = self.b.scalar("one", 1.0)?;
        let score = self.b.scalar("masked score", MASKED_SCORE)?;
        let padding = self.binary("attention_mask.inverted", Binary::Sub, one, mask)?;
        self.binary("attention_mask.score", Binary::Mul, padding, score)
    }

    /// `[1, heads, S, S]`: what MPNet adds to the score of each pair of positions, the same in every layer.
    fn relative_bias(&mut self) -> Result<ValueId, ModelError> {
        let (heads, s) = (self.parts.encoder.heads, self.bucket.sequence);
        let name = "encoder.relative_attention_bias";
        let table = self.weight(&format!("{name}.weight"), &[self.parts.encoder.relative_buckets, heads])?;
        let buckets = Tensor::from_i32([s, s], relative::buckets(s, MPNET_BUCKETS))
            .map_err(|e| GraphError::Value { name: name.to_owned(), reason: e.to_string() })?;
        let buckets = self.b.constant("relative position buckets", buckets)?;
        let bias = self.b.node(name, Op::Gather, &[table, buckets])?;
        let bias = self.b.node(name, Op::Transpose { permutation: vec![2, 0, 1] }, &[bias])?;
        Ok(self.reshape(name, bias, &[1, heads, s, s])?)
    }

    fn layer(&mut self, names: &Names, layer: usize, x: ValueId, biases: &[ValueId]) -> Result<ValueId, ModelError> {
        let e = self.parts.encoder;
        let name = |part: &str| format!("{}.{layer}.{part}", names.layers);
        let query = self.linear(&name(names.query), x, e.hidden, e.hidden)?;
        let key = self.linear(&name(names.key), x, e.hidden, e.hidden)?;
        let value = self.linear(&name(names.value), x, e.hidden, e.hidden)?;
        let attended = self.attention(&name("attention"), [query, key, value], biases)?;
        let attended = self.linear(&name(names.attention_output), attended, e.hidden, e.hidden)?;
        let sum = self.binary(&name("attention.residual"), Binary::Add, attended, x)?;
        let x = self.norm(&name(names.attention_norm), sum)?;

        let up = self.linear(&name(names.up), x, e.intermediate, e.hidden)?;
        let up = self.b.node(&name("activation"), Op::Unary(e.activation), &[up])?;
        let down = self.linear(&name(names.down), up, e.hidden, e.intermediate)?;
        let sum = self.binary(&name("residual"), Binary::Add, down, x)?;
        self.norm(&name(names.norm), sum)
    }

    fn attention(
        &mut self,
        name: &str,
        [query, key, value]: [ValueId; 3],
        biases: &[ValueId],
    ) -> Result<ValueId, GraphError> {
        let (Encoder { hidden, heads, .. }, Bucket { batch, sequence }) = (self.parts.encoder, self.bucket);
        let size = hidden / heads;
        let swap = || Op::Transpose { permutation: vec![0, 2, 1, 3] };
        let mut split = |x: ValueId| {
            let x = self.reshape(name, x, &[batch, sequence, *heads, size])?;
            self.b.node(name, swap(), &[x])
        };
        let (query, key, value) = (split(query)?, split(key)?, split(value)?);
        let mut scores = self.b.node(name, Op::MatMul { transpose_b: true }, &[query, key])?;
        #[expect(clippy::cast_precision_loss, reason = "a head's size is at most 2^16")]
        let scale = self.b.scalar("attention scale", 1.0 / (size as f32).sqrt())?;
        scores = self.binary(name, Binary::Mul, scores, scale)?;
        for &bias in biases {
            scores = self.binary(name, Binary::Add, scores, bias)?;
        }
        let weights = self.b.node(name, Op::Softmax, &[scores])?;
        let context = self.b.node(name, Op::MatMul { transpose_b: false }, &[weights, value])?;
        let context = self.b.node(name, swap(), &[context])?;
        self.reshape(name, context, &[batch, sequence, *hidden])
    }

    /// `[B, hidden]`: the first token's vector of each sequence.
    fn first_token(&mut self, hidden: ValueId) -> Result<ValueId, GraphError> {
        let first = self.b.node("first token", Op::Slice { axis: 1, start: 0, length: 1 }, &[hidden])?;
        self.reshape("first token", first, &[self.bucket.batch, self.parts.encoder.hidden])
    }

    fn pooler(&mut self, hidden: ValueId) -> Result<ValueId, ModelError> {
        let width = self.parts.encoder.hidden;
        let first = self.first_token(hidden)?;
        let pooled = self.linear("pooler.dense", first, width, width)?;
        Ok(self.b.node("pooler.activation", Op::Unary(Unary::Tanh), &[pooled])?)
    }

    fn sentence(&mut self, hidden: ValueId, mask: ValueId) -> Result<ValueId, ModelError> {
        let sentence = self.parts.sentence;
        let mut x = match sentence.pooling {
            Pooling::First => self.first_token(hidden)?,
            Pooling::Mean | Pooling::MeanSqrt => self.mean(hidden, mask, sentence.pooling)?,
            Pooling::Max => self.max(hidden, mask)?,
        };
        for step in &sentence.steps {
            x = match step {
                Step::Normalize => self.b.node("sentence.normalize", Op::L2Normalize { epsilon: 1e-12 }, &[x])?,
                Step::Dense(dense) => self.dense(dense, x)?,
            };
        }
        Ok(x)
    }

    /// The sum over real tokens as a product with the mask, divided by their number or by its square root. A sequence of
    /// padding alone gives zeros, as sentence-transformers' smallest divisor of 1e-9 does.
    fn mean(&mut self, hidden: ValueId, mask: ValueId, pooling: Pooling) -> Result<ValueId, GraphError> {
        let (Bucket { batch, sequence }, width) = (self.bucket, self.parts.encoder.hidden);
        let row = self.reshape("sentence.mask", mask, &[batch, 1, sequence])?;
        let sum = self.b.node("sentence.sum", Op::MatMul { transpose_b: false }, &[row, hidden])?;
        let sum = self.reshape("sentence.sum", sum, &[batch, width])?;
        let count = Op::Reduce { reduction: Reduction::Sum, axis: 1, keep: true };
        let count = self.b.node("sentence.tokens", count, &[mask])?;
        let least = self.b.scalar("least tokens", 1e-9)?;
        let mut count = self.binary("sentence.tokens", Binary::Max, count, least)?;
        if pooling == Pooling::MeanSqrt {
            count = self.b.node("sentence.tokens", Op::Unary(Unary::Sqrt), &[count])?;
        }
        self.binary("sentence.mean", Binary::Div, sum, count)
    }

    fn max(&mut self, hidden: ValueId, mask: ValueId) -> Result<ValueId, GraphError> {
        let padding = self.padding(mask)?;
        let padding = self.reshape("sentence.padding", padding, &[self.bucket.batch, self.bucket.sequence, 1])?;
        let masked = self.binary("sentence.masked", Binary::Add, hidden, padding)?;
        self.b.node("sentence.max", Op::Reduce { reduction: Reduction::Max, axis: 1, keep: false }, &[masked])
    }

    fn dense(&mut self, dense: &Dense, x: ValueId) -> Result<ValueId, ModelError> {
        let name = format!("{}linear", dense.folder);
        let mut operands = vec![x, self.tensor(&format!("{name}.weight"), &[dense.outputs, dense.inputs])?];
        if dense.bias {
            operands.push(self.tensor(&format!("{name}.bias"), &[dense.outputs])?);
        }
        let y = self.b.node(&name, Op::LINEAR, &operands)?;
        match dense.activation {
            Some(op) => Ok(self.b.node(&name, Op::Unary(op), &[y])?),
            None => Ok(y),
        }
    }
}
