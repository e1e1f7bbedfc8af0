//! Cutting a graph at values that stay where they were computed: one program makes them, others go on from there.
//!
//! Both see them as states of the same names. The program that makes them replaces those states by its outputs and gives back
//! one element of each, or what else it was asked for, so that its end can be told; a program that goes on reads the states and
//! computes nothing of what led to them.

use tabpool_tensor::{DType, Shape};

use crate::graph::State;
use crate::{Graph, GraphError, Node, Op, ValueId};

/// A value that stays on a worker: the name of its state, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeptValue {
    /// The state's name.
    pub name: String,
    /// The type of its elements.
    pub dtype: DType,
    /// Its dimensions.
    pub shape: Shape,
}

impl Graph {
    /// Has outputs stay where they are computed: each becomes the state of its own name, in the order given, and is not given
    /// back. Where nothing else is, the first element of each is.
    ///
    /// # Errors
    /// [`GraphError::State`] for a name that is no output's or is given twice.
    pub fn keep_outputs(mut self, names: &[&str]) -> Result<Self, GraphError> {
        let mut made = Vec::with_capacity(names.len());
        for &name in names {
            let fail =
                || GraphError::State { name: name.to_owned(), reason: "is no output that could be kept".to_owned() };
            let at = self.outputs.iter().position(|output| output.name == name).ok_or_else(fail)?;
            let next = self.outputs.remove(at).value;
            let (dtype, shape) = (self.value(next).dtype, self.value(next).shape.clone());
            let value = self.add_value(name, dtype, shape);
            self.states.push(State { value, next });
            made.push((name, next));
        }
        if self.outputs.is_empty() {
            for (name, value) in made {
                let first = self.first_element(name, value);
                self.outputs.push(crate::Output { name: name.to_owned(), value: first });
            }
        }
        self.validate()?;
        Ok(self)
    }

    /// The states, as what programs that go on from them are told.
    #[must_use]
    pub fn kept(&self) -> Vec<KeptValue> {
        let value = |state: &State| {
            let crate::Value { name, dtype, shape } = self.value(state.value);
            KeptValue { name: name.clone(), dtype: *dtype, shape: shape.clone() }
        };
        self.states.iter().map(value).collect()
    }

    /// Goes on from values that stay on the worker. `stands_for` says which output's value each of them is, by the places of
    /// `kept`; whatever only led to those is left out, inputs included, as are outputs that are not among `wanted`.
    ///
    /// # Errors
    /// [`GraphError::State`] where there is no such output, or it is of another dtype or shape than what was kept.
    pub fn go_on_from(
        mut self,
        kept: &[KeptValue],
        stands_for: &[Option<&str>],
        wanted: &[&str],
    ) -> Result<Self, GraphError> {
        for (held, output) in kept.iter().zip(stands_for) {
            let read = self.add_value(&held.name, held.dtype, held.shape.clone());
            self.states.push(State { value: read, next: read });
            let Some(output) = *output else { continue };
            let fail = |reason: String| GraphError::State { name: held.name.clone(), reason };
            let found = self.outputs.iter().find(|it| it.name == output).map(|it| it.value);
            let made = found.ok_or_else(|| fail(format!("cannot stand for {output:?}: there is no such output")))?;
            let (dtype, shape) = (self.value(made).dtype, &self.value(made).shape);
            if (dtype, shape) != (held.dtype, &held.shape) {
                let reason = format!("holds {}{}, and {output:?} is {dtype}{shape}", held.dtype, held.shape);
                return Err(fail(reason));
            }
            let readers = self.nodes.iter_mut().flat_map(|node| &mut node.inputs);
            let ends = self.outputs.iter_mut().map(|output| &mut output.value);
            for id in readers.chain(ends).filter(|id| **id == made) {
                *id = read;
            }
        }
        self.outputs.retain(|output| wanted.contains(&output.name.as_str()));
        let graph = crate::passes::eliminate_dead(self.without_unread_inputs());
        graph.validate()?;
        Ok(graph)
    }

    /// The first element of a value, as `[1, …, 1]`.
    fn first_element(&mut self, name: &str, value: ValueId) -> ValueId {
        let mut at = value;
        for axis in 0..self.value(value).shape.rank() {
            let mut dims = self.value(at).shape.dims().to_vec();
            if dims[axis] == 1 {
                continue;
            }
            dims[axis] = 1;
            let dtype = self.value(at).dtype;
            let output = self.add_value(name, dtype, Shape::from(dims));
            let op = Op::Slice { axis, start: 0, length: 1 };
            self.nodes.push(Node { name: format!("{name}.first.{axis}"), op, inputs: vec![at], output });
            at = output;
        }
        at
    }

    fn without_unread_inputs(mut self) -> Self {
        let live = crate::passes::live(&self);
        self.inputs.retain(|id| live[id.index()]);
        // They may have read an input that is gone.
        self.nodes.retain(|node| live[node.output.index()]);
        self
    }
}

#[cfg(test)]
mod tests {
    use tabpool_tensor::DType;

    use crate::{Graph, GraphBuilder, Op, Unary};

    /// `tower` is made of `x`, and `head` of `tower` and `y`.
    fn graph(outputs: &[&str]) -> Graph {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [2, 3]).expect("valid");
        let y = b.input("y", DType::F32, [2, 3]).expect("valid");
        let w = b.weight("w", DType::F32, [2, 3]).expect("valid");
        let sum = b.node("sum", Op::Binary(crate::Binary::Add), &[x, w]).expect("valid");
        let tower = b.node("tower", Op::Unary(Unary::Exp), &[sum]).expect("valid");
        let head = b.node("head", Op::Binary(crate::Binary::Add), &[tower, y]).expect("valid");
        for name in outputs {
            b.output(name, if *name == "tower" { tower } else { head }).expect("valid");
        }
        b.finish().expect("valid")
    }

    #[test]
    fn what_is_kept_becomes_a_state_and_its_first_element_is_given_back() {
        let graph = graph(&["tower"]).keep_outputs(&["tower"]).expect("an output");
        let graph = crate::passes::eliminate_dead(graph);
        let kept = graph.kept();
        assert_eq!((kept.len(), kept[0].name.as_str(), kept[0].shape.dims()), (1, "tower", &[2, 3][..]));
        let state = graph.states()[0];
        assert!(state.changes() && graph.value(state.value).name == "tower");
        assert_eq!(graph.value(graph.outputs()[0].value).shape.dims(), [1, 1]);
        let reason = self::graph(&["tower"]).keep_outputs(&["head"]).expect_err("no output").to_string();
        assert_eq!(reason, "state \"head\" is no output that could be kept");
    }

    #[test]
    fn who_goes_on_computes_and_is_given_nothing_of_what_led_there() {
        let kept = graph(&["tower"]).keep_outputs(&["tower"]).expect("an output").kept();
        let go_on = |wanted: &[&str]| graph(&["head", "tower"]).go_on_from(&kept, &[Some("tower")], wanted);
        let head = go_on(&["head"]).expect("of one shape");
        let inputs: Vec<_> = head.inputs().iter().map(|id| head.value(*id).name.as_str()).collect();
        assert_eq!((inputs, head.nodes().len(), head.weights().len(), head.states().len()), (vec!["y"], 1, 0, 1));
        // What is kept can be had itself.
        let fetched = go_on(&["tower"]).expect("of one shape");
        assert_eq!((fetched.inputs().len(), fetched.nodes().len(), fetched.outputs().len()), (0, 0, 1));
        let mut other = kept.clone();
        other[0].shape = [3, 2].into();
        let refused = graph(&["head", "tower"]).go_on_from(&other, &[Some("tower")], &["head"]);
        let reason = refused.expect_err("another shape").to_string();
        assert_eq!(reason, "state \"tower\" holds f32[3, 2], and \"tower\" is f32[2, 3]");
    }
}
