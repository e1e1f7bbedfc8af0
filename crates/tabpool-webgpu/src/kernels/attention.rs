//! Launches attention: `attention.wgsl`, `attention_row.wgsl`, and what `attention/register.rs` writes for a head size.

mod register;
pub(crate) mod trial;

use std::sync::OnceLock;

use super::{GRID, Groups, Kernel, Launch, Variant, word};
use crate::report::AdapterKind;

const HEADS: &str = include_str!("heads.wgsl");
const VEC4: &str = include_str!("heads_vec4.wgsl");
const SCALAR: &str = include_str!("heads_scalar.wgsl");
const TILED: &str = include_str!("attention.wgsl");
const ROW: &str = include_str!("attention_row.wgsl");

static TILED_VEC4: Kernel = Kernel { name: "attention_vec4", parts: &[GRID, HEADS, VEC4, TILED], reads: 5 };
static TILED_SCALAR: Kernel = Kernel { name: "attention_scalar", parts: &[GRID, HEADS, SCALAR, TILED], reads: 5 };
static ROW_VEC4: Kernel = Kernel { name: "attention_row_vec4", parts: &[GRID, HEADS, VEC4, ROW], reads: 5 };
static ROW_SCALAR: Kernel = Kernel { name: "attention_row_scalar", parts: &[GRID, HEADS, SCALAR, ROW], reads: 5 };

/// Queries a workgroup of the tiled kernel answers.
const TILE: usize = 32;
/// Queries an invocation of the row kernel answers.
const ROWS: usize = 4;
/// Elements of each result a workgroup of the tiled kernel gives, and the most the row kernel takes.
const WIDTH: usize = 64;
/// Up to how many keys the row kernel is the faster one on SwiftShader: at 128 it takes a tenth less time than the tiled
/// one, at 512 half as much again.
const FEW_KEYS: usize = 256;

/// A way to compute attention. All give the same result up to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttentionVariant {
    /// Chunks of keys in workgroup memory, 32 queries a workgroup: for GPUs, and for heads of any size.
    Tiled,
    /// Four queries an invocation, results in private memory: heads of at most 64 elements in v.
    Row,
    /// Four queries an invocation, results in registers: heads of at most 64 elements, as many in v, a multiple of four.
    Register,
}

impl AttentionVariant {
    const ALL: [AttentionVariant; 3] = [AttentionVariant::Tiled, AttentionVariant::Row, AttentionVariant::Register];

    /// The name people and databases see.
    pub(crate) fn name(self) -> &'static str {
        match self {
            AttentionVariant::Tiled => "tiled",
            AttentionVariant::Row => "row",
            AttentionVariant::Register => "register",
        }
    }

    /// The variant of a name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.name() == name)
    }

    /// Whether it can compute this.
    pub(crate) fn fits(self, of: &Attention) -> bool {
        match self {
            AttentionVariant::Tiled => true,
            AttentionVariant::Row => of.value_size <= WIDTH,
            AttentionVariant::Register => of.size == of.value_size && of.size <= WIDTH && of.size.is_multiple_of(4),
        }
    }

    /// The variants worth timing on an adapter, likely best first.
    pub(crate) fn candidates(of: &Attention, adapter: AdapterKind) -> Vec<AttentionVariant> {
        use AttentionVariant::{Register, Row, Tiled};
        let order: &[AttentionVariant] = match adapter {
            AdapterKind::Hardware => &[Tiled],
            AdapterKind::SwiftShader if of.keys > FEW_KEYS => &[Tiled, Register, Row],
            AdapterKind::SwiftShader => &[Row, Register, Tiled],
            AdapterKind::Software => &[Register, Row, Tiled],
        };
        order.iter().copied().filter(|v| v.fits(of)).collect()
    }
}

/// What attention is over.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub(crate) batches: usize,
    pub(crate) heads: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    /// The size of a head in q and k.
    pub(crate) size: usize,
    /// The size of a head in v.
    pub(crate) value_size: usize,
    pub(crate) scale: f32,
    /// Strides over batch, head, query and key of each bias, at most two.
    pub(crate) biases: Vec<[usize; 4]>,
}

/// The kernel written for heads of so many times four elements.
fn register_kernel(quads: usize) -> &'static Kernel {
    static WRITTEN: [OnceLock<Kernel>; WIDTH / 4 + 1] = [const { OnceLock::new() }; WIDTH / 4 + 1];
    let quads = quads.min(WIDTH / 4);
    WRITTEN[quads].get_or_init(|| {
        // Text and name live as long as the program: there is one of each size.
        let written: &'static str = String::leak(register::source(word(quads)));
        let name = String::leak(format!("attention_register_{}", quads * 4));
        Kernel { name, parts: Vec::leak(vec![GRID, HEADS, VEC4, written]), reads: 5 }
    })
}

/// A launch of a variant that fits.
pub(crate) fn launch(variant: AttentionVariant, of: &Attention) -> Launch {
    let aligned = of.size.is_multiple_of(4) && of.value_size.is_multiple_of(4);
    let (kernel, rows) = match (variant, aligned) {
        (AttentionVariant::Register, _) => (register_kernel(of.size / 4), register::QUERIES as usize),
        (AttentionVariant::Row, true) => (&ROW_VEC4, ROWS),
        (AttentionVariant::Row, false) => (&ROW_SCALAR, ROWS),
        (AttentionVariant::Tiled, true) => (&TILED_VEC4, TILE),
        (AttentionVariant::Tiled, false) => (&TILED_SCALAR, TILE),
    };
    let tiles = of.queries.div_ceil(rows);
    let wide = of.value_size.div_ceil(WIDTH);
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
        0,
        0,
        0,
    ];
    for i in 0..2 {
        params.extend(of.biases.get(i).copied().unwrap_or_default().map(word));
    }
    let all = [wide, of.heads, of.batches].iter().fold(tiles, |n, &m| n.saturating_mul(m));
    Launch {
        variant: Variant::new(kernel, &[("BIASES", word(of.biases.len()))]),
        params,
        groups: Groups::Line(word(if variant == AttentionVariant::Tiled { all } else { all.div_ceil(8) })),
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    let each = |kernel: &'static Kernel| (0..3).map(move |biases| Variant::new(kernel, &[("BIASES", biases)]));
    let written = [1, 8, 16].map(register_kernel);
    [&TILED_VEC4, &TILED_SCALAR, &ROW_VEC4, &ROW_SCALAR].into_iter().chain(written).flat_map(each).collect()
}
