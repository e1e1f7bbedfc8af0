//! The signature: what a model takes and gives, under its own names.

use std::ops::Range;

use tabpool_tensor::DType;

use crate::architecture::Encoder;

/// The size of a dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dim {
    /// The number of sequences, equal in every tensor of a request.
    Batch,
    /// The number of tokens a sequence, equal in every tensor of a request.
    Sequence,
    /// This many.
    Fixed(usize),
}

/// An input of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSpec {
    /// The name, as in the model's published code.
    pub name: &'static str,
    /// The dimensions, outermost first.
    pub dims: Vec<Dim>,
    /// The dtypes it is accepted in. Programs take `I32`.
    pub dtypes: &'static [DType],
    /// What fills the rest of a bucket.
    pub padding: i32,
    /// The values it may hold.
    pub range: Range<i32>,
    /// What every element is where the input is absent; `None` where it must be given.
    pub default: Option<i32>,
}

/// An output of a model. All are `f32`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputSpec {
    /// The name, as in the model's published code.
    pub name: &'static str,
    /// The dimensions, outermost first.
    pub dims: Vec<Dim>,
}

/// What a model takes and gives, in the order of a program's inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The inputs of every program of the model.
    pub inputs: Vec<InputSpec>,
    /// The outputs that a program may be asked for.
    pub outputs: Vec<OutputSpec>,
}

/// The integers that requests may hold; the wider ones are narrowed before they are sent.
const INTEGERS: &[DType] = &[DType::I64, DType::I32];

pub(crate) const INPUT_IDS: &str = "input_ids";
pub(crate) const ATTENTION_MASK: &str = "attention_mask";
pub(crate) const TOKEN_TYPE_IDS: &str = "token_type_ids";
pub(crate) const LAST_HIDDEN_STATE: &str = "last_hidden_state";
pub(crate) const POOLER_OUTPUT: &str = "pooler_output";
pub(crate) const SENTENCE_EMBEDDING: &str = "sentence_embedding";

impl Signature {
    pub(crate) fn of(encoder: &Encoder, has_pooler: bool, embedding: usize) -> Self {
        let end = |size: usize| i32::try_from(size).unwrap_or(i32::MAX);
        let input = |name, padding, range, default| InputSpec {
            name,
            dims: vec![Dim::Batch, Dim::Sequence],
            dtypes: INTEGERS,
            padding,
            range,
            default,
        };
        let mut inputs = vec![
            input(INPUT_IDS, encoder.padding_id, 0..end(encoder.vocabulary), None),
            input(ATTENTION_MASK, 0, 0..2, Some(1)),
        ];
        // A table of one row leaves nothing to choose: its row is added without an input.
        if encoder.token_types > 1 {
            inputs.push(input(TOKEN_TYPE_IDS, 0, 0..end(encoder.token_types), Some(0)));
        }
        let hidden = Dim::Fixed(encoder.hidden);
        let mut outputs = vec![OutputSpec { name: LAST_HIDDEN_STATE, dims: vec![Dim::Batch, Dim::Sequence, hidden] }];
        if has_pooler {
            outputs.push(OutputSpec { name: POOLER_OUTPUT, dims: vec![Dim::Batch, hidden] });
        }
        outputs.push(OutputSpec { name: SENTENCE_EMBEDDING, dims: vec![Dim::Batch, Dim::Fixed(embedding)] });
        Self { inputs, outputs }
    }

    /// The input of this name.
    #[must_use]
    pub fn input(&self, name: &str) -> Option<&InputSpec> {
        self.inputs.iter().find(|i| i.name == name)
    }

    /// The output of this name.
    #[must_use]
    pub fn output(&self, name: &str) -> Option<&OutputSpec> {
        self.outputs.iter().find(|o| o.name == name)
    }

    /// The inputs' names, as messages list them.
    pub(crate) fn input_names(&self) -> String {
        self.inputs.iter().map(|i| i.name).collect::<Vec<_>>().join(", ")
    }

    /// The outputs' names, as messages list them.
    pub(crate) fn output_names(&self) -> String {
        self.outputs.iter().map(|o| o.name).collect::<Vec<_>>().join(", ")
    }
}
