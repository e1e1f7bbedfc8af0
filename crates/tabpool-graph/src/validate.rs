//! Validation: everything that can be wrong with a graph, found before anything runs.

use std::collections::HashSet;

use tabpool_tensor::{DType, Shape};

use crate::{Graph, Node, Value, ValueId};

/// Why a graph was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum GraphError {
    /// A node's operands break a rule of its operator.
    #[error("node {node:?}: {op} {reason} (operands: {operands})")]
    Node {
        /// The node's name.
        node: String,
        /// The operator's name.
        op: &'static str,
        /// Which rule was broken.
        reason: String,
        /// The operands' dtypes and shapes.
        operands: String,
    },
    /// A node's declared result is not what its operator gives.
    #[error("node {node:?}: {op} gives {inferred}, the graph declares {declared}")]
    Result {
        /// The node's name.
        node: String,
        /// The operator's name.
        op: &'static str,
        /// What inference says.
        inferred: String,
        /// What the graph says.
        declared: String,
    },
    /// A value is read before anything makes it, or does not exist.
    #[error("{reader}: value {value} is not defined before it is read")]
    Undefined {
        /// Who reads it.
        reader: String,
        /// The value.
        value: ValueId,
    },
    /// A value has two origins.
    #[error("value {value} ({name:?}) is defined twice")]
    DefinedTwice {
        /// The value.
        value: ValueId,
        /// Its name.
        name: String,
    },
    /// A value has a dtype or shape the IR does not know.
    #[error("value {name:?}: {reason}")]
    Value {
        /// The value's name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// What a state becomes, or who reads it, breaks a rule.
    #[error("state {name:?} {reason}")]
    State {
        /// The state's name.
        name: String,
        /// Which rule was broken.
        reason: String,
    },
    /// Two inputs, two outputs or two states share a name.
    #[error("two {kind}s are named {name:?}")]
    DuplicateName {
        /// `input`, `output` or `state`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// There is nothing to compute.
    #[error("the graph has no outputs")]
    NoOutputs,
}

/// The operands of a node as a message shows them.
fn describe(values: &[&Value]) -> String {
    let each = values.iter().map(|v| format!("{}{}", v.dtype, v.shape));
    each.collect::<Vec<_>>().join(", ")
}

/// The dtype and shape that a node with these operands gives.
pub(crate) fn infer(name: &str, op: &crate::Op, operands: &[&Value]) -> Result<(DType, Shape), GraphError> {
    let (dtype, shape) = op.infer(operands).map_err(|reason| GraphError::Node {
        node: name.to_owned(),
        op: op.name(),
        reason,
        operands: describe(operands),
    })?;
    check_value(name, dtype, &shape)?;
    Ok((dtype, shape))
}

/// Whether the IR knows values of this dtype and shape. Sizes fit `u32` because kernels address elements with it.
pub(crate) fn check_value(name: &str, dtype: DType, shape: &Shape) -> Result<(), GraphError> {
    let fail = |reason: String| Err(GraphError::Value { name: name.to_owned(), reason });
    if !matches!(dtype, DType::F32 | DType::I32) {
        return fail(format!("a value is f32 or i32, not {dtype}"));
    }
    match shape.checked_elements() {
        Some(0) => fail(format!("the shape {shape} holds no elements")),
        Some(n) if u32::try_from(n).is_ok() => Ok(()),
        _ => fail(format!("the shape {shape} holds more elements than fit 32 bits")),
    }
}

impl Graph {
    /// Checks everything the IR promises; see [`GraphError`] for what can be wrong.
    ///
    /// # Errors
    /// The first defect found, in the order of the graph.
    pub fn validate(&self) -> Result<(), GraphError> {
        let mut defined = vec![false; self.values.len()];
        for v in &self.values {
            check_value(&v.name, v.dtype, &v.shape)?;
        }
        let leaves = self.inputs.iter().copied();
        let leaves = leaves.chain(self.weights.iter().map(|w| w.value)).chain(self.constants.iter().map(|c| c.value));
        for id in leaves.chain(self.states.iter().map(|s| s.value)) {
            self.define(&mut defined, id)?;
        }
        self.validate_leaves()?;
        for node in &self.nodes {
            self.validate_node(node, &defined)?;
            self.define(&mut defined, node.output)?;
        }
        for o in &self.outputs {
            if !defined.get(o.value.index()).is_some_and(|d| *d) {
                return Err(GraphError::Undefined { reader: format!("output {:?}", o.name), value: o.value });
            }
        }
        self.validate_states(&defined)?;
        if self.outputs.is_empty() {
            return Err(GraphError::NoOutputs);
        }
        unique("input", self.inputs.iter().map(|&id| self.value(id).name.as_str()))?;
        unique("output", self.outputs.iter().map(|o| o.name.as_str()))?;
        unique("state", self.states.iter().map(|s| self.value(s.value).name.as_str()))
    }

    /// States become values of their own kind, and nobody sees one half written: what is replaced at the end of a run, or
    /// written where it lies during it, has no reader that could come too late.
    fn validate_states(&self, defined: &[bool]) -> Result<(), GraphError> {
        if self.states.is_empty() {
            return Ok(());
        }
        for state in &self.states {
            if !defined.get(state.next.index()).is_some_and(|d| *d) {
                let reader = format!("state {:?}", self.value(state.value).name);
                return Err(GraphError::Undefined { reader, value: state.next });
            }
        }
        let uses = self.use_counts();
        let roots = self.reshape_roots();
        let replaced = |id: ValueId| {
            self.states.iter().find(|s| s.changes() && roots[id.index()] == s.value).map(|s| self.value(s.value))
        };
        for state in &self.states {
            let value = self.value(state.value);
            let fail = |reason: String| Err(GraphError::State { name: value.name.clone(), reason });
            let next = self.value(state.next);
            if (next.dtype, &next.shape) != (value.dtype, &value.shape) {
                let (dtype, shape) = (next.dtype, &next.shape);
                return fail(format!("is {}{}, it cannot become {dtype}{shape}", value.dtype, value.shape));
            }
            if let Some(other) = replaced(state.next) {
                let name = &other.name;
                return fail(format!("cannot become what {name:?} was before the run, which is replaced as well"));
            }
        }
        for output in &self.outputs {
            if let Some(value) = replaced(output.value) {
                let reason = format!("is replaced by the run that gives it back as {:?}", output.name);
                return Err(GraphError::State { name: value.name.clone(), reason });
            }
        }
        let written = self.nodes.iter().filter_map(|n| self.in_place(n)).map(|n| &self.states[n]);
        for state in written {
            let readers = uses[state.value.index()];
            if readers != 1 {
                let reason =
                    format!("is written in place and has {readers} readers: only the node that writes may read it");
                return Err(GraphError::State { name: self.value(state.value).name.clone(), reason });
            }
        }
        Ok(())
    }

    /// The value whose elements each value has under another shape, by [`ValueId::index`]: itself unless it is a reshape.
    fn reshape_roots(&self) -> Vec<ValueId> {
        let mut roots: Vec<_> = (0..self.values.len()).map(|i| ValueId(u32::try_from(i).unwrap_or(u32::MAX))).collect();
        for node in &self.nodes {
            if let (crate::Op::Reshape { .. }, &[operand]) = (&node.op, &*node.inputs) {
                roots[node.output.index()] = roots[operand.index()];
            }
        }
        roots
    }

    fn define(&self, defined: &mut [bool], id: ValueId) -> Result<(), GraphError> {
        match defined.get_mut(id.index()) {
            None => Err(GraphError::Undefined { reader: "the graph".to_owned(), value: id }),
            Some(true) => Err(GraphError::DefinedTwice { value: id, name: self.value(id).name.clone() }),
            Some(slot) => {
                *slot = true;
                Ok(())
            }
        }
    }

    fn validate_leaves(&self) -> Result<(), GraphError> {
        for w in &self.weights {
            let v = self.value(w.value);
            let fail = |reason: String| Err(GraphError::Value { name: v.name.clone(), reason });
            if v.dtype != DType::F32 {
                return fail("a weight's value is f32".to_owned());
            }
            if !matches!(w.stored, DType::F32 | DType::F16 | DType::BF16) {
                return fail(format!("a weight is stored in f32, f16 or bf16, not {}", w.stored));
            }
            let stored = v.shape.elements() as u64 * w.stored.size() as u64;
            let bound: u64 = w.blocks.iter().map(|b| u64::from(b.len)).sum();
            if !w.blocks.is_empty() && stored != bound {
                return fail(format!("the weight takes {stored} bytes, its blocks hold {bound}"));
            }
            let misaligned = w.blocks.iter().rev().skip(1).any(|b| !(b.len as usize).is_multiple_of(w.stored.size()));
            if misaligned {
                return fail("a block ends inside an element".to_owned());
            }
        }
        for c in &self.constants {
            let v = self.value(c.value);
            if c.tensor.dtype() != v.dtype || c.tensor.shape() != &v.shape {
                let reason = format!("the constant is {}{}", c.tensor.dtype(), c.tensor.shape());
                return Err(GraphError::Value { name: v.name.clone(), reason });
            }
        }
        Ok(())
    }

    fn validate_node(&self, node: &Node, defined: &[bool]) -> Result<(), GraphError> {
        for &id in &node.inputs {
            if !defined.get(id.index()).is_some_and(|d| *d) {
                return Err(GraphError::Undefined { reader: format!("node {:?}", node.name), value: id });
            }
        }
        let operands: Vec<&Value> = node.inputs.iter().map(|&id| self.value(id)).collect();
        let (dtype, shape) = infer(&node.name, &node.op, &operands)?;
        let Some(declared) = self.values.get(node.output.index()) else {
            return Err(GraphError::Undefined { reader: format!("node {:?}", node.name), value: node.output });
        };
        if (declared.dtype, &declared.shape) != (dtype, &shape) {
            return Err(GraphError::Result {
                node: node.name.clone(),
                op: node.op.name(),
                inferred: format!("{dtype}{shape}"),
                declared: format!("{}{}", declared.dtype, declared.shape),
            });
        }
        Ok(())
    }
}

fn unique<'a>(kind: &'static str, names: impl Iterator<Item = &'a str>) -> Result<(), GraphError> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(GraphError::DuplicateName { kind, name: name.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
