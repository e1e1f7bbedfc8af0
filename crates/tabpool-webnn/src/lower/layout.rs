//! Operators that move elements, rows that are written, and token positions.

use tabpool_engine::EngineError;
use tabpool_graph::ValueId;
use tabpool_tensor::DType;

use super::Lowering;
use crate::recipe::{Argument, Made, Operand, Source};

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
        self.draft.slice(x, 1, start, length)
    }

    /// Each operand lies as `[outer, size, inner]`, however many dimensions it has.
    pub(super) fn concat(&mut self, inputs: &[ValueId], axis: usize) -> Made {
        let mut operands = Vec::with_capacity(inputs.len());
        for &id in inputs {
            let dims = self.dims(id);
            let (outer, inner) = (dims[..axis].iter().product(), dims[axis + 1..].iter().product());
            let x = self.value(id)?;
            operands.push(self.draft.view(x, &[outer, dims[axis], inner])?);
        }
        self.draft.concat(&operands, 1)
    }

    /// Each row of the target is chosen: one of the new ones where it lies among them, itself elsewhere. WebNN's own scatter
    /// leaves rows outside to the browser, and copies the target as well.
    pub(super) fn write_rows(&mut self, target: ValueId, rows: ValueId, at: ValueId) -> Made {
        let (&[batch, capacity, width], &[_, count, _]) = (self.dims(target), self.dims(rows)) else {
            return Err(self.draft.refuse("has an operand that is not of rank 3".to_owned()));
        };
        let (target, rows, at) = (self.whole(target)?, self.whole(rows)?, self.value(at)?);
        let (inside, nearest) = self.window(at, capacity, count)?;
        let like = (self.draft.dtype(target), vec![batch, capacity, width]);
        let rows = if count == 1 {
            rows
        } else {
            let options = vec![("axis", Argument::Number(1.0))];
            self.draft.call("gather", &[rows, nearest], Vec::new(), options, like.clone())?
        };
        self.draft.call("where", &[inside, rows, target], Vec::new(), Vec::new(), like)
    }

    /// For each of `capacity` rows, whether it is one of `count` that are written from `at` on, as `[capacity, 1]`, and which
    /// of those is nearest to it. All layers that write at one position share it.
    fn window(&mut self, at: Operand, capacity: usize, count: usize) -> Result<(Operand, Operand), EngineError> {
        if let Some(&known) = self.windows.get(&(at, capacity, count)) {
            return Ok(known);
        }
        let start = self.draft.view(at, &[1])?;
        let bound = |size: usize| i32::try_from(size).unwrap_or(i32::MAX);
        // Beyond these all rows are dropped, and differences would overflow.
        let (least, most) = (self.draft.i32(-bound(count), start)?, self.draft.i32(bound(capacity), start)?);
        let start = self.draft.onto("max", start, least)?;
        let start = self.draft.onto("min", start, most)?;
        let positions = self.draft.i32s(&[capacity], 0..capacity)?;
        let offsets = self.draft.onto("sub", positions, start)?;
        let (first, last) = (self.draft.i32(0, offsets)?, self.draft.i32(bound(count) - 1, offsets)?);
        let nearest = self.draft.onto("max", offsets, first)?;
        let nearest = self.draft.onto("min", nearest, last)?;
        let like = (DType::U8, vec![capacity]);
        let inside = self.draft.call("equal", &[offsets, nearest], Vec::new(), Vec::new(), like)?;
        let inside = self.draft.view(inside, &[capacity, 1])?;
        self.windows.insert((at, capacity, count), (inside, nearest));
        Ok((inside, nearest))
    }

    /// `padding + real * (the real tokens so far)`, where `real` is 0 at padding and 1 elsewhere.
    pub(super) fn token_positions(&mut self, ids: ValueId, padding_id: i32) -> Made {
        let ids = self.whole(ids)?;
        let shape = self.draft.shape(ids).to_vec();
        let padding = self.draft.i32(padding_id, ids)?;
        let is_padding = self.draft.call("equal", &[ids, padding], Vec::new(), Vec::new(), (DType::U8, shape))?;
        let is_padding = self.draft.cast(is_padding, DType::I32)?;
        let one = self.draft.i32(1, ids)?;
        let like = (DType::I32, self.draft.shape(ids).to_vec());
        let real = self.draft.call("sub", &[one, is_padding], Vec::new(), Vec::new(), like.clone())?;
        let counted = self.draft.call("cumulativeSum", &[real], vec![Argument::Number(1.0)], Vec::new(), like)?;
        let counted = self.draft.onto("mul", counted, real)?;
        self.draft.onto("add", counted, padding)
    }
}
