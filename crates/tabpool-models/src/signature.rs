//! The signature: what an entry point of a model takes and gives, under the names of the model's published code.

use std::ops::Range;

use tabpool_tensor::{DType, Tensor, TensorError};

/// The size of a dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dim {
    /// The number of sequences, equal in every tensor of a request that has it.
    Batch,
    /// The number of pictures or sounds, where it may differ from the number of sequences. A bucket has as many of them as it
    /// has sequences.
    Media,
    /// The number of tokens a sequence, or of samples a sound; equal in every tensor of a request that has it.
    Sequence,
    /// The number of tokens of the decoder's sequences, where it may differ from that of the encoder's. A bucket has as many
    /// as its sequences have tokens.
    Target,
    /// What the model's convolutions make of [`Sequence`](Self::Sequence); in outputs only. See [`Signature::frames`].
    Frames,
    /// This many.
    Fixed(usize),
}

/// What every element of an input is where a request does not give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Absent {
    /// This.
    Value(i32),
    /// Its place in the last dimension, from 0 on.
    Place,
}

/// An input of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSpec {
    /// The name, as in the model's published code.
    pub name: &'static str,
    /// The dimensions, outermost first.
    pub dims: Vec<Dim>,
    /// The dtypes it is accepted in.
    pub dtypes: &'static [DType],
    /// The dtype that programs take: `I32` or `F32`.
    pub program: DType,
    /// What fills the rest of a bucket.
    pub padding: i32,
    /// The values it may hold, where programs take integers.
    pub range: Range<i32>,
    /// What it is where it is absent; `None` where it must be given.
    pub default: Option<Absent>,
}

/// An output of a model. All are `f32`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputSpec {
    /// The name, as in the model's published code.
    pub name: &'static str,
    /// The dimensions, outermost first.
    pub dims: Vec<Dim>,
}

/// What an entry point takes and gives, in the order of a program's inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// The inputs of every program of the entry point.
    pub inputs: Vec<InputSpec>,
    /// The outputs that a program may be asked for.
    pub outputs: Vec<OutputSpec>,
    /// Kernel and stride of the convolutions between a sequence and its frames.
    pub(crate) convolutions: Vec<[usize; 2]>,
}

/// The integers that requests may hold; the wider ones are narrowed before they are sent.
const INTEGERS: &[DType] = &[DType::I64, DType::I32];
/// The floating-point numbers that requests may hold; the narrower ones are widened before they are sent.
const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

pub(crate) const INPUT_IDS: &str = "input_ids";
pub(crate) const ATTENTION_MASK: &str = "attention_mask";
pub(crate) const TOKEN_TYPE_IDS: &str = "token_type_ids";
pub(crate) const POSITION_IDS: &str = "position_ids";
pub(crate) const DECODER_INPUT_IDS: &str = "decoder_input_ids";
pub(crate) const PIXEL_VALUES: &str = "pixel_values";
pub(crate) const INPUT_FEATURES: &str = "input_features";
pub(crate) const INPUT_VALUES: &str = "input_values";
pub(crate) const LAST_HIDDEN_STATE: &str = "last_hidden_state";
pub(crate) const ENCODER_LAST_HIDDEN_STATE: &str = "encoder_last_hidden_state";
pub(crate) const POOLER_OUTPUT: &str = "pooler_output";
pub(crate) const SENTENCE_EMBEDDING: &str = "sentence_embedding";
pub(crate) const LOGITS: &str = "logits";

/// One more than the largest id of a vocabulary, which fits.
fn end(size: usize) -> i32 {
    i32::try_from(size).unwrap_or(i32::MAX)
}

impl Signature {
    pub(crate) fn new(inputs: Vec<InputSpec>, outputs: Vec<OutputSpec>) -> Self {
        Self { inputs, outputs, convolutions: Vec::new() }
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

    /// How many frames there are of a sequence: what is left of it after the model's convolutions, which have no padding.
    #[must_use]
    pub fn frames(&self, sequence: usize) -> usize {
        self.convolutions.iter().fold(sequence, |n, [kernel, stride]| match n.checked_sub(*kernel) {
            Some(rest) => rest / stride + 1,
            None => 0,
        })
    }

    /// Which positions of an output are real, as 1 and 0 `[batch, positions]`, where a request's `attention_mask`
    /// `[batch, sequence]` is this; `None` where the output has no such positions. At positions that are not real an output
    /// holds whatever the network makes of padding. Frames are real that real samples alone make, which lie in front.
    ///
    /// # Errors
    /// [`TensorError`] where the mask holds no integers.
    pub fn real_positions(&self, output: &OutputSpec, mask: &Tensor) -> Result<Option<Tensor>, TensorError> {
        match (output.dims.get(1), mask.shape().dims()) {
            (Some(Dim::Sequence), _) => Ok(Some(mask.clone())),
            (Some(Dim::Frames), &[rows, sequence]) => {
                let (mask, frames) = (mask.to_i32()?, self.frames(sequence));
                let real = mask.chunks(sequence.max(1)).flat_map(|row| {
                    let samples = row.iter().filter(|&&one| one != 0).count();
                    (0..frames).map(move |frame| i32::from(frame < self.frames(samples)))
                });
                Ok(Some(Tensor::from_i32([rows, frames], real.collect::<Vec<_>>())?))
            }
            _ => Ok(None),
        }
    }

    /// Whether any input has this dimension.
    pub(crate) fn takes(&self, dim: Dim) -> bool {
        self.inputs.iter().any(|i| i.dims.contains(&dim))
    }

    /// Dimensions with these sizes in them.
    pub(crate) fn sized(&self, dims: &[Dim], sizes: &Sizes) -> Vec<usize> {
        let size = |dim: &Dim| match *dim {
            Dim::Batch => sizes.batch,
            Dim::Media => sizes.media,
            Dim::Sequence => sizes.sequence,
            Dim::Target => sizes.target,
            Dim::Frames => self.frames(sizes.sequence),
            Dim::Fixed(n) => n,
        };
        dims.iter().map(size).collect()
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

/// The sizes of a request's or a bucket's variable dimensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) media: usize,
    pub(crate) sequence: usize,
    pub(crate) target: usize,
}

impl Sizes {
    pub(crate) fn of(bucket: crate::Bucket) -> Self {
        let crate::Bucket { batch, sequence } = bucket;
        Self { batch, media: batch, sequence, target: sequence }
    }
}

impl InputSpec {
    /// Integers below `size` of each sequence.
    pub(crate) fn integers(
        name: &'static str,
        dims: &[Dim],
        size: usize,
        padding: i32,
        default: Option<Absent>,
    ) -> Self {
        let program = DType::I32;
        Self { name, dims: dims.to_vec(), dtypes: INTEGERS, program, padding, range: 0..end(size), default }
    }

    /// Ids of tokens, which must be given.
    pub(crate) fn ids(name: &'static str, length: Dim, vocabulary: usize, padding: i32) -> Self {
        Self::integers(name, &[Dim::Batch, length], vocabulary, padding, None)
    }

    /// Which tokens are real: all of them where nothing says otherwise.
    pub(crate) fn mask() -> Self {
        Self::integers(ATTENTION_MASK, &[Dim::Batch, Dim::Sequence], 2, 0, Some(Absent::Value(1)))
    }

    /// Floating-point numbers, which must be given.
    pub(crate) fn floats(name: &'static str, dims: &[Dim]) -> Self {
        let (dims, program) = (dims.to_vec(), DType::F32);
        Self { name, dims, dtypes: FLOATS, program, padding: 0, range: 0..0, default: None }
    }
}

impl OutputSpec {
    pub(crate) fn new(name: &'static str, dims: &[Dim]) -> Self {
        Self { name, dims: dims.to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use tabpool_tensor::Tensor;

    use super::{Dim, InputSpec, OutputSpec, Signature};

    #[test]
    fn positions_are_real_where_the_mask_and_the_convolutions_say_so() {
        let mut signature = Signature::new(vec![InputSpec::mask()], Vec::new());
        signature.convolutions = vec![[3, 2]];
        let mask = Tensor::from_i64([2, 7], vec![1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]).expect("fits");
        let real = |dims: &[Dim]| signature.real_positions(&OutputSpec::new("x", dims), &mask).expect("integers");
        assert_eq!(real(&[Dim::Batch, Dim::Sequence]), Some(mask.clone()));
        let frames = Tensor::from_i32([2, 3], vec![1, 1, 1, 1, 0, 0]).expect("fits");
        assert_eq!(real(&[Dim::Batch, Dim::Frames, Dim::Fixed(4)]), Some(frames));
        assert_eq!(real(&[Dim::Batch, Dim::Fixed(4)]), None);
        assert_eq!(real(&[Dim::Batch, Dim::Target, Dim::Fixed(4)]), None);
    }
}
