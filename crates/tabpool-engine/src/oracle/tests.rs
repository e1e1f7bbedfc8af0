//! Every operator against numbers worked out by hand, or by glibc where functions are transcendental.

use tabpool_graph::{Activation, Binary, GraphBuilder, Op, Reduction, Unary};
use tabpool_tensor::{DType, Shape, Tensor};

use super::{erf, new_states, run, run_on};
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
    check(Unary::QuickGelu, [-0.018_071_31, -0.154_204_23, 0.350_388_44, 1.935_658_6]);
    check(Unary::Reciprocal, [-1.0 / 3.0, -1.0, 2.0, 0.5]);
    close(
        &eval(Op::Unary(Unary::Log), &[f(&[2], &[2.0, 0.5])]),
        &[2],
        &[std::f32::consts::LN_2, -std::f32::consts::LN_2],
    );
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
    let y = eval(Op::LINEAR, &[a.clone(), b.clone()]);
    close(&y, &[1, 2, 2], &[-2., 4., -2., 13.]);
    let y = eval(Op::Linear { activation: Some(Activation::Relu), residual: false }, &[a, b, bias]);
    close(&y, &[1, 2, 2], &[0., 0., 0., 8.]);
}

#[test]
fn a_residual_is_added_after_the_activation() {
    let (x, w) = (f(&[2, 1], &[1., -1.]), f(&[2, 1], &[3., -2.]));
    let (bias, residual) = (f(&[2], &[1., 1.]), f(&[2, 2], &[10., 20., 30., 40.]));
    let op = Op::Linear { activation: Some(Activation::Relu), residual: true };
    close(&eval(op.clone(), &[x.clone(), w.clone(), residual.clone()]), &[2, 2], &[13., 20., 30., 42.]);
    close(&eval(op, &[x, w, bias, residual]), &[2, 2], &[14., 20., 30., 43.]);
}

#[test]
fn convolutions() {
    // A row of three, padded by one on the left and two on the right; every second position; the taps lie two apart.
    let x = f(&[1, 1, 1, 3], &[1., 2., 4.]);
    let w = f(&[1, 1, 1, 2], &[10., 1.]);
    let op = Op::Conv2d { stride: [1, 2], padding: [0, 1, 0, 2], dilation: [1, 2], groups: 1, activation: None };
    close(&eval(op, &[x, w]), &[1, 1, 1, 2], &[2., 20.]);
    // Two groups of two channels, worked out over the padded image by a script that adds up rows of it.
    let x: Vec<f32> = (0..48u8).map(|i| f32::from(i * 5 % 7) - 3.0).collect();
    let w: Vec<f32> = (0..16u8).map(|i| f32::from(i * 3 % 5) - 2.0).collect();
    let operands = [f(&[1, 4, 3, 4], &x), f(&[2, 2, 2, 2], &w), f(&[2], &[0.5, -1.5])];
    let op = |activation| Op::Conv2d { stride: [2, 1], padding: [1, 0, 0, 1], dilation: [1, 2], groups: 2, activation };
    let want = [7.5, -8.5, -2.5, -21.5, -3.5, 6.5, 7.5, -14.5, -3.5, -27.5, 0.5, 3.5];
    close(&eval(op(None), &operands), &[1, 2, 2, 3], &want);
    let want = want.map(|v: f32| v.max(0.0));
    close(&eval(op(Some(Activation::Relu)), &operands), &[1, 2, 2, 3], &want);
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
    // The same without shift, and without either.
    let (x, scale) = (f(&[1, 3], &[1., 2., 3.]), f(&[3], &[1., 2., 3.]));
    let op = Op::LayerNorm { epsilon: 1.0 / 3.0 };
    close(&eval(op.clone(), &[x.clone(), scale.clone()]), &[1, 3], &[-1., 0., 3.]);
    close(&eval(op, &[x]), &[1, 3], &[-1., 0., 1.]);
    // The mean of the squares is 3.
    let x = f(&[1, 3], &[1., -2., 2.]);
    close(&eval(Op::RmsNorm { epsilon: 1.0 }, &[x, scale]), &[1, 3], &[0.5, -2., 3.]);
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
fn values_are_joined() {
    let (a, b) = (i(&[2, 1, 2], &[1, 2, 3, 4]), i(&[2, 2, 2], &[5, 6, 7, 8, 9, 10, 11, 12]));
    let y = eval(Op::Concat { axis: 1 }, &[a.clone(), b]);
    exact(&y, &i(&[2, 3, 2], &[1, 2, 5, 6, 7, 8, 3, 4, 9, 10, 11, 12]));
    exact(&eval(Op::Concat { axis: 2 }, &[a.clone(), a]), &i(&[2, 1, 4], &[1, 2, 1, 2, 3, 4, 3, 4]));
}

#[test]
fn rows_are_replaced_and_dropped_outside() {
    let target = i(&[2, 3, 1], &[1, 2, 3, 4, 5, 6]);
    let write = |at| eval(Op::WriteRows, &[target.clone(), i(&[2, 2, 1], &[10, 20, 30, 40]), i(&[1], &[at])]);
    exact(&write(1), &i(&[2, 3, 1], &[1, 10, 20, 4, 30, 40]));
    exact(&write(2), &i(&[2, 3, 1], &[1, 2, 10, 4, 5, 30]));
    exact(&write(-1), &i(&[2, 3, 1], &[20, 2, 3, 40, 5, 6]));
    exact(&write(i32::MAX), &target);
    exact(&write(-2), &target);
}

#[test]
fn the_largest_come_first_and_among_equals_the_lower_position() {
    let x = f(&[2, 4], &[1., 3., 3., 2., -5., -7., -6., -5.]);
    exact(&eval(Op::ArgMax, std::slice::from_ref(&x)), &i(&[2], &[1, 0]));
    exact(&eval(Op::ArgMax, &[i(&[1, 3], &[-3, -1, -1])]), &i(&[1], &[1]));
    let want = [3., 3., 2., 1., 2., 3., -5., -5., -6., 0., 3., 2.];
    exact(&eval(Op::TopK { k: 3 }, &[x]), &f(&[2, 2, 3], &want));
}

#[test]
fn halves_of_a_head_are_rotated() {
    // Two heads of five elements, of which four are rotated: by a quarter turn and by none.
    let x = f(&[1, 1, 10], &[1., 2., 3., 4., 5., 6., 7., 8., 9., 10.]);
    let (cos, sin) = (f(&[1, 1, 2], &[0., 1.]), f(&[1, 1, 2], &[1., 0.]));
    let op = Op::Rope { heads: 2, rotary: 4 };
    close(&eval(op, &[x, cos, sin]), &[1, 1, 10], &[-3., 2., 1., 4., 5., -8., 7., 6., 9., 10.]);
    // One table for both sequences.
    let x = f(&[2, 1, 2], &[1., 0., 0., 1.]);
    let (cos, sin) = (f(&[1, 1, 1], &[0.6]), f(&[1, 1, 1], &[0.8]));
    close(&eval(Op::Rope { heads: 1, rotary: 2 }, &[x, cos, sin]), &[2, 1, 2], &[0.6, 0.8, -0.8, 0.6]);
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
    let op = Op::attention(2, 0.5);
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
fn heads_share_keys_and_see_what_came_before() {
    // Equal scores everywhere, so that results are means of the values seen. Heads 0 and 1 use the first value, 2 and 3 the
    // second; the last key is no number, and nobody sees it.
    let (q, k) = (f(&[1, 2, 4], &[0.; 8]), f(&[1, 3, 2], &[1., 1., 1., 1., f32::NAN, f32::NAN]));
    let v = f(&[1, 3, 2], &[1., 10., 3., 20., f32::NAN, f32::NAN]);
    let op = Op::Attention { heads: 4, kv_heads: 2, scale: 1.0, causal: true };
    let y = eval(op.clone(), &[q.clone(), k.clone(), v.clone(), i(&[1], &[0])]);
    close(&y, &[1, 2, 4], &[1., 1., 10., 10., 2., 2., 15., 15.]);
    let below = eval(op.clone(), &[q.clone(), k.clone(), v.clone(), i(&[1], &[-5])]);
    exact(&below, &y);
    let later = eval(op, &[q, k, v, i(&[1], &[1])]).to_f32().expect("floats").into_owned();
    assert_eq!(later[..4], [2., 2., 15., 15.]);
    assert!(later[4..].iter().all(|v| v.is_nan()));
}

#[test]
fn states_are_what_the_run_before_left() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [1, 1, 2]).expect("valid");
    let cache = b.state("cache", DType::F32, [1, 3, 2]).expect("valid");
    let at = b.state("at", DType::I32, [1]).expect("valid");
    let one = b.constant("one", i(&[1], &[1])).expect("valid");
    let y = b.node("write", Op::WriteRows, &[cache, x, at]).expect("valid");
    let more = b.node("more", Op::Binary(Binary::Add), &[at, one]).expect("valid");
    b.next(cache, y).expect("of one kind");
    b.next(at, more).expect("of one kind");
    b.output("y", y).expect("first of its name");
    let graph = b.finish().expect("valid");
    let mut states = new_states(&graph);
    let mut go =
        |a: f32, b: f32| run_on(&graph, &|_| None, &mut states, &[f(&[1, 1, 2], &[a, b])]).expect("runs").remove(0);
    exact(&go(1., 2.), &f(&[1, 3, 2], &[1., 2., 0., 0., 0., 0.]));
    exact(&go(3., 4.), &f(&[1, 3, 2], &[1., 2., 3., 4., 0., 0.]));
    let refused = run(&graph, &|_| None, &[f(&[1, 1, 2], &[0., 0.])]).expect_err("no states");
    assert_eq!(refused.to_string(), r#"the states are missing: the program keeps 2, "cache" first"#);
    let refused = run_on(&graph, &|_| None, &mut vec![f(&[1], &[0.])], &[f(&[1, 1, 2], &[0., 0.])]).expect_err("one");
    let why = r#"the states have "cache", f32[1], where the program keeps "cache", f32[1, 3, 2]"#;
    assert_eq!(refused.to_string(), why);
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
