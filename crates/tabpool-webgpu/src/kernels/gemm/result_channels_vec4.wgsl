// Prelude: the result of a GEMM that is a convolution: rows are channels, columns are places on images one after another. A
// channel of an image is a multiple of four long, so that four columns never belong to two.

@group(0) @binding(4) var<storage, read> residual: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4f>;

// Whether a result gets something after its sum is stored.
fn refines() -> bool { return HAS_BIAS || FUNCTION != 0u; }

fn bias_quad(column: u32) -> vec4f { return vec4f(0.0); }

// Where four columns of a row lie.
fn place(row: u32, column: u32) -> u32 {
    let at = p.first_column + column;
    return ((at / p.length * p.channels + p.first_row + row) * p.length + at % p.length) / 4u;
}

fn store(row: u32, column: u32, v: vec4f) {
    if (row >= p.m || column >= p.n) { return; }
    y[place(row, column)] = v;
}

fn refined(row: u32, v: vec4f) -> vec4f {
    var sum = v;
    if (HAS_BIAS) { sum += bias[p.first_row + row]; }
    return activate(sum);
}

fn refine(row: u32, column: u32) {
    if (row >= p.m || column >= p.n) { return; }
    let at = place(row, column);
    y[at] = refined(row, y[at]);
}

fn finish(row: u32, column: u32, sum: vec4f) { store(row, column, refined(min(row, p.m - 1u), sum)); }
