// Softmax over the last dimension, an invocation a row: no barrier, and four elements load at once. What software adapters
// do best with, and GPUs where rows are short. Rows are multiples of four long.

struct Params {
    rows: u32,
    n: u32,
    spare0: u32,
    spare1: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let row = folded(group, groups) * 8u + local;
    if (row >= p.rows) { return; }
    let quads = p.n / 4u;
    let start = row * quads;
    var four = x[start];
    for (var i = 1u; i < quads; i++) { four = max(four, x[start + i]); }
    let most = max(max(four.x, four.y), max(four.z, four.w));
    var sum = vec4f(0.0);
    for (var i = 0u; i < quads; i++) {
        let e = exp(x[start + i] - most);
        y[start + i] = e;
        sum += e;
    }
    let factor = 1.0 / (sum.x + sum.y + sum.z + sum.w);
    for (var i = 0u; i < quads; i++) { y[start + i] *= factor; }
}
