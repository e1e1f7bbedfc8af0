//! The largest elements of rows. WebNN finds one; more are found one after another, or all at once by counting, for each
//! element, those that come before it.

use tabpool_graph::ValueId;
use tabpool_tensor::DType;

use super::Lowering;
use crate::recipe::{Argument, Made, Operand};

/// Up to here picking one after another is less work than comparing all with all.
const FEW: usize = 8;
/// The most elements that are picked one after another: each takes some passes over the row.
const MOST_PICKED: usize = 64;
/// The most comparisons of all with all: they lie in memory, at four bytes each.
const MOST_COMPARED: usize = 1 << 20;

impl Lowering<'_> {
    pub(super) fn arg_max(&mut self, x: ValueId) -> Made {
        let x = self.rows(x)?;
        let found = self.position_of_largest(x)?;
        let rows = self.draft.shape(found)[0];
        self.draft.view(found, &[rows])
    }

    /// The largest element's position in each row, as `[rows, 1]`, the first among equals.
    fn position_of_largest(&mut self, x: Operand) -> Made {
        let like = (DType::I32, vec![self.draft.shape(x)[0], 1]);
        let options = vec![("keepDimensions", Argument::Flag(true)), ("outputDataType", Argument::Text("int32"))];
        self.draft.call("argMax", &[x], vec![Argument::Number(1.0)], options, like)
    }

    pub(super) fn top_k(&mut self, x: ValueId, k: usize) -> Made {
        let x = self.rows(x)?;
        let &[rows, width] = self.draft.shape(x) else {
            return Err(self.draft.refuse("has an operand that is not of rank 2".to_owned()));
        };
        let compared = rows.saturating_mul(width).saturating_mul(width);
        let positions = if k > FEW && compared <= MOST_COMPARED {
            self.by_counting(x, k)?
        } else if k <= MOST_PICKED {
            self.by_picking(x, k)?
        } else {
            let reason = format!(
                "asks for {k} of {rows} rows of {width}: this backend finds up to {MOST_PICKED}, or all where rows times \
                 width squared is at most {MOST_COMPARED}"
            );
            return Err(self.draft.refuse(reason));
        };
        let values = self.elements_at(x, positions)?;
        let positions = self.draft.cast(positions, DType::F32)?;
        let (values, positions) = (self.draft.view(values, &[rows, 1, k])?, self.draft.view(positions, &[rows, 1, k])?);
        self.draft.concat(&[values, positions], 1)
    }

    /// The elements of rows at these positions of each, as `[rows, positions]`.
    fn elements_at(&mut self, x: Operand, positions: Operand) -> Made {
        let (&[rows, width], &[_, count]) = (self.draft.shape(x), self.draft.shape(positions)) else {
            return Err(self.draft.refuse("has an operand that is not of rank 2".to_owned()));
        };
        // Elements of rows that lie one after another: browsers gather along one dimension for all others alike.
        let begins = self.draft.i32s(&[rows, 1], (0..rows).map(|row| row * width))?;
        let positions = self.draft.onto("add", positions, begins)?;
        let positions = self.draft.view(positions, &[rows * count])?;
        let flat = self.draft.view(x, &[rows * width])?;
        let options = vec![("axis", Argument::Number(0.0))];
        let like = (DType::F32, vec![rows * count]);
        let found = self.draft.call("gather", &[flat, positions], Vec::new(), options, like)?;
        self.draft.view(found, &[rows, count])
    }

    /// Positions of the `k` largest, as `[rows, k]`, one after another. What was picked counts as minus infinity; where all
    /// that is left is that too, what was picked must not be picked again.
    fn by_picking(&mut self, x: Operand, k: usize) -> Made {
        let shape = self.draft.shape(x).to_vec();
        let truth = |shape: &[usize]| (DType::U8, shape.to_vec());
        let all = self.draft.i32s(&[1, shape[1]], 0..shape[1])?;
        let lowest = self.draft.f32(f32::NEG_INFINITY, x)?;
        let mut picked = vec![self.position_of_largest(x)?];
        let mut left: Option<Operand> = None;
        while picked.len() < k {
            let last = picked[picked.len() - 1];
            let gone = self.draft.call("equal", &[all, last], Vec::new(), Vec::new(), truth(&shape))?;
            let stays = self.draft.unary("logicalNot", gone)?;
            let stays = match left {
                None => stays,
                Some(left) => self.draft.onto("logicalAnd", left, stays)?,
            };
            left = Some(stays);
            let like = (DType::F32, shape.clone());
            let rest = self.draft.call("where", &[stays, x, lowest], Vec::new(), Vec::new(), like)?;
            let largest = self.position_of_largest(rest)?;
            let largest = self.elements_at(rest, largest)?;
            let equal = self.draft.call("equal", &[x, largest], Vec::new(), Vec::new(), truth(&shape))?;
            let candidates = self.draft.onto("logicalAnd", equal, stays)?;
            picked.push(self.position_of_largest(candidates)?);
        }
        self.draft.concat(&picked, 1)
    }

    /// The same for any `k`: an element's place is how many are larger, or equal and before it; what is `n`th is where the
    /// place is `n`.
    fn by_counting(&mut self, x: Operand, k: usize) -> Made {
        let &[rows, width] = self.draft.shape(x) else {
            return Err(self.draft.refuse("has an operand that is not of rank 2".to_owned()));
        };
        let (own, others) = (self.draft.view(x, &[rows, width, 1])?, self.draft.view(x, &[rows, 1, width])?);
        let pairs = (DType::U8, vec![rows, width, width]);
        let larger = self.draft.call("greater", &[others, own], Vec::new(), Vec::new(), pairs.clone())?;
        let equal = self.draft.call("equal", &[others, own], Vec::new(), Vec::new(), pairs)?;
        let before = (0..width).flat_map(|own| (0..width).map(move |other| other < own));
        let before = self.draft.truths(&[1, width, width], before)?;
        let equal = self.draft.onto("logicalAnd", equal, before)?;
        let ahead = self.draft.onto("logicalOr", larger, equal)?;
        let ahead = self.draft.cast(ahead, DType::I32)?;
        let options = vec![("axes", Argument::Dims(vec![2])), ("keepDimensions", Argument::Flag(false))];
        let place = self.draft.call("reduceSum", &[ahead], Vec::new(), options, (DType::I32, vec![rows, width]))?;
        let place = self.draft.view(place, &[rows, 1, width])?;
        let wanted = self.draft.i32s(&[1, k, 1], 0..k)?;
        let here =
            self.draft.call("equal", &[place, wanted], Vec::new(), Vec::new(), (DType::U8, vec![rows, k, width]))?;
        let here = self.draft.view(here, &[rows * k, width])?;
        let found = self.position_of_largest(here)?;
        self.draft.view(found, &[rows, k])
    }
}
