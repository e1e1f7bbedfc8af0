//! Linear layers and matrix products.

use tabpool_graph::{Activation, ValueId};
use tabpool_tensor::DType;

use super::Lowering;
use super::elementwise::merged;
use crate::recipe::{Argument, Made, Operand};

impl Lowering<'_> {
    /// A linear layer as one `gemm` over all rows: weights stay `[N, K]`, as they are stored, for that is how browsers'
    /// kernels want them. `residual` is added to what the activation gives.
    pub(super) fn linear(
        &mut self,
        inputs: &[ValueId],
        activation: Option<Activation>,
        residual: Option<ValueId>,
    ) -> Made {
        let (x, weight) = (self.rows(inputs[0])?, self.whole(inputs[1])?);
        let bias = inputs.get(2).map(|&bias| self.whole(bias)).transpose()?;
        let y = self.gemm(x, weight, bias, true)?;
        let y = match activation {
            Some(activation) => self.unary(activation.unary(), y)?,
            None => y,
        };
        match residual {
            Some(residual) => {
                let residual = self.rows(residual)?;
                self.draft.onto("add", y, residual)
            }
            None => Ok(y),
        }
    }

    fn gemm(&mut self, a: Operand, b: Operand, c: Option<Operand>, transpose_b: bool) -> Made {
        let (rows, shape) = (self.draft.shape(a)[0], self.draft.shape(b));
        let columns = if transpose_b { shape[0] } else { shape[1] };
        let mut options = vec![("bTranspose", Argument::Flag(transpose_b))];
        options.extend(c.map(|c| ("c", Argument::Operand(c))));
        self.draft.call("gemm", &[a, b], Vec::new(), options, (DType::F32, vec![rows, columns]))
    }

    pub(super) fn matmul(&mut self, a: ValueId, b: ValueId, transpose_b: bool) -> Made {
        let (&[ref batch_a @ .., m, k], &[ref batch_b @ .., b0, b1]) = (self.dims(a), self.dims(b)) else {
            return Err(self.draft.refuse("has an operand of fewer than two dimensions".to_owned()));
        };
        let n = if transpose_b { b0 } else { b1 };
        if batch_b.iter().all(|&d| d == 1) {
            // One matrix on the right: all matrices on the left are rows of one.
            let rows = batch_a.iter().product::<usize>() * m;
            let (a, b) = (self.value(a)?, self.value(b)?);
            let (a, b) = (self.draft.view(a, &[rows, k])?, self.draft.view(b, &[b0, b1])?);
            return self.gemm(a, b, None, transpose_b);
        }
        let (batch_a, batch_b) = merged(batch_a, batch_b);
        let batch: Vec<_> = batch_a.iter().zip(&batch_b).map(|(&x, &y)| x.max(y)).collect();
        let (a, b) = (self.value(a)?, self.value(b)?);
        let a = self.draft.view(a, &[&batch_a[..], &[m, k]].concat())?;
        let mut b = self.draft.view(b, &[&batch_b[..], &[b0, b1]].concat())?;
        if transpose_b {
            let outer = batch_b.len();
            b = self.draft.transpose(b, &(0..outer).chain([outer + 1, outer]).collect::<Vec<_>>())?;
        }
        let like = (DType::F32, [&batch[..], &[m, n]].concat());
        self.draft.call("matmul", &[a, b], Vec::new(), Vec::new(), like)
    }
}
