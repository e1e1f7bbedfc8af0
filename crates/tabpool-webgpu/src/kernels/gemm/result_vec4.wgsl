// Prelude: the result of a GEMM whose rows are multiples of four long.

@group(0) @binding(4) var<storage, read> residual: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4f>;

// Stores four columns of one row where they exist.
fn store(row: u32, column: u32, v: vec4f) {
    if (row >= p.m || column >= p.n) { return; }
    y[place(row, column) / 4u] = v;
}

fn refined(at: u32, v: vec4f) -> vec4f {
    var sum = activate(v);
    if (HAS_RESIDUAL) { sum += residual[at]; }
    return sum;
}

// Applies to what this invocation stored there what follows the bias.
fn refine(row: u32, column: u32) {
    if (row >= p.m || column >= p.n) { return; }
    let at = place(row, column) / 4u;
    y[at] = refined(at, y[at]);
}

// Finishes four columns of one row and stores them where they exist.
fn finish(row: u32, column: u32, sum: vec4f) {
    if (row >= p.m || column >= p.n) { return; }
    let at = place(row, column) / 4u;
    y[at] = refined(at, sum + bias_quad(column));
}
