// Prelude: a convolution and what lies under its kernel.

struct Params {
    // Of the image: channels, height and width.
    channels: u32,
    height: u32,
    width: u32,
    // Channels of a group, and the first of this group.
    group_channels: u32,
    first_channel: u32,
    // The kernel's height and width, its steps, what the image is continued by above and to the left, and the distance of
    // the kernel's elements.
    kernel_height: u32,
    kernel_width: u32,
    step_down: u32,
    step_right: u32,
    above: u32,
    to_the_left: u32,
    apart_down: u32,
    apart_right: u32,
    // Of the result: channels, channels of a group, height and width, and images.
    out_channels: u32,
    out_group_channels: u32,
    out_height: u32,
    out_width: u32,
    batches: u32,
    // Which columns of the product are made, how many, and how many rows a panel has.
    first_column: u32,
    columns: u32,
    panel_rows: u32,
    spare0: u32,
    spare1: u32,
    spare2: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;

// An element of a channel that begins at `channel`; zero beside the image.
fn pixel(channel: u32, row: i32, column: i32) -> f32 {
    let inside = row >= 0 && row < i32(p.height) && column >= 0 && column < i32(p.width);
    // Where it is outside the first element is read, and not taken.
    let at = select(0u, channel + u32(row) * p.width + u32(column), inside);
    return select(0.0, x[at], inside);
}
