//! Attention, taken apart: WebNN has no operator for it.

use tabpool_engine::EngineError;
use tabpool_graph::ValueId;
use tabpool_tensor::{DType, Shape};

use super::Lowering;
use crate::recipe::{Argument, Made, Operand};

/// What biases are raised to where keys are hidden as well: a bias hides by the lowest number at most, and what it hides
/// must still be above what is not seen at all.
const LEAST_BIAS: f32 = -1e38;

/// What hides a key: a number, because infinity less infinity is none.
const HIDDEN: f32 = f32::MIN;

/// The sizes of an attention.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    queries: usize,
    keys: usize,
    kv_heads: usize,
    depth: usize,
    depth_v: usize,
}

impl Lowering<'_> {
    /// `softmax(q @ k.T * scale + biases) @ v`, with the heads of keys as a dimension of the products' batch; the heads of
    /// queries that share one of keys are rows of one matrix. `inputs` are q, k, v and biases. With a `start`, query `i` sees
    /// keys up to `start + i`.
    pub(super) fn attention(
        &mut self,
        inputs: &[ValueId],
        start: Option<ValueId>,
        [heads, kv_heads]: [usize; 2],
        scale: f32,
    ) -> Made {
        let (&[batch, queries, width], &[_, keys, width_v]) = (self.dims(inputs[0]), self.dims(inputs[2])) else {
            return Err(self.draft.refuse("has an operand that is not of rank 3".to_owned()));
        };
        let sizes = Sizes { batch, queries, keys, kv_heads, depth: width / heads, depth_v: width_v / kv_heads };
        let shared = heads / kv_heads;
        let (q, k, v) = (self.value(inputs[0])?, self.value(inputs[1])?, self.value(inputs[2])?);
        // Queries are scaled and not scores: they are fewer wherever there are more keys than numbers in a head.
        let q = if (scale - 1.0).abs() > 0.0 {
            let factor = self.draft.f32(scale, q)?;
            self.draft.onto("mul", q, factor)?
        } else {
            q
        };
        let k = self.draft.view(k, &[batch, keys, kv_heads, sizes.depth])?;
        let v = self.draft.view(v, &[batch, keys, kv_heads, sizes.depth_v])?;
        let seen = start.map(|start| self.seen(start, queries, keys)).transpose()?;
        let (k, v) = match seen {
            Some(seen) => self.without_unseen(k, v, seen, sizes)?,
            None => (k, v),
        };
        let q = if shared == 1 {
            let q = self.draft.view(q, &[batch, queries, heads, sizes.depth])?;
            self.draft.transpose(q, &[0, 2, 1, 3])?
        } else {
            let q = self.draft.view(q, &[batch, queries, kv_heads, shared, sizes.depth])?;
            let q = self.draft.transpose(q, &[0, 2, 3, 1, 4])?;
            self.draft.view(q, &[batch, kv_heads, shared * queries, sizes.depth])?
        };
        let k = self.draft.transpose(k, &[0, 2, 3, 1])?;
        let v = self.draft.transpose(v, &[0, 2, 1, 3])?;
        let joined = (DType::F32, vec![batch, kv_heads, shared * queries, keys]);
        let mut scores = self.draft.call("matmul", &[q, k], Vec::new(), Vec::new(), joined.clone())?;
        if let Some(mut bias) = self.bias(&inputs[3..])? {
            if seen.is_some() {
                let least = self.draft.f32(LEAST_BIAS, bias)?;
                bias = self.draft.onto("max", bias, least)?;
            }
            scores = self.draft.view(scores, &[batch, heads, queries, keys])?;
            scores = self.draft.onto("add", scores, bias)?;
        }
        if let Some(seen) = seen {
            scores = self.draft.view(scores, &[batch, heads, queries, keys])?;
            let hidden = self.draft.f32(HIDDEN, scores)?;
            let like = (DType::F32, vec![batch, heads, queries, keys]);
            scores = self.draft.call("where", &[seen, scores, hidden], Vec::new(), Vec::new(), like)?;
        }
        let like = (DType::F32, self.draft.shape(scores).to_vec());
        let shares = self.draft.call("softmax", &[scores], vec![Argument::Number(3.0)], Vec::new(), like)?;
        let shares = self.draft.view(shares, &joined.1)?;
        let like = (DType::F32, vec![batch, kv_heads, shared * queries, sizes.depth_v]);
        let context = self.draft.call("matmul", &[shares, v], Vec::new(), Vec::new(), like)?;
        if shared == 1 {
            return self.draft.transpose(context, &[0, 2, 1, 3]);
        }
        let context = self.draft.view(context, &[batch, kv_heads, shared, queries, sizes.depth_v])?;
        self.draft.transpose(context, &[0, 3, 1, 2, 4])
    }

    /// Which keys each query sees, as `u8 [queries, keys]`. All layers share it.
    fn seen(&mut self, start: ValueId, queries: usize, keys: usize) -> Made {
        let start = self.value(start)?;
        if let Some(&known) = self.sights.get(&(start, queries, keys)) {
            return Ok(known);
        }
        let first = self.draft.view(start, &[1, 1])?;
        let most = i32::try_from(keys).unwrap_or(i32::MAX);
        let (least, most) = (self.draft.i32(0, first)?, self.draft.i32(most, first)?);
        let first = self.draft.onto("max", first, least)?;
        let first = self.draft.onto("min", first, most)?;
        let last = self.draft.i32s(&[queries, 1], 0..queries)?;
        let last = self.draft.onto("add", last, first)?;
        let all = self.draft.i32s(&[1, keys], 0..keys)?;
        let like = (DType::U8, vec![queries, keys]);
        let seen = self.draft.call("lesserOrEqual", &[all, last], Vec::new(), Vec::new(), like)?;
        self.sights.insert((start, queries, keys), seen);
        Ok(seen)
    }

    /// Keys and values from which nothing that is not seen reaches a result. A score that is no number is replaced where it
    /// is not seen, whatever made it; but a value that is none would stay so when it is multiplied by a share of zero.
    fn without_unseen(
        &mut self,
        k: Operand,
        v: Operand,
        seen: Operand,
        sizes: Sizes,
    ) -> Result<(Operand, Operand), EngineError> {
        let Sizes { batch, queries, keys, kv_heads, depth, depth_v } = sizes;
        let zero = self.draft.f32(0.0, v)?;
        let like = (DType::F32, vec![batch, keys, kv_heads, depth_v]);
        if queries == 1 {
            // One query sees a value or does not.
            let seen = self.draft.view(seen, &[keys, 1, 1])?;
            let v = self.draft.call("where", &[seen, v, zero], Vec::new(), Vec::new(), like)?;
            return Ok((k, v));
        }
        // Among several one sees what another does not. So values become numbers throughout, and a key whose value was
        // none is none itself: then its score is none for those who see it, and replaced for the others.
        let nothing = self.draft.onto("mul", v, zero)?;
        let number = (DType::U8, like.1.clone());
        let number = self.draft.call("equal", &[nothing, nothing], Vec::new(), Vec::new(), number)?;
        let v = self.draft.call("where", &[number, v, zero], Vec::new(), Vec::new(), like)?;
        let options = vec![("axes", Argument::Dims(vec![3])), ("keepDimensions", Argument::Flag(true))];
        let like = (DType::F32, vec![batch, keys, kv_heads, 1]);
        let taint = self.draft.call("reduceSum", &[nothing], Vec::new(), options, like)?;
        let like = (DType::F32, vec![batch, keys, kv_heads, depth]);
        let k = self.draft.call("add", &[k, taint], Vec::new(), Vec::new(), like)?;
        Ok((k, v))
    }

    /// The sum of the biases. Layers that add the same ones share it; it is small beside the scores it is added to.
    fn bias(&mut self, biases: &[ValueId]) -> Result<Option<Operand>, EngineError> {
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
