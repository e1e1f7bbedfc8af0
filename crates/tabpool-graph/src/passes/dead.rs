//! Removes what no output and no state depends on: nodes, weights, constants. Inputs and states stay, because they are the
//! program's signature: programs that take turns on one set of states have the same ones.

use crate::{Graph, Value, ValueId};

/// Removes every node, weight and constant that no output and no state depends on, and renumbers the values.
#[must_use]
pub fn eliminate_dead(mut graph: Graph) -> Graph {
    let mut live = live(&graph);
    for id in graph.inputs.iter().copied().chain(graph.states.iter().map(|s| s.value)) {
        live[id.index()] = true;
    }
    graph.nodes.retain(|n| live[n.output.index()]);
    graph.weights.retain(|w| live[w.value.index()]);
    graph.constants.retain(|c| live[c.value.index()]);
    renumber(graph, &live)
}

/// What outputs and the states that follow depend on, by [`ValueId::index`].
pub(crate) fn live(graph: &Graph) -> Vec<bool> {
    let mut live = vec![false; graph.values.len()];
    for id in graph.outputs.iter().map(|o| o.value).chain(graph.states.iter().map(|s| s.next)) {
        live[id.index()] = true;
    }
    for node in graph.nodes.iter().rev() {
        if live[node.output.index()] {
            for id in &node.inputs {
                live[id.index()] = true;
            }
        }
    }
    live
}

fn renumber(mut graph: Graph, live: &[bool]) -> Graph {
    let mut renamed = vec![ValueId(0); graph.values.len()];
    let mut kept: Vec<Value> = Vec::with_capacity(graph.values.len());
    for (i, value) in graph.values.into_iter().enumerate() {
        if live[i] {
            renamed[i] = ValueId(u32::try_from(kept.len()).unwrap_or(u32::MAX));
            kept.push(value);
        }
    }
    graph.values = kept;
    let rename = |id: &mut ValueId| *id = renamed[id.index()];
    graph.inputs.iter_mut().for_each(rename);
    graph.weights.iter_mut().for_each(|w| rename(&mut w.value));
    graph.constants.iter_mut().for_each(|c| rename(&mut c.value));
    graph.outputs.iter_mut().for_each(|o| rename(&mut o.value));
    graph.states.iter_mut().flat_map(|s| [&mut s.value, &mut s.next]).for_each(rename);
    for node in &mut graph.nodes {
        node.inputs.iter_mut().for_each(rename);
        rename(&mut node.output);
    }
    graph
}

#[cfg(test)]
mod tests {
    use tabpool_tensor::DType;

    use super::eliminate_dead;
    use crate::{GraphBuilder, Op, Unary};

    #[test]
    fn unread_nodes_and_weights_go_and_unread_inputs_stay() {
        let mut b = GraphBuilder::new();
        let unread = b.input("unread", DType::F32, [2]).expect("valid");
        let x = b.input("x", DType::F32, [2]).expect("valid");
        let w = b.weight("w", DType::F32, [2]).expect("valid");
        b.node("dead", Op::Binary(crate::Binary::Add), &[unread, w]).expect("valid");
        let y = b.node("live", Op::Unary(Unary::Exp), &[x]).expect("valid");
        b.output("y", y).expect("valid");
        let graph = eliminate_dead(b.finish().expect("valid"));
        assert_eq!(
            graph.to_string(),
            "input  %0: f32[2] unread\ninput  %1: f32[2] x\nnode   %2: f32[2] = Unary(Exp)(%1) live\noutput %2: f32[2] y\n"
        );
        graph.validate().expect("still valid");
    }

    #[test]
    fn states_stay_with_what_they_become() {
        let mut b = GraphBuilder::new();
        b.state("unread", DType::I32, [1]).expect("valid");
        let x = b.input("x", DType::F32, [2]).expect("valid");
        let last = b.state("last", DType::F32, [2]).expect("valid");
        let dead = b.node("dead", Op::Unary(Unary::Exp), &[x]).expect("valid");
        b.node("dead too", Op::Unary(Unary::Exp), &[dead]).expect("valid");
        let next = b.node("kept", Op::Unary(Unary::Neg), &[x]).expect("valid");
        b.next(last, next).expect("of one kind");
        b.output("y", x).expect("valid");
        let graph = eliminate_dead(b.finish().expect("valid"));
        graph.validate().expect("still valid");
        assert_eq!(
            graph.to_string(),
            "input  %1: f32[2] x\nstate  %0: i32[1] unread\nstate  %2: f32[2] last\n\
             node   %3: f32[2] = Unary(Neg)(%1) kept\noutput %1: f32[2] y\n\
             next   %0: i32[1] unread\nnext   %3: f32[2] last\n"
        );
    }
}
