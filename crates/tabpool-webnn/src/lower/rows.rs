//! Softmax, norms and reductions.

use tabpool_graph::{Reduction, ValueId};
use tabpool_tensor::DType;

use super::Lowering;
use crate::recipe::{Argument, Made, Operand};

impl Lowering<'_> {
    pub(super) fn softmax(&mut self, x: ValueId) -> Made {
        let x = self.rows(x)?;
        let like = (DType::F32, self.draft.shape(x).to_vec());
        self.draft.call("softmax", &[x], vec![Argument::Number(1.0)], Vec::new(), like)
    }

    /// A norm of rows. `affine` is scale and shift, as far as they are there.
    pub(super) fn layer_norm(&mut self, x: Operand, affine: &[ValueId], epsilon: f32) -> Made {
        let mut options = vec![("axes", Argument::Dims(vec![1])), ("epsilon", Argument::Number(f64::from(epsilon)))];
        for (name, &id) in ["scale", "bias"].into_iter().zip(affine) {
            options.push((name, Argument::Operand(self.whole(id)?)));
        }
        let like = (DType::F32, self.draft.shape(x).to_vec());
        self.draft.call("layerNormalization", &[x], Vec::new(), options, like)
    }

    /// `x / sqrt(mean(x^2) + epsilon) * scale` in single calls: WebNN has no operator for it.
    pub(super) fn rms_norm(&mut self, x: ValueId, scale: ValueId, epsilon: f32) -> Made {
        let (x, scale) = (self.rows(x)?, self.whole(scale)?);
        let squares = self.draft.onto("mul", x, x)?;
        let options = vec![("axes", Argument::Dims(vec![1])), ("keepDimensions", Argument::Flag(true))];
        let like = (DType::F32, vec![self.draft.shape(x)[0], 1]);
        let mean = self.draft.call("reduceMean", &[squares], Vec::new(), options, like)?;
        let epsilon = self.draft.f32(epsilon, mean)?;
        let mean = self.draft.onto("add", mean, epsilon)?;
        let root = self.draft.unary("sqrt", mean)?;
        let y = self.draft.onto("div", x, root)?;
        self.draft.onto("mul", y, scale)
    }

    pub(super) fn l2_normalize(&mut self, x: ValueId, epsilon: f32) -> Made {
        let x = self.rows(x)?;
        let options = vec![("axes", Argument::Dims(vec![1])), ("keepDimensions", Argument::Flag(true))];
        let like = (DType::F32, vec![self.draft.shape(x)[0], 1]);
        let length = self.draft.call("reduceL2", &[x], Vec::new(), options, like)?;
        let least = self.draft.f32(epsilon, length)?;
        let length = self.draft.onto("max", length, least)?;
        self.draft.onto("div", x, length)
    }

    /// Reduces the middle of `[outer, size, inner]`.
    pub(super) fn reduce(&mut self, x: ValueId, reduction: Reduction, axis: usize) -> Made {
        let method = match reduction {
            Reduction::Sum => "reduceSum",
            Reduction::Mean => "reduceMean",
            Reduction::Max => "reduceMax",
            other => return Err(self.draft.refuse(format!("is a reduction this backend does not know: {other:?}"))),
        };
        let dims = self.dims(x);
        let (size, inner) = (dims[axis], dims[axis + 1..].iter().product());
        let outer = dims[..axis].iter().product();
        let x = self.value(x)?;
        let x = self.draft.view(x, &[outer, size, inner])?;
        let options = vec![("axes", Argument::Dims(vec![1])), ("keepDimensions", Argument::Flag(false))];
        self.draft.call(method, &[x], Vec::new(), options, (DType::F32, vec![outer, inner]))
    }
}
