// Positions that count only real tokens, an invocation for each token.

struct Params {
    count: u32,
    length: u32,
    padding_id: i32,
    spare: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ids: array<i32>;
@group(0) @binding(2) var<storage, read_write> y: array<i32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let i = folded(group, groups) * 64u + local;
    if (i >= p.count) { return; }
    var position = p.padding_id;
    if (ids[i] != p.padding_id) {
        for (var j = i - i % p.length; j <= i; j++) {
            if (ids[j] != p.padding_id) { position++; }
        }
    }
    y[i] = position;
}
