//! Building graphs node by node, each checked as it is added, so that an error names the place that made it.

use tabpool_tensor::{DType, Shape, Tensor};

use crate::graph::Output;
use crate::validate::{check_value, infer};
use crate::{Constant, Graph, GraphError, Node, Op, State, ValueId, Weight};

/// Builds a [`Graph`]. Values can only be named once they exist, so nodes are in topological order by construction.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    graph: Graph,
}

impl GraphBuilder {
    /// An empty graph.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An input of the run.
    ///
    /// # Errors
    /// Where the dtype is neither `f32` nor `i32`, or the shape is empty or too large.
    pub fn input(&mut self, name: &str, dtype: DType, shape: impl Into<Shape>) -> Result<ValueId, GraphError> {
        let id = self.leaf(name, dtype, shape.into())?;
        self.graph.inputs.push(id);
        Ok(id)
    }

    /// A weight, named as in the model's file and stored there in `stored`; arithmetic sees `f32`. Asking for the same
    /// name again gives the same value.
    ///
    /// # Errors
    /// Where the shape is empty or too large.
    pub fn weight(&mut self, name: &str, stored: DType, shape: impl Into<Shape>) -> Result<ValueId, GraphError> {
        let shape = shape.into();
        let known = self.graph.weights.iter().map(|w| w.value).find(|&id| self.graph.value(id).name == name);
        if let Some(id) = known.filter(|&id| self.graph.value(id).shape == shape) {
            return Ok(id);
        }
        let value = self.leaf(name, DType::F32, shape)?;
        self.graph.weights.push(Weight { value, stored, blocks: Vec::new() });
        Ok(value)
    }

    /// A constant that travels inside the program; keep it small.
    ///
    /// # Errors
    /// Where the dtype is neither `f32` nor `i32`, or the shape is empty.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> Result<ValueId, GraphError> {
        let value = self.leaf(name, tensor.dtype(), tensor.shape().clone())?;
        self.graph.constants.push(Constant { value, tensor });
        Ok(value)
    }

    /// A one-element `f32` constant without dimensions.
    ///
    /// # Errors
    /// None in practice; the signature is that of [`constant`](Self::constant).
    pub fn scalar(&mut self, name: &str, value: f32) -> Result<ValueId, GraphError> {
        let bytes = value.to_le_bytes().to_vec();
        let tensor = Tensor::new(DType::F32, Vec::new(), bytes.into())
            .map_err(|e| GraphError::Value { name: name.to_owned(), reason: e.to_string() })?;
        self.constant(name, tensor)
    }

    /// A state, which begins as zeros; gives the value that runs read it by. It stays as it is unless
    /// [`next`](Self::next) says what it becomes.
    ///
    /// # Errors
    /// Where the dtype is neither `f32` nor `i32`, or the shape is empty or too large.
    pub fn state(&mut self, name: &str, dtype: DType, shape: impl Into<Shape>) -> Result<ValueId, GraphError> {
        let value = self.leaf(name, dtype, shape.into())?;
        self.graph.states.push(State { value, next: value });
        Ok(value)
    }

    /// Says which value a state becomes when a run is over. Saying it again replaces what was said.
    ///
    /// # Errors
    /// [`GraphError::State`] where `state` is no state's value, or `next` has another dtype or shape.
    pub fn next(&mut self, state: ValueId, next: ValueId) -> Result<(), GraphError> {
        let (from, to) = (self.graph.value(state), self.graph.value(next));
        let fail = |reason: String| GraphError::State { name: from.name.clone(), reason };
        if (from.dtype, &from.shape) != (to.dtype, &to.shape) {
            let (dtype, shape) = (to.dtype, &to.shape);
            return Err(fail(format!("is {}{}, it cannot become {dtype}{shape}", from.dtype, from.shape)));
        }
        let position = self.graph.states.iter().position(|s| s.value == state);
        let position = position.ok_or_else(|| fail("is no state, so it cannot become anything".to_owned()))?;
        self.graph.states[position].next = next;
        Ok(())
    }

    /// A node; gives the value it makes.
    ///
    /// # Errors
    /// [`GraphError::Node`] with the operator, the rule and the operands' shapes.
    pub fn node(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        let operands: Vec<_> = inputs.iter().map(|&id| self.graph.value(id)).collect();
        let (dtype, shape) = infer(name, &op, &operands)?;
        let output = self.graph.add_value(name, dtype, shape);
        self.graph.nodes.push(Node { name: name.to_owned(), op, inputs: inputs.to_vec(), output });
        Ok(output)
    }

    /// Names a value as an output of the run.
    ///
    /// # Errors
    /// [`GraphError::DuplicateName`] where another output has the name.
    pub fn output(&mut self, name: &str, value: ValueId) -> Result<(), GraphError> {
        if self.graph.outputs.iter().any(|o| o.name == name) {
            return Err(GraphError::DuplicateName { kind: "output", name: name.to_owned() });
        }
        self.graph.outputs.push(Output { name: name.to_owned(), value });
        Ok(())
    }

    /// The shape of a value made so far.
    #[must_use]
    pub fn shape(&self, value: ValueId) -> &Shape {
        &self.graph.value(value).shape
    }

    /// The finished graph, validated as a whole.
    ///
    /// # Errors
    /// Whatever [`Graph::validate`] finds.
    pub fn finish(self) -> Result<Graph, GraphError> {
        self.graph.validate()?;
        Ok(self.graph)
    }

    fn leaf(&mut self, name: &str, dtype: DType, shape: Shape) -> Result<ValueId, GraphError> {
        check_value(name, dtype, &shape)?;
        Ok(self.graph.add_value(name, dtype, shape))
    }
}

#[cfg(test)]
mod tests {
    use tabpool_tensor::DType;

    use super::GraphBuilder;
    use crate::{GraphError, Op};

    #[test]
    fn a_wrong_node_names_itself_its_operator_and_its_shapes() {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [2, 3]).expect("valid");
        let w = b.weight("w", DType::F32, [5, 4]).expect("valid");
        let err = b.node("layer.0.query", Op::LINEAR, &[x, w]).expect_err("3 is not 4");
        assert_eq!(
            err.to_string(),
            r#"node "layer.0.query": linear needs a weight of [out, 3] (operands: f32[2, 3], f32[5, 4])"#
        );
    }

    #[test]
    fn a_graph_without_outputs_is_refused() {
        assert_eq!(GraphBuilder::new().finish(), Err(GraphError::NoOutputs));
    }

    #[test]
    fn the_same_weight_is_one_value() {
        let mut b = GraphBuilder::new();
        let first = b.weight("w", DType::F32, [2]).expect("valid");
        assert_eq!(b.weight("w", DType::F32, [2]).expect("valid"), first);
    }
}
