// Attention for software adapters: an invocation answers 4 queries of one head, without workgroup memory or barriers. Keys
// pass in chunks of 16 and the softmax is kept online. A prelude says how many quads (fours of elements) a head has in v at
// most.

// The results of 4 queries, QUADS each, and the chunk's scores, 4 quads each.
var<private> sums: array<vec4f, 4u * QUADS>;
var<private> chunk: array<vec4f, 16>;

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let g = folded(group, groups) * 8u + local;
    let batch = g / (p.tiles * p.heads);
    if (batch >= p.batches) { return; }
    let head = g / p.tiles % p.heads;
    let query = g % p.tiles * 4u;
    let width = p.heads * p.d;
    let k_width = p.kv_heads * p.d;
    let v_width = p.kv_heads * p.dv;
    let k_head = batch * p.sk * k_width + shared_head(head) * p.d;
    let v_head = batch * p.sk * v_width + shared_head(head) * p.dv;
    let q_head = batch * p.sq * width + head * p.d;
    let q_last = p.sq - 1u;
    let limits = vec4u(seen(query), seen(query + 1u), seen(query + 2u), seen(query + 3u));
    let end = limits.w;
    let k_last = end - 1u;
    let q0 = q_head + query * width;
    let q1 = q_head + min(query + 1u, q_last) * width;
    let q2 = q_head + min(query + 2u, q_last) * width;
    let q3 = q_head + min(query + 3u, q_last) * width;
    let d_quads = (p.d + 3u) / 4u;
    let v_quads = (p.dv + 3u) / 4u;
    for (var i = 0u; i < 4u * QUADS; i++) { sums[i] = vec4f(0.0); }
    // For each of the four queries.
    var most = vec4f(LOWEST);
    var weight = vec4f(0.0);
    for (var start = 0u; start < end; start += 16u) {
        let blocks = min(4u, (end - start + 3u) / 4u);
        var chunk_most = most;
        for (var block = 0u; block < blocks; block++) {
            let key = start + block * 4u;
            let k0 = k_head + key * k_width;
            let k1 = k_head + min(key + 1u, k_last) * k_width;
            let k2 = k_head + min(key + 2u, k_last) * k_width;
            let k3 = k_head + min(key + 3u, k_last) * k_width;
            var s0 = vec4f(0.0);
            var s1 = vec4f(0.0);
            var s2 = vec4f(0.0);
            var s3 = vec4f(0.0);
            for (var quad = 0u; quad < d_quads; quad++) {
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
            }
            s0 = biased(s0, batch, head, query, key, limits.x);
            s1 = biased(s1, batch, head, query + 1u, key, limits.y);
            s2 = biased(s2, batch, head, query + 2u, key, limits.z);
            s3 = biased(s3, batch, head, query + 3u, key, limits.w);
            // Keys that are not seen have the lowest score, which does not change the largest.
            chunk_most = max(chunk_most, vec4f(largest(s0), largest(s1), largest(s2), largest(s3)));
            chunk[block] = s0;
            chunk[block + 4u] = s1;
            chunk[block + 8u] = s2;
            chunk[block + 12u] = s3;
        }
        let factor = exp(most - chunk_most);
        most = chunk_most;
        weight *= factor;
        for (var block = 0u; block < blocks; block++) {
            let key = start + block * 4u;
            let e0 = weighed(chunk[block], most.x, key, limits.x);
            let e1 = weighed(chunk[block + 4u], most.y, key, limits.y);
            let e2 = weighed(chunk[block + 8u], most.z, key, limits.z);
            let e3 = weighed(chunk[block + 12u], most.w, key, limits.w);
            weight += vec4f(total(e0), total(e1), total(e2), total(e3));
            chunk[block] = e0;
            chunk[block + 4u] = e1;
            chunk[block + 8u] = e2;
            chunk[block + 12u] = e3;
        }
        for (var quad = 0u; quad < v_quads; quad++) {
            var s0 = sums[quad] * factor.x;
            var s1 = sums[quad + QUADS] * factor.y;
            var s2 = sums[quad + 2u * QUADS] * factor.z;
            var s3 = sums[quad + 3u * QUADS] * factor.w;
            for (var block = 0u; block < blocks; block++) {
                let key = start + block * 4u;
                let e0 = chunk[block];
                let e1 = chunk[block + 4u];
                let e2 = chunk[block + 8u];
                let e3 = chunk[block + 12u];
                let va = v_quad(v_head + key * v_width, quad);
                s0 += share(e0.x, va);
                s1 += share(e1.x, va);
                s2 += share(e2.x, va);
                s3 += share(e3.x, va);
                let vb = v_quad(v_head + min(key + 1u, k_last) * v_width, quad);
                s0 += share(e0.y, vb);
                s1 += share(e1.y, vb);
                s2 += share(e2.y, vb);
                s3 += share(e3.y, vb);
                let vc = v_quad(v_head + min(key + 2u, k_last) * v_width, quad);
                s0 += share(e0.z, vc);
                s1 += share(e1.z, vc);
                s2 += share(e2.z, vc);
                s3 += share(e3.z, vc);
                let vd = v_quad(v_head + min(key + 3u, k_last) * v_width, quad);
                s0 += share(e0.w, vd);
                s1 += share(e1.w, vd);
                s2 += share(e2.w, vd);
                s3 += share(e3.w, vd);
            }
            sums[quad] = s0;
            sums[quad + QUADS] = s1;
            sums[quad + 2u * QUADS] = s2;
            sums[quad + 3u * QUADS] = s3;
        }
    }
    for (var i = 0u; i < min(4u, p.sq - query); i++) {
        let at = ((batch * p.sq + query + i) * p.heads + head) * p.dv;
        for (var d = 0u; d < p.dv; d++) { y[at + d] = sums[i * QUADS + d / 4u][d % 4u] / weight[i]; }
    }
}
