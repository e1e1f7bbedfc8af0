// Attention of one head for 16 queries, a workgroup of 64. Keys pass in chunks of 128 whose scores lie in workgroup
// memory; the softmax is kept online, so any number of keys and any head size will do. Where there is more than one
// chunk the unfinished sums wait in the result's own buffer, where only the invocation that wrote them reads them.
// The loop's bounds come from the uniform parameters, so every barrier is in uniform control flow.

struct Params {
    batches: u32,
    heads: u32,
    // Queries, keys, and the size of a head in q and k and in v.
    sq: u32,
    sk: u32,
    d: u32,
    dv: u32,
    // How many workgroups share a head's queries.
    tiles: u32,
    scale: f32,
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

var<workgroup> scores: array<f32, 2048>;
// Four invocations share a row's softmax.
var<workgroup> part_most: array<f32, 64>;
var<workgroup> part_sum: array<f32, 64>;
var<workgroup> row_most: array<f32, 16>;
var<workgroup> row_sum: array<f32, 16>;
var<workgroup> row_factor: array<f32, 16>;

fn biased(score: f32, at: vec4u) -> f32 {
    var s = score * p.scale;
    if (BIASES > 0u) { let o = at * p.bias0_strides; s += bias0[o.x + o.y + o.z + o.w]; }
    if (BIASES > 1u) { let o = at * p.bias1_strides; s += bias1[o.x + o.y + o.z + o.w]; }
    // Two masks may add up to infinity, which would turn a row of padding into NaN.
    return max(s, LOWEST);
}

// Scores of 4 queries with 4 keys. `row` and `key` count within the tile and the chunk.
fn score_block(batch: u32, head: u32, query_start: u32, key_start: u32, row: u32, key: u32) {
    let q_last = p.sq - 1u;
    let k_last = p.sk - 1u;
    let width = p.heads * p.d;
    let q_head = batch * p.sq * width + head * p.d;
    let k_head = batch * p.sk * width + head * p.d;
    let query = query_start + row;
    let first = key_start + key;
    let q0 = q_head + min(query, q_last) * width;
    let q1 = q_head + min(query + 1u, q_last) * width;
    let q2 = q_head + min(query + 2u, q_last) * width;
    let q3 = q_head + min(query + 3u, q_last) * width;
    let k0 = k_head + min(first, k_last) * width;
    let k1 = k_head + min(first + 1u, k_last) * width;
    let k2 = k_head + min(first + 2u, k_last) * width;
    let k3 = k_head + min(first + 3u, k_last) * width;
    var s0 = vec4f(0.0);
    var s1 = vec4f(0.0);
    var s2 = vec4f(0.0);
    var s3 = vec4f(0.0);
    let quads = (p.d + 3u) / 4u;
    for (var quad = 0u; quad < quads; quad++) {
        let ka = k_quad(k0, quad);
        let kb = k_quad(k1, quad);
        let kc = k_quad(k2, quad);
        let kd = k_quad(k3, quad);
        let qa = q_quad(q0, quad);
        s0 += vec4f(dot(qa, ka), dot(qa, kb), dot(qa, kc), dot(qa, kd));
        let qb = q_quad(q1, quad);
        s1 += vec4f(dot(qb, ka), dot(qb, kb), dot(qb, kc), dot(qb, kd));
        let qc = q_quad(q2, quad);
        s2 += vec4f(dot(qc, ka), dot(qc, kb), dot(qc, kc), dot(qc, kd));
        let qd = q_quad(q3, quad);
        s3 += vec4f(dot(qd, ka), dot(qd, kb), dot(qd, kc), dot(qd, kd));
    }
    let at = row * 128u + key;
    for (var i = 0u; i < 4u; i++) {
        let j = min(first + i, k_last);
        scores[at + i] = biased(s0[i], vec4u(batch, head, min(query, q_last), j));
        scores[at + 128u + i] = biased(s1[i], vec4u(batch, head, min(query + 1u, q_last), j));
        scores[at + 256u + i] = biased(s2[i], vec4u(batch, head, min(query + 2u, q_last), j));
        scores[at + 384u + i] = biased(s3[i], vec4u(batch, head, min(query + 3u, q_last), j));
    }
}

// Adds the chunk's values to four elements of one query's result.
fn store_quad(batch: u32, head: u32, query: u32, row: u32, quad: u32, sum: vec4f, more: bool, done: bool) {
    if (query >= p.sq) { return; }
    let left = p.dv - quad * 4u;
    let at = (batch * p.sq + query) * p.heads * p.dv + head * p.dv + quad * 4u;
    var v = sum;
    if (more) {
        let factor = row_factor[row];
        v.x += factor * y[at];
        if (left > 1u) { v.y += factor * y[at + 1u]; }
        if (left > 2u) { v.z += factor * y[at + 2u]; }
        if (left > 3u) { v.w += factor * y[at + 3u]; }
    }
    if (done) { v /= row_sum[row]; }
    y[at] = v.x;
    if (left > 1u) { y[at + 1u] = v.y; }
    if (left > 2u) { y[at + 2u] = v.z; }
    if (left > 3u) { y[at + 3u] = v.w; }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let g = folded(group, groups);
    let batch = g / (p.tiles * p.heads);
    if (batch >= p.batches) { return; }
    let head = g / p.tiles % p.heads;
    let query_start = g % p.tiles * 16u;
    let row = local / 4u;
    if (local < 16u) {
        row_most[local] = LOWEST;
        row_sum[local] = 0.0;
    }
    workgroupBarrier();
    for (var key_start = 0u; key_start < p.sk; key_start += 128u) {
        let keys = min(128u, p.sk - key_start);
        for (var block = local; block < 128u; block += 64u) {
            let key = block % 32u * 4u;
            if (key < keys) { score_block(batch, head, query_start, key_start, block / 32u * 4u, key); }
        }
        workgroupBarrier();
        var most = LOWEST;
        for (var j = local % 4u; j < keys; j += 4u) { most = max(most, scores[row * 128u + j]); }
        part_most[local] = most;
        workgroupBarrier();
        let before = row_most[row];
        most = max(before, part_most[row * 4u]);
        most = max(most, part_most[row * 4u + 1u]);
        most = max(most, part_most[row * 4u + 2u]);
        most = max(most, part_most[row * 4u + 3u]);
        var sum = 0.0;
        for (var j = local % 4u; j < keys; j += 4u) {
            let e = exp(scores[row * 128u + j] - most);
            scores[row * 128u + j] = e;
            sum += e;
        }
        part_sum[local] = sum;
        workgroupBarrier();
        if (local % 4u == 0u) {
            let factor = exp(before - most);
            let chunk = part_sum[local] + part_sum[local + 1u] + part_sum[local + 2u] + part_sum[local + 3u];
            row_factor[row] = factor;
            row_most[row] = most;
            row_sum[row] = row_sum[row] * factor + chunk;
        }
        workgroupBarrier();
        let more = key_start > 0u;
        let done = key_start + keys >= p.sk;
        let quads = (p.dv + 3u) / 4u;
        let width = p.heads * p.dv;
        let v_head = (batch * p.sk + key_start) * width + head * p.dv;
        for (var block = local; block < 8u * quads; block += 64u) {
            let quad = block % quads;
            let pair = block / quads * 2u;
            var sum0 = vec4f(0.0);
            var sum1 = vec4f(0.0);
            for (var j = 0u; j < keys; j++) {
                let value = v_quad(v_head + j * width, quad);
                sum0 += scores[pair * 128u + j] * value;
                sum1 += scores[pair * 128u + 128u + j] * value;
            }
            store_quad(batch, head, query_start + pair, pair, quad, sum0, more, done);
            store_quad(batch, head, query_start + pair + 1u, pair + 1u, quad, sum1, more, done);
        }
        workgroupBarrier();
    }
}
