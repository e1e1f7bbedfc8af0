// Prelude: as `result_channels_vec4.wgsl` for channels of any length.

@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

// Whether a result gets something after its sum is stored.
fn refines() -> bool { return HAS_BIAS || FUNCTION != 0u; }

fn bias_quad(column: u32) -> vec4f { return vec4f(0.0); }

// Where a column of a row lies; past the last one, where that does.
fn place(row: u32, column: u32) -> u32 {
    let at = p.first_column + min(column, p.n - 1u);
    return (at / p.length * p.channels + p.first_row + row) * p.length + at % p.length;
}

fn store(row: u32, column: u32, v: vec4f) {
    if (row >= p.m || column >= p.n) { return; }
    y[place(row, column)] = v.x;
    if (column + 1u < p.n) { y[place(row, column + 1u)] = v.y; }
    if (column + 2u < p.n) { y[place(row, column + 2u)] = v.z; }
    if (column + 3u < p.n) { y[place(row, column + 3u)] = v.w; }
}

fn refined(row: u32, v: vec4f) -> vec4f {
    var sum = v;
    if (HAS_BIAS) { sum += bias[p.first_row + row]; }
    return activate(sum);
}

fn refine(row: u32, column: u32) {
    if (row >= p.m || column >= p.n) { return; }
    let v = vec4f(
        y[place(row, column)],
        y[place(row, column + 1u)],
        y[place(row, column + 2u)],
        y[place(row, column + 3u)],
    );
    store(row, column, refined(row, v));
}

fn finish(row: u32, column: u32, sum: vec4f) { store(row, column, refined(min(row, p.m - 1u), sum)); }
