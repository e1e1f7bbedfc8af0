//! Launches `strided.wgsl`.

use super::{GRID, Groups, Kernel, Launch, Variant, word, words8};
use crate::strides::Joined;

static KERNEL: Kernel = Kernel { name: "strided", parts: &[GRID, include_str!("strided.wgsl")], reads: 1 };

/// `over` are the result's dimensions with the operand's strides; reading begins at element `start`.
pub(crate) fn launch(start: usize, over: &Joined) -> Launch {
    let count = over.elements();
    let mut params = vec![word(count), word(over.dims.len()), word(start), 0];
    params.extend(words8(&over.dims));
    params.extend(words8(&over.strides[0]));
    Launch { variant: Variant::new(&KERNEL, &[]), params, groups: Groups::of_64(count) }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    vec![Variant::new(&KERNEL, &[])]
}
