// What lies under a convolution's kernel, for the product with its weight: a column for each place of the kernel on each
// image, a row for each of the kernel's elements, in the panels that GEMMs read. An invocation makes four columns of one
// channel. Rows and columns that only fill panels up are zero.

@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let i = folded(group, groups) * 64u + local;
    let quads = (p.columns + 15u) / 16u * 4u;
    let channel = i / quads;
    if (channel >= p.group_channels) { return; }
    let quad = i % quads;
    let places = p.out_height * p.out_width;
    var planes = vec4u(0u);
    var rows = vec4i(0);
    var columns = vec4i(0);
    for (var j = 0u; j < 4u; j++) {
        let column = quad * 4u + j;
        let place = (p.first_column + column) % places;
        let image = (p.first_column + column) / places;
        planes[j] = (image * p.channels + p.first_channel + channel) * p.height * p.width;
        rows[j] = i32(place / p.out_width * p.step_down) - i32(p.above);
        columns[j] = i32(place % p.out_width * p.step_right) - i32(p.to_the_left);
        // Columns past the last one lie outside.
        if (column >= p.columns) { rows[j] = -2147483647; }
    }
    let kernel = p.kernel_height * p.kernel_width;
    var at = (quad / 4u * p.panel_rows + channel * kernel) * 4u + quad % 4u;
    for (var down = 0u; down < p.kernel_height; down++) {
        let row = select(rows + i32(down * p.apart_down), vec4i(-1), rows == vec4i(-2147483647));
        for (var right = 0u; right < p.kernel_width; right++) {
            let column = columns + i32(right * p.apart_right);
            y[at] = vec4f(
                pixel(planes.x, row.x, column.x),
                pixel(planes.y, row.y, column.y),
                pixel(planes.z, row.z, column.z),
                pixel(planes.w, row.w, column.w),
            );
            at += 4u;
        }
    }
    if (channel == p.group_channels - 1u) {
        for (var k = p.group_channels * kernel; k < p.panel_rows; k++) {
            y[at] = vec4f(0.0);
            at += 4u;
        }
    }
}
