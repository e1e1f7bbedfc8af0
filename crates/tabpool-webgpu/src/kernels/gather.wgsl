// Rows of a table, or of one part of a table that is larger than a binding may be: each part's dispatch writes the rows
// it holds. Indices outside the table read its nearest row. Counts elements or fours of them, as the prelude says.

struct Params {
    // Elements of the result, and of a row.
    count: u32,
    row: u32,
    // The rows of the whole table, and which of them this part holds.
    table_rows: u32,
    first: u32,
    rows: u32,
    spare0: u32,
    spare1: u32,
    spare2: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> table: array<element>;
@group(0) @binding(2) var<storage, read> ids: array<i32>;
@group(0) @binding(3) var<storage, read_write> y: array<element>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let i = folded(group, groups) * 64u + local;
    if (i >= p.count) { return; }
    let id = min(u32(max(ids[i / p.row], 0)), p.table_rows - 1u);
    if (id < p.first || id - p.first >= p.rows) { return; }
    y[i] = table[(id - p.first) * p.row + i % p.row];
}
