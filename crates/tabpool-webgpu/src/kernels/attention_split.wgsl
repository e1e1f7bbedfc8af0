// Attention for few queries, as when a decoder goes one token further: a workgroup of 64 answers one query of one head.
// Its invocations share the keys for the scores, and keys and elements for the result. Keys pass in chunks of 256 and the
// softmax is kept online. A workgroup gives 256 elements of the result; wider heads take several.
// The loop's bounds come from what is uniform and only read, so every barrier is in uniform control flow.

// What each key of the chunk weighs, four keys a vec4.
var<workgroup> weights: array<vec4f, 64>;
var<workgroup> parts: array<vec4f, 64>;

// Scores of the query with four keys.
fn four_scores(q_head: u32, k_head: u32, key: u32, last: u32) -> vec4f {
    let width = p.kv_heads * p.d;
    let k0 = k_head + key * width;
    let k1 = k_head + min(key + 1u, last) * width;
    let k2 = k_head + min(key + 2u, last) * width;
    let k3 = k_head + min(key + 3u, last) * width;
    var s = vec4f(0.0);
    for (var quad = 0u; quad < (p.d + 3u) / 4u; quad++) {
        let a = q_quad(q_head, quad);
        s += vec4f(dot(a, k_quad(k0, quad)), dot(a, k_quad(k1, quad)), dot(a, k_quad(k2, quad)), dot(a, k_quad(k3, quad)));
    }
    return s;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let g = folded(group, groups);
    let batch = g / (p.sq * p.wide * p.heads);
    if (batch >= p.batches) { return; }
    let head = g / (p.sq * p.wide) % p.heads;
    let query = g / p.wide % p.sq;
    let limit = seen(query);
    let q_head = ((batch * p.sq + query) * p.heads + head) * p.d;
    let k_head = (batch * p.sk * p.kv_heads + shared_head(head)) * p.d;
    let v_head = (batch * p.sk * p.kv_heads + shared_head(head)) * p.dv;
    let v_width = p.kv_heads * p.dv;
    // Which four elements of the result, and which keys of each chunk, are this invocation's.
    let quad_start = g % p.wide * 64u;
    let quads = min(64u, (p.dv + 3u) / 4u - quad_start);
    let slices = 64u / quads;
    let quad = quad_start + local % quads;
    let slice = local / quads;
    var most = LOWEST;
    var weight = 0.0;
    var sum = vec4f(0.0);
    for (var chunk = 0u; chunk < limit; chunk += 256u) {
        let keys = min(256u, limit - chunk);
        let key = chunk + local * 4u;
        var s = vec4f(LOWEST);
        if (local * 4u < keys) {
            s = biased(four_scores(q_head, k_head, key, limit - 1u), batch, head, query, key, limit);
        }
        let more = max(most, max_across(local, largest(s)));
        let e = weighed(s, more, key, limit);
        weights[local] = e;
        // The barriers inside come after everybody's weights.
        let added = sum_across(local, total(e));
        let factor = exp(most - more);
        weight = weight * factor + added;
        most = more;
        sum *= factor;
        if (slice < slices) {
            for (var j = slice; j < keys; j += slices) {
                sum += share(weights[j / 4u][j % 4u], v_quad(v_head + (chunk + j) * v_width, quad));
            }
        }
        workgroupBarrier();
    }
    parts[local] = sum;
    workgroupBarrier();
    if (slice > 0u) { return; }
    for (var i = 1u; i < slices; i++) { sum += parts[i * quads + local]; }
    sum /= weight;
    let left = p.dv - quad * 4u;
    let at = ((batch * p.sq + query) * p.heads + head) * p.dv + quad * 4u;
    y[at] = sum.x;
    if (left > 1u) { y[at + 1u] = sum.y; }
    if (left > 2u) { y[at + 2u] = sum.z; }
    if (left > 3u) { y[at + 3u] = sum.w; }
}
