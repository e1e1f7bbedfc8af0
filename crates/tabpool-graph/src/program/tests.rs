//! Round trips, golden bytes and junk.

use proptest::prelude::{any, proptest};
use tabpool_tensor::{DType, Precision, Tensor};

use super::{Program, ProgramError, ProgramLimits};
use crate::{Activation, Binary, BlockRef, Graph, GraphBuilder, GraphError, Op, Reduction, Unary};

fn every_op() -> Result<Graph, GraphError> {
    let mut b = GraphBuilder::new();
    let ids = b.input("ids", DType::I32, [2, 4])?;
    let mask = b.input("mask", DType::I32, [2, 4])?;
    let table = b.weight("table", DType::F16, [9, 8])?;
    let w = b.weight("w", DType::BF16, [8, 8])?;
    let shift = b.constant("shift", Tensor::from_f32([8], vec![0.5; 8]).expect("eight"))?;
    let positions = b.node("positions", Op::TokenPositions { padding_id: 1 }, &[ids])?;
    let x = b.node("embed", Op::Gather, &[table, positions])?;
    let y = b.node("linear", Op::Linear { activation: Some(Activation::Gelu) }, &[x, w, shift])?;
    let y = b.node("norm", Op::LayerNorm { epsilon: 1e-5 }, &[y, shift, shift])?;
    let y = b.node("norm2", Op::AddLayerNorm { epsilon: 1e-12 }, &[y, x, shift, shift])?;
    let m = b.node("mask.f32", Op::Cast { to: DType::F32 }, &[mask])?;
    let m = b.node("mask.4", Op::Reshape { shape: [2, 1, 1, 4].into() }, &[m])?;
    let a = b.node("attention", Op::Attention { heads: 2, scale: 0.5 }, &[y, y, y, m])?;
    let t = b.node("transpose", Op::Transpose { permutation: vec![0, 2, 1] }, &[a])?;
    let s = b.node("scores", Op::MatMul { transpose_b: false }, &[y, t])?;
    let s = b.node("softmax", Op::Softmax, &[s])?;
    let s = b.node("neg", Op::Unary(Unary::Neg), &[s])?;
    let s = b.node("min", Op::Binary(Binary::Min), &[s, s])?;
    let r = b.node("mean", Op::Reduce { reduction: Reduction::Mean, axis: 1, keep: false }, &[s])?;
    let c = b.node("first", Op::Slice { axis: 1, start: 0, length: 2 }, &[r])?;
    let n = b.node("unit", Op::L2Normalize { epsilon: 1e-12 }, &[c])?;
    b.output("out", n)?;
    let mut graph = b.finish()?;
    for (i, (value, blocks)) in graph.weights_mut().enumerate() {
        let len = u32::try_from(value.shape.elements() * 2).expect("small");
        blocks.push(BlockRef { cid: vec![u8::try_from(i).expect("two"); 4].into(), len });
    }
    Ok(graph)
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
fn the_encoding_of_version_2_stays_as_it_is() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [2, 300]).expect("valid");
    let y = b.node("y", Op::Reduce { reduction: Reduction::Max, axis: 1, keep: true }, &[x]).expect("valid");
    let y = b.node("z", Op::L2Normalize { epsilon: 0.5 }, &[y]).expect("valid");
    b.output("out", y).expect("valid");
    let bytes = Program::new(b.finish().expect("valid")).expect("bound").permitting(Precision::Int8).encode();
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        hex,
        "020203017800020\
         2ac020179000202010\
         17a00020201010000000201790903040202000100010\
         17a0a00010000003f010102\
         01036f757402"
            .replace(' ', "")
    );
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
