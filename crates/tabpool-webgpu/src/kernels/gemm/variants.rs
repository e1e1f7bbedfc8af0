//! The list of GEMM variants: what each is made of, what it needs, and which are worth trying where.

use std::sync::OnceLock;

use tabpool_tensor::Precision;

use super::super::{ACTIVATION, Kernel};
use super::{integer, register, rows, subgroup, tiled};
use crate::report::AdapterKind;

const GEMM: &str = include_str!("../gemm.wgsl");
const PANELS_F32: &str = include_str!("panels_f32.wgsl");
const PANELS_F16: &str = include_str!("panels_f16.wgsl");
const PANELS_HALF: &str = include_str!("panels_half.wgsl");
const PANELS_INT8: &str = include_str!("panels_int8.wgsl");
const RESULT_VEC4: &str = include_str!("result_vec4.wgsl");
const RESULT_SCALAR: &str = include_str!("result_scalar.wgsl");
const BIAS_COLUMNS: &str = include_str!("bias_columns.wgsl");
const CHANNELS_VEC4: &str = include_str!("result_channels_vec4.wgsl");
const CHANNELS_SCALAR: &str = include_str!("result_channels_scalar.wgsl");
const SPLIT_TEXT: &str = include_str!("split.wgsl");
const SPLIT_INT8_TEXT: &str = include_str!("split_int8.wgsl");
const SPLIT_SUBGROUP_TEXT: &str = include_str!("split_subgroup.wgsl");
/// Stands before everything else where f16 is computed with.
const ENABLE_F16: &str = "enable f16;\n";

/// A way to compute a linear node. Those of one precision give the same result up to the rounding of that precision; which
/// is fastest depends on the adapter and the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GemmVariant {
    name: &'static str,
    form: Form,
    numbers: Numbers,
}

/// What an invocation makes and where its operands wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Form {
    Register(register::Tile),
    Tiled(tiled::Tile),
    Split,
    /// So many rows, shared by a subgroup.
    Subgroup(u32),
    SplitSubgroup,
}

/// What is multiplied with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Numbers {
    /// Both operands in 32 bits.
    F32,
    /// Weights of 16 bits, widened as they are read.
    F16,
    /// Weights of 16 bits and activations narrowed to them; sums of up to four products in 16 bits, the rest in 32.
    Half,
    /// Both operands in 8 bits, sums in 32.
    Int8,
}

/// What a device has beyond what every one has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Has {
    /// Arithmetic in f16.
    pub(crate) f16: bool,
    /// Subgroups, of at least four invocations.
    pub(crate) subgroups: bool,
}

const fn variant(name: &'static str, form: Form, numbers: Numbers) -> GemmVariant {
    GemmVariant { name, form, numbers }
}

const fn tile(rows: u32, columns: u32, steps: u32, group: (u32, u32)) -> Form {
    Form::Register(register::Tile { rows, columns, steps, group })
}

const fn tiled(rows: u32, columns: u32, depth: u32, each: u32) -> Form {
    Form::Tiled(tiled::Tile { rows, columns, depth, each })
}

const TILE_1X4: Form = tile(1, 4, 4, (16, 1));
const TILE_1X16: Form = tile(1, 16, 4, (8, 1));
const TILE_4X8: Form = tile(4, 8, 4, (8, 1));
const TILE_4X16: Form = tile(4, 16, 4, (8, 1));
const TILE_8X8: Form = tile(8, 8, 4, (8, 1));
const TILE_8X16: Form = tile(8, 16, 4, (8, 1));
const TILE_16X8: Form = tile(16, 8, 4, (8, 1));
const TILE_16X8_SHORT: Form = tile(16, 8, 2, (8, 1));
const TILE_16X16: Form = tile(16, 16, 4, (8, 1));
const TILE_32X16: Form = tile(32, 16, 4, (8, 1));

const REGISTER_1X4: GemmVariant = variant("register_1x4", TILE_1X4, Numbers::F32);
const REGISTER_1X16: GemmVariant = variant("register_1x16", TILE_1X16, Numbers::F32);
const REGISTER_4X8: GemmVariant = variant("register_4x8", TILE_4X8, Numbers::F32);
const REGISTER_4X16: GemmVariant = variant("register_4x16", TILE_4X16, Numbers::F32);
const REGISTER_8X8: GemmVariant = variant("register_8x8", TILE_8X8, Numbers::F32);
const REGISTER_8X8_WIDE: GemmVariant = variant("register_8x8_wide", tile(8, 8, 4, (8, 8)), Numbers::F32);
const REGISTER_16X8: GemmVariant = variant("register_16x8", TILE_16X8, Numbers::F32);
const REGISTER_16X8_SHORT: GemmVariant = variant("register_16x8_short", TILE_16X8_SHORT, Numbers::F32);
const REGISTER_16X16: GemmVariant = variant("register_16x16", TILE_16X16, Numbers::F32);
const REGISTER_32X16: GemmVariant = variant("register_32x16", TILE_32X16, Numbers::F32);
const REGISTER_32X16_NARROW: GemmVariant = variant("register_32x16_narrow", tile(32, 16, 4, (4, 1)), Numbers::F32);
const TILED_32X64: GemmVariant = variant("tiled_32x64", tiled(32, 64, 16, 4), Numbers::F32);
const TILED_64X64: GemmVariant = variant("tiled_64x64", tiled(64, 64, 16, 4), Numbers::F32);
const TILED_128X64: GemmVariant = variant("tiled_128x64", tiled(128, 64, 8, 8), Numbers::F32);
const SPLIT_1X16: GemmVariant = variant("split_1x16", Form::Split, Numbers::F32);
const SUBGROUP_4X4: GemmVariant = variant("subgroup_4x4", Form::Subgroup(4), Numbers::F32);
const SUBGROUP_8X4: GemmVariant = variant("subgroup_8x4", Form::Subgroup(8), Numbers::F32);
const SPLIT_SUBGROUP: GemmVariant = variant("split_subgroup", Form::SplitSubgroup, Numbers::F32);

const F16_REGISTER_1X16: GemmVariant = variant("f16_register_1x16", TILE_1X16, Numbers::F16);
const F16_REGISTER_4X16: GemmVariant = variant("f16_register_4x16", TILE_4X16, Numbers::F16);
const F16_REGISTER_16X8: GemmVariant = variant("f16_register_16x8_short", TILE_16X8_SHORT, Numbers::F16);
const F16_REGISTER_16X16: GemmVariant = variant("f16_register_16x16", TILE_16X16, Numbers::F16);
const F16_TILED_32X64: GemmVariant = variant("f16_tiled_32x64", tiled(32, 64, 16, 4), Numbers::F16);
const F16_TILED_64X64: GemmVariant = variant("f16_tiled_64x64", tiled(64, 64, 16, 4), Numbers::F16);
const F16_SPLIT: GemmVariant = variant("f16_split_1x16", Form::Split, Numbers::F16);
const F16_SUBGROUP_8X4: GemmVariant = variant("f16_subgroup_8x4", Form::Subgroup(8), Numbers::F16);
const F16_SPLIT_SUBGROUP: GemmVariant = variant("f16_split_subgroup", Form::SplitSubgroup, Numbers::F16);

const HALF_REGISTER_4X16: GemmVariant = variant("half_register_4x16", TILE_4X16, Numbers::Half);
const HALF_REGISTER_16X8: GemmVariant = variant("half_register_16x8", TILE_16X8, Numbers::Half);
const HALF_TILED_64X64: GemmVariant = variant("half_tiled_64x64", tiled(64, 64, 16, 4), Numbers::Half);
const HALF_TILED_128X64: GemmVariant = variant("half_tiled_128x64", tiled(128, 64, 16, 8), Numbers::Half);
const HALF_SPLIT: GemmVariant = variant("half_split_1x16", Form::Split, Numbers::Half);

const INT8_REGISTER_1X16: GemmVariant = variant("int8_register_1x16", TILE_1X16, Numbers::Int8);
const INT8_REGISTER_4X8: GemmVariant = variant("int8_register_4x8", TILE_4X8, Numbers::Int8);
const INT8_REGISTER_8X8: GemmVariant = variant("int8_register_8x8", TILE_8X8, Numbers::Int8);
const INT8_REGISTER_8X16: GemmVariant = variant("int8_register_8x16", TILE_8X16, Numbers::Int8);
const INT8_REGISTER_8X8_WIDE: GemmVariant = variant("int8_register_8x8_wide", tile(8, 8, 4, (8, 8)), Numbers::Int8);
const INT8_SPLIT: GemmVariant = variant("int8_split_1x16", Form::Split, Numbers::Int8);

impl GemmVariant {
    /// Every variant.
    pub const ALL: [GemmVariant; 38] = [
        REGISTER_1X4,
        REGISTER_1X16,
        REGISTER_4X8,
        REGISTER_4X16,
        REGISTER_8X8,
        REGISTER_8X8_WIDE,
        REGISTER_16X8,
        REGISTER_16X8_SHORT,
        REGISTER_16X16,
        REGISTER_32X16,
        REGISTER_32X16_NARROW,
        TILED_32X64,
        TILED_64X64,
        TILED_128X64,
        SPLIT_1X16,
        SUBGROUP_4X4,
        SUBGROUP_8X4,
        SPLIT_SUBGROUP,
        F16_REGISTER_1X16,
        F16_REGISTER_4X16,
        F16_REGISTER_16X8,
        F16_REGISTER_16X16,
        F16_TILED_32X64,
        F16_TILED_64X64,
        F16_SPLIT,
        F16_SUBGROUP_8X4,
        F16_SPLIT_SUBGROUP,
        HALF_REGISTER_4X16,
        HALF_REGISTER_16X8,
        HALF_TILED_64X64,
        HALF_TILED_128X64,
        HALF_SPLIT,
        INT8_REGISTER_1X16,
        INT8_REGISTER_4X8,
        INT8_REGISTER_8X8,
        INT8_REGISTER_8X16,
        INT8_REGISTER_8X8_WIDE,
        INT8_SPLIT,
    ];

    /// The name people and databases see, stable between versions that compute it the same way.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The variant of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.name == name)
    }

    /// The least exact numbers it computes with.
    #[must_use]
    pub fn precision(self) -> Precision {
        match self.numbers {
            Numbers::F32 => Precision::F32,
            Numbers::F16 | Numbers::Half => Precision::F16,
            Numbers::Int8 => Precision::Int8,
        }
    }

    /// The numbers the weight has to lie in.
    pub(crate) fn stored(self) -> Precision {
        self.precision()
    }

    /// Whether activations and short sums of products are in 16 bits, not only the weights.
    pub(crate) fn narrows_activations(self) -> bool {
        self.numbers == Numbers::Half
    }

    /// Whether a device that has this can run it.
    pub(crate) fn runs_with(self, has: Has) -> bool {
        let subgroups = matches!(self.form, Form::Subgroup(_) | Form::SplitSubgroup);
        (has.f16 || self.numbers != Numbers::Half) && (has.subgroups || !subgroups)
    }

    pub(super) fn form(self) -> Form {
        self.form
    }

    pub(super) fn numbers(self) -> Numbers {
        self.numbers
    }

    /// The variants worth timing for a product of `m` rows on an adapter where so low a precision is permitted, likely best
    /// first. There are always some in 32 bits among them.
    pub(crate) fn candidates(m: usize, adapter: AdapterKind, permitted: Precision, has: Has) -> Vec<GemmVariant> {
        let lower = [Self::candidates_int8(m, adapter), Self::candidates_f16(m, adapter)];
        let f32 = Self::candidates_f32(m, adapter);
        // On GPUs fewer bytes are likely to win. Software adapters, whose memory is fast beside their arithmetic, stay exact
        // until fewer bits were measured to be faster there.
        let order: Vec<&[GemmVariant]> = match adapter {
            AdapterKind::Hardware => vec![lower[0], lower[1], f32],
            AdapterKind::Software => vec![f32, lower[0], lower[1]],
            AdapterKind::SwiftShader => vec![f32, lower[1], lower[0]],
        };
        let allowed = |v: &GemmVariant| v.precision().within(permitted) && v.runs_with(has);
        order.concat().into_iter().filter(allowed).collect()
    }

    fn candidates_f32(m: usize, adapter: AdapterKind) -> &'static [GemmVariant] {
        match (adapter, m) {
            (AdapterKind::Hardware, 0..=4) => &[SPLIT_1X16, SPLIT_SUBGROUP, REGISTER_1X4, REGISTER_1X16],
            (AdapterKind::Hardware, 5..=32) => &[TILED_32X64, SPLIT_1X16, REGISTER_4X8, TILED_64X64, SUBGROUP_4X4],
            (AdapterKind::Hardware, 33..=256) => {
                &[TILED_64X64, TILED_32X64, TILED_128X64, REGISTER_8X8_WIDE, SUBGROUP_8X4]
            }
            (AdapterKind::Hardware, _) => &[TILED_128X64, TILED_64X64, REGISTER_8X8_WIDE, SUBGROUP_8X4],
            (AdapterKind::SwiftShader, 0..=3) => &[REGISTER_1X4, REGISTER_1X16],
            (AdapterKind::SwiftShader, 4..=8) => &[REGISTER_4X8, REGISTER_8X8, REGISTER_4X16],
            (AdapterKind::SwiftShader, 9..=32) => &[REGISTER_16X8_SHORT, REGISTER_8X8, REGISTER_16X8],
            (AdapterKind::SwiftShader, 33..=64) => {
                &[REGISTER_16X8_SHORT, REGISTER_32X16_NARROW, REGISTER_16X16, REGISTER_16X8]
            }
            (AdapterKind::SwiftShader, _) => {
                &[REGISTER_16X8_SHORT, REGISTER_32X16_NARROW, REGISTER_32X16, REGISTER_16X16]
            }
            (AdapterKind::Software, 0..=3) => &[REGISTER_1X16, REGISTER_1X4],
            (AdapterKind::Software, 4..=8) => &[REGISTER_4X16, REGISTER_4X8, REGISTER_8X8],
            (AdapterKind::Software, 9..=32) => &[REGISTER_16X8, REGISTER_16X16, REGISTER_8X8],
            (AdapterKind::Software, 33..=64) => &[REGISTER_16X16, REGISTER_32X16, REGISTER_16X8],
            (AdapterKind::Software, _) => &[REGISTER_32X16, REGISTER_16X16, REGISTER_16X8],
        }
    }

    fn candidates_f16(m: usize, adapter: AdapterKind) -> &'static [GemmVariant] {
        match (adapter, m) {
            (AdapterKind::Hardware, 0..=4) => &[HALF_SPLIT, F16_SPLIT, F16_SPLIT_SUBGROUP],
            (AdapterKind::Hardware, 5..=32) => &[HALF_TILED_64X64, F16_TILED_32X64, F16_SPLIT],
            (AdapterKind::Hardware, 33..=256) => &[HALF_TILED_64X64, F16_TILED_64X64, F16_SUBGROUP_8X4],
            (AdapterKind::Hardware, _) => &[HALF_TILED_128X64, HALF_TILED_64X64, F16_TILED_64X64],
            (AdapterKind::SwiftShader | AdapterKind::Software, 0..=3) => &[F16_REGISTER_1X16],
            (AdapterKind::SwiftShader | AdapterKind::Software, 4..=8) => &[F16_REGISTER_4X16, HALF_REGISTER_4X16],
            (AdapterKind::SwiftShader, _) => &[F16_REGISTER_16X8],
            (AdapterKind::Software, _) => &[F16_REGISTER_16X16, HALF_REGISTER_16X8],
        }
    }

    fn candidates_int8(m: usize, adapter: AdapterKind) -> &'static [GemmVariant] {
        match (adapter, m) {
            (AdapterKind::Hardware, 0..=4) => &[INT8_SPLIT],
            (AdapterKind::Hardware, _) => &[INT8_REGISTER_8X8_WIDE, INT8_SPLIT],
            (AdapterKind::SwiftShader | AdapterKind::Software, 0..=3) => &[INT8_REGISTER_1X16],
            (AdapterKind::SwiftShader | AdapterKind::Software, 4..=8) => &[INT8_REGISTER_4X8],
            _ => &[INT8_REGISTER_8X8, INT8_REGISTER_8X16],
        }
    }

    /// The kernel for operands and results that lie so.
    pub(super) fn kernel(self, lie: Lie) -> &'static Kernel {
        static WRITTEN: [[OnceLock<Kernel>; Lie::ALL.len()]; GemmVariant::ALL.len()] =
            [const { [const { OnceLock::new() }; Lie::ALL.len()] }; GemmVariant::ALL.len()];
        let position = Self::ALL.iter().position(|v| *v == self).unwrap_or_default();
        WRITTEN[position][lie.position()].get_or_init(|| self.write(lie))
    }

    /// Writes the kernel. Its text lives as long as the program, which is why there is one of each.
    fn write(self, lie: Lie) -> Kernel {
        let integers = self.numbers == Numbers::Int8;
        let (steps, main) = match self.form {
            Form::Register(tile) if integers => (4, integer::source(tile)),
            Form::Register(tile) => (tile.steps, register::source(tile)),
            Form::Tiled(tile) => (4, tiled::source(tile)),
            Form::Split if integers => (4, SPLIT_INT8_TEXT.to_owned()),
            Form::Split => (4, SPLIT_TEXT.to_owned()),
            Form::Subgroup(rows) => (4, subgroup::source(rows)),
            Form::SplitSubgroup => (4, SPLIT_SUBGROUP_TEXT.to_owned()),
        };
        let (enable, panels) = match self.numbers {
            Numbers::F32 => ("", PANELS_F32),
            Numbers::F16 => ("", PANELS_F16),
            Numbers::Half => (ENABLE_F16, PANELS_HALF),
            Numbers::Int8 => ("", PANELS_INT8),
        };
        let written: &'static str = String::leak(rows::source(steps, lie.rows, self.numbers) + &main);
        let mut parts = vec![enable, ACTIVATION, GEMM, panels];
        parts.extend(match (lie.channels, lie.result) {
            (false, true) => [BIAS_COLUMNS, RESULT_VEC4].as_slice(),
            (false, false) => &[BIAS_COLUMNS, RESULT_SCALAR],
            (true, true) => &[CHANNELS_VEC4],
            (true, false) => &[CHANNELS_SCALAR],
        });
        parts.push(written);
        let suffix = [(lie.channels, "_channels"), (!lie.rows, "_scalar_rows"), (!lie.result, "_scalar")];
        let suffix: String = suffix.into_iter().filter_map(|(has, name)| has.then_some(name)).collect();
        Kernel { name: String::leak(format!("{}{suffix}", self.name)), parts: Vec::leak(parts), reads: READS }
    }
}

/// Buffers that every GEMM reads: both operands, the bias and the residual.
const READS: u32 = 4;

/// How the rows of the left operand and the result lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lie {
    /// Whether rows of the left operand are read four elements at a time.
    pub(super) rows: bool,
    /// Whether rows of the result are written four elements at a time.
    pub(super) result: bool,
    /// Whether the result's rows are channels of images.
    pub(super) channels: bool,
}

impl Lie {
    /// All there are.
    pub(super) const ALL: [Lie; 8] = {
        let mut all = [Lie { rows: false, result: false, channels: false }; 8];
        let mut i = 0;
        while i < 8 {
            all[i] = Lie { rows: i % 2 == 1, result: i / 2 % 2 == 1, channels: i / 4 == 1 };
            i += 1;
        }
        all
    };

    fn position(self) -> usize {
        usize::from(self.rows) + 2 * usize::from(self.result) + 4 * usize::from(self.channels)
    }
}

#[cfg(test)]
mod tests {
    use tabpool_tensor::Precision;

    use super::{Form, GemmVariant, Has, Numbers, subgroup};
    use crate::report::AdapterKind;

    #[test]
    fn tiles_fit_the_workgroup_limits_that_every_device_has() {
        for variant in GemmVariant::ALL {
            let (x, y, memory) = match variant.form {
                Form::Register(tile) => (tile.group.0, tile.group.1, 0),
                Form::Tiled(tile) => (tile.group().0, tile.group().1, tile.memory()),
                Form::Split | Form::SplitSubgroup => (64, 1, 1024),
                Form::Subgroup(_) => (subgroup::WIDTH, 1, 0),
            };
            let memory = if variant.numbers == Numbers::Half { memory / 2 } else { memory };
            assert!(x * y <= 256 && memory <= 16_384, "{}: {x} by {y}, {memory} bytes", variant.name());
        }
    }

    #[test]
    fn names_lead_back_and_are_unique() {
        for variant in GemmVariant::ALL {
            assert_eq!(GemmVariant::named(variant.name()), Some(variant));
        }
    }

    #[test]
    fn candidates_keep_to_what_is_permitted_and_what_the_device_has() {
        for adapter in [AdapterKind::Hardware, AdapterKind::SwiftShader, AdapterKind::Software] {
            for m in [1, 4, 8, 16, 128, 1024] {
                for permitted in Precision::ALL {
                    for (f16, subgroups) in [(false, false), (true, false), (false, true), (true, true)] {
                        let has = Has { f16, subgroups };
                        let candidates = GemmVariant::candidates(m, adapter, permitted, has);
                        let exact = candidates.iter().filter(|c| c.precision() == Precision::F32).count();
                        let lowest = candidates.iter().map(|c| c.precision()).max();
                        assert!(exact > 1 && lowest == Some(permitted), "{adapter:?} {m} {permitted} {has:?}");
                        assert!(candidates.iter().all(|c| c.runs_with(has) && GemmVariant::ALL.contains(c)));
                    }
                }
            }
        }
    }
}
