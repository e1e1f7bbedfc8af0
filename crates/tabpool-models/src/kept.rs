//! Outputs that stay on the worker that computed them, and requests that go on from there: a picture goes through a tower
//! once, and several heads, of one model or of several, take it from there.

use tabpool_graph::{KeptValue, Program};
use tabpool_tensor::Tensor;

use crate::batch::{Rows, outputs_of};
use crate::signature::Sizes;
use crate::{Bucket, Crop, Dim, EntryPoint, ModelError, Prepared, RequestError};

/// What a run left on its worker, padded to the bucket it ran in.
#[derive(Clone, Debug)]
pub struct KeptOutputs {
    values: Vec<KeptValue>,
    /// The outputs that they stand for where a request goes on, by the places of `values`.
    stands_for: Vec<Option<String>>,
    bucket: Bucket,
    sizes: Sizes,
}

impl KeptOutputs {
    /// What the program that keeps them, of whose graph these are the states, leaves after the request that was prepared so.
    #[must_use]
    pub fn of(values: Vec<KeptValue>, prepared: &Prepared) -> Self {
        let stands_for = values.iter().map(|value| Some(value.name.clone())).collect();
        Self { values, stands_for, bucket: prepared.bucket, sizes: prepared.crop.sizes }
    }

    /// The values that stay there, each under the name of the output it was.
    #[must_use]
    pub fn values(&self) -> &[KeptValue] {
        &self.values
    }

    /// The bytes of them all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.values.iter().map(|value| (value.shape.elements() * value.dtype.size()) as u64).sum()
    }

    /// The same values, one of which stands for an output of another name: `last_hidden_state` of an encoder is what the
    /// whole model calls `encoder_last_hidden_state`.
    ///
    /// # Errors
    /// [`ModelError::Output`] where nothing of the first name was kept.
    pub fn standing_for(&self, kept: &str, output: &str) -> Result<Self, ModelError> {
        let at = self.values.iter().position(|value| value.name == kept).ok_or_else(|| ModelError::Output {
            got: kept.to_owned(),
            available: self.values.iter().map(|value| value.name.as_str()).collect::<Vec<_>>().join(", "),
        })?;
        let mut other = self.clone();
        other.stands_for[at] = Some(output.to_owned());
        Ok(other)
    }

    /// For each value the output it stands for at an entry point, where that has one of the name.
    #[must_use]
    pub fn at(&self, entry: EntryPoint<'_>) -> Vec<Option<String>> {
        let known = |name: &String| entry.signature().output(name).is_some();
        self.stands_for.iter().map(|name| name.clone().filter(known)).collect()
    }
}

/// A request that goes on from kept outputs, checked.
pub struct Continued {
    rows: Rows,
    /// The bucket whose program runs it.
    pub bucket: Bucket,
    /// What cuts the program's outputs back to the request.
    pub crop: Crop,
}

impl std::fmt::Debug for Continued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Continued").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl<'a> EntryPoint<'a> {
    /// The program for one bucket that leaves outputs on its worker, as states of their names, and gives back the first element
    /// of each.
    ///
    /// # Errors
    /// As [`program`](Self::program).
    pub fn keeping_program(&self, bucket: Bucket, kept: &[&str]) -> Result<Program, ModelError> {
        self.model.bind(self.graph(bucket, kept)?.keep_outputs(kept)?)
    }

    /// The program for one bucket that goes on from what was kept, and gives these outputs. Its inputs are those of the signature
    /// that it needs besides, in the signature's order.
    ///
    /// # Errors
    /// As [`program`](Self::program), and [`ModelError::Graph`] where what was kept has not the shape of the output it stands
    /// for.
    pub fn continuing_program(
        &self,
        bucket: Bucket,
        outputs: &[&str],
        values: &[KeptValue],
        stands_for: &[Option<String>],
    ) -> Result<Program, ModelError> {
        let stands_for: Vec<_> = stands_for.iter().map(Option::as_deref).collect();
        let mut all = outputs.to_vec();
        all.extend(stands_for.iter().flatten().filter(|name| !outputs.contains(name)));
        self.model.bind(self.graph(bucket, &all)?.go_on_from(values, &stands_for, outputs)?)
    }

    /// Checks the inputs of a request that goes on from what was kept, those that are still needed; which these are,
    /// [`Continued::tensors`] tells.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn go_on(
        &self,
        kept: &KeptOutputs,
        inputs: &[(String, Tensor)],
        outputs: &[String],
    ) -> Result<Continued, RequestError> {
        let signature = self.signature();
        let outputs = outputs_of(signature, outputs)?;
        let rows = Rows::check_rest(signature, inputs, &kept.sizes)?;
        let sizes = rows.sizes;
        let least = self.bucket_for(sizes.batch.max(sizes.media), rows.longest())?;
        let long = signature.takes(Dim::Sequence) || signature.takes(Dim::Target);
        let sequence = if long { least.sequence.max(kept.bucket.sequence) } else { least.sequence };
        let bucket = Bucket { batch: least.batch.max(kept.bucket.batch), sequence };
        let crop = Crop { bucket, sizes, signature: signature.clone(), outputs };
        Ok(Continued { rows, bucket, crop })
    }
}

impl Continued {
    /// The inputs of the program that goes on, in its order, padded to the bucket.
    ///
    /// # Errors
    /// [`RequestError::MissingInput`] and [`RequestError::UnknownInput`] where others were given than it needs.
    pub fn tensors(&self, needed: &[String]) -> Result<Vec<Tensor>, RequestError> {
        let signature = &self.crop.signature;
        let available = || needed.join(", ");
        for (at, spec) in signature.inputs.iter().enumerate() {
            if self.rows.has(at) && !needed.iter().any(|name| name == spec.name) {
                return Err(RequestError::UnknownInput { name: spec.name.to_owned(), available: available() });
            }
        }
        let places = needed.iter().filter_map(|name| signature.inputs.iter().position(|spec| spec.name == *name));
        let tensor = |at: usize| {
            let spec = &signature.inputs[at];
            if !self.rows.has(at) && spec.default.is_none() {
                let (name, available) = (spec.name.to_owned(), available());
                return Err(RequestError::MissingInput { name, available });
            }
            self.rows.padded(signature, self.bucket, at)
        };
        places.map(tensor).collect()
    }
}
