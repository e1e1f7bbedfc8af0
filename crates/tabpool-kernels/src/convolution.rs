//! Convolutions of images `[batch, channels, height, width]`, which sequences are with one row.
//!
//! Where a group has several output channels a convolution is a product: the kernel's rows, as they lie in memory, times a
//! matrix with a column for each output pixel, which holds what lies under the kernel there. That matrix is never whole: each
//! task packs the panels it is about to multiply, straight from the image, and the product is the output as it should lie.
//! Where a group has one or two output channels there is too little to multiply a packed panel with; then rows of the output are
//! summed tap by tap, which reads the image in order.

use crate::gemm::{BLOCK_ROWS, Epilogue, MAX_COLUMNS, Rows, Size, Target, TileSize, multiply_panels};
use crate::isa::{Isa, vectorised};
use crate::math::{self, Function};
use crate::step::{Units, line};

/// The most output channels of a group that are summed tap by tap.
const FEW_CHANNELS: usize = 2;

/// Elements of packed panels that a task holds at once, where one panel is not more: half an L2 cache.
const PACKED: usize = 1 << 16;

/// The smallest task worth another thread: some ten microseconds.
const SMALLEST_TASK: usize = 1 << 19;

/// A convolution's sizes and moves; those of two dimensions are down, then to the right.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Images.
    pub batch: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Rows and columns of an image.
    pub image: [usize; 2],
    /// Channels of the output.
    pub out_channels: usize,
    /// Rows and columns of the output.
    pub out: [usize; 2],
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Steps of the kernel.
    pub stride: [usize; 2],
    /// Zeros above the image and left of it; those below and to the right follow from the output.
    pub padding: [usize; 2],
    /// Distances between the kernel's elements.
    pub dilation: [usize; 2],
    /// Into how many groups channels are divided.
    pub groups: usize,
}

/// A convolution cut into tasks.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Convolution {
    geometry: Geometry,
    function: Function,
    /// Panels of output pixels of one image.
    panels: usize,
    /// Panels of one task.
    task_panels: usize,
    /// Output channels of one task.
    task_rows: usize,
}

/// Output pixels of one row that follow each other in a panel.
#[derive(Clone, Copy, Default)]
struct Run {
    row: usize,
    column: usize,
    len: usize,
}

impl Convolution {
    /// A convolution followed by a function, cut so that `threads` threads are busy.
    #[must_use]
    pub fn new(tile: TileSize, mut geometry: Geometry, function: Function, threads: usize) -> Self {
        if geometry.kernel == [1, 1] && geometry.stride == [1, 1] && geometry.out == geometry.image {
            // Nothing but pixels one after another.
            geometry.image = [1, geometry.image.iter().product()];
            geometry.out = geometry.image;
        }
        let pixels = geometry.out[0] * geometry.out[1];
        let panels = pixels.div_ceil(tile.columns);
        let rows = geometry.out_channels / geometry.groups;
        let fit = (PACKED / (tile.columns * geometry.taps())).clamp(1, panels);
        let mut whole = Self { geometry, function, panels, task_panels: fit, task_rows: rows };
        let work = pixels.saturating_mul(geometry.taps()).saturating_mul(geometry.out_channels * geometry.batch);
        // Four tasks a thread even out threads of unequal speed.
        let wanted = (work / SMALLEST_TASK).min(4 * threads);
        if threads == 1 || wanted < 2 || whole.is_direct() {
            return whole;
        }
        let matrices = geometry.batch * geometry.groups;
        whole.task_panels = fit.min(panels.div_ceil(wanted.div_ceil(matrices)));
        let tasks = panels.div_ceil(whole.task_panels) * matrices;
        if tasks < wanted {
            // Few pixels and many channels, as in the last layers of a pyramid: then channels are shared, and panels packed
            // by each who needs them.
            let parts = wanted.div_ceil(tasks).min(rows.div_ceil(tile.rows));
            whole.task_rows = rows.div_ceil(parts).next_multiple_of(tile.rows).min(rows);
        }
        whole
    }

    /// Whether rows are summed tap by tap.
    fn is_direct(&self) -> bool {
        self.geometry.out_channels / self.geometry.groups <= FEW_CHANNELS
    }

    /// The parts that may be computed independently.
    pub(crate) fn units(&self) -> usize {
        let Geometry { batch, out_channels, groups, .. } = self.geometry;
        if self.is_direct() {
            return batch * out_channels;
        }
        batch * groups * self.panel_groups() * self.row_blocks()
    }

    fn panel_groups(&self) -> usize {
        self.panels.div_ceil(self.task_panels)
    }

    fn row_blocks(&self) -> usize {
        (self.geometry.out_channels / self.geometry.groups).div_ceil(self.task_rows)
    }

    /// The elements of memory each thread needs.
    pub(crate) fn lane_len(&self, tile: TileSize) -> usize {
        if self.is_direct() { 0 } else { line(self.task_panels * tile.columns * self.geometry.taps()) }
    }

    /// Computes units. Those of one thread share what they pack.
    ///
    /// # Safety
    /// `out` is the first element of the whole result; nobody else touches what these units write.
    #[cfg_attr(target_family = "wasm", inline(never))]
    pub(crate) unsafe fn compute(
        &self,
        isa: Isa,
        [image, kernel]: [&[f32]; 2],
        bias: Option<&[f32]>,
        out: *mut f32,
        lane: &mut [f32],
        units: &mut Units<'_, '_>,
    ) {
        let g = &self.geometry;
        let (pixels, taps) = (g.out[0] * g.out[1], g.taps());
        let (rows, plane) = (g.out_channels / g.groups, g.image[0] * g.image[1]);
        // The channels that group `group` of image `b` sees.
        let seen = |b: usize, group: usize| {
            let channels = g.channels / g.groups;
            &image[(b * g.channels + group * channels) * plane..][..channels * plane]
        };
        let nr = isa.tile().columns;
        let mut holds = None;
        for unit in units {
            if self.is_direct() {
                let (b, channel) = (unit / g.out_channels, unit % g.out_channels);
                let start = bias.map_or(0.0, |bias| bias[channel]);
                // SAFETY: the plane is inside the output, and no other unit has it.
                let out = unsafe { core::slice::from_raw_parts_mut(out.add(unit * pixels), pixels) };
                sum_taps(isa, g, seen(b, channel / rows), &kernel[channel * taps..][..taps], start, out);
                math::apply_in_place(isa, self.function, out);
                continue;
            }
            let (block, matrix) = (unit % self.row_blocks(), unit / self.row_blocks());
            let (part, matrix) = (matrix % self.panel_groups(), matrix / self.panel_groups());
            let (group, b) = (matrix % g.groups, matrix / g.groups);
            let panels = part * self.task_panels..((part + 1) * self.task_panels).min(self.panels);
            let first = panels.start * nr;
            let columns = pixels.min(panels.end * nr) - first;
            if holds.replace((b, group, part)) != Some((b, group, part)) {
                for (n, panel) in lane[..panels.len() * nr * taps].chunks_exact_mut(nr * taps).enumerate() {
                    let first = first + n * nr;
                    g.pack(seen(b, group), first..pixels.min(first + nr), nr, panel);
                }
            }
            let channels = block * self.task_rows..((block + 1) * self.task_rows).min(rows);
            for at in channels.clone().step_by(BLOCK_ROWS) {
                let channel = group * rows + at;
                let size = Size { m: BLOCK_ROWS.min(channels.end - at), k: taps, n: columns };
                let epilogue =
                    Epilogue { row_bias: bias.map(|bias| &bias[channel..]), function: self.function, ..Epilogue::NONE };
                let left = Rows::Strided(&kernel[channel * taps..], taps);
                // SAFETY: the part lies inside this image's output, and no other unit has it.
                unsafe {
                    let target = Target { first: out, stride: pixels }.part(b * g.out_channels + channel, first);
                    multiply_panels(isa, size, left, lane, 0..panels.len(), target, epilogue);
                }
            }
        }
    }
}

impl Geometry {
    /// Elements of a kernel for one output channel.
    fn taps(&self) -> usize {
        self.channels / self.groups * self.kernel[0] * self.kernel[1]
    }

    /// Packs what lies under each element of the kernel at these output pixels, `[taps][columns]`, zeros beyond the last pixel.
    fn pack(&self, image: &[f32], pixels: core::ops::Range<usize>, nr: usize, out: &mut [f32]) {
        let mut runs = [Run::default(); MAX_COLUMNS];
        let (mut count, mut at) = (0, pixels.start);
        while at < pixels.end {
            let (row, column) = (at / self.out[1], at % self.out[1]);
            let len = (self.out[1] - column).min(pixels.end - at);
            runs[count] = Run { row, column, len };
            count += 1;
            at += len;
        }
        let runs = &runs[..count];
        let mut rows = out.chunks_exact_mut(nr);
        for plane in image.chunks_exact(self.image[0] * self.image[1]) {
            for y in 0..self.kernel[0] {
                for (x, out) in (0..self.kernel[1]).zip(&mut rows) {
                    let mut to = 0;
                    for run in runs {
                        self.pack_run(plane, [y, x], *run, &mut out[to..to + run.len]);
                        to += run.len;
                    }
                    out[to..].fill(0.0);
                }
            }
        }
    }

    /// What lies under one element of the kernel along a run.
    fn pack_run(&self, plane: &[f32], [y, x]: [usize; 2], run: Run, out: &mut [f32]) {
        let Some(row) = self.row_under(run.row, y) else {
            out.fill(0.0);
            return;
        };
        let row = &plane[row * self.image[1]..][..self.image[1]];
        let inside = self.columns_inside(x, run.column, run.len);
        out[..inside.start].fill(0.0);
        out[inside.end..].fill(0.0);
        if inside.is_empty() {
            return;
        }
        let first = (run.column + inside.start) * self.stride[1] + x * self.dilation[1] - self.padding[1];
        let out = &mut out[inside];
        if self.stride[1] == 1 {
            out.copy_from_slice(&row[first..][..out.len()]);
        } else {
            out.iter_mut().zip(row[first..].iter().step_by(self.stride[1])).for_each(|(out, &x)| *out = x);
        }
    }

    /// The row of the image under row `y` of the kernel where the output's row is `row`; `None` in the padding.
    #[inline(always)]
    fn row_under(&self, row: usize, y: usize) -> Option<usize> {
        (row * self.stride[0] + y * self.dilation[0]).checked_sub(self.padding[0]).filter(|&row| row < self.image[0])
    }

    /// Of `len` output columns from `column` on, those under whose element `x` of the kernel the image lies.
    #[inline(always)]
    fn columns_inside(&self, x: usize, column: usize, len: usize) -> core::ops::Range<usize> {
        let (stride, tap) = (self.stride[1], x * self.dilation[1]);
        // The first output column with `column * stride + tap >= padding`, and the first with `... >= padding + width`.
        let from = |edge: usize| edge.saturating_sub(tap).div_ceil(stride).clamp(column, column + len) - column;
        let start = from(self.padding[1]);
        start..from(self.padding[1] + self.image[1]).max(start)
    }
}

vectorised! {
    /// One plane of the output: `start` and, for each channel and element of the kernel, that element times what lies under it.
    fn sum_taps(g: &Geometry, image: &[f32], kernel: &[f32], start: f32, out: &mut [f32]) {
        let plane_len = g.image[0] * g.image[1];
        out.fill(start);
        for (row, out) in out.chunks_exact_mut(g.out[1]).enumerate() {
            let mut taps = kernel.iter();
            for plane in image.chunks_exact(plane_len) {
                for y in 0..g.kernel[0] {
                    let under = g.row_under(row, y);
                    for (x, &factor) in (0..g.kernel[1]).zip(&mut taps) {
                        let Some(under) = under else { continue };
                        let inside = g.columns_inside(x, 0, out.len());
                        if inside.is_empty() {
                            continue;
                        }
                        let first = inside.start * g.stride[1] + x * g.dilation[1] - g.padding[1];
                        let from = &plane[under * g.image[1]..][..g.image[1]][first..];
                        let out = &mut out[inside];
                        if g.stride[1] == 1 {
                            out.iter_mut().zip(from).for_each(|(out, x)| *out += factor * x);
                        } else {
                            let from = from.iter().step_by(g.stride[1]);
                            out.iter_mut().zip(from).for_each(|(out, x)| *out += factor * x);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Geometry;

    #[test]
    fn columns_in_the_padding_are_known() {
        let g = Geometry {
            batch: 1,
            channels: 1,
            image: [1, 5],
            out_channels: 1,
            out: [1, 4],
            kernel: [1, 3],
            stride: [1, 2],
            padding: [0, 2],
            dilation: [1, 2],
            groups: 1,
        };
        // Output columns 0 to 3 read from -2, 0, 2, 4 on, every other column.
        assert_eq!([0, 1, 2].map(|x| g.columns_inside(x, 0, 4)), [1..4, 0..3, 0..2]);
        assert_eq!([0, 1, 2].map(|x| g.columns_inside(x, 2, 2)), [0..2, 0..1, 0..0]);
    }
}
