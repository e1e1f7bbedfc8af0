// As `quantise.wgsl` for software adapters: an invocation a row, no barrier, and four elements load at once. Rows are
// multiples of four long.

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

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
    var four = vec4f(0.0);
    for (var i = 0u; i < quads; i++) { four = max(four, abs(x[start + i])); }
    let most = max(max(four.x, four.y), max(four.z, four.w));
    let factor = factor_of(most);
    let words = (p.n + 15u) / 16u * 4u;
    for (var i = 0u; i < quads; i++) { y[row * words + i] = packed(x[start + i] * factor); }
    for (var i = quads; i < words; i++) { y[row * words + i] = 0u; }
    y[p.rows * words + row] = bitcast<u32>(most / 127.0);
}
