//! The GEMM kernels in all their variants, and how to launch them.
//!
//! All take the weight in panels (see [`Panels`]), so any variant may serve any linear node whose weight lies in the numbers
//! it reads. They differ in those numbers, in the shape of what an invocation makes and in where operands wait:
//! `gemm/variants.rs` lists them, `gemm/register.rs`, `gemm/integer.rs`, `gemm/subgroup.rs` and `gemm/tiled.rs` write the
//! text for a shape, `gemm/split*.wgsl` are for few rows.

mod integer;
mod register;
mod rows;
mod subgroup;
mod tiled;
pub(crate) mod trial;
mod variants;

use tabpool_tensor::Precision;

use super::quantise;
use super::{Groups, Launch, Variant, word};

pub use variants::GemmVariant;
pub(crate) use variants::Has;
use variants::{Form, Lie, Numbers};

/// How many columns of a weight lie together.
pub(crate) const PANEL: usize = 16;

/// The longest sum of products of 8-bit integers that 32 bits hold whatever the numbers are.
const MOST_INTEGERS: usize = (i32::MAX / (127 * 127)) as usize;

/// How a weight `[n, k]` lies on the device: transposed and in panels of [`PANEL`] columns, padded with zeros so that no
/// load needs a check, in the numbers of a precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panels {
    /// What the numbers are.
    pub(crate) precision: Precision,
    /// Rows of a panel: k, up to a multiple of 4, for integers of 16.
    pub(crate) rows: usize,
    /// Columns of all panels together.
    pub(crate) columns: usize,
}

impl Panels {
    /// Those of a weight `[n, k]`.
    pub(crate) fn of(precision: Precision, n: usize, k: usize) -> Self {
        let multiple = if precision == Precision::Int8 { 16 } else { 4 };
        Self { precision, rows: k.next_multiple_of(multiple), columns: n.next_multiple_of(PANEL) }
    }

    /// The bytes of one panel.
    pub(crate) fn panel_bytes(self) -> usize {
        self.rows * PANEL * self.number_bytes()
    }

    /// The bytes of all of it: integers have a scale of 32 bits for each column after them.
    pub(crate) fn bytes(self) -> usize {
        let scales = if self.precision == Precision::Int8 { self.columns * 4 } else { 0 };
        self.rows * self.columns * self.number_bytes() + scales
    }

    /// The parts that the `n` columns of a weight are read in where a binding spans at most `limit` bytes and begins at
    /// multiples of `alignment`. `None` where they cannot be cut so; integers, whose scales lie apart, cannot be cut at all.
    pub(crate) fn parts(self, n: usize, limit: u64, alignment: u64) -> Option<Vec<ColumnPart>> {
        if self.bytes() as u64 <= limit {
            return Some(vec![ColumnPart { first: 0, columns: n, all: n, bytes: None }]);
        }
        let panel = self.panel_bytes() as u64;
        // So many panels are a multiple of the alignment, which is a power of two, whatever they take.
        let unit = (1..=alignment).find(|u| (u * panel).is_multiple_of(alignment))?;
        let panels = limit / panel / unit * unit;
        if panels == 0 || self.precision == Precision::Int8 {
            return None;
        }
        let most = usize::try_from(panels).ok()?.saturating_mul(PANEL);
        let part = |first: usize| {
            let columns = most.min(n - first);
            let bytes = columns.div_ceil(PANEL) as u64 * panel;
            ColumnPart { first, columns, all: n, bytes: Some(((first / PANEL) as u64 * panel, bytes)) }
        };
        Some((0..n).step_by(most).map(part).collect())
    }

    fn number_bytes(self) -> usize {
        match self.precision {
            Precision::Int8 => 1,
            Precision::F16 => 2,
            _ => 4,
        }
    }

    /// From one panel to the next as kernels count: in fours of numbers, of words for integers.
    fn stride(self) -> usize {
        let fours = self.rows * PANEL / 4;
        if self.precision == Precision::Int8 { fours / 4 } else { fours }
    }
}

/// The sizes of a product and what follows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gemm {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) bias: bool,
    /// See [`super::activation::code_after`].
    pub(crate) function: u32,
    /// Whether a value of the result's shape is added last.
    pub(crate) residual: bool,
    /// Which columns of a larger result these are, if there is one.
    pub(crate) part: Option<ColumnPart>,
    /// Where the result lies, if its rows are channels of images.
    pub(crate) channels: Option<Channels>,
}

/// Some columns of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ColumnPart {
    /// The first one, a multiple of [`PANEL`].
    pub(crate) first: usize,
    /// How many there are.
    pub(crate) columns: usize,
    /// How many the whole product has.
    pub(crate) all: usize,
    /// Where the weight's panels for them begin and how many bytes they take; all of it where `None`.
    pub(crate) bytes: Option<(u64, u64)>,
}

impl Gemm {
    /// A product with nothing after it.
    pub(crate) fn new(m: usize, n: usize, k: usize) -> Self {
        Self { m, n, k, bias: false, function: 0, residual: false, part: None, channels: None }
    }
}

/// Where a product lies whose rows are channels and whose columns are places on images.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channels {
    /// The first channel, also the first row of the left operand.
    pub(crate) first_row: usize,
    /// The first place, counted over all images.
    pub(crate) first_column: usize,
    /// The places of one image.
    pub(crate) places: usize,
    /// The channels of the result.
    pub(crate) channels: usize,
}

/// Whether sums of products of this many integers fit.
pub(crate) fn sums_integers(k: usize) -> bool {
    k <= MOST_INTEGERS
}

/// The product. Where the variant's operands are integers the rows have to be made such first, by [`integers`].
pub(crate) fn launch(variant: GemmVariant, of: Gemm) -> Launch {
    let count = |size: usize, each: u32| word(size.div_ceil(each as usize));
    let groups = match variant.form() {
        Form::Register(register::Tile { rows, columns, group: (x, y), .. }) => {
            Groups::Plane(count(of.n, columns * x), count(of.m, rows * y))
        }
        Form::Tiled(tile) => Groups::Plane(count(of.n, tile.columns), count(of.m, tile.rows)),
        Form::Split | Form::SplitSubgroup => Groups::Plane(count(of.n, 16), word(of.m)),
        Form::Subgroup(rows) => Groups::Plane(count(of.n, 4 * subgroup::WIDTH), count(of.m, rows)),
    };
    let panels = Panels::of(variant.stored(), of.n, of.k);
    let integers = variant.stored() == Precision::Int8;
    let whole = ColumnPart { first: 0, columns: of.n, all: of.n, bytes: None };
    let part = of.part.unwrap_or(whole);
    let place = match of.channels {
        Some(c) => [c.first_row, c.first_column, c.places, c.channels],
        None => [0, part.first, part.all, 0],
    };
    let length = place[2];
    let lie = Lie {
        // Integers are padded to whole loads.
        rows: integers || of.k.is_multiple_of(4),
        result: length.is_multiple_of(4),
        channels: of.channels.is_some(),
    };
    let constants =
        [("HAS_BIAS", u32::from(of.bias)), ("HAS_RESIDUAL", u32::from(of.residual)), ("FUNCTION", of.function)];
    let mut params = [of.m, of.n, of.k, panels.stride()].map(word).to_vec();
    params.extend(place.map(word));
    Launch { variant: Variant::new(variant.kernel(lie), &constants), params, groups }
}

/// What has to run before the product, and the words it writes for it: the rows as integers, where the variant takes such.
pub(crate) fn integers(variant: GemmVariant, m: usize, k: usize, software: bool) -> Option<(Launch, usize)> {
    let integers = variant.numbers() == Numbers::Int8;
    integers.then(|| (quantise::launch(m, k, software), quantise::words(m, k)))
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for variant in GemmVariant::ALL {
        let numbers = variant.numbers();
        // Convolutions are computed in 32 bits.
        let lies = Lie::ALL.into_iter().filter(|lie| !lie.channels || numbers == Numbers::F32);
        for lie in lies.filter(|lie| lie.rows || numbers != Numbers::Int8) {
            for (bias, residual, function) in [(0, 0, 0), (1, 0, 1), (1, 1, 0), (0, 1, 6)] {
                let constants = [("HAS_BIAS", bias), ("HAS_RESIDUAL", residual), ("FUNCTION", function)];
                all.push(Variant::new(variant.kernel(lie), &constants));
            }
        }
    }
    all
}

#[cfg(test)]
mod parts_tests {
    use super::{PANEL, Panels, Precision};

    #[test]
    fn a_large_weight_is_read_in_parts_that_follow_each_other() {
        for precision in [Precision::F32, Precision::F16] {
            // Panels of 20 rows: 1280 or 640 bytes, neither a multiple of 256 alone.
            let panels = Panels::of(precision, 1003, 20);
            let parts = panels.parts(1003, 8192, 256).expect("a part holds several panels");
            assert!(parts.len() > 1);
            let mut next = (0, 0);
            for part in &parts {
                let (offset, bytes) = part.bytes.expect("a part");
                assert_eq!((part.first, offset, part.all), (next.0, next.1, 1003));
                assert!(offset % 256 == 0 && bytes <= 8192 && part.first % PANEL == 0);
                next = (part.first + part.columns, offset + bytes);
            }
            assert_eq!(next, (1003, panels.bytes() as u64));
        }
        assert_eq!(Panels::of(Precision::F32, 1003, 20).parts(1003, 1000, 256), None, "no panel fits");
        let integers = Panels::of(Precision::Int8, 1003, 20);
        assert_eq!(integers.parts(1003, 8192, 256), None, "their scales lie apart");
        assert_eq!(integers.parts(1003, 1 << 20, 256).map(|p| p.len()), Some(1));
    }
}
