// The position of the largest element of each row, the first among equals; a workgroup a row.

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let row = folded(group, groups);
    if (row >= p.rows) { return; }
    let start = row * p.n;
    var mine = vec2u(0u, NOWHERE);
    for (var i = local; i < p.n; i += 256u) {
        let other = vec2u(key_of(x[start + i]), i);
        if (before(other, mine)) { mine = other; }
    }
    let first = first_across(local, mine);
    if (local == 0u) { y[row] = min(first.y, p.n - 1u); }
}
