//! Round trips, golden bytes and junk.

use proptest::prelude::{any, proptest};
use tabpool_tensor::{DType, Precision, Tensor};

use super::{Program, ProgramError, ProgramLimits};
use crate::{Activation, Binary, BlockRef, Graph, GraphBuilder, GraphError, Op, Reduction, Unary, ValueId};

fn every_op() -> Result<Graph, GraphError> {
    let mut b = GraphBuilder::new();
    let ids = b.input("ids", DType::I32, [2, 4])?;
    let mask = b.input("mask", DType::I32, [2, 4])?;
    let table = b.weight("table", DType::F16, [9, 8])?;
    let w = b.weight("w", DType::BF16, [8, 8])?;
    let shift = b.constant("shift", Tensor::from_f32([8], vec![0.5; 8]).expect("eight"))?;
    let positions = b.node("positions", Op::TokenPositions { padding_id: 1 }, &[ids])?;
    let x = b.node("embed", Op::Gather, &[table, positions])?;
    let y = b.node("linear", Op::Linear { activation: Some(Activation::Gelu), residual: false }, &[x, w, shift])?;
    let y = b.node("norm", Op::LayerNorm { epsilon: 1e-5 }, &[y, shift, shift])?;
    let y = b.node("norm2", Op::AddLayerNorm { epsilon: 1e-12 }, &[y, x, shift, shift])?;
    let m = b.node("mask.f32", Op::Cast { to: DType::F32 }, &[mask])?;
    let m = b.node("mask.4", Op::Reshape { shape: [2, 1, 1, 4].into() }, &[m])?;
    let a = b.node("attention", Op::attention(2, 0.5), &[y, y, y, m])?;
    let t = b.node("transpose", Op::Transpose { permutation: vec![0, 2, 1] }, &[a])?;
    let s = b.node("scores", Op::MatMul { transpose_b: false }, &[y, t])?;
    let s = b.node("softmax", Op::Softmax, &[s])?;
    let s = b.node("neg", Op::Unary(Unary::Neg), &[s])?;
    let s = b.node("min", Op::Binary(Binary::Min), &[s, s])?;
    let r = b.node("mean", Op::Reduce { reduction: Reduction::Mean, axis: 1, keep: false }, &[s])?;
    let c = b.node("first", Op::Slice { axis: 1, start: 0, length: 2 }, &[r])?;
    let n = b.node("unit", Op::L2Normalize { epsilon: 1e-12 }, &[c])?;
    b.output("out", n)?;
    every_later_op(&mut b, x, y, shift)?;
    let mut graph = b.finish()?;
    for (i, (value, blocks)) in graph.weights_mut().enumerate() {
        let len = u32::try_from(value.shape.elements() * 2).expect("small");
        blocks.push(BlockRef { cid: vec![u8::try_from(i).expect("two"); 4].into(), len });
    }
    Ok(graph)
}

/// The operators that version 3 added, over values `[2, 4, 8]` and weights `[8]`, with a state of each kind.
fn every_later_op(b: &mut GraphBuilder, x: ValueId, y: ValueId, scale: ValueId) -> Result<(), GraphError> {
    let at = b.state("at", DType::I32, [1])?;
    let keys = b.state("keys", DType::F32, [2, 9, 4])?;
    b.state("constant", DType::F32, [3])?;
    let cos = b.input("cos", DType::F32, [1, 4, 1])?;
    let w = b.constant("kernel", Tensor::from_f32([4, 2, 1, 1], vec![0.5; 8]).expect("eight"))?;
    let square = b.constant("square", Tensor::from_f32([8, 8], vec![0.25; 64]).expect("as many"))?;
    let r = b.node("rms", Op::RmsNorm { epsilon: 1e-6 }, &[x, scale])?;
    let r =
        b.node("residual", Op::Linear { activation: Some(Activation::QuickGelu), residual: true }, &[r, square, y])?;
    let q = b.node("rope", Op::Rope { heads: 4, rotary: 2 }, &[r, cos, cos])?;
    let k = b.node("half", Op::Slice { axis: 2, start: 0, length: 4 }, &[q])?;
    let k = b.node("write", Op::WriteRows, &[keys, k, at])?;
    b.next(keys, k)?;
    let attention = Op::Attention { heads: 4, kv_heads: 2, scale: 0.5, causal: true };
    let a = b.node("grouped", attention, &[q, k, k, at])?;
    let a = b.node("plain norm", Op::LayerNorm { epsilon: 1e-5 }, &[a])?;
    let image = b.node("image", Op::Reshape { shape: [2, 4, 2, 4].into() }, &[a])?;
    let conv = Op::Conv2d {
        stride: [1, 2],
        padding: [0, 1, 2, 3],
        dilation: [3, 1],
        groups: 2,
        activation: Some(Activation::Relu),
    };
    let image = b.node("conv", conv, &[image, w])?;
    let image = b.node("concat", Op::Concat { axis: 1 }, &[image, image])?;
    let rows = b.node("rows", Op::Reshape { shape: [1, 256].into() }, &[image])?;
    let best = b.node("best", Op::TopK { k: 3 }, &[rows])?;
    let rows = b.node("log", Op::Unary(Unary::Log), &[rows])?;
    let first = b.node("first of all", Op::ArgMax, &[rows])?;
    b.next(at, first)?;
    b.output("best", best)
}

#[test]
fn every_operator_round_trips() {
    let program = Program::new(every_op().expect("valid")).expect("bound");
    for precision in Precision::ALL {
        let program = program.clone().permitting(precision);
        let bytes = program.encode();
        let decoded = Program::decode(&bytes, &ProgramLimits::default()).expect("decodes");
        assert_eq!((decoded.precision(), &decoded), (precision, &program));
    }
}

#[test]
fn the_encoding_of_version_3_stays_as_it_is() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [2, 300]).expect("valid");
    let y = b.node("y", Op::Reduce { reduction: Reduction::Max, axis: 1, keep: true }, &[x]).expect("valid");
    let y = b.node("z", Op::L2Normalize { epsilon: 0.5 }, &[y]).expect("valid");
    b.output("out", y).expect("valid");
    let bytes = Program::new(b.finish().expect("valid")).expect("bound").permitting(Precision::Int8).encode();
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        hex,
        "030203017800020\
         2ac020179000202010\
         17a00020201010000000201790903040202000100010\
         17a0a00010000003f010102\
         01036f75740200"
            .replace(' ', "")
    );
}

#[test]
fn states_and_operators_of_version_3_stay_as_they_are_encoded() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [1, 2, 4]).expect("valid");
    let at = b.state("at", DType::I32, [1]).expect("valid");
    let keys = b.state("keys", DType::F32, [1, 300, 2]).expect("valid");
    let half = b.node("half", Op::Slice { axis: 2, start: 2, length: 2 }, &[x]).expect("valid");
    let written = b.node("write", Op::WriteRows, &[keys, half, at]).expect("valid");
    b.next(keys, written).expect("of one kind");
    let op = Op::Attention { heads: 2, kv_heads: 1, scale: 0.5, causal: true };
    let y = b.node("attend", op, &[x, written, written, at]).expect("valid");
    b.output("out", y).expect("valid");
    let program = Program::new(b.finish().expect("valid")).expect("bound");
    let hex: String = program.encode().iter().map(|b| format!("{b:02x}")).collect();
    // Six values, one input, no weights and no constants; slice, write and attention; one output, two states.
    let values = "0601780003010204026174050101".to_owned()
        + "046b657973000301ac02020468616c660003010202057772697465000301ac020206617474656e640003010204";
    let nodes =
        "030468616c660d0304040400010003057772697465170000030203010406617474656e641003040202010000003f040004040105";
    assert_eq!(hex, format!("0300{values}01000000{nodes}01036f757405020101") + "0204");
}

#[test]
fn another_version_an_unknown_precision_and_trailing_bytes_are_refused() {
    let mut bytes = Program::new(every_op().expect("valid")).expect("bound").encode();
    bytes.push(0);
    let err = Program::decode(&bytes, &ProgramLimits::default()).expect_err("one byte too many");
    assert_eq!(err.to_string(), "not a program: 1 bytes follow its end");
    bytes[1] = 3;
    let err = Program::decode(&bytes, &ProgramLimits::default()).expect_err("no such precision");
    assert_eq!(err.to_string(), "not a program: unknown precision code 3");
    bytes[0] = 9;
    let err = Program::decode(&bytes, &ProgramLimits::default()).expect_err("version 9");
    assert!(matches!(err, ProgramError::Version { got: 9 }));
}

#[test]
fn a_weight_whose_blocks_hold_another_length_is_refused() {
    let mut graph = every_op().expect("valid");
    for (_, blocks) in graph.weights_mut() {
        blocks[0].len += 2;
    }
    let err = Program::new(graph).expect_err("too long");
    assert!(err.to_string().contains(r#"value "table": the weight takes 144 bytes, its blocks hold 146"#), "{err}");
}

#[test]
fn limits_hold() {
    let bytes = Program::new(every_op().expect("valid")).expect("bound").encode();
    let limits = ProgramLimits { states: 2, ..ProgramLimits::default() };
    assert!(matches!(Program::decode(&bytes, &limits), Err(ProgramError::TooLarge { what: "states", got: 3, .. })));
    let limits = ProgramLimits { state_bytes: 303, ..ProgramLimits::default() };
    let too_large = ProgramError::TooLarge { what: "bytes of states", got: 304, limit: 303 };
    let err = Program::decode(&bytes, &limits).expect_err("one byte too many");
    assert_eq!(err.to_string(), too_large.to_string());
    let limits = ProgramLimits { nodes: 3, ..ProgramLimits::default() };
    assert!(matches!(Program::decode(&bytes, &limits), Err(ProgramError::TooLarge { what: "nodes", limit: 3, .. })));
}

proptest! {
    #[test]
    fn junk_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 1..400)) {
        bytes[0] = super::PROGRAM_VERSION;
        let _ = Program::decode(&bytes, &ProgramLimits::default());
    }

    #[test]
    fn damaged_programs_never_panic_and_stay_valid(at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = Program::new(every_op().expect("valid")).expect("bound").encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(program) = Program::decode(&bytes, &ProgramLimits::default()) {
            program.graph().validate().expect("what decodes is valid");
        }
    }
}
