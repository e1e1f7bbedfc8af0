//! Every operator against numbers worked out by hand, or by glibc where functions are transcendental.

use tabpool_graph::{Activation, Binary, GraphBuilder, Op, Reduction, Unary};
use tabpool_tensor::{DType, Shape, Tensor};

use super::{erf, run};
use crate::EngineError;

fn f(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_f32(shape, values.to_vec()).expect("the shape fits the values")
}

fn i(shape: &[usize], values: &[i32]) -> Tensor {
    Tensor::from_i32(shape, values.to_vec()).expect("the shape fits the values")
}

/// The result of one node over these operands.
fn eval(op: Op, operands: &[Tensor]) -> Tensor {
    let mut b = GraphBuilder::new();
    let input = |(n, t): (usize, &Tensor)| b.input(&format!("x{n}"), t.dtype(), t.shape().clone()).expect("valid");
    let ids: Vec<_> = operands.iter().enumerate().map(input).collect();
    let y = b.node("y", op, &ids).expect("the operands fit");
    b.output("y", y).expect("first of its name");
    let graph = b.finish().expect("valid");
    run(&graph, &|_| None, operands).expect("runs").remove(0)
}

#[track_caller]
fn close(got: &Tensor, shape: &[usize], want: &[f32]) {
    assert_eq!(got.shape().dims(), shape);
    let got = got.to_f32().expect("floats");
    for (at, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 1e-6 * w.abs().max(1.0), "element {at} is {g}, should be {w}: {got:?}");
    }
}

#[track_caller]
fn exact(got: &Tensor, want: &Tensor) {
    assert_eq!((got.dtype(), got.shape(), got.data()), (want.dtype(), want.shape(), want.data()));
}

#[test]
fn the_error_function_is_that_of_glibc() {
    let table = [
        (1e-10, 1.128_379_167_095_512_6e-10),
        (0.1, 0.112_462_916_018_284_9),
        (0.5, 0.520_499_877_813_046_5),
        (1.0, 0.842_700_792_949_714_9),
        (1.5, 0.966_105_146_475_310_8),
        (2.0, 0.995_322_265_018_952_7),
        (3.0, 0.999_977_909_503_001_4),
        (4.5, 0.999_999_999_803_383_9),
        (5.9, 0.999_999_999_999_999_9),
    ];
    for (x, want) in table {
        assert!((erf(x) - want).abs() <= 4e-15 * want, "erf({x}) is {}, should be {want}", erf(x));
        assert_eq!(erf(-x), -erf(x));
    }
    assert_eq!((erf(0.0), erf(7.0), erf(f64::NEG_INFINITY)), (0.0, 1.0, -1.0));
    assert!(erf(f64::NAN).is_nan());
}

#[test]
fn functions_of_one_element() {
    let x = [f(&[4], &[-3.0, -1.0, 0.5, 2.0])];
    let check = |op, want: [f32; 4]| close(&eval(Op::Unary(op), &x), &[4], &want);
    check(Unary::Gelu, [-0.004_049_694, -0.158_655_25, 0.345_731_23, 1.954_499_7]);
    check(Unary::GeluTanh, [-0.003_637_392, -0.158_808, 0.345_714, 1.954_597_7]);
    check(Unary::Relu, [0.0, 0.0, 0.5, 2.0]);
    check(Unary::Tanh, [-0.995_054_7, -0.761_594_2, 0.462_117_16, 0.964_027_6]);
    check(Unary::Sigmoid, [0.047_425_874, 0.268_941_43, 0.622_459_35, 0.880_797_1]);
    check(Unary::Silu, [-0.142_277_62, -0.268_941_43, 0.311_229_67, 1.761_594_2]);
    check(Unary::Exp, [0.049_787_067, 0.367_879_45, 1.648_721_2, 7.389_056]);
    check(Unary::Erf, [-0.999_977_9, -0.842_700_8, 0.520_499_9, 0.995_322_3]);
    check(Unary::Neg, [3.0, 1.0, -0.5, -2.0]);
    check(Unary::Abs, [3.0, 1.0, 0.5, 2.0]);
    close(&eval(Op::Unary(Unary::Sqrt), &[f(&[2], &[2.0, 9.0])]), &[2], &[std::f32::consts::SQRT_2, 3.0]);
}

#[test]
fn functions_of_two_elements_broadcast() {
    let x = [f(&[2, 1], &[1.0, -6.0]), f(&[3], &[2.0, 3.0, -4.0])];
    let check = |op, want: [f32; 6]| close(&eval(Op::Binary(op), &x), &[2, 3], &want);
    check(Binary::Add, [3.0, 4.0, -3.0, -4.0, -3.0, -10.0]);
    check(Binary::Sub, [-1.0, -2.0, 5.0, -8.0, -9.0, -2.0]);
    check(Binary::Mul, [2.0, 3.0, -4.0, -12.0, -18.0, 24.0]);
    check(Binary::Div, [0.5, 1.0 / 3.0, -0.25, -3.0, -2.0, 1.5]);
    check(Binary::Max, [2.0, 3.0, 1.0, 2.0, 3.0, -4.0]);
    check(Binary::Min, [1.0, 1.0, -4.0, -6.0, -6.0, -6.0]);
    let x = [i(&[3], &[7, -2, i32::MAX]), i(&[], &[3])];
    exact(&eval(Op::Binary(Binary::Add), &x), &i(&[3], &[10, 1, i32::MIN + 2]));
    exact(&eval(Op::Binary(Binary::Mul), &x), &i(&[3], &[21, -6, i32::MAX - 2]));
    exact(&eval(Op::Binary(Binary::Max), &x), &i(&[3], &[7, 3, i32::MAX]));
}

#[test]
fn casts_go_towards_zero() {
    let x = f(&[5], &[1.9, -1.9, 0.4, 3e10, f32::NAN]);
    exact(&eval(Op::Cast { to: DType::I32 }, &[x]), &i(&[5], &[1, -1, 0, i32::MAX, 0]));
    exact(&eval(Op::Cast { to: DType::F32 }, &[i(&[2], &[-3, 4])]), &f(&[2], &[-3.0, 4.0]));
}

#[test]
fn products() {
    let a = f(&[1, 2, 3], &[1., 2., 3., 4., 5., 6.]);
    let b = f(&[2, 3, 2], &[1., 0., 0., 1., 1., 1., 2., 0., 0., 2., 0., 0.]);
    let y = eval(Op::MatMul { transpose_b: false }, &[a.clone(), b]);
    close(&y, &[2, 2, 2], &[4., 5., 10., 11., 2., 4., 8., 10.]);
    let b = f(&[2, 3], &[1., 0., -1., 2., 1., 0.]);
    close(&eval(Op::MatMul { transpose_b: true }, &[a.clone(), b.clone()]), &[1, 2, 2], &[-2., 4., -2., 13.]);
    let bias = f(&[2], &[0.5, -5.0]);
    let y = eval(Op::Linear { activation: None }, &[a.clone(), b.clone()]);
    close(&y, &[1, 2, 2], &[-2., 4., -2., 13.]);
    let y = eval(Op::Linear { activation: Some(Activation::Relu) }, &[a, b, bias]);
    close(&y, &[1, 2, 2], &[0., 0., 0., 8.]);
}

#[test]
fn rows() {
    let x = f(&[2, 3], &[1., 2., 3., 1000., 0., 0.]);
    close(&eval(Op::Softmax, &[x]), &[2, 3], &[0.090_030_57, 0.244_728_47, 0.665_240_94, 1., 0., 0.]);
    // Mean 2, biased variance 2/3; with epsilon 1/3 the deviation is 1.
    let x = f(&[1, 3], &[1., 2., 3.]);
    let (scale, shift) = (f(&[3], &[1., 2., 3.]), f(&[3], &[10., 20., 30.]));
    let op = Op::LayerNorm { epsilon: 1.0 / 3.0 };
    close(&eval(op, &[x, scale.clone(), shift.clone()]), &[1, 3], &[9., 20., 33.]);
    let (x, residual) = (f(&[1, 3], &[0., 2., 1.]), f(&[1, 3], &[1., 0., 2.]));
    let op = Op::AddLayerNorm { epsilon: 1.0 / 3.0 };
    close(&eval(op, &[x, residual, scale, shift]), &[1, 3], &[9., 20., 33.]);
    let x = f(&[2, 2], &[3., -4., 0., 0.5]);
    close(&eval(Op::L2Normalize { epsilon: 2.0 }, &[x]), &[2, 2], &[0.6, -0.8, 0., 0.25]);
}

#[test]
fn reductions() {
    let x = f(&[2, 3, 2], &[1., 2., 3., 4., 5., 9., -1., -2., -3., -4., -5., -9.]);
    let check = |reduction, axis, keep, shape: &[usize], want: &[f32]| {
        close(&eval(Op::Reduce { reduction, axis, keep }, std::slice::from_ref(&x)), shape, want);
    };
    check(Reduction::Sum, 1, false, &[2, 2], &[9., 15., -9., -15.]);
    check(Reduction::Mean, 1, true, &[2, 1, 2], &[3., 5., -3., -5.]);
    check(Reduction::Max, 2, false, &[2, 3], &[2., 4., 9., -1., -3., -5.]);
    check(Reduction::Max, 0, false, &[3, 2], &[1., 2., 3., 4., 5., 9.]);
}

#[test]
fn layout() {
    let table = f(&[3, 2], &[1., 2., 3., 4., 5., 6.]);
    let y = eval(Op::Gather, &[table, i(&[2, 2], &[2, 0, -7, 99])]);
    exact(&y, &f(&[2, 2, 2], &[5., 6., 1., 2., 1., 2., 5., 6.]));
    let x = i(&[2, 1, 3], &[1, 2, 3, 4, 5, 6]);
    let y = eval(Op::Transpose { permutation: vec![2, 0, 1] }, std::slice::from_ref(&x));
    exact(&y, &i(&[3, 2, 1], &[1, 4, 2, 5, 3, 6]));
    let y = eval(Op::Slice { axis: 2, start: 1, length: 2 }, std::slice::from_ref(&x));
    exact(&y, &i(&[2, 1, 2], &[2, 3, 5, 6]));
    exact(&eval(Op::Reshape { shape: Shape::from([6]) }, &[x]), &i(&[6], &[1, 2, 3, 4, 5, 6]));
}

#[test]
fn token_positions_count_real_tokens_of_each_sequence() {
    let ids = i(&[2, 5], &[0, 7, 7, 1, 1, 1, 5, 1, 2, 9]);
    let y = eval(Op::TokenPositions { padding_id: 1 }, &[ids]);
    exact(&y, &i(&[2, 5], &[2, 3, 4, 1, 1, 1, 2, 1, 3, 4]));
}

#[test]
fn attention_of_two_heads() {
    // Head 0 has q = k = 0, so its shares are equal; head 1 scores [ln 3, 0] after scaling, so its shares are 3/4, 1/4.
    let ln9 = 9f32.ln();
    let (q, k) = (f(&[1, 1, 2], &[0.0, ln9]), f(&[1, 2, 2], &[0., 1., 0., 0.]));
    let v = f(&[1, 2, 2], &[1., 4., 3., 8.]);
    let op = Op::Attention { heads: 2, scale: 0.5 };
    close(&eval(op.clone(), &[q.clone(), k.clone(), v.clone()]), &[1, 1, 2], &[2., 5.]);
    // A bias of ln 3 on head 0's first key, and one that takes the second key away from both.
    let bias = f(&[1, 2, 1, 2], &[3f32.ln(), 0., 0., 0.]);
    close(&eval(op.clone(), &[q.clone(), k.clone(), v.clone(), bias.clone()]), &[1, 1, 2], &[1.5, 5.]);
    let mask = f(&[1, 1, 1, 2], &[0., -1e9]);
    close(&eval(op.clone(), &[q.clone(), k.clone(), v.clone(), bias.clone(), mask]), &[1, 1, 2], &[1., 4.]);
    // Where every key is masked the scores are swallowed, and the shares are equal.
    let mask = f(&[1, 1, 1, 2], &[-1e9, -1e9]);
    close(&eval(op, &[q, k, v, bias, mask]), &[1, 1, 2], &[2., 6.]);
}

#[test]
fn wrong_inputs_and_missing_weights_are_named() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [2]).expect("valid");
    let w = b.weight("w", DType::F16, [2]).expect("valid");
    let y = b.node("y", Op::Binary(Binary::Add), &[x, w]).expect("valid");
    b.output("y", y).expect("valid");
    let graph = b.finish().expect("valid");
    let message = |inputs: &[Tensor], w: Option<Tensor>| {
        run(&graph, &|_| w.clone(), inputs).map(|_| ()).map_err(|e: EngineError| e.to_string())
    };
    let x = f(&[2], &[1., 2.]);
    assert_eq!(message(&[], None), Err(r#"input "x": is missing: the program takes 1, got 0"#.to_owned()));
    assert_eq!(message(&[i(&[2], &[1, 2])], None), Err(r#"input "x": must be f32[2], got i32[2]"#.to_owned()));
    let two = [x.clone(), x.clone()];
    assert_eq!(message(&two, None), Err(r##"input "#1": is one too many: the program takes 1, got 2"##.to_owned()));
    assert!(message(std::slice::from_ref(&x), None).is_err_and(|m| m.contains("is missing")));
    assert!(message(std::slice::from_ref(&x), Some(f(&[1], &[1.]))).is_err());
    assert_eq!(message(std::slice::from_ref(&x), Some(x.clone())), Ok(()));
}
