//! Lowering against the limits of a real browser: everything the conformance suite asks for fits, and an encoder layer is
//! as few calls as was measured to be fast.

use std::collections::BTreeMap;

use tabpool_engine::EngineError;
use tabpool_engine::conformance::{self, EncoderSize};
use tabpool_graph::{Binary, Graph, GraphBuilder, Op, Unary, ValueId};
use tabpool_tensor::{DType, Tensor};

use super::elementwise::merged;
use super::lower;
use crate::limits::Limits;
use crate::limits::tests::of_the_shell;
use crate::recipe::{Recipe, Source};

fn count(recipe: &Recipe, wanted: &str) -> usize {
    recipe.steps.iter().filter(|step| matches!(step.source, Source::Call { method, .. } if method == wanted)).count()
}

#[test]
fn every_case_of_the_suite_fits_the_shell() {
    let limits = of_the_shell();
    let cases = conformance::cases().expect("the suite is sound");
    assert!(cases.len() > 400, "{} cases are not the suite", cases.len());
    for case in &cases {
        let recipe = lower(case.graph(), &limits).unwrap_or_else(|e| panic!("{}: {e}", case.name()));
        assert_eq!(recipe.outputs.len(), case.graph().outputs().len(), "{}", case.name());
        let mut weights: Vec<_> = recipe.weights().collect();
        weights.sort_unstable();
        weights.dedup();
        assert_eq!(weights.len(), recipe.weights().count(), "{}: a weight is uploaded twice", case.name());
        let changed: Vec<_> = case.graph().states().iter().filter(|s| s.changes()).map(|s| s.next).collect();
        assert_eq!(recipe.nexts.len(), changed.len(), "{}", case.name());
        for ((_, next), id) in recipe.nexts.iter().zip(changed) {
            assert_eq!(recipe.steps[next.0].shape, case.graph().value(id).shape.dims(), "{}", case.name());
        }
        for (output, named) in recipe.outputs.iter().zip(case.graph().outputs()) {
            let (step, value) = (&recipe.steps[output.0], case.graph().value(named.value));
            assert_eq!(step.dtype, value.dtype, "{}", case.name());
            assert_eq!(step.shape.iter().product::<usize>(), value.shape.elements(), "{}", case.name());
            assert!(matches!(step.source, Source::Call { .. }), "{}: an output that is a leaf", case.name());
        }
    }
}

/// How often each operator stands in a recipe.
fn calls(recipe: &Recipe) -> BTreeMap<&'static str, usize> {
    let mut calls = BTreeMap::new();
    for step in &recipe.steps {
        if let Source::Call { method, .. } = step.source {
            *calls.entry(method).or_default() += 1;
        }
    }
    calls
}

#[test]
fn a_layer_of_an_encoder_is_six_products_of_rows_and_two_of_heads() {
    let limits = of_the_shell();
    let of_layers = |layers: usize| {
        let size =
            EncoderSize { batch: 2, sequence: 16, vocabulary: 61, hidden: 48, intermediate: 96, heads: 4, layers };
        let case = conformance::encoder(size, DType::F32).expect("sizes that fit");
        calls(&lower(case.optimised().expect("the passes keep it valid").graph(), &limits).expect("it fits"))
    };
    let (short, long) = (of_layers(1), of_layers(2));
    let per_layer: Vec<_> = long.iter().map(|(&method, &count)| (method, count - short[method])).collect();
    let per_layer: Vec<_> = per_layer.into_iter().filter(|(_, count)| *count > 0).collect();
    let wanted = [
        // Two residuals and one bias, the sum of two that all layers share.
        ("add", 3),
        ("gelu", 1),
        ("gemm", 6),
        ("layerNormalization", 2),
        ("matmul", 2),
        ("mul", 1),
        // Heads are taken apart and put together; everything else stays rows.
        ("reshape", 4),
        ("softmax", 1),
        ("transpose", 4),
    ];
    assert_eq!(per_layer, wanted);
}

#[test]
fn a_browser_without_an_operator_is_refused_by_node_or_served_by_others() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [3, 5]).expect("a shape");
    let y = b.node("layer.activation", Op::Unary(Unary::Gelu), &[x]).expect("valid");
    b.output("y", y).expect("its only name");
    let graph = b.finish().expect("valid");
    let without = |left_out: &[&str]| {
        let mut limits = Limits::default();
        let all = ["input", "constant", "output", "mul", "add", "erf"];
        for operator in all.into_iter().filter(|name| !left_out.contains(name)) {
            let operands: &[&str] = match operator {
                "input" | "constant" | "output" => &[""],
                "erf" => &["input", "output"],
                _ => &["a", "b", "output"],
            };
            for operand in operands {
                let dtypes = ["float32".to_owned()].into();
                limits.insert(operator, operand, crate::limits::Support { dtypes, ranks: 0..=5 });
            }
        }
        limits
    };
    let recipe = lower(&graph, &without(&[])).expect("by the error function");
    assert_eq!((count(&recipe, "gelu"), count(&recipe, "erf")), (0, 1));
    match lower(&graph, &without(&["erf"])) {
        Err(EngineError::Unsupported { node, op, reason, .. }) => {
            assert_eq!((node.as_str(), op), ("layer.activation", "gelu"));
            assert!(reason.contains("needs erf"), "{reason}");
        }
        other => panic!("should be refused: {other:?}"),
    }
}

#[test]
fn a_weight_that_is_only_read_by_rows_is_a_table_and_no_constant() {
    let limits = of_the_shell();
    let cases = conformance::cases().expect("the suite is sound");
    let recipe = |name: &str| {
        let case = cases.iter().find(|case| case.name().starts_with(name)).expect("the suite has it");
        lower(case.graph(), &limits).expect("it fits")
    };
    let rows = recipe("gather f32 [9, 5, 3]");
    assert_eq!(rows.tables().map(|(_, step)| step.shape.clone()).collect::<Vec<_>>(), [[9, 15]]);
    assert_eq!(count(&rows, "reshape"), 1, "indices alone are reshaped");
    let tied = recipe("a weight that is table and linear weight");
    assert_eq!(tied.tables().count(), 0, "one copy serves both");
}

#[test]
fn what_no_output_reads_is_left_out() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [4]).expect("a shape");
    let unread = b.input("unread", DType::I32, [4]).expect("a shape");
    let _dead = b.node("dead", Op::Cast { to: DType::F32 }, &[unread]).expect("valid");
    let y = b.node("y", Op::Unary(Unary::Neg), &[x]).expect("valid");
    b.output("y", y).expect("its only name");
    let recipe = lower(&b.finish().expect("valid"), &of_the_shell()).expect("it fits");
    assert_eq!(recipe.inputs().map(|(position, _)| position).collect::<Vec<_>>(), [0]);
    assert_eq!(count(&recipe, "cast"), 0);
}

#[test]
fn neighbouring_dimensions_that_broadcast_alike_become_one() {
    assert_eq!(merged(&[2, 3, 4, 5], &[5]), (vec![24, 5], vec![1, 5]));
    assert_eq!(merged(&[2, 3, 1, 1, 7, 8], &[2, 3, 4, 5, 7, 8]), (vec![6, 1, 56], vec![6, 20, 56]));
    assert_eq!(merged(&[2, 1, 3, 1, 7], &[1, 5, 1, 3, 7]), (vec![2, 1, 3, 1, 7], vec![1, 5, 1, 3, 7]));
    assert_eq!(merged(&[1, 1], &[1]), (vec![], vec![]), "nothing is left of ones");
}

#[test]
fn more_dimensions_than_a_browser_takes_are_laid_out_as_fewer() {
    let mut b = GraphBuilder::new();
    let (x, y) = (b.input("x", DType::F32, [2, 3, 1, 2, 2, 2, 2, 3]), b.input("y", DType::F32, [5, 1, 1, 1, 1, 1]));
    let (x, y) = (x.expect("a shape"), y.expect("a shape"));
    let z = b.node("sum", Op::Binary(tabpool_graph::Binary::Add), &[x, y]).expect("valid");
    let z = b.node("bend", Op::Unary(Unary::Tanh), &[z]).expect("valid");
    b.output("z", z).expect("its only name");
    let recipe = lower(&b.finish().expect("valid"), &of_the_shell()).expect("eight dimensions as three");
    assert_eq!(recipe.steps[recipe.outputs[0].0].shape, [6, 5, 48]);
}

/// A decoder of this many layers that reads one token a run, its keys shared by two heads: what every layer does anew.
fn decoder(layers: usize) -> Graph {
    let mut b = GraphBuilder::new();
    let (heads, kv_heads, depth, capacity) = (4, 2, 6, 29);
    let mut x = b.input("x", DType::F32, [1, 1, heads * depth]).expect("a shape");
    let at = b.state("at", DType::I32, [1]).expect("a shape");
    let cos = b.input("cos", DType::F32, [1, 1, depth / 2]).expect("a shape");
    let sin = b.input("sin", DType::F32, [1, 1, depth / 2]).expect("a shape");
    for layer in 0..layers {
        let mut node =
            |name: &str, op: Op, inputs: &[ValueId]| b.node(&format!("{layer}.{name}"), op, inputs).expect("valid");
        let q = node("q", Op::Rope { heads, rotary: depth }, &[x, cos, sin]);
        let k = node("k", Op::Slice { axis: 2, start: 0, length: kv_heads * depth }, &[q]);
        let cache = b.state(&format!("{layer}.cache"), DType::F32, [1, capacity, kv_heads * depth]).expect("a shape");
        let written = b.node(&format!("{layer}.write"), Op::WriteRows, &[cache, k, at]).expect("valid");
        b.next(cache, written).expect("its own shape");
        let attention = Op::Attention { heads, kv_heads, scale: 0.5, causal: true };
        let inputs = [q, written, written, at];
        x = b.node(&format!("{layer}.attention"), attention, &inputs).expect("valid");
    }
    let one = b.constant("one", Tensor::from_i32([1], vec![1]).expect("one number")).expect("its only name");
    let moved = b.node("moved", Op::Binary(Binary::Add), &[at, one]).expect("valid");
    b.next(at, moved).expect("its own shape");
    b.output("y", x).expect("its only name");
    b.finish().expect("valid")
}

#[test]
fn layers_of_a_decoder_share_what_they_see_where_they_write_and_how_they_turn() {
    let limits = of_the_shell();
    let of_layers = |layers: usize| calls(&lower(&decoder(layers), &limits).expect("it fits"));
    let (short, long) = (of_layers(1), of_layers(2));
    let per_layer: Vec<_> =
        long.iter().map(|(&m, &n)| (m, n - short.get(m).copied().unwrap_or(0))).filter(|(_, n)| *n > 0).collect();
    let wanted = [
        ("add", 1),
        ("concat", 1),
        ("matmul", 2),
        // The rotation's two and the scale.
        ("mul", 3),
        ("reshape", 11),
        ("slice", 3),
        ("softmax", 1),
        ("transpose", 2),
        // Rows that are written, values that are not seen, and scores of keys that are not.
        ("where", 3),
    ];
    assert_eq!(per_layer, wanted);
    for shared in ["lesserOrEqual", "equal", "neg"] {
        assert_eq!(long[shared], 1, "{shared} is asked for once");
    }
}

#[test]
fn a_state_that_changes_is_read_and_what_it_becomes_is_a_result_of_its_own() {
    let recipe = lower(&decoder(2), &of_the_shell()).expect("it fits");
    let mut read: Vec<_> = recipe.states().collect();
    read.sort_unstable();
    assert_eq!(read, [0, 1, 2], "each is read once");
    assert_eq!(recipe.nexts.iter().map(|(position, _)| *position).collect::<Vec<_>>(), [0, 1, 2]);
    let mut results: Vec<_> =
        recipe.nexts.iter().map(|(_, next)| *next).chain(recipe.outputs.iter().copied()).collect();
    assert!(results.iter().all(|result| matches!(recipe.steps[result.0].source, Source::Call { .. })));
    results.sort_unstable_by_key(|result| result.0);
    results.dedup();
    assert_eq!(results.len(), 4);
    assert_eq!(recipe.steps[recipe.nexts[1].1.0].shape, [1, 29, 12], "in the shape of the state's memory");
}

#[test]
fn a_state_that_nothing_reads_is_no_input_and_one_that_stays_is_no_result() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [3]).expect("a shape");
    let (kept, set) = (b.state("kept", DType::F32, [3]), b.state("set", DType::F32, [3]));
    let (kept, set) = (kept.expect("a shape"), set.expect("a shape"));
    b.next(set, x).expect("its own shape");
    b.output("y", kept).expect("its only name");
    let recipe = lower(&b.finish().expect("valid"), &of_the_shell()).expect("it fits");
    assert_eq!(recipe.states().collect::<Vec<_>>(), [0]);
    assert_eq!(recipe.nexts.iter().map(|(position, _)| *position).collect::<Vec<_>>(), [1]);
    assert_eq!(count(&recipe, "identity"), 2, "what is no result of an operator is copied");
}

#[test]
fn the_largest_are_found_by_whatever_is_less_work_and_too_many_are_refused() {
    let of = |shape: [usize; 2], k: usize| {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, shape).expect("a shape");
        let y = b.node("head.best", Op::TopK { k }, &[x]).expect("valid");
        b.output("y", y).expect("its only name");
        lower(&b.finish().expect("valid"), &of_the_shell())
    };
    let picked = |recipe: &Recipe| count(recipe, "argMax");
    // Each pick after the first takes two: one among all that is left, one among those that equal it.
    assert_eq!(picked(&of([3, 100], 5).expect("few of a small row")), 9);
    assert_eq!(picked(&of([3, 100], 60).expect("many of a small row")), 1);
    assert_eq!(picked(&of([1, 50_000], 64).expect("some of a large row")), 127);
    match of([1, 50_000], 65) {
        Err(EngineError::Unsupported { node, op, reason, .. }) => {
            assert_eq!((node.as_str(), op), ("head.best", "top_k"));
            assert!(reason.contains("65 of 1 rows of 50000") && reason.contains("up to 64"), "{reason}");
        }
        other => panic!("should be refused: {other:?}"),
    }
}

#[test]
fn values_that_only_some_queries_see_are_kept_from_the_others() {
    let of = |queries: usize| {
        let mut b = GraphBuilder::new();
        let q = b.input("q", DType::F32, [1, queries, 12]).expect("a shape");
        let k = b.input("k", DType::F32, [1, 9, 12]).expect("a shape");
        let start = b.input("start", DType::I32, [1]).expect("a shape");
        let attention = Op::Attention { heads: 2, kv_heads: 2, scale: 1.0, causal: true };
        let y = b.node("y", attention, &[q, k, k, start]).expect("valid");
        b.output("y", y).expect("its only name");
        lower(&b.finish().expect("valid"), &of_the_shell()).expect("it fits")
    };
    let (one, several) = (of(1), of(3));
    assert_eq!((count(&one, "where"), count(&one, "reduceSum")), (2, 0));
    // What is no number in a value makes its key none.
    assert_eq!((count(&several, "where"), count(&several, "reduceSum")), (2, 1));
}

#[test]
fn operands_in_an_array_are_held_against_the_limits_as_well() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::I32, [2, 3]).expect("a shape");
    let y = b.node("joined", Op::Concat { axis: 1 }, &[x, x]).expect("valid");
    b.output("y", y).expect("its only name");
    let graph = b.finish().expect("valid");
    let mut limits = Limits::default();
    for (operator, operand, dtype) in [
        ("input", "", "int32"),
        ("output", "", "int32"),
        ("reshape", "input", "int32"),
        ("reshape", "output", "int32"),
        ("concat", "inputs", "float32"),
    ] {
        let dtypes = [dtype.to_owned()].into();
        limits.insert(operator, operand, crate::limits::Support { dtypes, ranks: 0..=5 });
    }
    match lower(&graph, &limits) {
        Err(EngineError::Unsupported { node, op, reason, .. }) => {
            assert_eq!((node.as_str(), op), ("joined", "concat"));
            assert_eq!(reason, "needs concat's inputs in int32; this browser takes float32");
        }
        other => panic!("should be refused: {other:?}"),
    }
}
