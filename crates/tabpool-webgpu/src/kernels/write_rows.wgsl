// Writes rows over those of a value that lies there already, from a position on that is known on the device only. Rows that
// would fall outside are dropped. Bound as bits, one by one or in fours, as the prelude says.

struct Params {
    count: u32,
    // Elements of a row, rows to write, and rows there are.
    width: u32,
    rows: u32,
    capacity: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<element>;
@group(0) @binding(2) var<storage, read> position: array<i32>;
@group(0) @binding(3) var<storage, read_write> y: array<element>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let i = folded(group, groups) * 64u + local;
    if (i >= p.count) { return; }
    let taken = i / p.width;
    // A sum beyond the largest number wraps to a negative one, which is outside as well.
    let row = position[0] + i32(taken % p.rows);
    if (row < 0 || u32(row) >= p.capacity) { return; }
    y[(taken / p.rows * p.capacity + u32(row)) * p.width + i % p.width] = x[i];
}
