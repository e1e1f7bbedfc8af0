// Prelude: the result of a GEMM with rows of any length.

@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

// Stores four columns of one row, those that exist.
fn store(row: u32, column: u32, v: vec4f) {
    if (row >= p.m || column >= p.n) { return; }
    let at = place(row, column);
    y[at] = v.x;
    if (column + 1u < p.n) { y[at + 1u] = v.y; }
    if (column + 2u < p.n) { y[at + 2u] = v.z; }
    if (column + 3u < p.n) { y[at + 3u] = v.w; }
}

// What follows the bias. Columns past the last one repeat it.
fn refined(at: u32, last: u32, v: vec4f) -> vec4f {
    var sum = activate(v);
    if (HAS_RESIDUAL) {
        sum += vec4f(
            residual[at],
            residual[at + min(1u, last)],
            residual[at + min(2u, last)],
            residual[at + min(3u, last)],
        );
    }
    return sum;
}

// Applies to what this invocation stored there what follows the bias. Columns past the last one repeat it.
fn refine(row: u32, column: u32) {
    if (row >= p.m || column >= p.n) { return; }
    let at = place(row, column);
    let last = p.n - column - 1u;
    let v = vec4f(y[at], y[at + min(1u, last)], y[at + min(2u, last)], y[at + min(3u, last)]);
    store(row, column, refined(at, last, v));
}

// Finishes four columns of one row and stores those that exist.
fn finish(row: u32, column: u32, sum: vec4f) {
    if (row >= p.m || column >= p.n) { return; }
    store(row, column, refined(place(row, column), p.n - column - 1u, sum + bias_quad(column)));
}
