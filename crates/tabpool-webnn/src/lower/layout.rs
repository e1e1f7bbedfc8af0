//! Operators that move elements, and token positions.

use tabpool_graph::ValueId;
use tabpool_tensor::DType;

use super::Lowering;
use crate::recipe::{Argument, Made, Source};

impl Lowering<'_> {
    /// Rows of a table. WebNN reads negative indices from the end and leaves those past it to the browser, so indices are
    /// brought into the table first.
    pub(super) fn gather(&mut self, table: ValueId, indices: ValueId) -> Made {
        let rows = self.dims(table).first().copied().unwrap_or(1);
        let width = self.dims(table)[1..].iter().product();
        let count = self.dims(indices).iter().product();
        let (table, indices) = (self.table(table, &[rows, width])?, self.value(indices)?);
        let indices = self.draft.view(indices, &[count])?;
        let last = i32::try_from(rows - 1).unwrap_or(i32::MAX);
        let (first, last) = (self.draft.i32(0, indices)?, self.draft.i32(last, indices)?);
        let indices = self.draft.onto("max", indices, first)?;
        let indices = self.draft.onto("min", indices, last)?;
        let options = vec![("axis", Argument::Number(0.0))];
        self.draft.call("gather", &[table, indices], Vec::new(), options, (DType::F32, vec![count, width]))
    }

    /// The operand of a table. A weight lies as rows from the start: a view would copy it in every run.
    fn table(&mut self, id: ValueId, shape: &[usize]) -> Made {
        let known = self.values.get(&id).copied();
        match (known, self.tables.get(&id)) {
            (None, Some(&position)) => {
                let made = self.draft.leaf(Source::Table(position), DType::F32, shape)?;
                self.values.insert(id, made);
                Ok(made)
            }
            _ => {
                let table = self.value(id)?;
                self.draft.view(table, shape)
            }
        }
    }

    pub(super) fn slice(&mut self, x: ValueId, axis: usize, start: usize, length: usize) -> Made {
        let dims = self.dims(x);
        let (size, inner) = (dims[axis], dims[axis + 1..].iter().product());
        let outer = dims[..axis].iter().product();
        let x = self.value(x)?;
        if length == size {
            return Ok(x);
        }
        let x = self.draft.view(x, &[outer, size, inner])?;
        let (starts, sizes) = (vec![0, start, 0], vec![outer, length, inner]);
        let like = (self.draft.dtype(x), sizes.clone());
        self.draft.call("slice", &[x], vec![Argument::Dims(starts), Argument::Dims(sizes)], Vec::new(), like)
    }

    /// `padding + real * (the real tokens so far)`, where `real` is 0 at padding and 1 elsewhere.
    pub(super) fn token_positions(&mut self, ids: ValueId, padding_id: i32) -> Made {
        let ids = self.whole(ids)?;
        let shape = self.draft.shape(ids).to_vec();
        let padding = self.draft.i32(padding_id, ids)?;
        let is_padding = self.draft.call("equal", &[ids, padding], Vec::new(), Vec::new(), (DType::U8, shape))?;
        let is_padding = self.plain_cast(is_padding, DType::I32, "int32")?;
        let one = self.draft.i32(1, ids)?;
        let like = (DType::I32, self.draft.shape(ids).to_vec());
        let real = self.draft.call("sub", &[one, is_padding], Vec::new(), Vec::new(), like.clone())?;
        let counted = self.draft.call("cumulativeSum", &[real], vec![Argument::Number(1.0)], Vec::new(), like)?;
        let counted = self.draft.onto("mul", counted, real)?;
        self.draft.onto("add", counted, padding)
    }
}
