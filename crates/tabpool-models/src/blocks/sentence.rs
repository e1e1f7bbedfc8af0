//! From the vectors of a text's tokens to one vector, as sentence-transformers describes it.

use tabpool_graph::{Binary, Op, Reduction, Unary, ValueId};

use crate::ModelError;
use crate::blocks::{Build, Built};
use crate::family::Source;
use crate::sentence::{Dense, Pooling, Sentence, Step};
use crate::signature::{Dim, OutputSpec, SENTENCE_EMBEDDING};

/// What makes one vector of a text's tokens, and how many elements it has.
#[derive(Clone, Debug)]
pub(crate) struct Embedder {
    sentence: Sentence,
    width: usize,
}

impl Embedder {
    /// As the folder describes it; the mean where it says nothing. `hidden` is the width of tokens' vectors.
    pub(crate) fn new(source: &Source<'_>, hidden: usize) -> Result<Self, ModelError> {
        Ok(Self { sentence: source.sentence.clone(), width: source.sentence.width(hidden)? })
    }

    /// The same for models that are made for something else: nothing where the folder says nothing.
    pub(crate) fn described(source: &Source<'_>, hidden: usize) -> Result<Option<Self>, ModelError> {
        if source.sentence.described { Self::new(source, hidden).map(Some) } else { Ok(None) }
    }

    pub(crate) fn output(&self) -> OutputSpec {
        OutputSpec::new(SENTENCE_EMBEDDING, &[Dim::Batch, Dim::Fixed(self.width)])
    }

    /// Offers the embedding of each sequence. `mask` holds 1 for tokens that count and 0 for others, as `f32`.
    pub(crate) fn offer(&self, b: &mut Build<'_>, hidden: ValueId, mask: ValueId) -> Result<(), ModelError> {
        let embedding = embedding(b, &self.sentence, hidden, mask)?;
        b.offer(SENTENCE_EMBEDDING, embedding);
        Ok(())
    }
}

fn embedding(b: &mut Build<'_>, sentence: &Sentence, hidden: ValueId, mask: ValueId) -> Built {
    let mut x = match sentence.pooling {
        Pooling::First => b.at("sentence.first", hidden, 0)?,
        Pooling::Last => last(b, hidden, mask)?,
        Pooling::Mean | Pooling::MeanSqrt => mean(b, hidden, mask, sentence.pooling)?,
        Pooling::WeightedMean => {
            let places = places(b, mask)?;
            mean(b, hidden, places, Pooling::Mean)?
        }
        Pooling::Max => max(b, hidden, mask)?,
    };
    for step in &sentence.steps {
        x = match step {
            Step::Normalize => b.node("sentence.normalize", Op::L2Normalize { epsilon: 1e-12 }, &[x])?,
            Step::Dense(step) => dense(b, step, x)?,
        };
    }
    Ok(x)
}

/// Each real token's place, counted from 1, and 0 for padding.
fn places(b: &mut Build<'_>, mask: ValueId) -> Built {
    #[expect(clippy::cast_precision_loss, reason = "sequences are shorter than 2^24")]
    let counted = (1..=b.sequence).map(|place| place as f32).collect();
    let counted = b.floats("sentence.places", &[1, b.sequence], counted)?;
    b.mul("sentence.places", mask, counted)
}

/// The sum of the tokens' vectors, each times its weight.
fn sum(b: &mut Build<'_>, hidden: ValueId, weights: ValueId) -> Built {
    let (batch, sequence, width) = (b.batch, b.sequence, b.width(hidden));
    let row = b.reshape("sentence.weights", weights, &[batch, 1, sequence])?;
    let sum = b.node("sentence.sum", Op::MatMul { transpose_b: false }, &[row, hidden])?;
    b.reshape("sentence.sum", sum, &[batch, width])
}

/// The last real token's vector, on whichever side there is padding; zeros where there is nothing else.
fn last(b: &mut Build<'_>, hidden: ValueId, mask: ValueId) -> Built {
    let places = places(b, mask)?;
    let last = b.reduce("sentence.last", Reduction::Max, places, 1, true)?;
    // Places are whole numbers: 1 for the last one, at most 0 for those before it.
    let before = b.binary("sentence.before", Binary::Sub, places, last)?;
    let one = b.scalar("one", 1.0)?;
    let chosen = b.add("sentence.chosen", before, one)?;
    let chosen = b.unary("sentence.chosen", Unary::Relu, chosen)?;
    let chosen = b.mul("sentence.chosen", chosen, mask)?;
    sum(b, hidden, chosen)
}

/// The sum over real tokens as a product with the mask, divided by their number or by its square root. A sequence of
/// padding alone gives zeros, as sentence-transformers' smallest divisor of 1e-9 does.
fn mean(b: &mut Build<'_>, hidden: ValueId, mask: ValueId, pooling: Pooling) -> Built {
    let sum = sum(b, hidden, mask)?;
    let count = b.reduce("sentence.tokens", Reduction::Sum, mask, 1, true)?;
    let least = b.scalar("least tokens", 1e-9)?;
    let mut count = b.binary("sentence.tokens", Binary::Max, count, least)?;
    if pooling == Pooling::MeanSqrt {
        count = b.unary("sentence.tokens", Unary::Sqrt, count)?;
    }
    b.binary("sentence.mean", Binary::Div, sum, count)
}

fn max(b: &mut Build<'_>, hidden: ValueId, mask: ValueId) -> Built {
    let padding = b.masked_scores(mask)?;
    let padding = b.reshape("sentence.padding", padding, &[b.batch, b.sequence, 1])?;
    let masked = b.add("sentence.masked", hidden, padding)?;
    b.reduce("sentence.max", Reduction::Max, masked, 1, false)
}

fn dense(b: &mut Build<'_>, dense: &Dense, x: ValueId) -> Built {
    let name = format!("{}linear", dense.folder);
    let y = b.linear(&name, x, [dense.outputs, dense.inputs], dense.bias)?;
    match dense.activation {
        Some(op) => b.unary(&name, op, y),
        None => Ok(y),
    }
}
