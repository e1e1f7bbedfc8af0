// Prelude: the result of a GEMM with rows of any length.

@group(0) @binding(4) var<storage, read_write> y: array<f32>;

// Stores four columns of one row, those that exist.
fn store(row: u32, column: u32, v: vec4f) {
    if (row >= p.m || column >= p.n) { return; }
    let at = row * p.n + column;
    y[at] = v.x;
    if (column + 1u < p.n) { y[at + 1u] = v.y; }
    if (column + 2u < p.n) { y[at + 2u] = v.z; }
    if (column + 3u < p.n) { y[at + 3u] = v.w; }
}

// Applies the function to what this invocation stored there. Columns past the last one repeat it.
fn refine(row: u32, column: u32) {
    if (row >= p.m || column >= p.n) { return; }
    let at = row * p.n + column;
    let last = p.n - column - 1u;
    let v = vec4f(y[at], y[at + min(1u, last)], y[at + min(2u, last)], y[at + min(3u, last)]);
    store(row, column, activate(v));
}

// Finishes four columns of one row and stores those that exist.
fn finish(row: u32, column: u32, sum: vec4f) { store(row, column, activate(sum + bias_quad(column))); }
