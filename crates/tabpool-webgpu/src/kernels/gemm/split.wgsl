// GEMM for few rows on GPUs: a workgroup makes the 16 columns of one panel of one row. Sixteen invocations share the
// panel's rows for each four columns and read next to each other, so even one row keeps the memory busy.

var<workgroup> parts: array<vec4f, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
    let row = row_start(min(group.y, p.m - 1u));
    let column = group.x * 16u + local % 4u * 4u;
    let start = b_start(column);
    let steps = (p.k + 3u) / 4u;
    var sum = vec4f(0.0);
    for (var step = local / 4u; step < steps; step += 16u) {
        let x = row_step(row, step);
        let at = start + step * 16u;
        sum += widened(x.x * b_quad(at) + x.y * b_quad(at + 4u) + x.z * b_quad(at + 8u) + x.w * b_quad(at + 12u));
    }
    parts[local] = sum;
    workgroupBarrier();
    if (local >= 4u) { return; }
    for (var slice = 1u; slice < 16u; slice++) { sum += parts[slice * 4u + local]; }
    finish(group.y, column, sum);
}
