// Prelude: the result of a GEMM with rows of any length.

@group(0) @binding(4) var<storage, read_write> y: array<f32>;

// Finishes four columns of one row and stores those that exist.
fn finish(row: u32, column: u32, sum: vec4f) {
    if (row >= p.m || column >= p.n) { return; }
    let v = activate(sum + bias_quad(column));
    let at = row * p.n + column;
    y[at] = v.x;
    if (column + 1u < p.n) { y[at + 1u] = v.y; }
    if (column + 2u < p.n) { y[at + 2u] = v.z; }
    if (column + 3u < p.n) { y[at + 3u] = v.w; }
}
