// Division of each row by the root of its mean square, and scaling; a workgroup a row.

struct Params {
    rows: u32,
    n: u32,
    epsilon: f32,
    spare: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> scale: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let row = folded(group, groups);
    if (row >= p.rows) { return; }
    let start = row * p.n;
    var squares = 0.0;
    for (var i = local; i < p.n; i += 64u) { squares += x[start + i] * x[start + i]; }
    let mean = sum_across(local, squares) / f32(p.n);
    let factor = 1.0 / sqrt(mean + p.epsilon);
    for (var i = local; i < p.n; i += 64u) { y[start + i] = x[start + i] * factor * scale[i]; }
}
