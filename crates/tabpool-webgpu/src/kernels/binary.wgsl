// Elementwise functions of two operands that broadcast; a stride of zero repeats an element. Operands are bound as
// bits, so that one kernel serves f32 and i32. A prelude binds them, one element or four at once.

struct Params {
    count: u32,
    rank: u32,
    spare0: u32,
    spare1: u32,
    dims: array<vec4u, 2>,
    a_strides: array<vec4u, 2>,
    b_strides: array<vec4u, 2>,
}

@group(0) @binding(0) var<uniform> p: Params;

// 0 add, 1 sub, 2 mul, 3 div, 4 larger, 5 smaller.
override OPERATION: u32 = 0u;
override INTEGER: bool = false;

fn of_f32(l: real, r: real) -> real {
    if (OPERATION == 0u) { return l + r; }
    if (OPERATION == 1u) { return l - r; }
    if (OPERATION == 2u) { return l * r; }
    if (OPERATION == 3u) { return l / r; }
    if (OPERATION == 4u) { return max(l, r); }
    return min(l, r);
}

fn of_i32(l: whole, r: whole) -> whole {
    if (OPERATION == 0u) { return l + r; }
    if (OPERATION == 1u) { return l - r; }
    if (OPERATION == 2u) { return l * r; }
    if (OPERATION == 4u) { return max(l, r); }
    return min(l, r);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let i = folded(group, groups) * 64u + local;
    if (i >= p.count) { return; }
    var l = 0u;
    var r = 0u;
    var rest = i;
    for (var j = 0u; j < p.rank; j++) {
        let d = p.rank - 1u - j;
        let size = p.dims[d / 4u][d % 4u];
        let at = rest % size;
        rest /= size;
        l += at * p.a_strides[d / 4u][d % 4u];
        r += at * p.b_strides[d / 4u][d % 4u];
    }
    if (INTEGER) {
        y[i] = bitcast<element>(of_i32(bitcast<whole>(a_at(l)), bitcast<whole>(b_at(r))));
    } else {
        y[i] = bitcast<element>(of_f32(bitcast<real>(a_at(l)), bitcast<real>(b_at(r))));
    }
}
