//! From a request to a program's inputs, and from a run's outputs back to the request: checking, padding, cropping.
//!
//! A request is checked completely before anything is sent, so that a worker never sees an id outside of a table. The
//! checked rows are a type of their own: several requests' rows can be put into one bucket.

use tabpool_tensor::{Shape, Tensor, TensorError};

use crate::signature::{Dim, InputSpec, OutputSpec, Signature};
use crate::{Bucket, Model, RequestError};

/// A request, ready for a program of its bucket and outputs.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The bucket whose program runs it.
    pub bucket: Bucket,
    /// The program's inputs, in its order: `i32`, padded to the bucket.
    pub tensors: Vec<Tensor>,
    /// What cuts the program's outputs back to the request.
    pub crop: Crop,
}

/// How the outputs of a run are cut back to a request's sequences and tokens.
#[derive(Clone, Debug)]
pub struct Crop {
    bucket: Bucket,
    batch: usize,
    sequence: usize,
    outputs: Vec<OutputSpec>,
}

impl Model {
    /// Checks a request, narrows and pads its tensors to the smallest bucket that holds them. Inputs are named as in the
    /// [`Signature`], in any order; those with a default may be absent. `outputs` are the names the program will be asked
    /// for, in its order.
    ///
    /// # Errors
    /// [`RequestError`] with the input's name, and for a value outside of its range with its position.
    pub fn prepare(&self, inputs: &[(String, Tensor)], outputs: &[String]) -> Result<Prepared, RequestError> {
        let signature = self.signature();
        let outputs = outputs_of(signature, outputs)?;
        let rows = Rows::check(signature, inputs)?;
        let bucket = self.bucket_for(rows.batch, rows.sequence)?;
        let tensors = rows.pad(signature, bucket)?;
        Ok(Prepared { bucket, tensors, crop: Crop { bucket, batch: rows.batch, sequence: rows.sequence, outputs } })
    }
}

fn outputs_of(signature: &Signature, names: &[String]) -> Result<Vec<OutputSpec>, RequestError> {
    let unknown =
        |name: &str| RequestError::UnknownOutput { name: name.to_owned(), available: signature.output_names() };
    if names.is_empty() {
        return Err(unknown(""));
    }
    names.iter().map(|name| signature.output(name).cloned().ok_or_else(|| unknown(name))).collect()
}

/// Checked sequences: each input of the signature as `i32`, unpadded, or absent where its default is to stand.
struct Rows {
    batch: usize,
    sequence: usize,
    columns: Vec<Option<Tensor>>,
}

impl Rows {
    fn check(signature: &Signature, inputs: &[(String, Tensor)]) -> Result<Self, RequestError> {
        for (position, (name, _)) in inputs.iter().enumerate() {
            if signature.input(name).is_none() {
                return Err(RequestError::UnknownInput { name: name.clone(), available: signature.input_names() });
            }
            if inputs[..position].iter().any(|(other, _)| other == name) {
                return Err(RequestError::DuplicateInput { name: name.clone() });
            }
        }
        let mut size: Option<(usize, usize, &str)> = None;
        let mut columns = Vec::with_capacity(signature.inputs.len());
        for spec in &signature.inputs {
            let Some((name, tensor)) = inputs.iter().find(|(name, _)| name == spec.name) else {
                if spec.default.is_none() {
                    let (name, available) = (spec.name.to_owned(), signature.input_names());
                    return Err(RequestError::MissingInput { name, available });
                }
                columns.push(None);
                continue;
            };
            let wrong_shape = |reason: String| RequestError::Shape {
                name: name.clone(),
                got: tensor.shape().dims().to_vec(),
                reason,
            };
            let &[batch, sequence] = tensor.shape().dims() else {
                return Err(wrong_shape("[batch, sequence] wanted".to_owned()));
            };
            let (want_batch, want_sequence, first) = *size.get_or_insert((batch, sequence, spec.name));
            if (batch, sequence) != (want_batch, want_sequence) {
                return Err(wrong_shape(format!("but {first:?} has [{want_batch}, {want_sequence}]")));
            }
            columns.push(Some(narrow(spec, tensor)?));
        }
        let (batch, sequence, _) = size.unwrap_or_default();
        Ok(Self { batch, sequence, columns })
    }

    fn pad(&self, signature: &Signature, bucket: Bucket) -> Result<Vec<Tensor>, RequestError> {
        let mut tensors = Vec::with_capacity(self.columns.len());
        for (spec, column) in signature.inputs.iter().zip(&self.columns) {
            let mut padded = vec![spec.padding; bucket.batch * bucket.sequence];
            let given = column.as_ref().map(Tensor::to_i32).transpose()?;
            for (row, to) in padded.chunks_exact_mut(bucket.sequence).take(self.batch).enumerate() {
                let to = &mut to[..self.sequence];
                match &given {
                    Some(values) => to.copy_from_slice(&values[row * self.sequence..][..self.sequence]),
                    None => to.fill(spec.default.unwrap_or(spec.padding)),
                }
            }
            tensors.push(Tensor::from_i32([bucket.batch, bucket.sequence], padded)?);
        }
        Ok(tensors)
    }
}

/// An input's values as `i32`, each within the range the signature gives.
fn narrow(spec: &InputSpec, tensor: &Tensor) -> Result<Tensor, RequestError> {
    let name = || spec.name.to_owned();
    if !spec.dtypes.contains(&tensor.dtype()) {
        let accepted = spec.dtypes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        return Err(RequestError::DType { name: name(), got: tensor.dtype(), accepted });
    }
    let outside = |value: i64, position: usize| RequestError::Value {
        name: name(),
        value,
        position: coordinates(tensor.shape(), position),
        start: spec.range.start,
        end: spec.range.end,
    };
    let values = match tensor.to_i32() {
        Ok(values) => values,
        Err(TensorError::Range { value, position, .. }) => return Err(outside(value, position)),
        Err(e) => return Err(e.into()),
    };
    if let Some((position, &value)) = values.iter().enumerate().find(|(_, v)| !spec.range.contains(*v)) {
        return Err(outside(i64::from(value), position));
    }
    Ok(Tensor::from_i32(tensor.shape().clone(), values.into_owned())?)
}

/// The coordinates of an element given by its position in row-major order.
fn coordinates(shape: &Shape, position: usize) -> Vec<usize> {
    shape.strides().iter().zip(shape.iter()).map(|(stride, dim)| position / stride % dim.max(&1)).collect()
}

impl Crop {
    /// Sequences in the request.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Tokens of each of its sequences.
    #[must_use]
    pub fn sequence(&self) -> usize {
        self.sequence
    }

    /// The outputs of a run, cut back to the request and named. Cutting sequences off copies nothing.
    ///
    /// # Errors
    /// [`RequestError::OutputCount`], [`RequestError::OutputShape`] where a run did not give what its program says.
    pub fn apply(&self, outputs: Vec<Tensor>) -> Result<Vec<(String, Tensor)>, RequestError> {
        if outputs.len() != self.outputs.len() {
            return Err(RequestError::OutputCount { got: outputs.len(), want: self.outputs.len() });
        }
        let mut named = Vec::with_capacity(outputs.len());
        for (spec, tensor) in self.outputs.iter().zip(outputs) {
            let padded = dims(spec, self.bucket.batch, self.bucket.sequence);
            if tensor.shape().dims() != padded {
                let (name, got) = (spec.name.to_owned(), tensor.shape().dims().to_vec());
                return Err(RequestError::OutputShape { name, got, want: padded });
            }
            named.push((spec.name.to_owned(), corner(&tensor, &dims(spec, self.batch, self.sequence))?));
        }
        Ok(named)
    }
}

fn dims(spec: &OutputSpec, batch: usize, sequence: usize) -> Vec<usize> {
    let size = |dim: &Dim| match *dim {
        Dim::Batch => batch,
        Dim::Sequence => sequence,
        Dim::Fixed(n) => n,
    };
    spec.dims.iter().map(size).collect()
}

/// The leading part of a tensor: of each dimension the first `dims[i]` elements.
fn corner(tensor: &Tensor, dims: &[usize]) -> Result<Tensor, TensorError> {
    let from = tensor.shape().dims();
    let Some(last_cut) = (0..dims.len()).rfind(|&d| dims[d] != from[d]) else { return Ok(tensor.clone()) };
    // What lies inside the last dimension that is cut is contiguous.
    let strides = tensor.shape().strides();
    let size = tensor.dtype().size();
    let run = dims[last_cut] * strides[last_cut] * size;
    let outer: usize = dims[..last_cut].iter().product();
    let data = tensor.data();
    let piece = |i: usize| {
        let mut rest = i;
        let mut at = 0;
        for d in (0..last_cut).rev() {
            at += rest % dims[d] * strides[d];
            rest /= dims[d];
        }
        at * size..at * size + run
    };
    let bytes = if outer == 1 {
        data.slice(piece(0))
    } else {
        let mut bytes = Vec::with_capacity(outer * run);
        for i in 0..outer {
            bytes.extend_from_slice(&data[piece(i)]);
        }
        bytes.into()
    };
    Tensor::new(tensor.dtype(), dims, bytes)
}
