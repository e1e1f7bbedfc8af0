//! Launches attention: `attention.wgsl`, `attention_row.wgsl`, `attention_split.wgsl`, and what `attention/register.rs` writes
//! for a head size.

mod register;
pub(crate) mod trial;

use std::sync::OnceLock;

use super::{ACROSS, GRID, Groups, Kernel, Launch, Variant, word};
use crate::report::AdapterKind;

const HEADS: &str = include_str!("heads.wgsl");
const VEC4: &str = include_str!("heads_vec4.wgsl");
const SCALAR: &str = include_str!("heads_scalar.wgsl");
const TILED: &str = include_str!("attention.wgsl");
const ROW: &str = include_str!("attention_row.wgsl");
const SPLIT: &str = include_str!("attention_split.wgsl");
/// How many quads of a result the row kernel keeps: enough for heads of 64 and of 128 elements.
const NARROW: &str = "const QUADS: u32 = 16u;\n";
const WIDE: &str = "const QUADS: u32 = 32u;\n";

/// How many buffers every attention kernel reads: q, k, v, two biases and where the queries begin.
const READS: u32 = 6;

const fn kernel(name: &'static str, parts: &'static [&'static str]) -> Kernel {
    Kernel { name, parts, reads: READS }
}

static TILED_VEC4: Kernel = kernel("attention_vec4", &[GRID, HEADS, VEC4, TILED]);
static TILED_SCALAR: Kernel = kernel("attention_scalar", &[GRID, HEADS, SCALAR, TILED]);
static ROW_VEC4: Kernel = kernel("attention_row_vec4", &[GRID, HEADS, VEC4, NARROW, ROW]);
static ROW_SCALAR: Kernel = kernel("attention_row_scalar", &[GRID, HEADS, SCALAR, NARROW, ROW]);
static WIDE_ROW_VEC4: Kernel = kernel("attention_row_wide_vec4", &[GRID, HEADS, VEC4, WIDE, ROW]);
static WIDE_ROW_SCALAR: Kernel = kernel("attention_row_wide_scalar", &[GRID, HEADS, SCALAR, WIDE, ROW]);
static SPLIT_VEC4: Kernel = kernel("attention_split_vec4", &[GRID, ACROSS, HEADS, VEC4, SPLIT]);
static SPLIT_SCALAR: Kernel = kernel("attention_split_scalar", &[GRID, ACROSS, HEADS, SCALAR, SPLIT]);

/// Queries a workgroup of the tiled kernel answers.
const TILE: usize = 32;
/// Queries an invocation of the row and of the register kernel answers.
const ROWS: usize = 4;
/// Elements of each result a workgroup of the tiled kernel gives, and the most the register kernel takes.
const WIDTH: usize = 64;
/// The most elements of a head that the row kernel and the register kernel for single queries take.
const MOST_WIDTH: usize = 128;
/// Elements of each result a workgroup of the split kernel gives.
const SPLIT_WIDTH: usize = 256;
/// Up to how many keys the row kernel is the faster one on SwiftShader: at 128 it takes a tenth less time than the tiled
/// one, at 512 half as much again.
const FEW_KEYS: usize = 256;

/// A way to compute attention. All give the same result up to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AttentionVariant {
    /// Chunks of keys in workgroup memory, 32 queries a workgroup: for GPUs, and for heads of any size.
    Tiled,
    /// Four queries an invocation, results in private memory: heads of at most 128 elements in v.
    Row,
    /// Four queries an invocation, results in registers: heads of at most 64 elements, as many in v, a multiple of four.
    Register,
    /// A query an invocation, its result in registers: heads of at most 128 elements, as many in v, a multiple of four.
    Single,
    /// A query a workgroup, which shares the keys: for few queries on GPUs, and for heads of any size.
    Split,
}

impl AttentionVariant {
    /// Every variant.
    pub const ALL: [AttentionVariant; 5] = [
        AttentionVariant::Tiled,
        AttentionVariant::Row,
        AttentionVariant::Register,
        AttentionVariant::Single,
        AttentionVariant::Split,
    ];

    /// The name people and databases see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            AttentionVariant::Tiled => "tiled",
            AttentionVariant::Row => "row",
            AttentionVariant::Register => "register",
            AttentionVariant::Single => "single",
            AttentionVariant::Split => "split",
        }
    }

    /// The variant of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.name() == name)
    }

    /// Whether it can compute this.
    pub(crate) fn fits(self, of: &Attention) -> bool {
        let up_to = |most| of.size == of.value_size && of.size <= most && of.size.is_multiple_of(4);
        match self {
            AttentionVariant::Tiled | AttentionVariant::Split => true,
            AttentionVariant::Row => of.value_size <= MOST_WIDTH,
            AttentionVariant::Register => up_to(WIDTH),
            AttentionVariant::Single => up_to(MOST_WIDTH),
        }
    }

    /// The variants worth timing on an adapter, likely best first.
    pub(crate) fn candidates(of: &Attention, adapter: AdapterKind) -> Vec<AttentionVariant> {
        use AttentionVariant::{Register, Row, Single, Split, Tiled};
        let order: &[AttentionVariant] = match adapter {
            AdapterKind::Hardware if of.queries < TILE / 4 => &[Split, Tiled],
            AdapterKind::Hardware => &[Tiled],
            _ if of.queries < ROWS => &[Single, Split],
            AdapterKind::SwiftShader if of.keys > FEW_KEYS => &[Tiled, Register, Row],
            AdapterKind::SwiftShader => &[Row, Register, Tiled],
            AdapterKind::Software => &[Register, Row, Tiled],
        };
        order.iter().copied().filter(|v| v.fits(of)).collect()
    }

    /// The kernel, and how many queries a workgroup or an invocation of it answers.
    fn kernel(self, of: &Attention) -> (&'static Kernel, usize) {
        let aligned = of.size.is_multiple_of(4) && of.value_size.is_multiple_of(4);
        let wide = of.value_size > WIDTH;
        match self {
            AttentionVariant::Register => (register_kernel(of.size / 4), ROWS),
            AttentionVariant::Single => (single_kernel(of.size / 4), 1),
            AttentionVariant::Row if aligned && wide => (&WIDE_ROW_VEC4, ROWS),
            AttentionVariant::Row if aligned => (&ROW_VEC4, ROWS),
            AttentionVariant::Row if wide => (&WIDE_ROW_SCALAR, ROWS),
            AttentionVariant::Row => (&ROW_SCALAR, ROWS),
            AttentionVariant::Tiled if aligned => (&TILED_VEC4, TILE),
            AttentionVariant::Tiled => (&TILED_SCALAR, TILE),
            AttentionVariant::Split if aligned => (&SPLIT_VEC4, 1),
            AttentionVariant::Split => (&SPLIT_SCALAR, 1),
        }
    }
}

/// What attention is over.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub(crate) batches: usize,
    pub(crate) heads: usize,
    /// A divisor of them.
    pub(crate) kv_heads: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    /// The size of a head in q and k.
    pub(crate) size: usize,
    /// The size of a head in v.
    pub(crate) value_size: usize,
    pub(crate) scale: f32,
    /// Whether queries see keys up to their own position only.
    pub(crate) causal: bool,
    /// Strides over batch, head, query and key of each bias, at most two.
    pub(crate) biases: Vec<[usize; 4]>,
}

/// The kernel written for heads of so many times four elements.
fn register_kernel(quads: usize) -> &'static Kernel {
    static WRITTEN: [OnceLock<Kernel>; WIDTH / 4 + 1] = [const { OnceLock::new() }; WIDTH / 4 + 1];
    let quads = quads.min(WIDTH / 4);
    WRITTEN[quads].get_or_init(|| written("attention_register", quads, ROWS))
}

/// As [`register_kernel`] for a query an invocation.
fn single_kernel(quads: usize) -> &'static Kernel {
    static WRITTEN: [OnceLock<Kernel>; MOST_WIDTH / 4 + 1] = [const { OnceLock::new() }; MOST_WIDTH / 4 + 1];
    let quads = quads.min(MOST_WIDTH / 4);
    WRITTEN[quads].get_or_init(|| written("attention_single", quads, 1))
}

/// Text and name live as long as the program: there is one of each size.
fn written(name: &str, quads: usize, queries: usize) -> Kernel {
    let main: &'static str = String::leak(register::source(word(quads), word(queries)));
    let name = String::leak(format!("{name}_{}", quads * 4));
    kernel(name, Vec::leak(vec![GRID, HEADS, VEC4, main]))
}

/// A launch of a variant that fits.
pub(crate) fn launch(variant: AttentionVariant, of: &Attention) -> Launch {
    let (kernel, rows) = variant.kernel(of);
    let tiles = of.queries.div_ceil(rows);
    // Workgroups that share the elements of a result, and units of work in a workgroup.
    let (wide, units) = match variant {
        AttentionVariant::Tiled => (of.value_size.div_ceil(WIDTH), 1),
        AttentionVariant::Split => (of.value_size.div_ceil(SPLIT_WIDTH), 1),
        AttentionVariant::Row | AttentionVariant::Register | AttentionVariant::Single => (1, 8),
    };
    let mut params = vec![
        word(of.batches),
        word(of.heads),
        word(of.queries),
        word(of.keys),
        word(of.size),
        word(of.value_size),
        word(tiles),
        word(wide),
        of.scale.to_bits(),
        word(of.kv_heads),
        0,
        0,
    ];
    for i in 0..2 {
        params.extend(of.biases.get(i).copied().unwrap_or_default().map(word));
    }
    let all = [wide, of.heads, of.batches].iter().fold(tiles, |n, &m| n.saturating_mul(m));
    Launch {
        variant: Variant::new(kernel, &[("BIASES", word(of.biases.len())), ("CAUSAL", u32::from(of.causal))]),
        params,
        groups: Groups::Line(word(all.div_ceil(units))),
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    let each =
        |kernel: &'static Kernel| (0..6).map(move |i| Variant::new(kernel, &[("BIASES", i / 2), ("CAUSAL", i % 2)]));
    let written = [1, 8, 16].map(register_kernel).into_iter().chain([1, 16, 32].map(single_kernel));
    let fixed = [
        &TILED_VEC4,
        &TILED_SCALAR,
        &ROW_VEC4,
        &ROW_SCALAR,
        &WIDE_ROW_VEC4,
        &WIDE_ROW_SCALAR,
        &SPLIT_VEC4,
        &SPLIT_SCALAR,
    ];
    fixed.into_iter().chain(written).flat_map(each).collect()
}
