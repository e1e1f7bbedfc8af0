// Rotary positions: of each head's first elements the two halves turn by an angle, the rest passes. An invocation for each
// number of the result.

struct Params {
    count: u32,
    // Numbers of a head, of all heads, and of half of what turns.
    depth: u32,
    width: u32,
    half: u32,
    // Positions after which cosines and sines begin anew.
    positions: u32,
    spare0: u32,
    spare1: u32,
    spare2: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<number>;
@group(0) @binding(2) var<storage, read> cosines: array<number>;
@group(0) @binding(3) var<storage, read> sines: array<number>;
@group(0) @binding(4) var<storage, read_write> y: array<number>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let i = folded(group, groups) * 64u + local;
    if (i >= p.count) { return; }
    let at = i % p.depth;
    if (at >= 2u * p.half) {
        y[i] = x[i];
        return;
    }
    let angles = i / p.width % p.positions * p.half;
    if (at < p.half) {
        y[i] = x[i] * cosines[angles + at] - x[i + p.half] * sines[angles + at];
    } else {
        let before = at - p.half;
        y[i] = x[i] * cosines[angles + before] + x[i - p.half] * sines[angles + before];
    }
}
