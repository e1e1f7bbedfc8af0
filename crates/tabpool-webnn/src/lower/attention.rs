//! Attention, taken apart: WebNN has no operator for it.

use tabpool_graph::ValueId;
use tabpool_tensor::{DType, Shape};

use super::Lowering;
use crate::recipe::{Argument, Made, Operand};

impl Lowering<'_> {
    /// `softmax(q @ k.T * scale + biases) @ v`, with the heads as a dimension of the products' batch.
    pub(super) fn attention(&mut self, inputs: &[ValueId], heads: usize, scale: f32) -> Made {
        let (&[batch, queries, width], &[_, keys, width_v]) = (self.dims(inputs[0]), self.dims(inputs[2])) else {
            return Err(self.draft.refuse("has an operand that is not of rank 3".to_owned()));
        };
        let (depth, depth_v) = (width / heads, width_v / heads);
        let (q, k, v) = (self.value(inputs[0])?, self.value(inputs[1])?, self.value(inputs[2])?);
        // Queries are scaled and not scores: they are fewer wherever there are more keys than numbers in a head.
        let q = if (scale - 1.0).abs() > 0.0 {
            let factor = self.draft.f32(scale, q)?;
            self.draft.onto("mul", q, factor)?
        } else {
            q
        };
        let q = self.draft.view(q, &[batch, queries, heads, depth])?;
        let k = self.draft.view(k, &[batch, keys, heads, depth])?;
        let v = self.draft.view(v, &[batch, keys, heads, depth_v])?;
        let q = self.draft.transpose(q, &[0, 2, 1, 3])?;
        let k = self.draft.transpose(k, &[0, 2, 3, 1])?;
        let v = self.draft.transpose(v, &[0, 2, 1, 3])?;
        let like = (DType::F32, vec![batch, heads, queries, keys]);
        let mut scores = self.draft.call("matmul", &[q, k], Vec::new(), Vec::new(), like.clone())?;
        if let Some(bias) = self.bias(&inputs[3..])? {
            scores = self.draft.onto("add", scores, bias)?;
        }
        let shares = self.draft.call("softmax", &[scores], vec![Argument::Number(3.0)], Vec::new(), like)?;
        let like = (DType::F32, vec![batch, heads, queries, depth_v]);
        let context = self.draft.call("matmul", &[shares, v], Vec::new(), Vec::new(), like)?;
        self.draft.transpose(context, &[0, 2, 1, 3])
    }

    /// The sum of the biases. Layers that add the same ones share it; it is small beside the scores it is added to.
    fn bias(&mut self, biases: &[ValueId]) -> Result<Option<Operand>, tabpool_engine::EngineError> {
        let mut sum: Option<Operand> = None;
        for &bias in biases {
            let next = self.whole(bias)?;
            sum = Some(match sum {
                None => next,
                Some(first) => match self.bias_sums.get(&(first, next)) {
                    Some(&known) => known,
                    None => self.add_biases(first, next)?,
                },
            });
        }
        Ok(sum)
    }

    fn add_biases(&mut self, a: Operand, b: Operand) -> Made {
        let shape = Shape::from(self.draft.shape(a)).broadcast(&Shape::from(self.draft.shape(b)));
        let shape = shape.ok_or_else(|| self.draft.refuse("has biases that do not broadcast".to_owned()))?;
        let like = (DType::F32, shape.dims().to_vec());
        let made = self.draft.call("add", &[a, b], Vec::new(), Vec::new(), like)?;
        self.bias_sums.insert((a, b), made);
        Ok(made)
    }
}
