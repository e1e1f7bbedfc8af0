// Layer normalisation, an invocation a row: no barrier, and four elements load at once. What software adapters do best with.
// Rows are multiples of four long. The bindings are those of `layer_norm.wgsl`.

struct Params {
    rows: u32,
    n: u32,
    epsilon: f32,
    spare: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> residual: array<vec4f>;
@group(0) @binding(3) var<storage, read> scale: array<vec4f>;
@group(0) @binding(4) var<storage, read> shift: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4f>;

override HAS_RESIDUAL: bool = false;
override HAS_SCALE: bool = true;
override HAS_SHIFT: bool = true;

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
    var sum = vec4f(0.0);
    for (var i = 0u; i < quads; i++) {
        var v = x[start + i];
        if (HAS_RESIDUAL) { v += residual[start + i]; }
        // The result's buffer keeps the operand for the next two passes.
        y[start + i] = v;
        sum += v;
    }
    let mean = (sum.x + sum.y + sum.z + sum.w) / f32(p.n);
    var squares = vec4f(0.0);
    for (var i = 0u; i < quads; i++) {
        let d = y[start + i] - mean;
        squares += d * d;
    }
    let variance = (squares.x + squares.y + squares.z + squares.w) / f32(p.n);
    let factor = 1.0 / sqrt(variance + p.epsilon);
    for (var i = 0u; i < quads; i++) {
        var v = (y[start + i] - mean) * factor;
        if (HAS_SCALE) { v *= scale[i]; }
        if (HAS_SHIFT) { v += shift[i]; }
        y[start + i] = v;
    }
}
