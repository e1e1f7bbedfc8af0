//! The memory plan: which buffer each value of a graph lives in, decided once, at load.
//!
//! A value lives from the node that makes it to the last node that reads it; values that are never alive together may
//! share a *slot*, which a backend makes a buffer of. WebGPU cannot bind one buffer for reading and for writing in one
//! dispatch, so a node's output never lies where one of its operands lies, even where that operand dies there.
//!
//! Nodes that depend on weights and constants alone give the same result in every run: they are computed once, at load,
//! and keep their slots for ever. A reshape moves nothing: its result is another name for its operand. States lie outside,
//! in memory that outlives the run; rows written into one in place have no slot either, the result is another name for the
//! state.

use std::collections::{HashMap, HashSet};

use tabpool_graph::{Graph, Node, Op, Value, ValueId};

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// At the start of this slot of [`MemoryPlan::slots`].
    Slot(usize),
    /// Where this value lies, which is itself a slot's or a leaf: chains of reshapes are followed to their end. The result
    /// of rows written in place lies where its state does.
    Alias(ValueId),
    /// An input, a weight, a constant or a state, kept by the backend as it likes. Also values that nothing makes or reads.
    Leaf,
}

/// Which buffers a graph needs and what lies where; see [`plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The slots' sizes in bytes. Those of [`load_nodes`](Self::load_nodes) come first.
    pub slots: Vec<u64>,
    /// How many of `slots` are written at load and only read afterwards.
    pub load_slots: usize,
    /// The place of each value, by [`ValueId::index`].
    pub places: Vec<Place>,
    /// The nodes to compute once at load, in order: positions in [`Graph::nodes`]. Reshapes are in neither list.
    pub load_nodes: Vec<usize>,
    /// The nodes to compute in every run, in order: positions in [`Graph::nodes`]. What [`Graph::in_place`] names is among
    /// them, though it has no slot.
    pub run_nodes: Vec<usize>,
    /// The states, by their positions in [`Graph::states`], that are not written in place and become a copy of their next
    /// value: after every node of the run, in any order.
    pub state_copies: Vec<usize>,
}

impl MemoryPlan {
    /// The value whose memory this value's elements are: itself unless it is an alias.
    #[must_use]
    pub fn root(&self, id: ValueId) -> ValueId {
        match self.places[id.index()] {
            Place::Alias(root) => root,
            Place::Slot(_) | Place::Leaf => id,
        }
    }

    /// The slot a value lies in, `None` for leaves and their aliases.
    #[must_use]
    pub fn slot(&self, id: ValueId) -> Option<usize> {
        match self.places[self.root(id).index()] {
            Place::Slot(slot) => Some(slot),
            Place::Alias(_) | Place::Leaf => None,
        }
    }

    /// Forgets values that are never computed, though a load would: their nodes go, and their slots have no bytes.
    pub fn leave_out<'a>(&mut self, graph: &Graph, values: impl IntoIterator<Item = &'a ValueId>) {
        for &value in values {
            self.load_nodes.retain(|&node| graph.nodes()[node].output != value);
            if let Some(slot) = self.slot(value) {
                self.slots[slot] = 0;
            }
        }
    }

    /// The bytes of all slots together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.slots.iter().sum()
    }
}

/// Plans the memory of a valid graph: best fit over the live ranges, in the order of the nodes.
#[must_use]
pub fn plan(graph: &Graph) -> MemoryPlan {
    let mut plan = MemoryPlan {
        slots: Vec::new(),
        load_slots: 0,
        places: vec![Place::Leaf; graph.values().len()],
        load_nodes: Vec::new(),
        run_nodes: Vec::new(),
        state_copies: Vec::new(),
    };
    let fixed = order_nodes(graph, &mut plan);
    for &position in &plan.load_nodes {
        let output = graph.nodes()[position].output;
        plan.places[output.index()] = Place::Slot(plan.slots.len());
        plan.slots.push(byte_size(graph.value(output)));
    }
    plan.load_slots = plan.slots.len();
    let last_reads = last_reads(graph, &plan);
    let mut free = Vec::new();
    for &position in &plan.run_nodes {
        let node = &graph.nodes()[position];
        if graph.in_place(node).is_none() {
            let need = byte_size(graph.value(node.output));
            let slot = take_best(&mut free, &mut plan.slots, need);
            plan.places[node.output.index()] = Place::Slot(slot);
        }
        release_after(node, position, &plan, &last_reads, &fixed, &mut free);
    }
    plan
}

/// Sorts the nodes into those of the load, those of a run and the aliases; gives which values never change.
fn order_nodes(graph: &Graph, plan: &mut MemoryPlan) -> Vec<bool> {
    let mut fixed = vec![false; graph.values().len()];
    let weights = graph.weights().iter().map(|w| w.value);
    for id in weights.chain(graph.constants().iter().map(|c| c.value)) {
        fixed[id.index()] = true;
    }
    let mut written = vec![false; graph.states().len()];
    for (position, node) in graph.nodes().iter().enumerate() {
        if let Some(state) = graph.in_place(node) {
            written[state] = true;
            plan.places[node.output.index()] = Place::Alias(graph.states()[state].value);
            plan.run_nodes.push(position);
            continue;
        }
        let same_each_run = node.inputs.iter().all(|v| fixed[v.index()]);
        fixed[node.output.index()] = same_each_run;
        if let (Op::Reshape { .. }, &[operand]) = (&node.op, &*node.inputs) {
            plan.places[node.output.index()] = Place::Alias(plan.root(operand));
        } else if same_each_run {
            plan.load_nodes.push(position);
        } else {
            plan.run_nodes.push(position);
        }
    }
    let copied = graph.states().iter().enumerate().filter(|(n, state)| state.changes() && !written[*n]);
    plan.state_copies = copied.map(|(n, _)| n).collect();
    fixed
}

/// The position of the last node that reads each value under any of its names; `usize::MAX` for what a run gives back and
/// for what states become.
/// A value nothing reads dies at the node that makes it.
fn last_reads(graph: &Graph, plan: &MemoryPlan) -> Vec<usize> {
    let mut last = vec![0; graph.values().len()];
    for (position, node) in graph.nodes().iter().enumerate() {
        if matches!(node.op, Op::Reshape { .. }) {
            continue;
        }
        last[node.output.index()] = position;
        for &operand in &node.inputs {
            last[plan.root(operand).index()] = position;
        }
    }
    for id in graph.outputs().iter().map(|o| o.value).chain(graph.states().iter().map(|s| s.next)) {
        last[plan.root(id).index()] = usize::MAX;
    }
    last
}

/// Takes the smallest free slot that is large enough, otherwise the largest free one, which grows; a new slot only
/// where none is free.
fn take_best(free: &mut Vec<usize>, slots: &mut Vec<u64>, need: u64) -> usize {
    let fits = (0..free.len()).filter(|&i| slots[free[i]] >= need).min_by_key(|&i| slots[free[i]]);
    let chosen = fits.or_else(|| (0..free.len()).max_by_key(|&i| slots[free[i]]));
    if let Some(i) = chosen {
        let slot = free.swap_remove(i);
        slots[slot] = slots[slot].max(need);
        slot
    } else {
        slots.push(need);
        slots.len() - 1
    }
}

/// Frees the slots of the values this node is the last to read, and its own where nothing reads it.
fn release_after(
    node: &Node,
    position: usize,
    plan: &MemoryPlan,
    last_reads: &[usize],
    fixed: &[bool],
    free: &mut Vec<usize>,
) {
    for &id in node.inputs.iter().chain([&node.output]) {
        let root = plan.root(id);
        let dies = last_reads[root.index()] == position && !fixed[root.index()];
        // An operand that is read twice by one node is freed once.
        if let Some(slot) = plan.slot(root).filter(|slot| dies && !free.contains(slot)) {
            free.push(slot);
        }
    }
}

/// What is nothing but a weight turned, and read as the weight of linear nodes only: by the value, the weight's. Backends that
/// pack weights may pack these from the other side as they are loaded. Then nobody computes the values, programs share
/// what is packed, and it is not packed in every run.
#[must_use]
pub fn turned_weights(graph: &Graph) -> HashMap<ValueId, ValueId> {
    let weights: HashSet<_> = graph.weights().iter().map(|w| w.value).collect();
    let turns = |node: &&Node| {
        matches!(&node.op, Op::Transpose { permutation } if **permutation == [1, 0])
            && weights.contains(&node.inputs[0])
    };
    let mut turned: HashMap<_, _> = graph.nodes().iter().filter(turns).map(|n| (n.output, n.inputs[0])).collect();
    for node in graph.nodes() {
        for (position, id) in node.inputs.iter().enumerate() {
            if position != 1 || !matches!(node.op, Op::Linear { .. }) {
                turned.remove(id);
            }
        }
    }
    for id in graph.outputs().iter().map(|o| o.value).chain(graph.states().iter().map(|s| s.next)) {
        turned.remove(&id);
    }
    turned
}

/// The bytes a value takes in memory.
#[must_use]
pub fn byte_size(value: &Value) -> u64 {
    value.shape.elements() as u64 * value.dtype.size() as u64
}

#[cfg(test)]
mod tests;
