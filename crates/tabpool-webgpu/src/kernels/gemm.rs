//! Launches the GEMM kernels: `gemm_register_8x8.wgsl`, `gemm_register_8x4.wgsl`, `gemm_tiled.wgsl`, `gemm_row.wgsl`.
//!
//! All take the same operands, so any variant may serve any linear node: `a` as it lies, and the weight transposed to
//! `[k, n]` and padded with zeros (see [`padded`]).

use super::{ACTIVATION, Groups, Kernel, Launch, Variant, word};

const GEMM: &str = include_str!("gemm.wgsl");
const ROWS_VEC4: &str = include_str!("rows_vec4.wgsl");
const ROWS_SCALAR: &str = include_str!("rows_scalar.wgsl");
const REGISTER_8X8: &str = include_str!("gemm_register_8x8.wgsl");
const REGISTER_8X4: &str = include_str!("gemm_register_8x4.wgsl");
const TILED: &str = include_str!("gemm_tiled.wgsl");
const ROW: &str = include_str!("gemm_row.wgsl");

macro_rules! kernel {
    ($name:ident, $rows:expr, $source:expr) => {
        static $name: Kernel = Kernel { name: stringify!($name), parts: &[ACTIVATION, GEMM, $rows, $source], reads: 3 };
    };
}
kernel!(REGISTER_8X8_VEC4, ROWS_VEC4, REGISTER_8X8);
kernel!(REGISTER_8X8_SCALAR, ROWS_SCALAR, REGISTER_8X8);
kernel!(REGISTER_8X4_VEC4, ROWS_VEC4, REGISTER_8X4);
kernel!(REGISTER_8X4_SCALAR, ROWS_SCALAR, REGISTER_8X4);
kernel!(TILED_VEC4, ROWS_VEC4, TILED);
kernel!(TILED_SCALAR, ROWS_SCALAR, TILED);
kernel!(ROW_VEC4, ROWS_VEC4, ROW);
kernel!(ROW_SCALAR, ROWS_SCALAR, ROW);

/// The ways to compute a linear node. All give the same result up to rounding; which is fastest depends on the adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum GemmVariant {
    /// Register tiles of 8 by 8, no workgroup memory: for software adapters.
    Register8x8,
    /// Register tiles of 8 by 4, no workgroup memory: for software adapters and narrow results.
    Register8x4,
    /// Tiles of 64 by 64 in workgroup memory: for real GPUs.
    Tiled64,
    /// One row by four columns an invocation: for a few rows.
    Row,
}

impl GemmVariant {
    /// Every variant.
    pub const ALL: [GemmVariant; 4] =
        [GemmVariant::Register8x8, GemmVariant::Register8x4, GemmVariant::Tiled64, GemmVariant::Row];

    /// The name people and databases see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            GemmVariant::Register8x8 => "register_8x8",
            GemmVariant::Register8x4 => "register_8x4",
            GemmVariant::Tiled64 => "tiled_64",
            GemmVariant::Row => "row",
        }
    }

    /// The variants worth timing for a product of `m` rows on an adapter, likely best first.
    #[must_use]
    pub fn candidates(m: usize, software: bool) -> &'static [GemmVariant] {
        match (m, software) {
            (0..4, _) => &[GemmVariant::Row, GemmVariant::Register8x4],
            (_, true) => &[GemmVariant::Register8x8, GemmVariant::Register8x4],
            (_, false) => &[GemmVariant::Tiled64, GemmVariant::Register8x8, GemmVariant::Register8x4],
        }
    }

    fn kernel(self, aligned: bool) -> &'static Kernel {
        match (self, aligned) {
            (GemmVariant::Register8x8, true) => &REGISTER_8X8_VEC4,
            (GemmVariant::Register8x8, false) => &REGISTER_8X8_SCALAR,
            (GemmVariant::Register8x4, true) => &REGISTER_8X4_VEC4,
            (GemmVariant::Register8x4, false) => &REGISTER_8X4_SCALAR,
            (GemmVariant::Tiled64, true) => &TILED_VEC4,
            (GemmVariant::Tiled64, false) => &TILED_SCALAR,
            (GemmVariant::Row, true) => &ROW_VEC4,
            (GemmVariant::Row, false) => &ROW_SCALAR,
        }
    }
}

/// The size of a transposed weight `[k, n]` in memory: rows up to a multiple of 4, columns up to a multiple of 8, so that
/// no load of four elements needs a check.
pub(crate) fn padded(k: usize, n: usize) -> (usize, usize) {
    (k.next_multiple_of(4), n.next_multiple_of(8))
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
    let columns = |width: usize, lanes: usize| word(of.n.div_ceil(width).div_ceil(lanes));
    let groups = match variant {
        GemmVariant::Register8x8 => Groups::Plane(columns(8, 8), word(of.m.div_ceil(8))),
        GemmVariant::Register8x4 => Groups::Plane(columns(4, 8), word(of.m.div_ceil(8))),
        GemmVariant::Tiled64 => Groups::Plane(columns(64, 1), word(of.m.div_ceil(64))),
        GemmVariant::Row => Groups::Plane(columns(4, 16), word(of.m)),
    };
    let (_, pitch) = padded(of.k, of.n);
    Launch {
        variant: Variant::new(
            variant.kernel(of.k.is_multiple_of(4)),
            &[("HAS_BIAS", u32::from(of.bias)), ("FUNCTION", of.function)],
        ),
        params: vec![word(of.m), word(of.n), word(of.k), word(pitch / 4)],
        groups,
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for variant in GemmVariant::ALL {
        for aligned in [true, false] {
            for bias in [0, 1] {
                for function in 0..=6 {
                    let constants = [("HAS_BIAS", bias), ("FUNCTION", function)];
                    all.push(Variant::new(variant.kernel(aligned), &constants));
                }
            }
        }
    }
    all
}
