// Matrix product of two computed operands: any strides, so either may be transposed, and leading dimensions that
// broadcast. An invocation makes 4 by 4 elements.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batches: u32,
    a_row: u32,
    a_column: u32,
    b_row: u32,
    b_column: u32,
    rank: u32,
    tiles_m: u32,
    tiles_n: u32,
    spare: u32,
    // The leading dimensions of the result, and each operand's strides over them.
    dims: array<vec4u, 2>,
    a_strides: array<vec4u, 2>,
    b_strides: array<vec4u, 2>,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

override HAS_BIAS: bool = false;
override HAS_RESIDUAL: bool = false;

fn store_row(at: u32, column: u32, sum: vec4f, offset: vec4f) {
    var v = activate(sum + offset);
    if (HAS_RESIDUAL) {
        // Columns past the last one repeat it.
        let last = p.n - column - 1u;
        v += vec4f(
            residual[at],
            residual[at + min(1u, last)],
            residual[at + min(2u, last)],
            residual[at + min(3u, last)],
        );
    }
    y[at] = v.x;
    if (column + 1u < p.n) { y[at + 1u] = v.y; }
    if (column + 2u < p.n) { y[at + 2u] = v.z; }
    if (column + 3u < p.n) { y[at + 3u] = v.w; }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let tile = folded(group, groups) * 64u + local;
    let per_batch = p.tiles_m * p.tiles_n;
    let batch = tile / per_batch;
    if (batch >= p.batches) { return; }
    let row = (tile % per_batch) / p.tiles_n * 4u;
    let column = (tile % p.tiles_n) * 4u;
    var a_from = 0u;
    var b_from = 0u;
    var rest = batch;
    for (var i = 0u; i < p.rank; i++) {
        let d = p.rank - 1u - i;
        let size = p.dims[d / 4u][d % 4u];
        let at = rest % size;
        rest /= size;
        a_from += at * p.a_strides[d / 4u][d % 4u];
        b_from += at * p.b_strides[d / 4u][d % 4u];
    }
    let last_row = p.m - 1u;
    let last_column = p.n - 1u;
    var a0 = a_from + row * p.a_row;
    var a1 = a_from + min(row + 1u, last_row) * p.a_row;
    var a2 = a_from + min(row + 2u, last_row) * p.a_row;
    var a3 = a_from + min(row + 3u, last_row) * p.a_row;
    var b0 = b_from + column * p.b_column;
    var b1 = b_from + min(column + 1u, last_column) * p.b_column;
    var b2 = b_from + min(column + 2u, last_column) * p.b_column;
    var b3 = b_from + min(column + 3u, last_column) * p.b_column;
    var s0 = vec4f(0.0);
    var s1 = vec4f(0.0);
    var s2 = vec4f(0.0);
    var s3 = vec4f(0.0);
    for (var k = 0u; k < p.k; k++) {
        let v = vec4f(b[b0], b[b1], b[b2], b[b3]);
        s0 += a[a0] * v;
        s1 += a[a1] * v;
        s2 += a[a2] * v;
        s3 += a[a3] * v;
        a0 += p.a_column;
        a1 += p.a_column;
        a2 += p.a_column;
        a3 += p.a_column;
        b0 += p.b_row;
        b1 += p.b_row;
        b2 += p.b_row;
        b3 += p.b_row;
    }
    var offset = vec4f(0.0);
    if (HAS_BIAS) {
        offset = vec4f(
            bias[column],
            bias[min(column + 1u, last_column)],
            bias[min(column + 2u, last_column)],
            bias[min(column + 3u, last_column)],
        );
    }
    let at = (batch * p.m + row) * p.n + column;
    store_row(at, column, s0, offset);
    if (row + 1u < p.m) { store_row(at + p.n, column, s1, offset); }
    if (row + 2u < p.m) { store_row(at + 2u * p.n, column, s2, offset); }
    if (row + 3u < p.m) { store_row(at + 3u * p.n, column, s3, offset); }
}
