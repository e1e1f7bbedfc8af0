//! Random graphs run through a simulated memory that notices every value overwritten too early, states among them.

use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
use proptest::test_runner::TestCaseError;
use tabpool_graph::{Binary, Graph, GraphBuilder, GraphError, Op, Unary, ValueId};
use tabpool_tensor::{DType, Shape};

use super::{Place, byte_size, plan};

/// One random step of building a graph: what to add, and which earlier values it reads.
#[derive(Clone, Debug)]
struct Step {
    kind: u8,
    a: usize,
    b: usize,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0u8..9, any::<usize>(), any::<usize>()).prop_map(|(kind, a, b)| Step { kind, a, b });
    proptest::collection::vec(step, 1..60)
}

/// Values are `[1]`, `[n]`, `[1, n]` or `[n, m]`, so most pairs broadcast in one way or another.
fn build(steps: &[Step], outputs: &[usize]) -> Result<Graph, GraphError> {
    let mut b = GraphBuilder::new();
    let mut values = vec![
        b.input("x", DType::F32, [4, 6])?,
        b.weight("w", DType::F32, [6, 6])?,
        b.scalar("c", 2.0)?,
        b.input("y", DType::F32, [6])?,
    ];
    let at = b.input("at", DType::I32, [1])?;
    // One state that is written in place, one that is copied, and one that stays.
    let cache = b.state("cache", DType::F32, [1, 9, 6])?;
    let copied = b.state("copied", DType::F32, [6])?;
    values.push(b.state("stays", DType::F32, [1, 6])?);
    let mut written = false;
    for (i, step) in steps.iter().enumerate() {
        let pick = |n: usize| values[n % values.len()];
        let (x, y) = (pick(step.a), pick(step.b));
        let elements = b.shape(x).elements();
        let (op, inputs): (Op, Vec<ValueId>) = match step.kind {
            0 => (Op::Unary(Unary::Tanh), vec![x]),
            1 => (Op::Reshape { shape: [elements].into() }, vec![x]),
            2 => (Op::Reshape { shape: [1, elements].into() }, vec![x]),
            3 if b.shape(x).last() == Some(&6) => (Op::LINEAR, vec![x, values[1]]),
            4 if b.shape(x).rank() > 0 => (Op::Slice { axis: 0, start: 0, length: 1 }, vec![x]),
            7 if !written && b.shape(x).last() == Some(&6) && elements <= 54 => {
                let rows = b.node(&format!("rows{i}"), Op::Reshape { shape: [1, elements / 6, 6].into() }, &[x])?;
                let full = b.node(&format!("write{i}"), Op::WriteRows, &[cache, rows, at])?;
                b.next(cache, full)?;
                written = true;
                values.push(full);
                (Op::Slice { axis: 1, start: 0, length: 1 }, vec![full])
            }
            8 => {
                let next = b.node(&format!("next{i}"), Op::Binary(Binary::Add), &[copied, values[3]])?;
                b.next(copied, next)?;
                values.push(next);
                (Op::Unary(Unary::Neg), vec![x])
            }
            _ if b.shape(x).broadcast(b.shape(y)).is_some() => (Op::Binary(Binary::Add), vec![x, y]),
            _ => (Op::Unary(Unary::Neg), vec![y]),
        };
        values.push(b.node(&format!("n{i}"), op, &inputs)?);
    }
    for (i, n) in outputs.iter().enumerate() {
        b.output(&format!("out{i}"), values[n % values.len()])?;
    }
    b.finish()
}

/// Executes the plan with every slot holding only the name of the value written last.
fn simulate(graph: &Graph) -> Result<(), TestCaseError> {
    let plan = plan(graph);
    let mut memory: Vec<Option<ValueId>> = vec![None; plan.slots.len()];
    let holds = |memory: &[Option<ValueId>], id: ValueId| match plan.slot(id) {
        Some(slot) => memory[slot] == Some(plan.root(id)),
        None => matches!(plan.places[plan.root(id).index()], Place::Leaf),
    };
    let execute = |memory: &mut Vec<Option<ValueId>>, position: usize| {
        let node = &graph.nodes()[position];
        if let Some(state) = graph.in_place(node) {
            prop_assert_eq!(plan.root(node.output), graph.states()[state].value);
            prop_assert!(holds(memory, node.inputs[1]), "{} writes what was overwritten", node.output);
            return Ok(());
        }
        let Place::Slot(out) = plan.places[node.output.index()] else {
            return Err(TestCaseError::fail(format!("{} has no slot", node.output)));
        };
        for &operand in &node.inputs {
            prop_assert!(holds(memory, operand), "{} read {operand} after it was overwritten", node.output);
            prop_assert!(plan.slot(operand) != Some(out), "{} overwrites its operand {operand}", node.output);
        }
        prop_assert!(plan.slots[out] >= byte_size(graph.value(node.output)), "{} does not fit", node.output);
        memory[out] = Some(node.output);
        Ok(())
    };
    for &position in &plan.load_nodes {
        execute(&mut memory, position)?;
    }
    // The second run finds what the first one left; what was computed at load must still be there.
    for _run in 0..2 {
        for &position in &plan.run_nodes {
            execute(&mut memory, position)?;
        }
        for o in graph.outputs() {
            prop_assert!(holds(&memory, o.value), "output {} was overwritten", o.name);
        }
        for &state in &plan.state_copies {
            let next = graph.states()[state].next;
            prop_assert!(holds(&memory, next), "what state {state} becomes was overwritten");
            prop_assert!(plan.root(next) != graph.states()[state].value, "state {state} becomes itself");
        }
    }
    let changed = graph.states().iter().filter(|s| s.changes()).count();
    let in_place = graph.nodes().iter().filter(|n| graph.in_place(n).is_some()).count();
    prop_assert_eq!(changed, plan.state_copies.len() + in_place);
    let planned = plan.load_nodes.len() + plan.run_nodes.len();
    let reshapes = graph.nodes().iter().filter(|n| matches!(n.op, Op::Reshape { .. })).count();
    prop_assert_eq!(planned + reshapes, graph.nodes().len());
    Ok(())
}

proptest! {
    #[test]
    fn no_live_value_is_overwritten(
        steps in steps(),
        outputs in proptest::collection::vec(any::<usize>(), 1..4),
    ) {
        simulate(&build(&steps, &outputs).expect("the steps make valid graphs"))?;
    }
}

#[test]
fn a_chain_needs_two_slots_and_weights_are_computed_once() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [8]).expect("valid");
    let w = b.weight("w", DType::F32, [8]).expect("valid");
    let once = b.node("once", Op::Unary(Unary::Exp), &[w]).expect("valid");
    let mut y = b.node("sum", Op::Binary(Binary::Add), &[x, once]).expect("valid");
    for i in 0..10 {
        y = b.node(&format!("tanh{i}"), Op::Unary(Unary::Tanh), &[y]).expect("valid");
    }
    b.output("y", y).expect("valid");
    let plan = plan(&b.finish().expect("valid"));
    assert_eq!((plan.load_nodes.len(), plan.run_nodes.len(), plan.load_slots), (1, 11, 1));
    assert_eq!(plan.slots, [32, 32, 32]);
}

#[test]
fn reshapes_of_reshapes_name_the_first_value() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [2, 3]).expect("valid");
    let y = b.node("y", Op::Reshape { shape: [6].into() }, &[x]).expect("valid");
    let z = b.node("z", Op::Reshape { shape: Shape::from([3, 2]) }, &[y]).expect("valid");
    b.output("z", z).expect("valid");
    let plan = plan(&b.finish().expect("valid"));
    assert_eq!(plan.places[z.index()], Place::Alias(x));
    assert!(plan.slots.is_empty() && plan.run_nodes.is_empty());
}
