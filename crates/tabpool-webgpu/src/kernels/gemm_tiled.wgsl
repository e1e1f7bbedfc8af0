// GEMM with tiles of 64 by 64 in workgroup memory, 16 deep; an invocation makes 4 by 4. For adapters with real
// workgroup memory. The loop's bounds come from the uniform parameters, so every barrier is in uniform control flow.

var<workgroup> a_tile: array<vec4f, 256>;
var<workgroup> b_tile: array<vec4f, 256>;

@compute @workgroup_size(16, 16)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_id) local: vec3u,
    @builtin(local_invocation_index) index: u32,
) {
    let row_from = group.y * 64u;
    let quad_from = group.x * 16u;
    // Which quad of each tile this invocation brings in.
    let a_row = min(row_from + index / 4u, p.m - 1u);
    let a_quad = index % 4u;
    let b_row = index / 16u;
    let b_quad = quad_from + index % 16u;
    let quads = (p.k + 3u) / 4u;
    let rows = quads * 4u;
    var s0 = vec4f(0.0);
    var s1 = vec4f(0.0);
    var s2 = vec4f(0.0);
    var s3 = vec4f(0.0);
    for (var start = 0u; start < quads; start += 4u) {
        var incoming_a = vec4f(0.0);
        if (start + a_quad < quads) { incoming_a = row_quad(a_row, start + a_quad); }
        var incoming_b = vec4f(0.0);
        let k = start * 4u + b_row;
        if (k < rows && b_quad < p.b_quads) { incoming_b = b[k * p.b_quads + b_quad]; }
        a_tile[index] = incoming_a;
        b_tile[index] = incoming_b;
        workgroupBarrier();
        for (var quad = 0u; quad < 4u; quad++) {
            let at = local.y * 16u + quad;
            let a0 = a_tile[at];
            let a1 = a_tile[at + 4u];
            let a2 = a_tile[at + 8u];
            let a3 = a_tile[at + 12u];
            let bx = b_tile[quad * 64u + local.x];
            s0 += a0.x * bx;
            s1 += a1.x * bx;
            s2 += a2.x * bx;
            s3 += a3.x * bx;
            let by = b_tile[quad * 64u + 16u + local.x];
            s0 += a0.y * by;
            s1 += a1.y * by;
            s2 += a2.y * by;
            s3 += a3.y * by;
            let bz = b_tile[quad * 64u + 32u + local.x];
            s0 += a0.z * bz;
            s1 += a1.z * bz;
            s2 += a2.z * bz;
            s3 += a3.z * bz;
            let bw = b_tile[quad * 64u + 48u + local.x];
            s0 += a0.w * bw;
            s1 += a1.w * bw;
            s2 += a2.w * bw;
            s3 += a3.w * bw;
        }
        workgroupBarrier();
    }
    let row = row_from + local.y * 4u;
    let column = (quad_from + local.x) * 4u;
    let offset = bias_quad(column);
    store_quad(row, column, s0, offset);
    store_quad(row + 1u, column, s1, offset);
    store_quad(row + 2u, column, s2, offset);
    store_quad(row + 3u, column, s3, offset);
}
