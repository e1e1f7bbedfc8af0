// Prelude: the result of a GEMM whose rows are multiples of four long.

@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;

// Finishes four columns of one row and stores them where they exist.
fn finish(row: u32, column: u32, sum: vec4f) {
    if (row >= p.m || column >= p.n) { return; }
    y[(row * p.n + column) / 4u] = activate(sum + bias_quad(column));
}
