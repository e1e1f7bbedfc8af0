//! Launches `unpack.wgsl`, which brings pieces of stored weights into their buffers.

use tabpool_tensor::DType;

use super::{GRID, Groups, Kernel, Launch, Variant, word};

static KERNEL: Kernel = Kernel { name: "unpack", parts: &[GRID, include_str!("unpack.wgsl")], reads: 1 };

/// In which order elements are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// As they lie.
    Natural,
    /// A matrix `[n, k]` in panels for GEMMs.
    Panels,
    /// A matrix `[k, n]` in such panels.
    TurnedPanels,
}

/// A piece of a weight: `count` elements from `first` on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) stored: DType,
    pub(crate) first: usize,
    pub(crate) count: usize,
    pub(crate) order: Order,
    /// For panels: the weight's row length and how many rows a panel has.
    pub(crate) panels: Option<(usize, usize)>,
}

pub(crate) fn variant(stored: DType, order: Order) -> Variant {
    let stored = match stored {
        DType::F16 => 1,
        DType::BF16 => 2,
        _ => 0,
    };
    Variant::new(&KERNEL, &[("STORED", stored), ("ORDER", order as u32)])
}

pub(crate) fn launch(piece: Piece) -> Launch {
    let (columns, panel) = piece.panels.unwrap_or_default();
    Launch {
        variant: variant(piece.stored, piece.order),
        params: [piece.count, piece.first, columns, panel].map(word).to_vec(),
        groups: Groups::of_64(piece.count),
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    let each = |order| [DType::F32, DType::F16, DType::BF16].map(|d| variant(d, order));
    [Order::Natural, Order::Panels, Order::TurnedPanels].map(each).concat()
}
