// Reduction of one dimension, an invocation for each element of the result.

struct Params {
    // Elements of the result.
    count: u32,
    // Elements reduced into each, and how far apart they lie.
    length: u32,
    inner: u32,
    spare: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

// 0 sum, 1 mean, 2 largest.
override REDUCTION: u32 = 0u;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let i = folded(group, groups) * 64u + local;
    if (i >= p.count) { return; }
    var at = i / p.inner * p.length * p.inner + i % p.inner;
    var result = x[at];
    for (var j = 1u; j < p.length; j++) {
        at += p.inner;
        if (REDUCTION == 2u) { result = max(result, x[at]); } else { result += x[at]; }
    }
    if (REDUCTION == 1u) { result /= f32(p.length); }
    y[i] = result;
}
