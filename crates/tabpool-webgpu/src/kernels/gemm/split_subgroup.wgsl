// As `split.wgsl` with sums across subgroups of any size from 4 on: a workgroup makes the 16 columns of one panel of one
// row. An invocation's columns go by its place in the subgroup, so that those whose sums belong together are apart by
// multiples of four within it. One barrier joins what the subgroups made.

var<workgroup> parts: array<vec4f, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
) {
    let row = row_start(min(group.y, p.m - 1u));
    let column = group.x * 16u + lane % 4u * 4u;
    let start = b_start(column);
    let steps = (p.k + 3u) / 4u;
    // A subgroup may be larger than the workgroup; its other places are empty.
    let places = min(size, 64u);
    var sum = vec4f(0.0);
    for (var step = subgroup * (places / 4u) + lane / 4u; step < steps; step += 16u) {
        let x = row_step(row, step);
        let at = start + step * 16u;
        sum += widened(x.x * b_quad(at) + x.y * b_quad(at + 4u) + x.z * b_quad(at + 8u) + x.w * b_quad(at + 12u));
    }
    for (var apart = 4u; apart < places; apart *= 2u) { sum += subgroupShuffleXor(sum, apart); }
    if (lane < 4u) { parts[subgroup * 4u + lane] = sum; }
    workgroupBarrier();
    if (local >= 4u) { return; }
    var whole = parts[local];
    for (var i = 1u; i < subgroups; i++) { whole += parts[i * 4u + local]; }
    finish(group.y, group.x * 16u + local * 4u, whole);
}
