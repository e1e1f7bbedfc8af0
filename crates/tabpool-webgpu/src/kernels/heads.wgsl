// Prelude of every attention kernel: parameters, bindings and what is done to scores. `q_quad` and its like come from
// `heads_vec4.wgsl` or `heads_scalar.wgsl`.

struct Params {
    batches: u32,
    heads: u32,
    // Queries, keys, and the size of a head in q and k and in v.
    sq: u32,
    sk: u32,
    d: u32,
    dv: u32,
    // How many workgroups share a head's queries, and the elements of a result.
    tiles: u32,
    wide: u32,
    scale: f32,
    spare0: u32,
    spare1: u32,
    spare2: u32,
    // Each bias's strides over batch, head, query and key.
    bias0_strides: vec4u,
    bias1_strides: vec4u,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(4) var<storage, read> bias0: array<f32>;
@group(0) @binding(5) var<storage, read> bias1: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

override BIASES: u32 = 0u;

const LOWEST: f32 = -3.4028234e38;

// The scores of one query with four keys, scaled and with their biases. Keys past the last one repeat it.
fn biased(sums: vec4f, batch: u32, head: u32, query: u32, key: u32) -> vec4f {
    let keys = min(vec4u(key, key + 1u, key + 2u, key + 3u), vec4u(p.sk - 1u));
    let row = vec3u(batch, head, min(query, p.sq - 1u));
    var s = sums * p.scale;
    if (BIASES > 0u) {
        let o = row * p.bias0_strides.xyz;
        let at = keys * p.bias0_strides.w + (o.x + o.y + o.z);
        s += vec4f(bias0[at.x], bias0[at.y], bias0[at.z], bias0[at.w]);
    }
    if (BIASES > 1u) {
        let o = row * p.bias1_strides.xyz;
        let at = keys * p.bias1_strides.w + (o.x + o.y + o.z);
        s += vec4f(bias1[at.x], bias1[at.y], bias1[at.z], bias1[at.w]);
    }
    // Two masks may add up to infinity, which would turn a row of padding into NaN.
    return max(s, vec4f(LOWEST));
}
