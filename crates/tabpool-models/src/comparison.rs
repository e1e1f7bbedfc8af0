//! How a model of two towers turns the cosine of two embeddings into a score: by numbers that it learned.

use tabpool_content::Directory;
use tabpool_tensor::Tensor;

use crate::ModelError;
use crate::weights::Weights;

/// What becomes of the cosine of a text's embedding and another one: `scale * cosine + bias`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// What the cosine is multiplied by.
    pub scale: f32,
    /// What is added then.
    pub bias: f32,
    /// Whether just one of several texts is right, so that the scores are logits of one softmax. Otherwise each is the logit
    /// of a sigmoid.
    pub exclusive: bool,
}

/// Where a family keeps those numbers: tensors of one element, the scale as its logarithm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Learned {
    pub(crate) scale: &'static str,
    pub(crate) bias: Option<&'static str>,
    pub(crate) exclusive: bool,
}

impl Learned {
    pub(crate) fn read(&self, folder: &Directory<'_>, weights: &Weights) -> Result<Comparison, ModelError> {
        let bias = self.bias.map_or(Ok(0.0), |bias| scalar(folder, weights, bias))?;
        Ok(Comparison { scale: scalar(folder, weights, self.scale)?.exp(), bias, exclusive: self.exclusive })
    }
}

/// The element of a tensor that has one.
fn scalar(folder: &Directory<'_>, weights: &Weights, name: &str) -> Result<f32, ModelError> {
    let (file, info) = weights.find(name)?;
    let invalid =
        |reason: String| ModelError::Safetensors { file: file.to_owned(), reason: format!("tensor {name:?} {reason}") };
    if info.shape.iter().any(|size| *size != 1) || info.shape.len() > 1 {
        return Err(invalid(format!("has shape {:?}, where one number is wanted", info.shape)));
    }
    let dtype = weights.check(name, if info.shape.is_empty() { &[] } else { &[1] })?;
    let bytes = folder.read_range(file, info.begin, info.end - info.begin)?;
    let value = Tensor::new(dtype, [1], bytes).and_then(|tensor| Ok(tensor.to_f32()?[0]));
    value.map_err(|error| invalid(error.to_string()))
}
