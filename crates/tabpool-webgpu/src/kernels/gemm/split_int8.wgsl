// As `split.wgsl` for integers: sixteen invocations share the panel's rows for each four columns.

var<workgroup> parts: array<vec4i, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
    let row = min(group.y, p.m - 1u);
    let row_from = row_start(row);
    let column = group.x * 16u + local % 4u * 4u;
    let start = b_start(column);
    var sum = vec4i(0);
    for (var step = local / 4u; step < depth(); step += 16u) {
        let x = row_step(row_from, step);
        let at = start + step * 16u;
        sum += dots(x.x, b[at]) + dots(x.y, b[at + 4u]) + dots(x.z, b[at + 8u]) + dots(x.w, b[at + 12u]);
    }
    parts[local] = sum;
    workgroupBarrier();
    if (local >= 4u) { return; }
    for (var slice = 1u; slice < 16u; slice++) { sum += parts[slice * 4u + local]; }
    finish(group.y, column, vec4f(sum) * (row_scale(row) * column_scales(column)));
}
