// GEMM for few rows: an invocation makes four columns of one row, so that even one row keeps many invocations busy.

@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) id: vec3u) {
    let column = id.x * 4u;
    let row = id.y;
    if (column >= p.n || row >= p.m) { return; }
    var sum = vec4f(0.0);
    let quads = (p.k + 3u) / 4u;
    var at = id.x;
    for (var quad = 0u; quad < quads; quad++) {
        let x = row_quad(row, quad);
        sum += x.x * b[at];
        sum += x.y * b[at + p.b_quads];
        sum += x.z * b[at + 2u * p.b_quads];
        sum += x.w * b[at + 3u * p.b_quads];
        at += 4u * p.b_quads;
    }
    store_quad(row, column, sum, bias_quad(column));
}
