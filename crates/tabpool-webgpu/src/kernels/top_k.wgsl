// The k largest elements of each row and their positions, a workgroup a row. Each invocation knows the first of its own
// elements that is left; who had the first of all looks for the next. Any k will do, in k rounds.

// The first of an invocation's elements that comes after this one.
fn next_of(local: u32, start: u32, after: vec2u) -> vec2u {
    var mine = vec2u(0u, NOWHERE);
    for (var i = local; i < p.n; i += 256u) {
        let other = vec2u(key_of(x[start + i]), i);
        if (before(after, other) && before(other, mine)) { mine = other; }
    }
    return mine;
}

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
    for (var round = 0u; round < p.k; round++) {
        let first = first_across(local, mine);
        let place = min(first.y, p.n - 1u);
        if (local == 0u) {
            y[row * 2u * p.k + round] = x[start + place];
            y[(row * 2u + 1u) * p.k + round] = bitcast<u32>(f32(place));
        }
        if (first.y != NOWHERE && first.y % 256u == local) { mine = next_of(local, start, first); }
    }
}
