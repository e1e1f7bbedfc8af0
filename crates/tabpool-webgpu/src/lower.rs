//! Lowering: a graph and its memory plan into a list of launches with the buffers they bind. Pure; nothing here touches
//! a device, so what a program will dispatch can be looked at and tested without one.

mod attention;
mod node;
mod product;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tabpool_engine::EngineError;
use tabpool_engine::memory::{self, MemoryPlan, Place};
use tabpool_graph::{Graph, ValueId};
use tabpool_tensor::Precision;

use crate::kernels::Variant;
use crate::kernels::attention::{Attention, AttentionVariant};
use crate::kernels::gemm::{GemmVariant, Has, Panels};
use crate::kernels::row::{RowVariant, Rows};
use crate::report::AdapterKind;
use crate::tuner::Tuner;

/// What lowering needs to know of the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capabilities {
    /// The most bytes a storage binding may span.
    pub(crate) binding: u64,
    /// The most bytes a buffer may have.
    pub(crate) buffer: u64,
    /// What offsets of storage bindings must be multiples of.
    pub(crate) alignment: u64,
    /// The most workgroups in one dimension.
    pub(crate) groups: u32,
    /// What computes.
    pub(crate) kind: AdapterKind,
    /// What it has beyond what every device has.
    pub(crate) has: Has,
    /// The variants to use wherever they fit.
    pub(crate) forced: Forced,
}

/// Variants that are taken whatever is likely to be fastest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forced {
    pub(crate) gemm: Option<GemmVariant>,
    pub(crate) attention: Option<AttentionVariant>,
    pub(crate) rows: Option<RowVariant>,
}

/// What arithmetic linear nodes may be computed with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permission<'a> {
    /// The least exact one.
    pub(crate) precision: Precision,
    /// Weights, as positions in [`Graph::weights`], that do not fit it: nodes that read them are computed in 32 bits.
    pub(crate) unfit: &'a BTreeSet<usize>,
}

/// A product as the tuner tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Product {
    /// The least exact arithmetic permitted.
    pub(crate) permitted: Precision,
    /// Rows, columns, and the length of what is summed.
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
}

/// How a weight lies in its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Layout {
    /// As stored, row-major, in f32.
    Natural,
    /// A matrix `[n, k]` transposed, in panels and padded for GEMMs, in the numbers of a precision; see
    /// [`crate::kernels::gemm::Panels`].
    Panels(Precision),
    /// A matrix `[k, n]` in such panels in f32: the same of a weight that is stored the other way round.
    TurnedPanels,
}

/// A weight in one layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WeightUse {
    /// The position in [`Graph::weights`].
    pub(crate) weight: usize,
    /// How it lies.
    pub(crate) layout: Layout,
}

/// Which buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A slot of the memory plan.
    Slot(usize),
    /// An input, by its position in [`Graph::inputs`].
    Input(usize),
    /// A constant, by its position in [`Graph::constants`].
    Constant(usize),
    /// A weight, by its position in [`Lowered::weights`].
    Weight(usize),
    /// A state, by its position in [`Graph::states`].
    State(usize),
    /// A few bytes of zeros, where an optional operand is absent.
    Absent,
}

/// A buffer or a part of it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) source: Source,
    /// The offset and size; the whole buffer where `None`.
    pub(crate) range: Option<(u64, u64)>,
}

impl From<Source> for Bound {
    fn from(source: Source) -> Self {
        Bound { source, range: None }
    }
}

/// One dispatch.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// The node it belongs to: a position in [`Graph::nodes`].
    pub(crate) node: usize,
    /// The pipeline.
    pub(crate) variant: Variant,
    /// The uniform parameters in words.
    pub(crate) params: Vec<u32>,
    /// The buffers read, as many as the kernel says.
    pub(crate) reads: Vec<Bound>,
    /// The buffer written: a slot, or a state where rows are written into it.
    pub(crate) write: Source,
    /// Workgroups in x and y.
    pub(crate) groups: [u32; 2],
}

impl Step {
    /// Whether it reads or writes a state.
    pub(crate) fn touches_states(&self) -> bool {
        let mut sources = self.reads.iter().map(|r| r.source).chain([self.write]);
        sources.any(|source| matches!(source, Source::State(_)))
    }
}

/// A lowered graph.
#[derive(Clone, Debug)]
pub(crate) struct Lowered {
    /// The weights needed, each in the layouts needed.
    pub(crate) weights: Vec<WeightUse>,
    /// What is dispatched once, at load.
    pub(crate) load: Vec<Step>,
    /// The bytes of one slot more than the plan has, which steps of one node pass something to each other in.
    pub(crate) scratch: u64,
    /// What is dispatched in every run.
    pub(crate) run: Vec<Step>,
    /// Where each output of the graph lies.
    pub(crate) outputs: Vec<Source>,
    /// What is copied into states after a run: from where, and the state's position.
    pub(crate) copies: Vec<(Source, usize)>,
    /// The products in it, with how many nodes compute such and the variant that does.
    pub(crate) products: BTreeMap<Product, (u64, GemmVariant)>,
    /// The attentions in it by their class, likewise.
    pub(crate) attentions: BTreeMap<String, (Attention, u64)>,
    /// What is computed row by row, likewise.
    pub(crate) rows: BTreeMap<String, (Rows, u64)>,
}

/// The turned weights of linear nodes that are packed from the other side, by the value with the weight's position: those whose
/// panels a binding spans. They are in f32 whatever is permitted.
pub(crate) fn turned(graph: &Graph, device: &Capabilities) -> HashMap<ValueId, usize> {
    let limit = device.binding.min(device.buffer);
    let fits = |weight: ValueId| match graph.value(weight).shape.dims() {
        &[k, n] => Panels::of(Precision::F32, n, k).bytes() as u64 <= limit,
        _ => false,
    };
    let position = |of: ValueId| graph.weights().iter().position(|weight| weight.value == of);
    let all = memory::turned_weights(graph).into_iter();
    all.filter(|&(_, weight)| fits(weight)).filter_map(|(value, weight)| Some((value, position(weight)?))).collect()
}

/// Lowers a graph. What [`turned`] gives is left out of the plan.
///
/// # Errors
/// [`EngineError::Unsupported`] where the device's limits or these kernels do not suffice, with the numbers.
pub(crate) fn lower(
    graph: &Graph,
    plan: &MemoryPlan,
    device: Capabilities,
    tuner: &Tuner,
    permission: Permission<'_>,
) -> Result<Lowered, EngineError> {
    let mut lowering = Lowering {
        graph,
        plan,
        device,
        tuner,
        permission,
        scratch: 0,
        in_scratch: None,
        origins: origins(graph),
        turned: turned(graph, &device),
        weights: Vec::new(),
        products: BTreeMap::new(),
        attentions: BTreeMap::new(),
        rows: BTreeMap::new(),
    };
    let load = lowering.steps(&plan.load_nodes)?;
    let run = lowering.steps(&plan.run_nodes)?;
    let outputs = graph.outputs().iter().map(|o| lowering.source(o.value)).collect();
    let copies = plan.state_copies.iter().map(|&i| (lowering.source(graph.states()[i].next), i)).collect();
    let Lowering { weights, products, attentions, rows, scratch, .. } = lowering;
    Ok(Lowered { weights, load, scratch, run, outputs, copies, products, attentions, rows })
}

/// What a leaf is, with its position in the graph's list of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaf {
    Input(usize),
    Constant(usize),
    Weight(usize),
    State(usize),
}

fn origins(graph: &Graph) -> Vec<Option<Leaf>> {
    let mut origins = vec![None; graph.values().len()];
    for (i, id) in graph.inputs().iter().enumerate() {
        origins[id.index()] = Some(Leaf::Input(i));
    }
    for (i, c) in graph.constants().iter().enumerate() {
        origins[c.value.index()] = Some(Leaf::Constant(i));
    }
    for (i, w) in graph.weights().iter().enumerate() {
        origins[w.value.index()] = Some(Leaf::Weight(i));
    }
    for (i, s) in graph.states().iter().enumerate() {
        origins[s.value.index()] = Some(Leaf::State(i));
    }
    origins
}

struct Lowering<'a> {
    graph: &'a Graph,
    plan: &'a MemoryPlan,
    device: Capabilities,
    tuner: &'a Tuner,
    permission: Permission<'a>,
    /// The bytes of the slot after those of the plan.
    scratch: u64,
    /// The value that lies in it as integers.
    in_scratch: Option<ValueId>,
    origins: Vec<Option<Leaf>>,
    turned: HashMap<ValueId, usize>,
    weights: Vec<WeightUse>,
    products: BTreeMap<Product, (u64, GemmVariant)>,
    attentions: BTreeMap<String, (Attention, u64)>,
    rows: BTreeMap<String, (Rows, u64)>,
}

impl Lowering<'_> {
    fn steps(&mut self, nodes: &[usize]) -> Result<Vec<Step>, EngineError> {
        let mut steps = Vec::with_capacity(nodes.len());
        self.in_scratch = None;
        for &node in nodes {
            self.node(node, &mut steps)?;
        }
        Ok(steps)
    }

    /// The buffer a value lies in, weights in their natural layout.
    fn source(&mut self, id: ValueId) -> Source {
        let root = self.plan.root(id);
        if let Place::Slot(slot) = self.plan.places[root.index()] {
            return Source::Slot(slot);
        }
        match self.origins[root.index()] {
            Some(Leaf::Input(i)) => Source::Input(i),
            Some(Leaf::Constant(i)) => Source::Constant(i),
            Some(Leaf::Weight(weight)) => self.weight(weight, Layout::Natural),
            Some(Leaf::State(i)) => Source::State(i),
            // A valid graph reads nothing that nothing makes.
            None => Source::Absent,
        }
    }

    fn weight(&mut self, weight: usize, layout: Layout) -> Source {
        let wanted = WeightUse { weight, layout };
        let known = self.weights.iter().position(|w| *w == wanted);
        Source::Weight(known.unwrap_or_else(|| {
            self.weights.push(wanted);
            self.weights.len() - 1
        }))
    }

    /// The weight a value is, under this very shape.
    fn weight_of(&self, id: ValueId) -> Option<usize> {
        match self.origins[id.index()] {
            Some(Leaf::Weight(weight)) => Some(weight),
            _ => None,
        }
    }
}

impl Lowered {
    /// The least exact arithmetic of the linear nodes.
    pub(crate) fn precision(&self) -> Precision {
        self.products.values().map(|(_, variant)| variant.precision()).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
