//! Convolutions, by their definition.

use tabpool_graph::Activation;
use tabpool_tensor::Shape;

use super::{Array, elementwise, round};

/// How a kernel moves; see `Op::Conv2d`.
pub(super) struct Moves {
    pub(super) stride: [usize; 2],
    pub(super) padding: [usize; 4],
    pub(super) dilation: [usize; 2],
    pub(super) groups: usize,
}

pub(super) fn conv2d(x: &[&Array], moves: &Moves, activation: Option<Activation>, shape: &Shape) -> Vec<f32> {
    let (image, kernel, bias) = (x[0], x[1], x.get(2));
    let (channels, height, width) = (image.shape[1], image.shape[2], image.shape[3]);
    let (kernel_channels, kernel_height, kernel_width) = (kernel.shape[1], kernel.shape[2], kernel.shape[3]);
    // What lies under an element of the kernel, if that is inside the image.
    let under = |at: usize, d: usize, tap: usize, size: usize| {
        (at * moves.stride[d] + tap * moves.dilation[d]).checked_sub(moves.padding[d]).filter(|&i| i < size)
    };
    let one = |b: usize, o: usize, row: usize, column: usize| {
        let first = o / (shape[1] / moves.groups) * kernel_channels;
        let mut sum = bias.map_or(0.0, |bias| f64::from(bias.floats()[o]));
        for c in 0..kernel_channels {
            for ky in 0..kernel_height {
                for kx in 0..kernel_width {
                    let (Some(y), Some(x)) = (under(row, 0, ky, height), under(column, 1, kx, width)) else { continue };
                    let pixel = image.floats()[((b * channels + first + c) * height + y) * width + x];
                    let factor = kernel.floats()[((o * kernel_channels + c) * kernel_height + ky) * kernel_width + kx];
                    sum += f64::from(pixel) * f64::from(factor);
                }
            }
        }
        round(activation.map_or(sum, |a| elementwise::unary(a.unary(), sum)))
    };
    let own = shape.strides();
    let at = |flat: usize, d: usize| flat / own[d] % shape[d];
    (0..shape.elements()).map(|flat| one(at(flat, 0), at(flat, 1), at(flat, 2), at(flat, 3))).collect()
}
