//! Rotary positions, taken apart: WebNN has no operator for them.

use tabpool_engine::EngineError;
use tabpool_graph::ValueId;

use super::Lowering;
use crate::recipe::{Made, Operand};

impl Lowering<'_> {
    /// `x * (cos, cos) + (b, a) * (-sin, sin)` for the halves `(a, b)` of what is rotated; the rest is put back beside it.
    pub(super) fn rope(&mut self, inputs: &[ValueId], heads: usize, rotary: usize) -> Made {
        let &[batch, sequence, width] = self.dims(inputs[0]) else {
            return Err(self.draft.refuse("has an operand that is not of rank 3".to_owned()));
        };
        let (depth, half) = (width / heads, rotary / 2);
        let (cos, sin) = self.tables_of_both_halves(inputs[1], inputs[2])?;
        let x = self.value(inputs[0])?;
        let x = self.draft.view(x, &[batch, sequence, heads, depth])?;
        let (a, b) = (self.draft.slice(x, 3, 0, half)?, self.draft.slice(x, 3, half, half)?);
        let turned = self.draft.concat(&[b, a], 3)?;
        let rotated = self.draft.slice(x, 3, 0, rotary)?;
        let rotated = self.draft.onto("mul", rotated, cos)?;
        let turned = self.draft.onto("mul", turned, sin)?;
        let rotated = self.draft.onto("add", rotated, turned)?;
        if rotary == depth {
            return Ok(rotated);
        }
        let rest = self.draft.slice(x, 3, rotary, depth - rotary)?;
        self.draft.concat(&[rotated, rest], 3)
    }

    /// `(cos, cos)` and `(-sin, sin)` as `[batch, sequence, 1, rotary]`. All layers share them.
    fn tables_of_both_halves(&mut self, cos: ValueId, sin: ValueId) -> Result<(Operand, Operand), EngineError> {
        if let Some(&known) = self.rotations.get(&(cos, sin)) {
            return Ok(known);
        }
        let &[batch, sequence, half] = self.dims(cos) else {
            return Err(self.draft.refuse("has a table that is not of rank 3".to_owned()));
        };
        let mut tables = [cos, sin];
        let mut lying = Vec::with_capacity(2);
        for id in &mut tables {
            let table = self.value(*id)?;
            lying.push(self.draft.view(table, &[batch, sequence, 1, half])?);
        }
        let negative = self.draft.unary("neg", lying[1])?;
        let made = (self.draft.concat(&[lying[0], lying[0]], 3)?, self.draft.concat(&[negative, lying[1]], 3)?);
        self.rotations.insert((cos, sin), made);
        Ok(made)
    }
}
