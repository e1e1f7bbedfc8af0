//! Launches `binary.wgsl`, four elements at once where the operands lie so.

use tabpool_graph::Binary;

use super::{GRID, Groups, Kernel, Launch, Variant, word, words8};
use crate::strides::Joined;

const BINARY: &str = include_str!("binary.wgsl");

static SCALAR: Kernel = Kernel { name: "binary", parts: &[GRID, include_str!("binary_scalar.wgsl"), BINARY], reads: 2 };
static VEC4: Kernel =
    Kernel { name: "binary_vec4", parts: &[GRID, include_str!("binary_vec4.wgsl"), BINARY], reads: 2 };

/// The override's value for a function, `None` for one this crate does not know.
pub(crate) fn code(op: Binary) -> Option<u32> {
    Some(match op {
        Binary::Add => 0,
        Binary::Sub => 1,
        Binary::Mul => 2,
        Binary::Div => 3,
        Binary::Max => 4,
        Binary::Min => 5,
        _ => return None,
    })
}

/// `function` as [`code`] gives it; `over` are the result's dimensions with both operands' strides.
pub(crate) fn launch(function: u32, integer: bool, over: &Joined) -> Launch {
    let quads = over.quads();
    let (kernel, over) = quads.as_ref().map_or((&SCALAR, over), |quads| (&VEC4, quads));
    let count = over.elements();
    let mut params = vec![word(count), word(over.dims.len()), 0, 0];
    params.extend(words8(&over.dims));
    params.extend(words8(&over.strides[0]));
    params.extend(words8(&over.strides[1]));
    let mut constants = vec![("OPERATION", function), ("INTEGER", u32::from(integer))];
    if quads.is_some() {
        let repeats = |operand: usize| u32::from(over.strides[operand].last() == Some(&0));
        constants.extend([("A_REPEATS", repeats(0)), ("B_REPEATS", repeats(1))]);
    }
    Launch { variant: Variant::new(kernel, &constants), params, groups: Groups::of_64(count) }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    let functions = || (0..2).flat_map(|integer| (0..6).map(move |op| [("OPERATION", op), ("INTEGER", integer)]));
    let repeats = [(0, 0), (0, 1), (1, 0), (1, 1)];
    let vec4 = functions().flat_map(|f| {
        repeats.map(|(a, b)| Variant::new(&VEC4, &[&f[..], &[("A_REPEATS", a), ("B_REPEATS", b)]].concat()))
    });
    functions().map(|f| Variant::new(&SCALAR, &f)).chain(vec4).collect()
}
