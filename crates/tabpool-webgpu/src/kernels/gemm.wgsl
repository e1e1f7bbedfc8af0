// Prelude of every GEMM: y = activation(a @ b + bias), with b stored row-major [k up to a multiple of 4, n up to a
// multiple of 8] and zero where it was padded. `row_quad` comes from `rows_vec4.wgsl` or `rows_scalar.wgsl`.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    // The length of b's rows in vec4s.
    b_quads: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read> b: array<vec4f>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

override HAS_BIAS: bool = false;

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

// Finishes four columns of one row and stores those that exist.
fn store_quad(row: u32, column: u32, sum: vec4f, offset: vec4f) {
    if (row >= p.m || column >= p.n) { return; }
    let v = activate(sum + offset);
    let at = row * p.n + column;
    y[at] = v.x;
    if (column + 1u < p.n) { y[at + 1u] = v.y; }
    if (column + 2u < p.n) { y[at + 2u] = v.z; }
    if (column + 3u < p.n) { y[at + 3u] = v.w; }
}
