// Conversion between i32 and f32, towards zero, and the plain copy of either. Bound as bits; see `unary.wgsl` for quads.

struct Params {
    quads: u32,
    spare0: u32,
    spare1: u32,
    spare2: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4u>;

// 0 as it is, 1 i32 to f32, 2 f32 to i32.
override CONVERSION: u32 = 0u;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let i = folded(group, groups) * 64u + local;
    if (i >= p.quads) { return; }
    if (CONVERSION == 1u) {
        y[i] = bitcast<vec4u>(vec4f(bitcast<vec4i>(x[i])));
    } else if (CONVERSION == 2u) {
        y[i] = bitcast<vec4u>(vec4i(bitcast<vec4f>(x[i])));
    } else {
        y[i] = x[i];
    }
}
