//! Several requests in one run: their rows in one bucket, and the rows of what the run gave back to each.

use tabpool_tensor::{Tensor, TensorError};

use crate::batch::{Crop, Prepared};
use crate::signature::Dim;
use crate::{Bucket, RequestError};

/// Requests that are run together.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The bucket whose program runs them.
    pub bucket: Bucket,
    /// The program's inputs, in its order.
    pub tensors: Vec<Tensor>,
    /// What cuts each request's rows back to it.
    parts: Vec<Crop>,
}

impl Prepared {
    /// The rows of a request that may share a run with others': every input and output has one for each sequence, or each for
    /// every picture or sound, and no row's values depend on another's. `None` where that is not so.
    #[must_use]
    pub fn rows(&self) -> Option<usize> {
        let signature = &self.crop.signature;
        let inputs = signature.inputs.iter().map(|spec| &spec.dims);
        let outputs = self.crop.outputs.iter().map(|spec| &spec.dims);
        let mut counts = None;
        for dims in inputs.chain(outputs) {
            let (first, rest) = dims.split_first()?;
            let counted = |dim: &Dim| matches!(dim, Dim::Batch | Dim::Media);
            if !counted(first) || rest.iter().any(counted) || *counts.get_or_insert(*first) != *first {
                return None;
            }
        }
        match counts? {
            Dim::Media => Some(self.crop.sizes.media),
            _ => Some(self.crop.sizes.batch),
        }
    }
}

impl Merged {
    /// Puts the rows of requests for one entry point and the same outputs, of one length of bucket, into a bucket of `batch`
    /// rows. Rows that are left over repeat the last one, so that they compute with values like the others'.
    ///
    /// # Errors
    /// [`RequestError::TooMany`] where they have more rows; [`RequestError::Empty`] where there is none, or they cannot share
    /// a run.
    pub fn new(requests: &[&Prepared], batch: usize) -> Result<Self, RequestError> {
        let sequence = requests.first().map_or(0, |first| first.bucket.sequence);
        let counts: Option<Vec<usize>> =
            requests.iter().map(|it| it.rows().filter(|rows| *rows > 0 && it.bucket.sequence == sequence)).collect();
        let counts = counts.filter(|counts| !counts.is_empty()).ok_or(RequestError::Empty { batch: 0, sequence })?;
        let rows: usize = counts.iter().sum();
        if rows > batch {
            return Err(RequestError::TooMany { got: rows, sequence, limit: batch });
        }
        let bucket = Bucket { batch, sequence };
        let columns = requests[0].tensors.len();
        let tensors = (0..columns).map(|column| stack(requests, &counts, column, batch)).collect::<Result<_, _>>()?;
        let part =
            |(it, rows): (&&Prepared, usize)| Crop { bucket: Bucket { batch: rows, sequence }, ..it.crop.clone() };
        let parts = requests.iter().zip(counts).map(part).collect();
        Ok(Self { bucket, tensors, parts })
    }

    /// The outputs of the run for each request, cut back to it and named.
    ///
    /// # Errors
    /// [`RequestError::OutputCount`], [`RequestError::OutputShape`] where the run did not give what its program says.
    pub fn split(&self, outputs: &[Tensor]) -> Result<Vec<Vec<(String, Tensor)>>, RequestError> {
        let mut from = 0;
        let mut each = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let rows = part.bucket.batch;
            let mine: Result<Vec<Tensor>, _> = outputs.iter().map(|output| slice(output, from, rows)).collect();
            each.push(part.apply(mine?)?);
            from += rows;
        }
        Ok(each)
    }
}

/// One input of all requests, a row below the other.
fn stack(requests: &[&Prepared], counts: &[usize], column: usize, batch: usize) -> Result<Tensor, RequestError> {
    let first = &requests[0].tensors[column];
    let dims = first.shape().dims();
    let row = dims.iter().skip(1).product::<usize>() * first.dtype().size();
    let mut bytes = Vec::with_capacity(row * batch);
    for (it, rows) in requests.iter().zip(counts) {
        let tensor = &it.tensors[column];
        if (tensor.dtype(), &tensor.shape().dims()[1..]) != (first.dtype(), &dims[1..]) {
            let (name, got) = (format!("input {column}"), tensor.shape().dims().to_vec());
            return Err(RequestError::OutputShape { name, got, want: dims.to_vec() });
        }
        bytes.extend_from_slice(&tensor.data()[..rows * row]);
    }
    let last = bytes.len() - row;
    while bytes.len() < row * batch {
        bytes.extend_from_within(last..last + row);
    }
    let mut dims = dims.to_vec();
    dims[0] = batch;
    Ok(Tensor::new(first.dtype(), dims, bytes.into())?)
}

/// Some rows of a tensor; copies nothing.
fn slice(tensor: &Tensor, from: usize, rows: usize) -> Result<Tensor, TensorError> {
    let mut dims = tensor.shape().dims().to_vec();
    let row = dims.iter().skip(1).product::<usize>() * tensor.dtype().size();
    if let Some(first) = dims.first_mut() {
        *first = rows.min(first.saturating_sub(from));
    }
    let held = dims.first().copied().unwrap_or(0);
    Tensor::new(tensor.dtype(), dims, tensor.data().slice(from * row..(from + held) * row))
}

#[cfg(test)]
mod tests {
    use tabpool_tensor::{DType, Tensor};

    use super::Merged;
    use crate::batch::{Crop, Prepared};
    use crate::signature::{Dim, InputSpec, OutputSpec, Signature, Sizes};
    use crate::{Bucket, RequestError};

    /// A request of `rows` rows of two tokens, in a bucket of four tokens and as many rows as that needs.
    fn request(rows: usize, first: i32, batch: usize) -> Prepared {
        let bucket = Bucket { batch, sequence: 4 };
        let values = (0..batch * 4).map(|i| if i / 4 < rows && i % 4 < 2 { first + i as i32 } else { 0 }).collect();
        let ids = InputSpec {
            name: "input_ids",
            dims: vec![Dim::Batch, Dim::Sequence],
            dtypes: &[DType::I32],
            program: DType::I32,
            padding: 0,
            range: 0..1000,
            default: None,
        };
        let out = OutputSpec { name: "out", dims: vec![Dim::Batch, Dim::Sequence] };
        let signature = Signature::new(vec![ids], vec![out]);
        let outputs = signature.outputs.clone();
        let sizes = Sizes { batch: rows, media: 1, sequence: 2, target: 1 };
        let tensors = vec![Tensor::from_i32([batch, 4], values).expect("as many as said")];
        Prepared { bucket, tensors, crop: Crop { bucket, sizes, signature, outputs } }
    }

    #[test]
    fn rows_go_in_one_below_the_other_and_come_back_to_each() {
        let (one, three) = (request(1, 100, 1), request(3, 200, 4));
        let merged = Merged::new(&[&one, &three], 8).expect("they fit");
        assert_eq!(merged.bucket, Bucket { batch: 8, sequence: 4 });
        let ids = merged.tensors[0].to_i32().expect("integers").into_owned();
        assert_eq!(ids[..16], [100, 101, 0, 0, 200, 201, 0, 0, 204, 205, 0, 0, 208, 209, 0, 0]);
        assert_eq!(ids[16..], [208, 209, 0, 0].repeat(4), "what is left over is like the last");
        let outputs = [Tensor::from_f32([8, 4], (0..32).map(|i| i as f32).collect()).expect("as many as said")];
        let each = merged.split(&outputs).expect("the shapes are right");
        assert_eq!(each[0][0].1, Tensor::from_f32([1, 2], vec![0.0, 1.0]).expect("two"));
        assert_eq!(each[1][0].1, Tensor::from_f32([3, 2], vec![4.0, 5.0, 8.0, 9.0, 12.0, 13.0]).expect("six"));
    }

    #[test]
    fn what_has_no_rows_of_its_own_cannot_share_a_run() {
        let mut scores = request(1, 0, 1);
        assert_eq!(scores.rows(), Some(1));
        scores.crop.outputs[0].dims = vec![Dim::Batch, Dim::Media];
        assert_eq!(scores.rows(), None);
        assert!(Merged::new(&[&scores], 8).is_err());
    }

    #[test]
    fn more_rows_than_the_bucket_has_are_refused() {
        let three = request(3, 0, 4);
        let refused = Merged::new(&[&three, &three], 4).expect_err("six rows in four");
        assert!(matches!(refused, RequestError::TooMany { got: 6, limit: 4, .. }), "{refused}");
    }

    #[test]
    fn outputs_of_another_shape_are_refused() {
        let one = request(1, 0, 1);
        let merged = Merged::new(&[&one], 4).expect("it fits");
        let short = [Tensor::new(DType::F32, [4, 3], vec![0; 48].into()).expect("as many as said")];
        assert!(matches!(merged.split(&short), Err(RequestError::OutputShape { .. })));
    }
}
