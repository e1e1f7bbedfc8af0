//! Removes what no output depends on: nodes, weights, constants. Inputs stay, because they are the program's signature.

use crate::{Graph, Value, ValueId};

/// Removes every node, weight and constant that no output depends on, and renumbers the values.
#[must_use]
pub fn eliminate_dead(mut graph: Graph) -> Graph {
    let mut live = vec![false; graph.values.len()];
    for id in graph.outputs.iter().map(|o| o.value).chain(graph.inputs.iter().copied()) {
        live[id.index()] = true;
    }
    for node in graph.nodes.iter().rev() {
        if live[node.output.index()] {
            for id in &node.inputs {
                live[id.index()] = true;
            }
        }
    }
    graph.nodes.retain(|n| live[n.output.index()]);
    graph.weights.retain(|w| live[w.value.index()]);
    graph.constants.retain(|c| live[c.value.index()]);
    renumber(graph, &live)
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
}
