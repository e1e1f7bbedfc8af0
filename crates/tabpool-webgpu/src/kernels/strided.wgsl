// Copies elements that lie at any strides into row-major order: transposition, slicing, and both at once. Bound as
// bits, so that one kernel serves f32 and i32, one by one or in fours, as the prelude says.

struct Params {
    count: u32,
    rank: u32,
    // The operand's first element that is read.
    start: u32,
    spare: u32,
    // The result's dimensions and the operand's strides over them.
    dims: array<vec4u, 2>,
    strides: array<vec4u, 2>,
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
    var at = p.start;
    var rest = i;
    for (var j = 0u; j < p.rank; j++) {
        let d = p.rank - 1u - j;
        let size = p.dims[d / 4u][d % 4u];
        at += rest % size * p.strides[d / 4u][d % 4u];
        rest /= size;
    }
    y[i] = x[at];
}
