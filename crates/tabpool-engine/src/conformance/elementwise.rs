//! Functions of one and of two elements, and casts.

use tabpool_graph::{Binary, Op, Unary};
use tabpool_tensor::DType;

use super::case::{Case, CaseError, Fill, Sketch};

/// What functions of one element may be off by: a few roundings, and the exponential as WGSL guarantees it.
const TOLERANCE: f64 = 1e-5;

/// Far out on both sides, around zero, and where approximations change pieces.
const EDGES: &[f32] =
    &[0.0, -0.0, 1e-20, -1e-6, 0.25, -0.99, 3.0, -4.0, 6.5, -9.1, 20.0, -20.0, 80.0, -80.0, 300.0, -300.0];
const POSITIVE: &[f32] = &[0.0, 1e-30, 1e-6, 0.25, 2.0, 144.0, 1e9, 3e37];

/// Shapes that broadcast to each other in every way: equal, scalar, row, column, middle, outer, both sides.
const PAIRS: &[(&[usize], &[usize])] = &[
    (&[1], &[1]),
    (&[127], &[127]),
    (&[3, 5, 7], &[3, 5, 7]),
    (&[5, 33], &[]),
    (&[], &[7]),
    (&[5, 33], &[33]),
    (&[33], &[5, 33]),
    (&[5, 33], &[5, 1]),
    (&[3, 1, 17], &[1, 65, 1]),
    (&[3, 5, 17], &[5, 1]),
    (&[3, 5, 17], &[3, 1, 17]),
    (&[2, 3, 4, 5], &[3, 1, 5]),
    (&[2, 1, 3, 1, 7], &[1, 5, 1, 3, 7]),
    (&[2, 1, 3, 1, 5, 1], &[1, 3, 1, 2, 1, 7]),
    (&[1031], &[1031]),
    (&[3, 1, 70], &[129, 1]),
];

pub(super) fn cases() -> Result<Vec<Case>, CaseError> {
    let mut all = Vec::new();
    let functions = [
        (Unary::Gelu, Fill::Uniform(-6.0, 6.0), EDGES),
        (Unary::GeluTanh, Fill::Uniform(-6.0, 6.0), EDGES),
        (Unary::Relu, Fill::PLAIN, EDGES),
        (Unary::Tanh, Fill::Uniform(-5.0, 5.0), EDGES),
        (Unary::Sigmoid, Fill::Uniform(-20.0, 20.0), EDGES),
        (Unary::Silu, Fill::Uniform(-20.0, 20.0), EDGES),
        (Unary::Erf, Fill::Uniform(-4.0, 4.0), EDGES),
        (Unary::Exp, Fill::Uniform(-30.0, 5.0), &[0.0, -0.0, 1e-20, -87.0, 80.0, -1.0, -300.0][..]),
        (Unary::Sqrt, Fill::Uniform(0.0, 100.0), POSITIVE),
        (Unary::Neg, Fill::PLAIN, EDGES),
        (Unary::Abs, Fill::PLAIN, EDGES),
        (Unary::QuickGelu, Fill::Uniform(-12.0, 12.0), EDGES),
        (Unary::Log, Fill::Uniform(1e-3, 100.0), &[1e-30, 1e-6, 0.25, 0.999_9, 1.0, 1.000_1, 144.0, 1e9, 3e37][..]),
        (Unary::Reciprocal, Fill::Uniform(0.5, 20.0), &[1.0, -1.0, 3.0, -0.25, 1e9, -7e20][..]),
    ];
    for (function, fill, edges) in functions {
        for shape in [&[][..], &[1], &[3, 5, 7], &[61], &[127, 65], &[70, 129]] {
            all.push(unary(function, shape, fill, "")?);
        }
        all.push(unary(function, &[3, 17], Fill::Cycle(edges), " at its edges")?);
    }
    for op in [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Max, Binary::Min] {
        for &(a, b) in PAIRS {
            all.push(binary(op, a, b, Fill::PLAIN)?);
            if op != Binary::Div {
                all.push(binary(op, a, b, Fill::Integers(-99, 99))?);
            }
        }
        all.push(same_operand_twice(op)?);
    }
    all.push(cast(DType::I32, Fill::Uniform(-9.0, 9.0))?);
    all.push(cast(DType::F32, Fill::Integers(-70000, 70000))?);
    all.push(cast(DType::I32, Fill::Integers(-5, 5))?);
    Ok(all)
}

fn unary(function: Unary, shape: &[usize], fill: Fill, what: &str) -> Result<Case, CaseError> {
    let op = Op::Unary(function);
    let mut s = Sketch::new(format!("{} {shape:?}{what}", op.name()));
    let x = s.input(shape, fill)?;
    let y = s.node(op, &[x])?;
    s.finish(&[y], TOLERANCE)
}

fn binary(function: Binary, a: &[usize], b: &[usize], fill: Fill) -> Result<Case, CaseError> {
    let op = Op::Binary(function);
    let kind = if matches!(fill, Fill::Integers(..)) { "i32" } else { "f32" };
    let mut s = Sketch::new(format!("{} {kind} {a:?} {b:?}", op.name()));
    let a = s.input(a, fill)?;
    // Divisors stay away from zero, where the smallest difference would be magnified.
    let b = s.input(b, if function == Binary::Div { Fill::Uniform(0.5, 3.0) } else { fill })?;
    let y = s.node(op, &[a, b])?;
    let tolerance = if kind == "i32" { 0.0 } else { 1e-6 };
    s.finish(&[y], tolerance)
}

fn same_operand_twice(function: Binary) -> Result<Case, CaseError> {
    let op = Op::Binary(function);
    let mut s = Sketch::new(format!("{} of a value and itself", op.name()));
    let x = s.input([5, 13], Fill::Uniform(0.5, 2.0))?;
    let y = s.node(op.clone(), &[x, x])?;
    let z = s.node(op, &[y, y])?;
    s.finish(&[z], 1e-6)
}

fn cast(to: DType, fill: Fill) -> Result<Case, CaseError> {
    let mut s = Sketch::new(format!("cast {fill:?} to {to}"));
    let x = s.input([3, 43], fill)?;
    let y = s.node(Op::Cast { to }, &[x])?;
    s.finish(&[y], 0.0)
}
