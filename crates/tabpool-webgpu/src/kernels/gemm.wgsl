// Prelude of every GEMM: y = activation(a @ b + bias). `b` lies in panels of 16 columns, each [k up to a multiple of 4, 16]
// (16 for integers), with zeros where it was padded, so that an invocation walks through memory whatever tile it makes.
// Another prelude binds it and says what its numbers are.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    // From one panel to the next in fours.
    panel: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> bias: array<f32>;

override HAS_BIAS: bool = false;

// Where four columns of the first row of `b` are. Columns past the last panel repeat it.
fn b_start(column: u32) -> u32 {
    let last = (p.n + 15u) / 16u - 1u;
    return min(column / 16u, last) * p.panel + column % 16u / 4u;
}

fn bias_quad(column: u32) -> vec4f {
    if (!HAS_BIAS) { return vec4f(0.0); }
    let last = p.n - 1u;
    return vec4f(
        bias[min(column, last)],
        bias[min(column + 1u, last)],
        bias[min(column + 2u, last)],
        bias[min(column + 3u, last)],
    );
}
