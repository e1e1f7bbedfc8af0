// As `rms_norm.wgsl`, an invocation a row: no barrier, and four elements load at once. What software adapters do best with.
// Rows are multiples of four long.

struct Params {
    rows: u32,
    n: u32,
    epsilon: f32,
    spare: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> scale: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

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
    var squares = vec4f(0.0);
    for (var i = 0u; i < quads; i++) {
        let v = x[start + i];
        squares += v * v;
    }
    let mean = (squares.x + squares.y + squares.z + squares.w) / f32(p.n);
    let factor = 1.0 / sqrt(mean + p.epsilon);
    for (var i = 0u; i < quads; i++) { y[start + i] = x[start + i] * factor * scale[i]; }
}
