//! Launches `unpack.wgsl`, which brings pieces of stored weights into their buffers.

use tabpool_tensor::DType;

use super::{GRID, Groups, Kernel, Launch, Variant, word};

static KERNEL: Kernel = Kernel { name: "unpack", parts: &[GRID, include_str!("unpack.wgsl")], reads: 1 };

/// A piece of a weight: `count` elements from `first` on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) stored: DType,
    pub(crate) first: usize,
    pub(crate) count: usize,
    /// For panels: the weight's row length and how many rows a panel has.
    pub(crate) panels: Option<(usize, usize)>,
}

pub(crate) fn variant(stored: DType, panels: bool) -> Variant {
    let stored = match stored {
        DType::F16 => 1,
        DType::BF16 => 2,
        _ => 0,
    };
    Variant::new(&KERNEL, &[("STORED", stored), ("PANELS", u32::from(panels))])
}

pub(crate) fn launch(piece: Piece) -> Launch {
    let (columns, panel) = piece.panels.unwrap_or_default();
    Launch {
        variant: variant(piece.stored, piece.panels.is_some()),
        params: [piece.count, piece.first, columns, panel].map(word).to_vec(),
        groups: Groups::of_64(piece.count),
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    let each = |t| [DType::F32, DType::F16, DType::BF16].map(|d| variant(d, t));
    [each(false), each(true)].concat()
}
