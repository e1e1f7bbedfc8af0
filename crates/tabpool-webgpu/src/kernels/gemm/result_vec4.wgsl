// Prelude: the result of a GEMM whose rows are multiples of four long.

@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;

// Stores four columns of one row where they exist.
fn store(row: u32, column: u32, v: vec4f) {
    if (row >= p.m || column >= p.n) { return; }
    y[(row * p.n + column) / 4u] = v;
}

// Applies the function to what this invocation stored there.
fn refine(row: u32, column: u32) {
    if (row >= p.m || column >= p.n) { return; }
    let at = (row * p.n + column) / 4u;
    y[at] = activate(y[at]);
}

// Finishes four columns of one row and stores them where they exist.
fn finish(row: u32, column: u32, sum: vec4f) { store(row, column, activate(sum + bias_quad(column))); }
