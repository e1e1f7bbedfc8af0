//! From a request to a program's inputs, and from a run's outputs back to the request: checking, padding, cropping.
//!
//! A request is checked completely before anything is sent, so that a worker never sees an id outside of a table. The
//! checked rows are a type of their own: several requests' rows can be put into one bucket.

use tabpool_tensor::{DType, Shape, Tensor, TensorError};

use crate::model::Entry;
use crate::signature::{Absent, Dim, InputSpec, OutputSpec, Signature, Sizes};
use crate::{Bucket, RequestError};

/// A request, ready for a program of its bucket and outputs.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The bucket whose program runs it.
    pub bucket: Bucket,
    /// The program's inputs, in its order, padded to the bucket.
    pub tensors: Vec<Tensor>,
    /// What cuts the program's outputs back to the request.
    pub crop: Crop,
}

/// How the outputs of a run are cut back to a request's sequences and tokens.
#[derive(Clone, Debug)]
pub struct Crop {
    pub(crate) bucket: Bucket,
    pub(crate) sizes: Sizes,
    pub(crate) signature: Signature,
    pub(crate) outputs: Vec<OutputSpec>,
}

impl Entry {
    /// See [`EntryPoint::prepare`](crate::EntryPoint::prepare).
    pub(crate) fn prepare(&self, inputs: &[(String, Tensor)], outputs: &[String]) -> Result<Prepared, RequestError> {
        let signature = &self.signature;
        let outputs = outputs_of(signature, outputs)?;
        let (rows, bucket) = self.check(inputs)?;
        let sizes = rows.sizes;
        let tensors = rows.pad(signature, bucket)?;
        Ok(Prepared { bucket, tensors, crop: Crop { bucket, sizes, signature: signature.clone(), outputs } })
    }

    /// Only the inputs: the smallest bucket that holds them, and they padded to it.
    pub(crate) fn prepare_inputs(&self, inputs: &[(String, Tensor)]) -> Result<(Bucket, Vec<Tensor>), RequestError> {
        let (rows, bucket) = self.check(inputs)?;
        Ok((bucket, rows.pad(&self.signature, bucket)?))
    }

    fn check(&self, inputs: &[(String, Tensor)]) -> Result<(Rows, Bucket), RequestError> {
        let rows = Rows::check(&self.signature, inputs)?;
        let bucket = self.ladder.smallest(rows.sizes.batch.max(rows.sizes.media), rows.longest())?;
        Ok((rows, bucket))
    }
}

pub(crate) fn outputs_of(signature: &Signature, names: &[String]) -> Result<Vec<OutputSpec>, RequestError> {
    let unknown =
        |name: &str| RequestError::UnknownOutput { name: name.to_owned(), available: signature.output_names() };
    if names.is_empty() {
        return Err(unknown(""));
    }
    names.iter().map(|name| signature.output(name).cloned().ok_or_else(|| unknown(name))).collect()
}

/// Checked tensors: each input of the signature in the dtype that programs take, unpadded, or absent where its default is to
/// stand.
pub(crate) struct Rows {
    pub(crate) sizes: Sizes,
    columns: Vec<Option<Tensor>>,
}

/// The sizes that the inputs seen so far have, each with who said so.
#[derive(Default)]
struct Sizing<'a> {
    known: Vec<(Dim, usize, &'a str, &'a [usize])>,
}

impl<'a> Sizing<'a> {
    /// Takes the sizes of one more tensor, or says what is wrong with its shape.
    fn take(&mut self, spec: &InputSpec, name: &'a str, got: &'a [usize]) -> Result<(), String> {
        let fits = |(dim, size): (&Dim, &usize)| !matches!(dim, Dim::Fixed(n) if n != size);
        if got.len() != spec.dims.len() || !spec.dims.iter().zip(got).all(fits) {
            return Err(format!("{} wanted", written(&spec.dims)));
        }
        for (&dim, &size) in spec.dims.iter().zip(got) {
            match self.known.iter().find(|(known, ..)| *known == dim) {
                Some((_, want, first, dims)) if *want != size => {
                    return Err(format!("but {first:?} has {dims:?}"));
                }
                Some(_) => {}
                None if matches!(dim, Dim::Fixed(_)) => {}
                None => self.known.push((dim, size, name, got)),
            }
        }
        Ok(())
    }

    fn of(&self, dim: Dim) -> Option<usize> {
        self.known.iter().find(|(known, ..)| *known == dim).map(|&(_, size, ..)| size)
    }
}

/// Which inputs have to be given that have no default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    /// Which, depends on the program.
    Some,
}

/// Dimensions as messages name them.
fn written(dims: &[Dim]) -> String {
    let name = |dim: &Dim| match dim {
        Dim::Batch => "batch".to_owned(),
        Dim::Media => "media".to_owned(),
        Dim::Sequence => "sequence".to_owned(),
        Dim::Target => "target".to_owned(),
        Dim::Frames => "frames".to_owned(),
        Dim::Fixed(n) => n.to_string(),
    };
    format!("[{}]", dims.iter().map(name).collect::<Vec<_>>().join(", "))
}

impl Rows {
    fn check(signature: &Signature, inputs: &[(String, Tensor)]) -> Result<Self, RequestError> {
        let (sizing, columns) = Self::given(signature, inputs, Wanted::All)?;
        // What no input has is not there: it takes no part in choosing a bucket.
        let size = |dim: Dim| if signature.takes(dim) { sizing.of(dim).unwrap_or(0) } else { 1 };
        let [batch, media, sequence, target] = [Dim::Batch, Dim::Media, Dim::Sequence, Dim::Target].map(size);
        if [batch, media, sequence, target].contains(&0) {
            let both = |a: usize, b: usize| if a == 0 || b == 0 { 0 } else { a.max(b) };
            return Err(RequestError::Empty { batch: both(batch, media), sequence: both(sequence, target) });
        }
        if signature.frames(sequence) == 0 {
            let least = (1..).find(|&n| signature.frames(n) > 0).unwrap_or(1);
            return Err(RequestError::TooShort { got: sequence, least });
        }
        Ok(Self { sizes: Sizes { batch, media, sequence, target }, columns })
    }

    /// Those of a request that goes on from what an earlier one left, whose sizes hold where no input says otherwise.
    pub(crate) fn check_rest(
        signature: &Signature,
        inputs: &[(String, Tensor)],
        before: &Sizes,
    ) -> Result<Self, RequestError> {
        let (sizing, columns) = Self::given(signature, inputs, Wanted::Some)?;
        let size = |dim: Dim, before: usize| if signature.takes(dim) { sizing.of(dim).unwrap_or(before) } else { 1 };
        let sizes = Sizes {
            batch: size(Dim::Batch, before.batch),
            media: size(Dim::Media, before.media),
            sequence: size(Dim::Sequence, before.sequence),
            target: size(Dim::Target, before.target),
        };
        Ok(Self { sizes, columns })
    }

    /// The sizes that the inputs say, and each of the signature's that is given, checked.
    fn given<'a>(
        signature: &Signature,
        inputs: &'a [(String, Tensor)],
        wanted: Wanted,
    ) -> Result<(Sizing<'a>, Vec<Option<Tensor>>), RequestError> {
        for (position, (name, _)) in inputs.iter().enumerate() {
            if signature.input(name).is_none() {
                return Err(RequestError::UnknownInput { name: name.clone(), available: signature.input_names() });
            }
            if inputs[..position].iter().any(|(other, _)| other == name) {
                return Err(RequestError::DuplicateInput { name: name.clone() });
            }
        }
        let mut sizing = Sizing::default();
        let mut columns = Vec::with_capacity(signature.inputs.len());
        for spec in &signature.inputs {
            let Some((name, tensor)) = inputs.iter().find(|(name, _)| name == spec.name) else {
                if wanted == Wanted::All && spec.default.is_none() {
                    let (name, available) = (spec.name.to_owned(), signature.input_names());
                    return Err(RequestError::MissingInput { name, available });
                }
                columns.push(None);
                continue;
            };
            let dims = tensor.shape().dims();
            sizing.take(spec, name, dims).map_err(|reason| RequestError::Shape {
                name: name.clone(),
                got: dims.to_vec(),
                reason,
            })?;
            columns.push(Some(narrow(spec, tensor)?));
        }
        Ok((sizing, columns))
    }

    /// The longest of its sequences.
    pub(crate) fn longest(&self) -> usize {
        self.sizes.sequence.max(self.sizes.target)
    }

    fn pad(&self, signature: &Signature, bucket: Bucket) -> Result<Vec<Tensor>, RequestError> {
        (0..signature.inputs.len()).map(|at| self.padded(signature, bucket, at)).collect()
    }

    /// The input at a place of the signature, padded to the bucket.
    pub(crate) fn padded(&self, signature: &Signature, bucket: Bucket, at: usize) -> Result<Tensor, RequestError> {
        let (spec, column) = (&signature.inputs[at], &self.columns[at]);
        let from = signature.sized(&spec.dims, &self.sizes);
        let to = signature.sized(&spec.dims, &Sizes::of(bucket));
        Ok(match (column, spec.program) {
            (Some(given), DType::F32) => Tensor::from_f32(&*to, spread(&given.to_f32()?, &from, &to, 0.0))?,
            (Some(given), _) => Tensor::from_i32(&*to, spread(&given.to_i32()?, &from, &to, spec.padding))?,
            (None, _) => Tensor::from_i32(&*to, spread(&absent(spec, &from), &from, &to, spec.padding))?,
        })
    }

    /// Whether the input at a place of the signature was given.
    pub(crate) fn has(&self, at: usize) -> bool {
        self.columns[at].is_some()
    }
}

/// The values of an input that a request does not give.
fn absent(spec: &InputSpec, dims: &[usize]) -> Vec<i32> {
    let (count, width) = (dims.iter().product(), dims.last().copied().unwrap_or(1));
    match spec.default.unwrap_or(Absent::Value(spec.padding)) {
        Absent::Value(value) => vec![value; count],
        Absent::Place => (0..count).map(|i| i32::try_from(i % width).unwrap_or(i32::MAX)).collect(),
    }
}

/// Values of one shape in the leading corner of a larger one.
fn spread<T: Copy>(values: &[T], from: &[usize], to: &[usize], fill: T) -> Vec<T> {
    let mut out = vec![fill; to.iter().product()];
    let width = from.last().copied().unwrap_or(1);
    let strides = Shape::from(to).strides();
    for (row, values) in values.chunks_exact(width.max(1)).enumerate() {
        let mut rest = row;
        let mut at = 0;
        for d in (0..from.len().saturating_sub(1)).rev() {
            at += rest % from[d] * strides[d];
            rest /= from[d];
        }
        out[at..at + width].copy_from_slice(values);
    }
    out
}

/// An input's values in the dtype that programs take, integers each within the range the signature gives.
fn narrow(spec: &InputSpec, tensor: &Tensor) -> Result<Tensor, RequestError> {
    let name = || spec.name.to_owned();
    if !spec.dtypes.contains(&tensor.dtype()) {
        let accepted = spec.dtypes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        return Err(RequestError::DType { name: name(), got: tensor.dtype(), accepted });
    }
    if spec.program == DType::F32 {
        return Ok(Tensor::from_f32(tensor.shape().clone(), tensor.to_f32()?.into_owned())?);
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
    /// Sequences in the request; 1 where it has none.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.sizes.batch
    }

    /// Tokens of each of its sequences; 1 where it has none.
    #[must_use]
    pub fn sequence(&self) -> usize {
        self.sizes.sequence
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
            let padded = self.signature.sized(&spec.dims, &Sizes::of(self.bucket));
            if tensor.shape().dims() != padded {
                let (name, got) = (spec.name.to_owned(), tensor.shape().dims().to_vec());
                return Err(RequestError::OutputShape { name, got, want: padded });
            }
            named.push((spec.name.to_owned(), corner(&tensor, &self.signature.sized(&spec.dims, &self.sizes))?));
        }
        Ok(named)
    }
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
