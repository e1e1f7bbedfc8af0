//! Launches `binary.wgsl`.

use tabpool_graph::Binary;

use super::{GRID, Groups, Kernel, Launch, Variant, word, words8};
use crate::strides::Joined;

static KERNEL: Kernel = Kernel { name: "binary", parts: &[GRID, include_str!("binary.wgsl")], reads: 2 };

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
    let count = over.elements();
    let mut params = vec![word(count), word(over.dims.len()), 0, 0];
    params.extend(words8(&over.dims));
    params.extend(words8(&over.strides[0]));
    params.extend(words8(&over.strides[1]));
    Launch {
        variant: Variant::new(&KERNEL, &[("OPERATION", function), ("INTEGER", u32::from(integer))]),
        params,
        groups: Groups::of_64(count),
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    let each = |integer| (0..6).map(move |op| Variant::new(&KERNEL, &[("OPERATION", op), ("INTEGER", integer)]));
    each(0).chain(each(1)).collect()
}
