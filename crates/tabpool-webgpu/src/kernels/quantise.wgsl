// Rows as 8-bit integers with a scale each, for products of integers: a workgroup a row. Sixteen numbers become a vec4u;
// rows are padded with zeros to a multiple of 16. The scales come after all rows.

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let row = folded(group, groups);
    if (row >= p.rows) { return; }
    let start = row * p.n;
    var most = 0.0;
    for (var i = local; i < p.n; i += 64u) { most = max(most, abs(x[start + i])); }
    most = max_across(local, most);
    let factor = factor_of(most);
    let words = (p.n + 15u) / 16u * 4u;
    for (var word = local; word < words; word += 64u) {
        var four = vec4f(0.0);
        for (var j = 0u; j < 4u; j++) {
            let i = word * 4u + j;
            if (i < p.n) { four[j] = x[start + i]; }
        }
        y[row * words + word] = packed(four * factor);
    }
    if (local == 0u) { y[p.rows * words + row] = bitcast<u32>(most / 127.0); }
}
