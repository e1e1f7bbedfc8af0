//! Convolutions of one dimension, along time: what sounds and spectrograms go through first.

use tabpool_graph::{Op, ValueId};

use super::{Build, Built};

/// A convolution of `[batch, channels, 1, time]` with a weight that is stored `[outputs, channels, kernel]`; `padding` is
/// what is put before and after.
pub(crate) fn convolve(
    b: &mut Build<'_>,
    name: &str,
    x: ValueId,
    [outputs, kernel]: [usize; 2],
    stride: usize,
    padding: [usize; 2],
    bias: bool,
) -> Built {
    let channels = b.dims(x).get(1).copied().unwrap_or(1);
    let weight = b.weight(&format!("{name}.weight"), &[outputs, channels, kernel])?;
    let bias = if bias { Some(b.weight(&format!("{name}.bias"), &[outputs])?) } else { None };
    convolve_with(b, name, [x, weight], bias, stride, padding, 1)
}

/// The same with a weight that is a value already, and channels in groups.
pub(crate) fn convolve_with(
    b: &mut Build<'_>,
    name: &str,
    [x, weight]: [ValueId; 2],
    bias: Option<ValueId>,
    stride: usize,
    [before, after]: [usize; 2],
    groups: usize,
) -> Built {
    let dims = b.dims(weight);
    let &[outputs, channels, kernel] = &dims[..] else {
        return Err(super::build::malformed(name, "has no weight of three dimensions"));
    };
    let weight = b.reshape(name, weight, &[outputs, channels, 1, kernel])?;
    let mut operands = vec![x, weight];
    operands.extend(bias);
    let padding = [0, before, 0, after];
    let op = Op::Conv2d { stride: [1, stride], padding, dilation: [1; 2], groups, activation: None };
    b.node(name, op, &operands)
}
