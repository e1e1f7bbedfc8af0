// Prelude of every GEMM: y = activation(a @ b + bias) + residual. `b` lies in panels of 16 columns, each
// [k up to a multiple of 4, 16] (16 for integers), with zeros where it was padded, so that an invocation walks through memory
// whatever tile it makes. Other preludes bind it and say what its numbers are, and where the result goes.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    // From one panel to the next in fours.
    panel: u32,
    // Where this product begins in a larger one: the first row of `a` and of the result, which convolutions have, and the
    // first column of the result.
    first_row: u32,
    first_column: u32,
    // How long a row of the whole result is; for convolutions how many places an image has, and how many channels.
    length: u32,
    channels: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> bias: array<f32>;

override HAS_BIAS: bool = false;
override HAS_RESIDUAL: bool = false;

// Where four columns of the first row of `b` are. Columns past the last panel repeat it.
fn b_start(column: u32) -> u32 {
    let last = (p.n + 15u) / 16u - 1u;
    return min(column / 16u, last) * p.panel + column % 16u / 4u;
}
