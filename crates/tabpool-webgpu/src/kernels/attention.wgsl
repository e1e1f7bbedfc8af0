// Attention of one head for 32 queries, a workgroup of 64. Keys pass in chunks of 64 whose scores lie in workgroup
// memory; the softmax is kept online, so any number of keys will do. A workgroup gives 64 elements of each result, an
// invocation 4 elements of 8 results, which stay in registers; wider heads take several workgroups.
// The loop's bounds come from what is uniform and only read, so every barrier is in uniform control flow.

// The scores of each of 32 queries, four keys a vec4.
var<workgroup> scores: array<vec4f, 512>;
// Two invocations share a row's softmax.
var<workgroup> part_most: array<f32, 64>;
var<workgroup> part_sum: array<f32, 64>;
var<workgroup> row_most: array<f32, 32>;
var<workgroup> row_sum: array<f32, 32>;
var<workgroup> row_factor: array<f32, 32>;

// Scores of 8 queries with 4 keys. `row` and `key` count within the tile and the chunk.
fn score_block(batch: u32, head: u32, query_start: u32, key_start: u32, row: u32, key: u32, end: u32) {
    let q_last = p.sq - 1u;
    let k_last = end - 1u;
    let width = p.heads * p.d;
    let k_width = p.kv_heads * p.d;
    let q_head = batch * p.sq * width + head * p.d;
    let k_head = batch * p.sk * k_width + shared_head(head) * p.d;
    let query = query_start + row;
    let first = key_start + key;
    let q0 = q_head + min(query, q_last) * width;
    let q1 = q_head + min(query + 1u, q_last) * width;
    let q2 = q_head + min(query + 2u, q_last) * width;
    let q3 = q_head + min(query + 3u, q_last) * width;
    let q4 = q_head + min(query + 4u, q_last) * width;
    let q5 = q_head + min(query + 5u, q_last) * width;
    let q6 = q_head + min(query + 6u, q_last) * width;
    let q7 = q_head + min(query + 7u, q_last) * width;
    let k0 = k_head + min(first, k_last) * k_width;
    let k1 = k_head + min(first + 1u, k_last) * k_width;
    let k2 = k_head + min(first + 2u, k_last) * k_width;
    let k3 = k_head + min(first + 3u, k_last) * k_width;
    var s0 = vec4f(0.0);
    var s1 = vec4f(0.0);
    var s2 = vec4f(0.0);
    var s3 = vec4f(0.0);
    var s4 = vec4f(0.0);
    var s5 = vec4f(0.0);
    var s6 = vec4f(0.0);
    var s7 = vec4f(0.0);
    let quads = (p.d + 3u) / 4u;
    for (var quad = 0u; quad < quads; quad++) {
        let ka = k_quad(k0, quad);
        let kb = k_quad(k1, quad);
        let kc = k_quad(k2, quad);
        let kd = k_quad(k3, quad);
        let a0 = q_quad(q0, quad);
        s0 += vec4f(dot(a0, ka), dot(a0, kb), dot(a0, kc), dot(a0, kd));
        let a1 = q_quad(q1, quad);
        s1 += vec4f(dot(a1, ka), dot(a1, kb), dot(a1, kc), dot(a1, kd));
        let a2 = q_quad(q2, quad);
        s2 += vec4f(dot(a2, ka), dot(a2, kb), dot(a2, kc), dot(a2, kd));
        let a3 = q_quad(q3, quad);
        s3 += vec4f(dot(a3, ka), dot(a3, kb), dot(a3, kc), dot(a3, kd));
        let a4 = q_quad(q4, quad);
        s4 += vec4f(dot(a4, ka), dot(a4, kb), dot(a4, kc), dot(a4, kd));
        let a5 = q_quad(q5, quad);
        s5 += vec4f(dot(a5, ka), dot(a5, kb), dot(a5, kc), dot(a5, kd));
        let a6 = q_quad(q6, quad);
        s6 += vec4f(dot(a6, ka), dot(a6, kb), dot(a6, kc), dot(a6, kd));
        let a7 = q_quad(q7, quad);
        s7 += vec4f(dot(a7, ka), dot(a7, kb), dot(a7, kc), dot(a7, kd));
    }
    let at = row * 16u + key / 4u;
    scores[at] = biased(s0, batch, head, query, first, seen(query));
    scores[at + 16u] = biased(s1, batch, head, query + 1u, first, seen(query + 1u));
    scores[at + 32u] = biased(s2, batch, head, query + 2u, first, seen(query + 2u));
    scores[at + 48u] = biased(s3, batch, head, query + 3u, first, seen(query + 3u));
    scores[at + 64u] = biased(s4, batch, head, query + 4u, first, seen(query + 4u));
    scores[at + 80u] = biased(s5, batch, head, query + 5u, first, seen(query + 5u));
    scores[at + 96u] = biased(s6, batch, head, query + 6u, first, seen(query + 6u));
    scores[at + 112u] = biased(s7, batch, head, query + 7u, first, seen(query + 7u));
}

// Finishes and stores four elements of one query's result.
fn store_quad(batch: u32, head: u32, query: u32, row: u32, quad: u32, sum: vec4f) {
    if (query >= p.sq) { return; }
    let left = p.dv - quad * 4u;
    let at = (batch * p.sq + query) * p.heads * p.dv + head * p.dv + quad * 4u;
    let v = sum / row_sum[row];
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
    let batch = g / (p.tiles * p.wide * p.heads);
    if (batch >= p.batches) { return; }
    let head = g / (p.tiles * p.wide) % p.heads;
    let query_start = g / p.wide % p.tiles * 32u;
    let row = local / 2u;
    // What the tile's last query sees, and what the row of this invocation's softmax does.
    let end = seen(query_start + 31u);
    let limit = seen(query_start + row);
    // Which four elements of which eight results are this invocation's.
    let quads = (p.dv + 3u) / 4u;
    let quad_start = g % p.wide * 16u;
    let quads_here = min(16u, quads - quad_start);
    let mine = local < 4u * quads_here;
    let quad = quad_start + local % quads_here;
    let first = local / quads_here * 8u;
    var s0 = vec4f(0.0);
    var s1 = vec4f(0.0);
    var s2 = vec4f(0.0);
    var s3 = vec4f(0.0);
    var s4 = vec4f(0.0);
    var s5 = vec4f(0.0);
    var s6 = vec4f(0.0);
    var s7 = vec4f(0.0);
    if (local < 32u) {
        row_most[local] = LOWEST;
        row_sum[local] = 0.0;
    }
    workgroupBarrier();
    for (var key_start = 0u; key_start < end; key_start += 64u) {
        let keys = min(64u, end - key_start);
        // Four rows of blocks by 16 columns: one block an invocation.
        let first_key = local % 16u * 4u;
        if (first_key < keys) { score_block(batch, head, query_start, key_start, local / 16u * 8u, first_key, end); }
        workgroupBarrier();
        let key_quads = (keys + 3u) / 4u;
        var four = vec4f(LOWEST);
        for (var j = local % 2u; j < key_quads; j += 2u) { four = max(four, scores[row * 16u + j]); }
        part_most[local] = largest(four);
        workgroupBarrier();
        let before = row_most[row];
        let most = max(before, max(part_most[row * 2u], part_most[row * 2u + 1u]));
        four = vec4f(0.0);
        for (var j = local % 2u; j < key_quads; j += 2u) {
            let e = weighed(scores[row * 16u + j], most, key_start + j * 4u, limit);
            scores[row * 16u + j] = e;
            four += e;
        }
        part_sum[local] = total(four);
        workgroupBarrier();
        if (local % 2u == 0u) {
            let factor = exp(before - most);
            let chunk = part_sum[local] + part_sum[local + 1u];
            row_factor[row] = factor;
            row_most[row] = most;
            row_sum[row] = row_sum[row] * factor + chunk;
        }
        workgroupBarrier();
        if (mine) {
            let width = p.kv_heads * p.dv;
            let v_head = (batch * p.sk + key_start) * width + shared_head(head) * p.dv;
            let v_last = keys - 1u;
            var at = first * 16u;
            s0 *= row_factor[first];
            s1 *= row_factor[first + 1u];
            s2 *= row_factor[first + 2u];
            s3 *= row_factor[first + 3u];
            s4 *= row_factor[first + 4u];
            s5 *= row_factor[first + 5u];
            s6 *= row_factor[first + 6u];
            s7 *= row_factor[first + 7u];
            for (var j = 0u; j < keys; j += 4u) {
                let e0 = scores[at];
                let e1 = scores[at + 16u];
                let e2 = scores[at + 32u];
                let e3 = scores[at + 48u];
                let e4 = scores[at + 64u];
                let e5 = scores[at + 80u];
                let e6 = scores[at + 96u];
                let e7 = scores[at + 112u];
                // Past the last key the last one is read again, with a weight of zero.
                let va = v_quad(v_head + j * width, quad);
                s0 += share(e0.x, va);
                s1 += share(e1.x, va);
                s2 += share(e2.x, va);
                s3 += share(e3.x, va);
                s4 += share(e4.x, va);
                s5 += share(e5.x, va);
                s6 += share(e6.x, va);
                s7 += share(e7.x, va);
                let vb = v_quad(v_head + min(j + 1u, v_last) * width, quad);
                s0 += share(e0.y, vb);
                s1 += share(e1.y, vb);
                s2 += share(e2.y, vb);
                s3 += share(e3.y, vb);
                s4 += share(e4.y, vb);
                s5 += share(e5.y, vb);
                s6 += share(e6.y, vb);
                s7 += share(e7.y, vb);
                let vc = v_quad(v_head + min(j + 2u, v_last) * width, quad);
                s0 += share(e0.z, vc);
                s1 += share(e1.z, vc);
                s2 += share(e2.z, vc);
                s3 += share(e3.z, vc);
                s4 += share(e4.z, vc);
                s5 += share(e5.z, vc);
                s6 += share(e6.z, vc);
                s7 += share(e7.z, vc);
                let vd = v_quad(v_head + min(j + 3u, v_last) * width, quad);
                s0 += share(e0.w, vd);
                s1 += share(e1.w, vd);
                s2 += share(e2.w, vd);
                s3 += share(e3.w, vd);
                s4 += share(e4.w, vd);
                s5 += share(e5.w, vd);
                s6 += share(e6.w, vd);
                s7 += share(e7.w, vd);
                at += 1u;
            }
        }
        workgroupBarrier();
    }
    if (mine) {
        let query = query_start + first;
        store_quad(batch, head, query, first, quad, s0);
        store_quad(batch, head, query + 1u, first + 1u, quad, s1);
        store_quad(batch, head, query + 2u, first + 2u, quad, s2);
        store_quad(batch, head, query + 3u, first + 3u, quad, s3);
        store_quad(batch, head, query + 4u, first + 4u, quad, s4);
        store_quad(batch, head, query + 5u, first + 5u, quad, s5);
        store_quad(batch, head, query + 6u, first + 6u, quad, s6);
        store_quad(batch, head, query + 7u, first + 7u, quad, s7);
    }
}
