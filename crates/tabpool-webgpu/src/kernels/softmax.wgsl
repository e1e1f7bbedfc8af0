// Softmax over the last dimension, a workgroup a row.

struct Params {
    rows: u32,
    n: u32,
    spare0: u32,
    spare1: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let row = folded(group, groups);
    if (row >= p.rows) { return; }
    let start = row * p.n;
    var most = -3.4028234e38;
    for (var i = local; i < p.n; i += 64u) { most = max(most, x[start + i]); }
    most = max_across(local, most);
    var sum = 0.0;
    for (var i = local; i < p.n; i += 64u) {
        let e = exp(x[start + i] - most);
        y[start + i] = e;
        sum += e;
    }
    let factor = 1.0 / sum_across(local, sum);
    for (var i = local; i < p.n; i += 64u) { y[start + i] *= factor; }
}
