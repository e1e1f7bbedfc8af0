//! What is trained on top of an encoder of the BERT family: classes of a text or of its tokens, the beginning and the end
//! of an answer, the words behind masks.
//!
//! Zero-shot classification and reranking by a cross-encoder are classes of pairs of texts.

use tabpool_graph::{Op, Unary, ValueId};

use super::config::{Encoder, Kind};
use crate::ModelError;
use crate::blocks::{Build, Built};
use crate::family::Source;
use crate::signature::{Dim, LOGITS, OutputSpec};

const START_LOGITS: &str = "start_logits";
const END_LOGITS: &str = "end_logits";

/// A head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// Classes of a text: `SequenceClassification`.
    Sequence,
    /// Classes of each token: `TokenClassification`.
    Token,
    /// Where an answer begins and ends: `QuestionAnswering`.
    Answer,
    /// The words behind masks: `MaskedLM`.
    Words,
}

impl Head {
    /// The head that the class names, where the files hold it. Encoders are published under the class they were trained with
    /// even where its head was left out, as all of sentence-transformers' are: without their tensors, heads that only
    /// training needs are not there.
    pub(super) fn read(source: &Source<'_>, kind: Kind) -> Result<Option<Self>, ModelError> {
        let words = match kind {
            Kind::Bert => "cls.predictions.transform.dense.weight",
            Kind::DistilBert => "vocab_transform.weight",
            Kind::Roberta | Kind::Mpnet => "lm_head.dense.weight",
        };
        Ok(match source.task {
            Some("SequenceClassification") => Some(Self::Sequence),
            Some("TokenClassification") => Some(Self::Token),
            Some("QuestionAnswering") => Some(Self::Answer),
            Some("MaskedLM" | "PreTraining") => source.weights.contains(words).then_some(Self::Words),
            None => None,
            Some(_) => {
                let supported = "models without a head, ForSequenceClassification, ForTokenClassification, \
                                 ForQuestionAnswering, ForMaskedLM and ForPreTraining";
                return Err(source.refuse_task(supported));
            }
        })
    }

    /// Whether it tells classes apart that have names.
    pub(super) fn tells_apart(&self) -> bool {
        matches!(self, Self::Sequence | Self::Token)
    }

    pub(super) fn outputs(&self, labels: usize, vocabulary: usize) -> Vec<OutputSpec> {
        let tokens = [Dim::Batch, Dim::Sequence];
        match self {
            Self::Sequence => vec![OutputSpec::new(LOGITS, &[Dim::Batch, Dim::Fixed(labels)])],
            Self::Token => vec![OutputSpec::new(LOGITS, &[Dim::Batch, Dim::Sequence, Dim::Fixed(labels)])],
            Self::Words => vec![OutputSpec::new(LOGITS, &[Dim::Batch, Dim::Sequence, Dim::Fixed(vocabulary)])],
            Self::Answer => vec![OutputSpec::new(START_LOGITS, &tokens), OutputSpec::new(END_LOGITS, &tokens)],
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a head sees all that an encoder gives")]
    pub(super) fn build(
        &self,
        b: &mut Build<'_>,
        encoder: &Encoder,
        prefix: &str,
        labels: usize,
        hidden: ValueId,
        first: ValueId,
        pooled: Option<ValueId>,
    ) -> Result<(), ModelError> {
        match self {
            Self::Sequence => {
                let logits = sequence(b, encoder, prefix, labels, first, pooled)?;
                b.offer(LOGITS, logits);
            }
            Self::Token => {
                let logits = b.linear("classifier", hidden, [labels, encoder.hidden], true)?;
                b.offer(LOGITS, logits);
            }
            Self::Words => {
                let logits = words(b, encoder, prefix, hidden)?;
                b.offer(LOGITS, logits);
            }
            Self::Answer => {
                let logits = b.linear("qa_outputs", hidden, [2, encoder.hidden], true)?;
                for (index, name) in [START_LOGITS, END_LOGITS].into_iter().enumerate() {
                    let part = b.slice(name, logits, 2, index, 1)?;
                    let part = b.reshape(name, part, &[b.batch, b.sequence])?;
                    b.offer(name, part);
                }
            }
        }
        Ok(())
    }
}

/// The classes of each text, out of its first token's vector.
fn sequence(
    b: &mut Build<'_>,
    encoder: &Encoder,
    prefix: &str,
    labels: usize,
    first: ValueId,
    pooled: Option<ValueId>,
) -> Built {
    let square = [encoder.hidden, encoder.hidden];
    let classes = [labels, encoder.hidden];
    match encoder.kind {
        Kind::Bert => {
            let pooled = match pooled {
                Some(pooled) => pooled,
                None => encoder.pooler(b, prefix, first)?,
            };
            b.linear("classifier", pooled, classes, true)
        }
        Kind::DistilBert => {
            let x = b.linear("pre_classifier", first, square, true)?;
            let x = b.unary("pre_classifier", Unary::Relu, x)?;
            b.linear("classifier", x, classes, true)
        }
        Kind::Roberta | Kind::Mpnet => {
            let x = b.linear("classifier.dense", first, square, true)?;
            let x = b.unary("classifier.dense", Unary::Tanh, x)?;
            b.linear("classifier.out_proj", x, classes, true)
        }
    }
}

/// What each token's vector says of the word at its place. The last product is with the table of words, unless the file has
/// one of its own.
fn words(b: &mut Build<'_>, encoder: &Encoder, prefix: &str, hidden: ValueId) -> Built {
    let (dense, norm, decoder, biases) = match encoder.kind {
        Kind::Bert => (
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.decoder",
            ["cls.predictions.bias", "cls.predictions.decoder.bias"],
        ),
        Kind::DistilBert => {
            ("vocab_transform", "vocab_layer_norm", "vocab_projector", ["vocab_projector.bias", "vocab_projector.bias"])
        }
        Kind::Roberta | Kind::Mpnet => {
            ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", ["lm_head.bias", "lm_head.decoder.bias"])
        }
    };
    // RoBERTa's and MPNet's heads have this activation whatever the encoder has.
    let activation = match encoder.kind {
        Kind::Bert | Kind::DistilBert => encoder.activation,
        Kind::Roberta | Kind::Mpnet => Unary::Gelu,
    };
    let x = b.linear(dense, hidden, [encoder.hidden, encoder.hidden], true)?;
    let x = b.unary(dense, activation, x)?;
    let x = b.norm(norm, x, encoder.epsilon)?;
    let own = format!("{decoder}.weight");
    let table = if b.has(&own) { own } else { format!("{prefix}embeddings.word_embeddings.weight") };
    let table = b.weight(&table, &[encoder.vocabulary, encoder.hidden])?;
    let bias = if b.has(biases[0]) { biases[0] } else { biases[1] };
    let bias = b.weight(bias, &[encoder.vocabulary])?;
    b.node(decoder, Op::LINEAR, &[x, table, bias])
}
