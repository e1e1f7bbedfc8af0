//! The numbers by which `activation.wgsl` knows elementwise functions.

use tabpool_graph::{Activation, Unary};

/// The override's value for a function, `None` for one this crate does not know.
pub(crate) fn code(op: Unary) -> Option<u32> {
    Some(match op {
        Unary::Gelu => 1,
        Unary::GeluTanh => 2,
        Unary::Relu => 3,
        Unary::Tanh => 4,
        Unary::Sigmoid => 5,
        Unary::Silu => 6,
        Unary::Erf => 7,
        Unary::Exp => 8,
        Unary::Sqrt => 9,
        Unary::Neg => 10,
        Unary::Abs => 11,
        Unary::QuickGelu => 12,
        Unary::Log => 13,
        Unary::Reciprocal => 14,
        _ => return None,
    })
}

/// The override's value for what follows a linear node; 0 for nothing, `None` for a function this crate does not know.
pub(crate) fn code_after(activation: Option<Activation>) -> Option<u32> {
    activation.map_or(Some(0), |a| code(a.unary()))
}
