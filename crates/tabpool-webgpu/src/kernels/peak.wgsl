// Nothing but products and sums in registers: what an adapter's arithmetic can do at most. Every chain tends to
// z / (1 - x), so that the result tells whether they were computed.

struct Params {
    turns: u32,
    x: f32,
    z: f32,
    spare: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    let x = p.x;
    let z = p.z;
    var a = vec4f(f32(id.x % 7u));
    var b = a + 1.0;
    var c = a + 2.0;
    for (var turn = 0u; turn < p.turns; turn++) {
        a = a * x + z;
        b = b * x + z;
        c = c * x + z;
        a = a * x + z;
        b = b * x + z;
        c = c * x + z;
        a = a * x + z;
        b = b * x + z;
        c = c * x + z;
        a = a * x + z;
        b = b * x + z;
        c = c * x + z;
        a = a * x + z;
        b = b * x + z;
        c = c * x + z;
        a = a * x + z;
        b = b * x + z;
        c = c * x + z;
        a = a * x + z;
        b = b * x + z;
        c = c * x + z;
        a = a * x + z;
        b = b * x + z;
        c = c * x + z;
    }
    let sum = a + b + c;
    y[id.x] = sum.x + sum.y + sum.z + sum.w;
}
