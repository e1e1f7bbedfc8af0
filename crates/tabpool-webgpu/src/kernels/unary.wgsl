// Elementwise functions of one operand, four elements an invocation. Buffers are padded to whole vec4s, so the last
// quad may hold elements that nothing reads.

struct Params {
    quads: u32,
    spare0: u32,
    spare1: u32,
    spare2: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let i = folded(group, groups) * 64u + local;
    if (i >= p.quads) { return; }
    y[i] = activate(x[i]);
}
