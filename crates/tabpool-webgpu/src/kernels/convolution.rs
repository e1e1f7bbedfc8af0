//! Launches convolutions: `convolution_direct.wgsl` for few channels in a group, otherwise `convolution_columns.wgsl` and a
//! GEMM of the weight with what that made.
//!
//! The weight `[out, channels, height, width]` is the left operand as it lies. What lies under the kernel becomes the right one,
//! in the panels that every GEMM variant reads, so that the variant is chosen as for linear layers; the result's rows are channels,
//! which is how images lie. Columns are made in pieces of a bounded size.

use super::gemm::{self, Channels, Gemm, GemmVariant, Panels};
use super::{ACTIVATION, GRID, Groups, Kernel, Launch, Variant, word};
use tabpool_tensor::Precision;

const CONVOLUTION: &str = include_str!("convolution.wgsl");

static COLUMNS: Kernel = Kernel {
    name: "convolution_columns",
    parts: &[GRID, CONVOLUTION, include_str!("convolution_columns.wgsl")],
    reads: 1,
};
static DIRECT: Kernel = Kernel {
    name: "convolution_direct",
    parts: &[GRID, ACTIVATION, CONVOLUTION, include_str!("convolution_direct.wgsl")],
    reads: 3,
};

/// The fewest channels of a result's group that are worth a GEMM.
const ENOUGH_CHANNELS: usize = 8;
/// The most bytes of columns that are made at once.
const PIECE_BYTES: usize = 32 << 20;
/// The most groups that take turns: each takes two dispatches.
const MOST_TURNS: usize = 64;

/// A convolution's sizes and what follows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Convolution {
    pub(crate) batches: usize,
    /// Channels, height and width of an image.
    pub(crate) image: [usize; 3],
    /// Channels, height and width of a result.
    pub(crate) result: [usize; 3],
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: [usize; 2],
    /// Above and to the left; what is below and to the right shows in the result's size.
    pub(crate) padding: [usize; 2],
    pub(crate) dilation: [usize; 2],
    pub(crate) groups: usize,
    pub(crate) bias: bool,
    /// See [`super::activation::code_after`].
    pub(crate) function: u32,
}

/// A part of a convolution that is one product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    group: usize,
    first_column: usize,
    columns: usize,
}

impl Convolution {
    /// Channels of a group of the result, places of the kernel on all images, and elements of the kernel: the sizes of each
    /// group's product.
    pub(crate) fn product(&self) -> (usize, usize, usize) {
        let [out, height, width] = self.result;
        let elements = self.image[0] / self.groups * self.kernel[0] * self.kernel[1];
        (out / self.groups, self.batches * height * width, elements)
    }

    /// Whether it is computed as products.
    pub(crate) fn is_product(&self) -> bool {
        let enough = self.result[0] / self.groups >= ENOUGH_CHANNELS && self.groups <= MOST_TURNS;
        self.groups == 1 || enough
    }

    /// The products it is computed as, one after another, each with columns of at most [`PIECE_BYTES`].
    pub(crate) fn pieces(&self) -> Vec<Piece> {
        let (_, columns, elements) = self.product();
        let rows = Panels::of(Precision::F32, 1, elements).rows;
        let most = (PIECE_BYTES / (4 * rows) / gemm::PANEL).max(1) * gemm::PANEL;
        let piece = |group| {
            let of = move |first| Piece { group, first_column: first, columns: most.min(columns - first) };
            (0..columns).step_by(most).map(of)
        };
        (0..self.groups).flat_map(piece).collect()
    }

    /// The bytes that a piece's columns take.
    pub(crate) fn piece_bytes(&self, piece: Piece) -> u64 {
        Panels::of(Precision::F32, piece.columns, self.product().2).bytes() as u64
    }

    /// Makes a piece's columns.
    pub(crate) fn columns(&self, piece: Piece) -> Launch {
        let channels = self.image[0] / self.groups;
        let quads = piece.columns.div_ceil(gemm::PANEL) * (gemm::PANEL / 4);
        Launch {
            variant: Variant::new(&COLUMNS, &[]),
            params: self.params(piece),
            groups: Groups::of_64(channels.saturating_mul(quads)),
        }
    }

    /// Multiplies the weight with a piece's columns.
    pub(crate) fn multiply(&self, variant: GemmVariant, piece: Piece) -> Launch {
        let (m, _, k) = self.product();
        let [channels, height, width] = self.result;
        let (first_row, first_column) = (piece.group * m, piece.first_column);
        let channels = Channels { first_row, first_column, places: height * width, channels };
        let of = Gemm::new(m, piece.columns, k);
        gemm::launch(variant, Gemm { bias: self.bias, function: self.function, channels: Some(channels), ..of })
    }

    /// All of it at once, without products.
    pub(crate) fn direct(&self) -> Launch {
        let [out, height, width] = self.result;
        let quads = [width.div_ceil(4), height, out].iter().fold(self.batches, |n, &m| n.saturating_mul(m));
        let whole = Piece { group: 0, first_column: 0, columns: 0 };
        Launch {
            variant: Variant::new(&DIRECT, &[("HAS_BIAS", u32::from(self.bias)), ("FUNCTION", self.function)]),
            params: self.params(whole),
            groups: Groups::of_64(quads),
        }
    }

    fn params(&self, piece: Piece) -> Vec<u32> {
        let [channels, height, width] = self.image;
        let [out, out_height, out_width] = self.result;
        let group_channels = channels / self.groups;
        let (_, _, elements) = self.product();
        let rows = Panels::of(Precision::F32, 1, elements).rows;
        let sizes = [
            [channels, height, width, group_channels],
            [piece.group * group_channels, self.kernel[0], self.kernel[1], self.stride[0]],
            [self.stride[1], self.padding[0], self.padding[1], self.dilation[0]],
            [self.dilation[1], out, out / self.groups, out_height],
            [out_width, self.batches, piece.first_column, piece.columns],
            [rows, 0, 0, 0],
        ];
        sizes.concat().into_iter().map(word).collect()
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    let direct =
        |bias| [0, 1, 6, 12].map(move |function| Variant::new(&DIRECT, &[("HAS_BIAS", bias), ("FUNCTION", function)]));
    [&[Variant::new(&COLUMNS, &[])][..], &direct(0), &direct(1)].concat()
}

#[cfg(test)]
mod convolution_tests {
    use super::{Convolution, PIECE_BYTES};

    fn sequence(channels: usize, length: usize, kernel: usize, groups: usize) -> Convolution {
        Convolution {
            batches: 2,
            image: [channels, 1, length + kernel - 1],
            result: [channels, 1, length],
            kernel: [1, kernel],
            stride: [1, 1],
            padding: [0, 0],
            dilation: [1, 1],
            groups,
            bias: false,
            function: 0,
        }
    }

    #[test]
    fn columns_are_made_in_pieces_of_a_bounded_size() {
        let of = sequence(512, 10_001, 3, 1);
        let pieces = of.pieces();
        assert!(pieces.len() > 1 && pieces.iter().all(|&p| of.piece_bytes(p) <= PIECE_BYTES as u64));
        assert_eq!(pieces.iter().map(|p| p.columns).sum::<usize>(), 2 * 10_001);
        assert!(pieces.windows(2).all(|w| w[0].first_column + w[0].columns == w[1].first_column));
    }

    #[test]
    fn each_group_is_a_product_where_it_has_enough_channels() {
        assert!(sequence(768, 499, 128, 16).is_product() && sequence(3, 9, 3, 1).is_product());
        assert_eq!(sequence(768, 499, 128, 16).pieces().len(), 16);
        assert!(!sequence(512, 499, 31, 512).is_product());
    }
}
