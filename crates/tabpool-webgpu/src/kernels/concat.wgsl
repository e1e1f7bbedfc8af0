// Copies one operand of a concatenation to its place in the result. Bound as bits, one by one or in fours, as the prelude
// says.

struct Params {
    count: u32,
    // Elements that lie together in the operand, and how far apart they begin in the result.
    length: u32,
    stride: u32,
    // Where the first of them goes.
    start: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<element>;
@group(0) @binding(2) var<storage, read_write> y: array<element>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let i = folded(group, groups) * 64u + local;
    if (i >= p.count) { return; }
    y[p.start + i / p.length * p.stride + i % p.length] = x[i];
}
