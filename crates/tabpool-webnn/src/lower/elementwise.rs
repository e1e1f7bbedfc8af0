//! Functions of one and of two elements, and casts.

use tabpool_graph::{Binary, Unary, ValueId};
use tabpool_tensor::{DType, Shape};

use super::Lowering;
use crate::recipe::{Argument, Made, Operand};

/// The most dimensions that elementwise operators take everywhere; more are laid out as fewer.
const MOST_DIMS: usize = 5;

impl Lowering<'_> {
    pub(super) fn unary(&mut self, op: Unary, x: Operand) -> Made {
        let x = self.few_dims(x)?;
        match op {
            Unary::Gelu if self.draft.limits().has("gelu") => self.draft.unary("gelu", x),
            Unary::Gelu => self.gelu_by_erf(x),
            Unary::GeluTanh => self.gelu_by_tanh(x),
            Unary::Relu => self.draft.unary("relu", x),
            Unary::Tanh => self.draft.unary("tanh", x),
            Unary::Sigmoid => self.draft.unary("sigmoid", x),
            Unary::Silu => {
                let share = self.draft.unary("sigmoid", x)?;
                self.draft.onto("mul", x, share)
            }
            Unary::Erf => self.draft.unary("erf", x),
            Unary::Exp => self.draft.unary("exp", x),
            Unary::Sqrt => self.draft.unary("sqrt", x),
            Unary::Neg => self.draft.unary("neg", x),
            Unary::Abs => self.draft.unary("abs", x),
            Unary::QuickGelu => {
                let share = self.scaled(x, 1.702)?;
                let share = self.draft.unary("sigmoid", share)?;
                self.draft.onto("mul", x, share)
            }
            Unary::Log => self.draft.unary("log", x),
            Unary::Reciprocal => self.draft.unary("reciprocal", x),
            other => Err(self.draft.refuse(format!("is a function this backend does not know: {other:?}"))),
        }
    }

    /// An elementwise function does not care in which shape its operand lies.
    fn few_dims(&mut self, x: Operand) -> Made {
        let shape = self.draft.shape(x);
        if shape.len() <= MOST_DIMS {
            return Ok(x);
        }
        let elements = shape.iter().product();
        self.draft.view(x, &[elements])
    }

    fn scaled(&mut self, x: Operand, factor: f32) -> Made {
        let factor = self.draft.f32(factor, x)?;
        self.draft.onto("mul", x, factor)
    }

    fn plus_one(&mut self, x: Operand) -> Made {
        let one = self.draft.f32(1.0, x)?;
        self.draft.onto("add", x, one)
    }

    fn gelu_by_erf(&mut self, x: Operand) -> Made {
        let share = self.scaled(x, std::f32::consts::FRAC_1_SQRT_2)?;
        let share = self.draft.unary("erf", share)?;
        let share = self.plus_one(share)?;
        let half = self.scaled(x, 0.5)?;
        self.draft.onto("mul", half, share)
    }

    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * x * (1 + 0.044715 * x * x)))`.
    fn gelu_by_tanh(&mut self, x: Operand) -> Made {
        let square = self.draft.onto("mul", x, x)?;
        let bent = self.scaled(square, 0.044_715)?;
        let bent = self.plus_one(bent)?;
        let inner = self.scaled(x, 0.797_884_6)?;
        let inner = self.draft.onto("mul", inner, bent)?;
        let share = self.draft.unary("tanh", inner)?;
        let share = self.plus_one(share)?;
        let half = self.scaled(x, 0.5)?;
        self.draft.onto("mul", half, share)
    }

    pub(super) fn binary(&mut self, op: Binary, a: ValueId, b: ValueId) -> Made {
        let method = match op {
            Binary::Add => "add",
            Binary::Sub => "sub",
            Binary::Mul => "mul",
            Binary::Div => "div",
            Binary::Max => "max",
            Binary::Min => "min",
            other => return Err(self.draft.refuse(format!("is a function this backend does not know: {other:?}"))),
        };
        if self.dims(a) == self.dims(b) {
            // Where shapes are equal, the second operand comes to where the first one lies.
            let x = self.value(a)?;
            let x = self.few_dims(x)?;
            let (shape, y) = (self.draft.shape(x).to_vec(), self.value(b)?);
            let y = self.draft.view(y, &shape)?;
            return self.draft.onto(method, x, y);
        }
        let (mut left, mut right) = (self.dims(a).to_vec(), self.dims(b).to_vec());
        if left.len().max(right.len()) > MOST_DIMS {
            (left, right) = merged(&left, &right);
        }
        let (x, y) = (self.value(a)?, self.value(b)?);
        let (x, y) = (self.draft.view(x, &left)?, self.draft.view(y, &right)?);
        if left.len() > MOST_DIMS {
            // No two dimensions can be made one: both operands are written out.
            let full: Vec<_> = left.iter().zip(&right).map(|(&x, &y)| x.max(y)).collect();
            let (x, y) = (self.expanded(x, &full)?, self.expanded(y, &full)?);
            return self.draft.onto(method, x, y);
        }
        let shape = Shape::from(&left[..]).broadcast(&Shape::from(&right[..]));
        let shape = shape.ok_or_else(|| self.draft.refuse("has operands that do not broadcast".to_owned()))?;
        let like = (self.draft.dtype(x), shape.dims().to_vec());
        self.draft.call(method, &[x, y], Vec::new(), Vec::new(), like)
    }

    /// Every element of a broadcast, in one dimension.
    fn expanded(&mut self, x: Operand, shape: &[usize]) -> Made {
        let like = (self.draft.dtype(x), shape.to_vec());
        let x = self.draft.call("expand", &[x], vec![Argument::Dims(shape.to_vec())], Vec::new(), like)?;
        self.draft.view(x, &[shape.iter().product()])
    }

    pub(super) fn cast(&mut self, id: ValueId, to: DType) -> Made {
        let from = self.graph.value(id).dtype;
        let x = self.value(id)?;
        match (from, to) {
            (from, to) if from == to => Ok(x),
            (_, DType::F32) => self.draft.cast(x, DType::F32),
            _ => self.saturating_cast(x),
        }
    }

    /// To `i32`, where what is no number becomes 0 and what is too large the largest: WebNN leaves both to the browser.
    fn saturating_cast(&mut self, x: Operand) -> Made {
        let x = self.few_dims(x)?;
        let shape = self.draft.shape(x).to_vec();
        let number = self.draft.call("equal", &[x, x], Vec::new(), Vec::new(), (DType::U8, shape.clone()))?;
        let zero = self.draft.f32(0.0, x)?;
        let like = |dtype| (dtype, shape.clone());
        let x = self.draft.call("where", &[number, x, zero], Vec::new(), Vec::new(), like(DType::F32))?;
        // The largest `f32` below 2^31, and the smallest number itself.
        let (most, least) = (self.draft.f32(2_147_483_520.0, x)?, self.draft.f32(-2_147_483_648.0, x)?);
        let within = self.draft.onto("min", x, most)?;
        let within = self.draft.onto("max", within, least)?;
        let cast = self.draft.cast(within, DType::I32)?;
        let limit = self.draft.f32(2_147_483_648.0, x)?;
        let over = self.draft.call("greaterOrEqual", &[x, limit], Vec::new(), Vec::new(), like(DType::U8))?;
        let largest = self.draft.i32(i32::MAX, cast)?;
        self.draft.call("where", &[over, largest, cast], Vec::new(), Vec::new(), like(DType::I32))
    }
}

/// Two shapes that broadcast, with neighbouring dimensions made one where both operands treat them alike.
pub(super) fn merged(a: &[usize], b: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |i| dims[i]);
    let mut result: (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    let mut last = None;
    for (x, y) in (0..rank).map(|i| (at(a, i), at(b, i))) {
        if (x, y) == (1, 1) {
            continue;
        }
        let kind = (x == y, x == 1);
        match (result.0.last_mut(), result.1.last_mut()) {
            (Some(left), Some(right)) if last == Some(kind) => {
                *left *= x;
                *right *= y;
            }
            _ => {
                result.0.push(x);
                result.1.push(y);
            }
        }
        last = Some(kind);
    }
    result
}
