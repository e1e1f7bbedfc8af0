// Layer normalisation, a workgroup a row, optionally of the sum of two operands. Two passes over the row: the variance
// of what is left after the mean is taken off, because the difference of two large sums loses digits.

struct Params {
    rows: u32,
    n: u32,
    epsilon: f32,
    spare: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> residual: array<f32>;
@group(0) @binding(3) var<storage, read> scale: array<f32>;
@group(0) @binding(4) var<storage, read> shift: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

override HAS_RESIDUAL: bool = false;
override HAS_SCALE: bool = true;
override HAS_SHIFT: bool = true;

fn at(i: u32) -> f32 {
    if (HAS_RESIDUAL) { return x[i] + residual[i]; }
    return x[i];
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let row = folded(group, groups);
    if (row >= p.rows) { return; }
    let start = row * p.n;
    var sum = 0.0;
    for (var i = local; i < p.n; i += 64u) { sum += at(start + i); }
    let mean = sum_across(local, sum) / f32(p.n);
    var squares = 0.0;
    for (var i = local; i < p.n; i += 64u) {
        let d = at(start + i) - mean;
        squares += d * d;
    }
    let variance = sum_across(local, squares) / f32(p.n);
    let factor = 1.0 / sqrt(variance + p.epsilon);
    for (var i = local; i < p.n; i += 64u) {
        var v = (at(start + i) - mean) * factor;
        if (HAS_SCALE) { v *= scale[i]; }
        if (HAS_SHIFT) { v += shift[i]; }
        y[start + i] = v;
    }
}
