//! From the vectors of a text's tokens to one vector, as sentence-transformers describes it.

use tabpool_graph::{Binary, Op, Reduction, Unary, ValueId};

use crate::blocks::{Build, Built};
use crate::sentence::{Dense, Pooling, Sentence, Step};

/// The embedding of each sequence.
pub(super) fn sentence(b: &mut Build<'_>, sentence: &Sentence, hidden: ValueId, mask: ValueId) -> Built {
    let mut x = match sentence.pooling {
        Pooling::First => b.at("sentence.first", hidden, 0)?,
        Pooling::Mean | Pooling::MeanSqrt => mean(b, hidden, mask, sentence.pooling)?,
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

/// The sum over real tokens as a product with the mask, divided by their number or by its square root. A sequence of
/// padding alone gives zeros, as sentence-transformers' smallest divisor of 1e-9 does.
fn mean(b: &mut Build<'_>, hidden: ValueId, mask: ValueId, pooling: Pooling) -> Built {
    let (batch, sequence, width) = (b.batch, b.sequence, b.width(hidden));
    let row = b.reshape("sentence.mask", mask, &[batch, 1, sequence])?;
    let sum = b.node("sentence.sum", Op::MatMul { transpose_b: false }, &[row, hidden])?;
    let sum = b.reshape("sentence.sum", sum, &[batch, width])?;
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
