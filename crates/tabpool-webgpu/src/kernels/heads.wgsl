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
    // A divisor of `heads`: so many heads of keys and values are shared by the heads of queries.
    kv_heads: u32,
    spare0: u32,
    spare1: u32,
    // Each bias's strides over batch, head, query and key.
    bias0_strides: vec4u,
    bias1_strides: vec4u,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(4) var<storage, read> bias0: array<f32>;
@group(0) @binding(5) var<storage, read> bias1: array<f32>;
@group(0) @binding(6) var<storage, read> first_query: array<i32>;
@group(0) @binding(7) var<storage, read_write> y: array<f32>;

override BIASES: u32 = 0u;
// Whether query i sees key j only if j <= first_query[0] + i.
override CAUSAL: bool = false;

const LOWEST: f32 = -3.4028234e38;

// How many keys a query sees: the first ones, and always one.
fn seen(query: u32) -> u32 {
    if (!CAUSAL) { return p.sk; }
    return min(p.sk, u32(max(first_query[0], 0)) + min(query, p.sq - 1u) + 1u);
}

// The head of keys and values that a head of queries uses.
fn shared_head(head: u32) -> u32 { return head / (p.heads / p.kv_heads); }

fn largest(v: vec4f) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
fn total(v: vec4f) -> f32 { return v.x + v.y + v.z + v.w; }

// The scores of one query with four keys, scaled and with their biases; the lowest number for keys that it does not see,
// whatever is in them.
fn biased(sums: vec4f, batch: u32, head: u32, query: u32, key: u32, limit: u32) -> vec4f {
    let four = vec4u(key, key + 1u, key + 2u, key + 3u);
    let keys = min(four, vec4u(p.sk - 1u));
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
    return select(vec4f(LOWEST), max(s, vec4f(LOWEST)), four < vec4u(limit));
}

// What four scores weigh beside the largest one; nothing for keys that are not seen.
fn weighed(scores: vec4f, most: f32, key: u32, limit: u32) -> vec4f {
    let four = vec4u(key, key + 1u, key + 2u, key + 3u);
    return select(vec4f(0.0), exp(scores - most), four < vec4u(limit));
}

// A key's part of a result. Values that are not seen may be no numbers, so that a weight of zero does not suffice.
fn share(weight: f32, value: vec4f) -> vec4f {
    return select(weight * value, vec4f(0.0), CAUSAL && weight == 0.0);
}
