// GEMM with a register tile of 8 rows by 4 columns an invocation and no workgroup memory: the fastest on software
// adapters, which run a workgroup's invocations as vector lanes and pay for every barrier. Written out because
// compilers there do not turn arrays of accumulators into registers.

override GROUP_X: u32 = 8u;
override GROUP_Y: u32 = 1u;

@compute @workgroup_size(GROUP_X, GROUP_Y)
fn main(@builtin(global_invocation_id) id: vec3u) {
    let column = id.x * 4u;
    let row = id.y * 8u;
    if (column >= p.n || row >= p.m) { return; }
    let last = p.m - 1u;
    let r0 = row;
    let r1 = min(row + 1u, last);
    let r2 = min(row + 2u, last);
    let r3 = min(row + 3u, last);
    let r4 = min(row + 4u, last);
    let r5 = min(row + 5u, last);
    let r6 = min(row + 6u, last);
    let r7 = min(row + 7u, last);
    var s00 = vec4f(0.0);
    var s10 = vec4f(0.0);
    var s20 = vec4f(0.0);
    var s30 = vec4f(0.0);
    var s40 = vec4f(0.0);
    var s50 = vec4f(0.0);
    var s60 = vec4f(0.0);
    var s70 = vec4f(0.0);
    let quads = (p.k + 3u) / 4u;
    var at = column / 4u;
    for (var quad = 0u; quad < quads; quad++) {
        let a0 = row_quad(r0, quad);
        let a1 = row_quad(r1, quad);
        let a2 = row_quad(r2, quad);
        let a3 = row_quad(r3, quad);
        let a4 = row_quad(r4, quad);
        let a5 = row_quad(r5, quad);
        let a6 = row_quad(r6, quad);
        let a7 = row_quad(r7, quad);
        let bx0 = b[at];
        s00 += a0.x * bx0;
        s10 += a1.x * bx0;
        s20 += a2.x * bx0;
        s30 += a3.x * bx0;
        s40 += a4.x * bx0;
        s50 += a5.x * bx0;
        s60 += a6.x * bx0;
        s70 += a7.x * bx0;
        at += p.b_quads;
        let by0 = b[at];
        s00 += a0.y * by0;
        s10 += a1.y * by0;
        s20 += a2.y * by0;
        s30 += a3.y * by0;
        s40 += a4.y * by0;
        s50 += a5.y * by0;
        s60 += a6.y * by0;
        s70 += a7.y * by0;
        at += p.b_quads;
        let bz0 = b[at];
        s00 += a0.z * bz0;
        s10 += a1.z * bz0;
        s20 += a2.z * bz0;
        s30 += a3.z * bz0;
        s40 += a4.z * bz0;
        s50 += a5.z * bz0;
        s60 += a6.z * bz0;
        s70 += a7.z * bz0;
        at += p.b_quads;
        let bw0 = b[at];
        s00 += a0.w * bw0;
        s10 += a1.w * bw0;
        s20 += a2.w * bw0;
        s30 += a3.w * bw0;
        s40 += a4.w * bw0;
        s50 += a5.w * bw0;
        s60 += a6.w * bw0;
        s70 += a7.w * bw0;
        at += p.b_quads;
    }
    let bias0 = bias_quad(column);
    store_quad(row, column, s00, bias0);
    store_quad(row + 1u, column, s10, bias0);
    store_quad(row + 2u, column, s20, bias0);
    store_quad(row + 3u, column, s30, bias0);
    store_quad(row + 4u, column, s40, bias0);
    store_quad(row + 5u, column, s50, bias0);
    store_quad(row + 6u, column, s60, bias0);
    store_quad(row + 7u, column, s70, bias0);
}
