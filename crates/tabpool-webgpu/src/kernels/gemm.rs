//! The GEMM kernels in all their variants, and how to launch them.
//!
//! All take the same operands, so any variant may serve any linear node: `a` as it lies, and the weight in panels (see
//! [`padded`]). They differ in the shape of what an invocation makes and in where operands wait; `gemm/register.rs` and
//! `gemm/tiled.rs` write the text for a shape, `gemm/split.wgsl` is for few rows.

pub(crate) mod register;
mod rows;
pub(crate) mod tiled;
pub(crate) mod trial;

use std::sync::OnceLock;

use super::{ACTIVATION, Groups, Kernel, Launch, Variant, word};
use crate::report::AdapterKind;

const GEMM: &str = include_str!("gemm.wgsl");
const RESULT_VEC4: &str = include_str!("gemm/result_vec4.wgsl");
const RESULT_SCALAR: &str = include_str!("gemm/result_scalar.wgsl");
const SPLIT: &str = include_str!("gemm/split.wgsl");

/// How many columns of a weight lie together.
pub(crate) const PANEL: usize = 16;

/// A way to compute a linear node. All give the same result up to rounding; which is fastest depends on the adapter and
/// the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GemmVariant(&'static str, Form);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Form {
    Register(register::Tile),
    Tiled(tiled::Tile),
    Split,
}

const fn register(name: &'static str, rows: u32, columns: u32, steps: u32, group: (u32, u32)) -> GemmVariant {
    GemmVariant(name, Form::Register(register::Tile { rows, columns, steps, group }))
}

const fn tiled(name: &'static str, rows: u32, columns: u32, depth: u32, each: u32) -> GemmVariant {
    GemmVariant(name, Form::Tiled(tiled::Tile { rows, columns, depth, each }))
}

const REGISTER_1X4: GemmVariant = register("register_1x4", 1, 4, 4, (16, 1));
const REGISTER_1X16: GemmVariant = register("register_1x16", 1, 16, 4, (8, 1));
const REGISTER_4X8: GemmVariant = register("register_4x8", 4, 8, 4, (8, 1));
const REGISTER_4X16: GemmVariant = register("register_4x16", 4, 16, 4, (8, 1));
const REGISTER_8X8: GemmVariant = register("register_8x8", 8, 8, 4, (8, 1));
const REGISTER_8X8_WIDE: GemmVariant = register("register_8x8_wide", 8, 8, 4, (8, 8));
const REGISTER_16X8: GemmVariant = register("register_16x8", 16, 8, 4, (8, 1));
const REGISTER_16X8_SHORT: GemmVariant = register("register_16x8_short", 16, 8, 2, (8, 1));
const REGISTER_16X16: GemmVariant = register("register_16x16", 16, 16, 4, (8, 1));
const TILED_32X64: GemmVariant = tiled("tiled_32x64", 32, 64, 16, 4);
const TILED_64X64: GemmVariant = tiled("tiled_64x64", 64, 64, 16, 4);
const TILED_128X64: GemmVariant = tiled("tiled_128x64", 128, 64, 8, 8);
const SPLIT_1X16: GemmVariant = GemmVariant("split_1x16", Form::Split);

impl GemmVariant {
    /// Every variant.
    pub const ALL: [GemmVariant; 13] = [
        REGISTER_1X4,
        REGISTER_1X16,
        REGISTER_4X8,
        REGISTER_4X16,
        REGISTER_8X8,
        REGISTER_8X8_WIDE,
        REGISTER_16X8,
        REGISTER_16X8_SHORT,
        REGISTER_16X16,
        TILED_32X64,
        TILED_64X64,
        TILED_128X64,
        SPLIT_1X16,
    ];

    /// The name people and databases see, stable between versions that compute it the same way.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0
    }

    /// The variant of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.0 == name)
    }

    /// The variants worth timing for a product of `m` rows on an adapter, likely best first.
    #[must_use]
    pub fn candidates(m: usize, adapter: AdapterKind) -> &'static [GemmVariant] {
        match (adapter, m) {
            (AdapterKind::Hardware, 0..=4) => &[SPLIT_1X16, REGISTER_1X4, REGISTER_1X16],
            (AdapterKind::Hardware, 5..=32) => &[TILED_32X64, SPLIT_1X16, REGISTER_4X8, TILED_64X64],
            (AdapterKind::Hardware, 33..=256) => &[TILED_64X64, TILED_32X64, TILED_128X64, REGISTER_8X8_WIDE],
            (AdapterKind::Hardware, _) => &[TILED_128X64, TILED_64X64, REGISTER_8X8_WIDE],
            (AdapterKind::SwiftShader, 0..=3) => &[REGISTER_1X4, REGISTER_1X16],
            (AdapterKind::SwiftShader, 4..=8) => &[REGISTER_4X8, REGISTER_8X8, REGISTER_4X16],
            (AdapterKind::SwiftShader, _) => &[REGISTER_16X8_SHORT, REGISTER_8X8, REGISTER_16X8],
            (AdapterKind::Software, 0..=3) => &[REGISTER_1X16, REGISTER_1X4],
            (AdapterKind::Software, 4..=8) => &[REGISTER_4X16, REGISTER_4X8, REGISTER_8X8],
            (AdapterKind::Software, 9..=32) => &[REGISTER_16X8, REGISTER_16X16, REGISTER_8X8],
            (AdapterKind::Software, _) => &[REGISTER_16X16, REGISTER_16X8, REGISTER_8X8],
        }
    }

    /// Whether rows of both operands and of the result are read and written four elements at a time.
    fn kernel(self, aligned: bool) -> &'static Kernel {
        static WRITTEN: [[OnceLock<Kernel>; 2]; GemmVariant::ALL.len()] =
            [const { [const { OnceLock::new() }; 2] }; GemmVariant::ALL.len()];
        let position = Self::ALL.iter().position(|v| *v == self).unwrap_or_default();
        WRITTEN[position][usize::from(aligned)].get_or_init(|| self.write(aligned))
    }

    /// Writes the kernel. Its text lives as long as the program, which is why there is one of each.
    fn write(self, aligned: bool) -> Kernel {
        let (steps, main) = match self.1 {
            Form::Register(tile) => (tile.steps, register::source(tile)),
            Form::Tiled(tile) => (4, tiled::source(tile)),
            Form::Split => (4, SPLIT.to_owned()),
        };
        let name = if aligned { self.0.to_owned() } else { format!("{}_scalar", self.0) };
        let written: &'static str = String::leak(rows::source(steps, aligned) + &main);
        let result = if aligned { RESULT_VEC4 } else { RESULT_SCALAR };
        Kernel { name: String::leak(name), parts: Vec::leak(vec![ACTIVATION, GEMM, result, written]), reads: 3 }
    }
}

/// The size of a weight `[n, k]` in memory, transposed and in panels: how many rows a panel has (a multiple of 4) and how
/// many columns all panels have together (a multiple of [`PANEL`]). Padding is zero, so that no load needs a check.
pub(crate) fn padded(k: usize, n: usize) -> (usize, usize) {
    (k.next_multiple_of(4), n.next_multiple_of(PANEL))
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
}

pub(crate) fn launch(variant: GemmVariant, of: Gemm) -> Launch {
    let count = |size: usize, each: u32| word(size.div_ceil(each as usize));
    let groups = match variant.1 {
        Form::Register(register::Tile { rows, columns, group: (x, y), .. }) => {
            Groups::Plane(count(of.n, columns * x), count(of.m, rows * y))
        }
        Form::Tiled(tile) => Groups::Plane(count(of.n, tile.columns), count(of.m, tile.rows)),
        Form::Split => Groups::Plane(count(of.n, 16), word(of.m)),
    };
    let (rows, _) = padded(of.k, of.n);
    let aligned = of.k.is_multiple_of(4) && of.n.is_multiple_of(4);
    Launch {
        variant: Variant::new(variant.kernel(aligned), &[("HAS_BIAS", u32::from(of.bias)), ("FUNCTION", of.function)]),
        params: vec![word(of.m), word(of.n), word(of.k), word(rows * PANEL / 4)],
        groups,
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for variant in GemmVariant::ALL {
        for aligned in [true, false] {
            for bias in [0, 1] {
                for function in [0, 1, 6] {
                    let constants = [("HAS_BIAS", bias), ("FUNCTION", function)];
                    all.push(Variant::new(variant.kernel(aligned), &constants));
                }
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::{Form, GemmVariant};
    use crate::report::AdapterKind;

    #[test]
    fn tiles_fit_the_workgroup_limits_that_every_device_has() {
        for variant in GemmVariant::ALL {
            let (x, y, memory) = match variant.1 {
                Form::Register(tile) => (tile.group.0, tile.group.1, 0),
                Form::Tiled(tile) => (tile.group().0, tile.group().1, tile.memory()),
                Form::Split => (64, 1, 1024),
            };
            assert!(x * y <= 256 && memory <= 16_384, "{}: {x} by {y}, {memory} bytes", variant.name());
        }
    }

    #[test]
    fn names_lead_back_and_candidates_are_variants() {
        for variant in GemmVariant::ALL {
            assert_eq!(GemmVariant::named(variant.name()), Some(variant));
        }
        for adapter in [AdapterKind::Hardware, AdapterKind::SwiftShader, AdapterKind::Software] {
            for m in [1, 4, 8, 16, 128, 1024] {
                let candidates = GemmVariant::candidates(m, adapter);
                assert!(candidates.len() > 1 && candidates.iter().all(|c| GemmVariant::ALL.contains(c)));
            }
        }
    }
}
