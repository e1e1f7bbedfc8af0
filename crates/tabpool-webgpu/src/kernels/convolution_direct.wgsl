// A convolution with few channels in a group, as where each channel has a kernel of its own: an invocation makes four
// elements of the result that lie side by side.

@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

override HAS_BIAS: bool = false;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let i = folded(group, groups) * 64u + local;
    let quads = (p.out_width + 3u) / 4u;
    let out = i / (quads * p.out_height);
    if (out >= p.batches * p.out_channels) { return; }
    let column = i % quads * 4u;
    let row = i / quads % p.out_height;
    let channel = out % p.out_channels;
    let first = channel / p.out_group_channels * p.group_channels;
    let image = (out / p.out_channels * p.channels + first) * p.height * p.width;
    let top = i32(row * p.step_down) - i32(p.above);
    let step = i32(p.step_right);
    var w = channel * p.group_channels * p.kernel_height * p.kernel_width;
    var sum = vec4f(0.0);
    for (var c = 0u; c < p.group_channels; c++) {
        let plane = image + c * p.height * p.width;
        for (var down = 0u; down < p.kernel_height; down++) {
            let y_at = top + i32(down * p.apart_down);
            for (var right = 0u; right < p.kernel_width; right++) {
                let x_at = i32(column * p.step_right + right * p.apart_right) - i32(p.to_the_left);
                let four = vec4f(
                    pixel(plane, y_at, x_at),
                    pixel(plane, y_at, x_at + step),
                    pixel(plane, y_at, x_at + 2 * step),
                    pixel(plane, y_at, x_at + 3 * step),
                );
                sum += four * weight[w];
                w++;
            }
        }
    }
    if (HAS_BIAS) { sum += bias[channel]; }
    let v = activate(sum);
    let at = (out * p.out_height + row) * p.out_width + column;
    y[at] = v.x;
    if (column + 1u < p.out_width) { y[at + 1u] = v.y; }
    if (column + 2u < p.out_width) { y[at + 2u] = v.z; }
    if (column + 3u < p.out_width) { y[at + 3u] = v.w; }
}
