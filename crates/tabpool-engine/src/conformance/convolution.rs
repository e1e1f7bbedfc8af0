//! Convolutions: dense, in groups and channel by channel, over images and over sequences.

use tabpool_graph::{Activation, Op};
use tabpool_tensor::DType;

use super::case::{Case, CaseError, Fill, Sketch};
use super::product::FOLLOWING;

/// A convolution of `[batch, channels, height, width]` to `out` channels.
#[derive(Clone, Copy)]
struct Size {
    image: [usize; 4],
    out: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 4],
    dilation: [usize; 2],
    groups: usize,
}

/// A kernel that moves by one, without padding.
const fn plain(image: [usize; 4], out: usize, kernel: [usize; 2]) -> Size {
    Size { image, out, kernel, stride: [1, 1], padding: [0; 4], dilation: [1, 1], groups: 1 }
}

const SIZES: &[Size] = &[
    plain([1, 1, 1, 1], 1, [1, 1]),
    plain([1, 3, 5, 7], 2, [1, 1]),
    plain([2, 33, 5, 7], 17, [1, 1]),
    plain([1, 3, 7, 9], 5, [3, 3]),
    plain([2, 5, 13, 11], 33, [3, 2]),
    Size { padding: [1, 1, 1, 1], ..plain([1, 7, 17, 19], 13, [3, 3]) },
    Size { padding: [1, 1, 1, 1], ..plain([1, 65, 9, 9], 70, [3, 3]) },
    Size { padding: [3, 2, 1, 0], ..plain([2, 3, 5, 7], 3, [3, 4]) },
    Size { stride: [2, 2], padding: [3, 3, 3, 3], ..plain([1, 3, 33, 31], 9, [7, 7]) },
    Size { stride: [2, 3], ..plain([1, 4, 11, 17], 6, [3, 3]) },
    Size { dilation: [2, 3], padding: [2, 3, 2, 3], ..plain([1, 3, 9, 13], 5, [3, 3]) },
    Size { stride: [2, 2], ..plain([1, 5, 9, 7], 3, [1, 1]) },
    // Patches of images, with rows and columns left over.
    Size { stride: [4, 4], ..plain([2, 3, 13, 18], 29, [4, 4]) },
    Size { stride: [2, 3], ..plain([1, 5, 4, 9], 7, [2, 3]) },
    // Sequences.
    plain([1, 9, 1, 50], 17, [1, 3]),
    Size { padding: [0, 1, 0, 1], stride: [1, 2], ..plain([2, 13, 1, 61], 33, [1, 3]) },
    Size { stride: [1, 5], ..plain([1, 1, 1, 400], 19, [1, 10]) },
    // In groups.
    Size { groups: 3, ..plain([1, 6, 7, 5], 9, [3, 3]) },
    Size { groups: 2, padding: [1, 1, 1, 1], stride: [2, 1], ..plain([2, 10, 7, 9], 34, [3, 3]) },
    Size { groups: 4, padding: [0, 16, 0, 15], ..plain([1, 20, 1, 70], 20, [1, 32]) },
    Size { groups: 5, ..plain([1, 15, 5, 7], 5, [2, 2]) },
    // Channel by channel.
    Size { groups: 7, padding: [1, 1, 1, 1], ..plain([2, 7, 9, 33], 7, [3, 3]) },
    Size { groups: 5, padding: [3, 3, 3, 3], ..plain([1, 5, 14, 13], 5, [7, 7]) },
    Size { groups: 3, stride: [2, 2], padding: [1, 0, 2, 3], dilation: [1, 2], ..plain([1, 3, 11, 17], 6, [3, 3]) },
    Size { groups: 6, padding: [0, 15, 0, 15], ..plain([1, 6, 1, 37], 6, [1, 31]) },
    // Padding that is wider than the image, on which a kernel lies without touching anything else.
    Size { padding: [5, 5, 5, 5], ..plain([1, 2, 1, 2], 3, [3, 3]) },
    Size { padding: [4, 4, 4, 4], groups: 2, ..plain([1, 2, 1, 2], 2, [3, 3]) },
];

pub(super) fn cases() -> Result<Vec<Case>, CaseError> {
    let mut all = Vec::new();
    for (i, &size) in SIZES.iter().enumerate() {
        all.push(conv2d(size, true, FOLLOWING[i % 2])?);
        all.push(conv2d(size, false, FOLLOWING[(i + 1) % 2])?);
        all.push(conv2d(size, i % 2 == 0, None)?.optimised()?);
    }
    all.push(computed_kernel()?);
    Ok(all)
}

fn conv2d(size: Size, biased: bool, activation: Option<Activation>) -> Result<Case, CaseError> {
    let Size { image, out, kernel, stride, padding, dilation, groups } = size;
    let followed = activation.map_or("nothing", |a| Op::Unary(a.unary()).name());
    let with = if biased { "with" } else { "without" };
    let mut s = Sketch::new(format!(
        "conv2d {image:?} to {out} by {kernel:?} stride {stride:?} padding {padding:?} dilation {dilation:?} in {groups} \
         groups {with} bias then {followed}"
    ));
    let x = s.input(image, Fill::PLAIN)?;
    let stored = if biased { DType::F16 } else { DType::F32 };
    let channels = image[1] / groups;
    #[expect(clippy::cast_precision_loss, reason = "a bound, not exact to begin with")]
    let bound = 1.0 / ((channels * kernel[0] * kernel[1]) as f32).sqrt();
    let mut operands = vec![x, s.weight_between(stored, [out, channels, kernel[0], kernel[1]], -bound, bound)?];
    if biased {
        operands.push(s.weight_between(DType::F32, [out], -1.0, 1.0)?);
    }
    let y = s.node(Op::Conv2d { stride, padding, dilation, groups, activation }, &operands)?;
    s.finish(&[y], 2e-5)
}

/// A kernel that is no weight of the graph, and a result that is convolved again.
fn computed_kernel() -> Result<Case, CaseError> {
    let mut s = Sketch::new("conv2d with a computed kernel, twice");
    let x = s.input([1, 3, 7, 5], Fill::Uniform(-1.0, 1.0))?;
    let w = s.input([3, 3, 3, 3], Fill::Uniform(-0.5, 0.5))?;
    let w = s.node(Op::Transpose { permutation: vec![1, 0, 3, 2] }, &[w])?;
    let same = Op::Conv2d { stride: [1, 1], padding: [1; 4], dilation: [1, 1], groups: 1, activation: None };
    let y = s.node(same.clone(), &[x, w])?;
    let y = s.node(same, &[y, w])?;
    s.finish(&[y], 2e-5)
}
