//! What is refused, and in which words.

use tabpool_tensor::DType;

use crate::{Graph, GraphBuilder, GraphError, Op, Unary, ValueId};

/// The refusal of one node over `f32` inputs of these shapes; those without dimensions are `i32 [1]`.
#[track_caller]
fn refused(op: Op, shapes: &[&[usize]], want: &str) {
    let mut b = GraphBuilder::new();
    let operands: Vec<_> = shapes
        .iter()
        .enumerate()
        .map(|(n, &shape)| {
            let (dtype, shape) = if shape.is_empty() { (DType::I32, &[1][..]) } else { (DType::F32, shape) };
            b.input(&format!("x{n}"), dtype, shape).expect("valid")
        })
        .collect();
    let err = b.node("n", op, &operands).expect_err("refused").to_string();
    assert!(err.contains(want), "{err:?} does not say {want:?}");
}

#[test]
fn convolutions_that_do_not_fit_are_refused() {
    let conv = |stride, dilation, groups| Op::Conv2d { stride, padding: [0; 4], dilation, groups, activation: None };
    let x: &[usize] = &[1, 4, 5, 5];
    refused(conv([1, 1], [1, 1], 1), &[&[4, 5, 5], &[2, 4, 3, 3]], "of rank 4");
    refused(conv([0, 1], [1, 1], 1), &[x, &[2, 4, 3, 3]], "at least 1");
    refused(conv([1, 1], [1, 0], 1), &[x, &[2, 4, 3, 3]], "at least 1");
    refused(conv([1, 1], [1, 1], 0), &[x, &[2, 4, 3, 3]], "into 0 groups");
    refused(conv([1, 1], [1, 1], 3), &[x, &[3, 1, 3, 3]], "4 and 3 channels into 3 groups");
    refused(conv([1, 1], [1, 1], 2), &[x, &[2, 4, 3, 3]], "[out, 2, height, width]");
    refused(conv([1, 1], [1, 1], 1), &[x, &[2, 4, 3, 3], &[3]], "a bias of [2]");
    refused(conv([1, 1], [1, 1], 1), &[x, &[2, 4, 6, 3]], "no room for a kernel of 6 by 3");
    refused(conv([1, 1], [1, 3], 1), &[x, &[2, 4, 1, 3]], "no room");
    refused(conv([1, 1], [usize::MAX, 1], 1), &[x, &[2, 4, 3, 3]], "no room");
    let padded = |padding| Op::Conv2d { stride: [1, 1], padding, dilation: [1, 1], groups: 1, activation: None };
    refused(padded([usize::MAX, 0, 1, 0]), &[x, &[2, 4, 3, 3]], "no room");
}

#[test]
fn other_operators_name_the_rule_that_is_broken() {
    let grouped = |heads, kv_heads, causal| Op::Attention { heads, kv_heads, scale: 1.0, causal };
    let q: &[usize] = &[1, 2, 12];
    refused(grouped(4, 3, false), &[q, &[1, 5, 9], &[1, 5, 9]], "3 heads of keys among 4");
    refused(grouped(4, 0, false), &[q, &[1, 5, 6], &[1, 5, 6]], "0 heads of keys");
    refused(grouped(4, 2, false), &[q, &[1, 5, 12], &[1, 5, 6]], "as wide as those of queries, 3, not 6");
    refused(grouped(4, 2, true), &[q, &[1, 5, 6], &[1, 5, 6]], "takes 4 to 6 operands, got 3");
    refused(grouped(4, 2, true), &[q, &[1, 5, 6], &[1, 5, 6], &[1]], "the start in i32");
    refused(Op::Linear { activation: None, residual: true }, &[&[2, 3], &[4, 3]], "takes 3 to 4 operands");
    let residual = Op::Linear { activation: None, residual: true };
    refused(residual, &[&[2, 3], &[4, 3], &[4], &[1, 4]], "a residual of [2, 4]");
    refused(Op::Concat { axis: 2 }, &[&[2, 3]], "no dimension 2");
    refused(Op::Concat { axis: 0 }, &[&[2, 3], &[2, 4]], "differ in dimension 0 only");
    refused(Op::Concat { axis: 0 }, &[&[1], &[]], "one dtype");
    refused(Op::Concat { axis: 0 }, &[&[1][..]; 17], "takes 1 to 16 operands, got 17");
    refused(Op::WriteRows, &[&[1, 4, 3], &[1, 5, 3], &[]], "S of at most C");
    refused(Op::WriteRows, &[&[1, 4, 3], &[1, 2, 3], &[1]], "the position in i32");
    refused(Op::Rope { heads: 2, rotary: 3 }, &[&[1, 4, 8], &[1, 4, 1], &[1, 4, 1]], "rotate 3 of the 4");
    refused(Op::Rope { heads: 2, rotary: 6 }, &[&[1, 4, 8], &[1, 4, 3], &[1, 4, 3]], "rotate 6 of the 4");
    refused(Op::Rope { heads: 2, rotary: 2 }, &[&[2, 4, 8], &[3, 4, 1], &[3, 4, 1]], "cos and sin of [2 or 1, 4, 1]");
    refused(Op::TopK { k: 0 }, &[&[5]], "the 0 largest");
    refused(Op::TopK { k: 6 }, &[&[5]], "the 6 largest of 5");
    refused(Op::TopK { k: 1 }, &[&[1, (1 << 24) + 1]], "at most 16777216");
    refused(Op::RmsNorm { epsilon: f32::NAN }, &[&[5], &[5]], "finite epsilon");
}

/// A cache that is written at a position, and whatever `more` does with it: it is given the cache's value and what it becomes.
fn cache(
    more: impl FnOnce(&mut GraphBuilder, ValueId, ValueId) -> Result<(), GraphError>,
) -> Result<Graph, GraphError> {
    let mut b = GraphBuilder::new();
    let rows = b.input("rows", DType::F32, [1, 1, 3])?;
    let at = b.input("at", DType::I32, [1])?;
    let cache = b.state("cache", DType::F32, [1, 4, 3])?;
    let y = b.node("write", Op::WriteRows, &[cache, rows, at])?;
    b.next(cache, y)?;
    b.output("y", y)?;
    more(&mut b, cache, y)?;
    b.finish()
}

#[test]
fn only_the_node_that_writes_reads_what_it_writes_into() {
    let graph = cache(|_, _, _| Ok(())).expect("valid");
    assert_eq!(graph.in_place(&graph.nodes()[0]), Some(0));
    let err = cache(|b, cache, _| b.node("reads", Op::Unary(Unary::Neg), &[cache]).map(|_| ()));
    let why = r#"state "cache" is written in place and has 2 readers: only the node that writes may read it"#;
    assert_eq!(err.expect_err("two readers").to_string(), why);
    // Where a copy is written, both may be read.
    let graph = cache(|b, cache, y| {
        let copy = b.node("copies", Op::Unary(Unary::Neg), &[y])?;
        b.node("reads", Op::Unary(Unary::Neg), &[cache])?;
        b.next(cache, copy)
    });
    let graph = graph.expect("valid");
    assert_eq!(graph.in_place(&graph.nodes()[0]), None);
}

#[test]
fn what_a_run_replaces_is_neither_given_back_nor_kept_elsewhere() {
    let err = cache(|b, cache, y| {
        let copy = b.node("copies", Op::Unary(Unary::Neg), &[y])?;
        let flat = b.node("flat", Op::Reshape { shape: [12].into() }, &[cache])?;
        b.output("before", flat)?;
        b.next(cache, copy)
    });
    let why = r#"state "cache" is replaced by the run that gives it back as "before""#;
    assert_eq!(err.expect_err("given back").to_string(), why);
    let err = cache(|b, cache, y| {
        let copy = b.node("copies", Op::Unary(Unary::Neg), &[y])?;
        b.next(cache, copy)?;
        let other = b.state("other", DType::F32, [1, 4, 3])?;
        b.next(other, cache)
    });
    let why = r#"state "other" cannot become what "cache" was before the run, which is replaced as well"#;
    assert_eq!(err.expect_err("kept elsewhere").to_string(), why);
    let kept = cache(|b, _, y| {
        let stays = b.state("stays", DType::F32, [1, 4, 3])?;
        let follows = b.state("follows", DType::F32, [1, 4, 3])?;
        b.next(follows, stays)?;
        let twin = b.state("twin", DType::F32, [1, 4, 3])?;
        b.next(twin, y)?;
        b.output("stays", stays)
    });
    kept.expect("valid");
}

#[test]
fn states_become_values_of_their_own_kind_and_have_names_of_their_own() {
    let err = cache(|b, cache, _| {
        let x = b.input("x", DType::F32, [4, 3])?;
        b.next(cache, x)
    });
    let why = r#"state "cache" is f32[1, 4, 3], it cannot become f32[4, 3]"#;
    assert_eq!(err.expect_err("another shape").to_string(), why);
    let err = cache(|b, _, y| b.next(y, y)).expect_err("no state");
    assert_eq!(err.to_string(), r#"state "write" is no state, so it cannot become anything"#);
    let err = cache(|b, _, _| b.state("cache", DType::I32, [1]).map(|_| ())).expect_err("two of one name");
    assert_eq!(err.to_string(), r#"two states are named "cache""#);
}
