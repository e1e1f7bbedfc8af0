//! Matrix products and linear layers.

use tabpool_graph::{Activation, Binary, Op};
use tabpool_tensor::{DType, Tensor};

use super::case::{Case, CaseError, Fill, Sketch};

/// `(M, K, N)`: single elements, odd everything, and sizes that cross the tiles of any kernel.
const SIZES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (1, 7, 3),
    (3, 1, 5),
    (5, 3, 1),
    (1, 129, 67),
    (7, 17, 33),
    (17, 61, 65),
    (33, 5, 127),
    (70, 129, 67),
    (65, 33, 129),
    (13, 400, 49),
    (2, 1541, 9),
    (128, 64, 96),
];

/// What follows the products of most cases. That a function is applied, and to what, one function shows; devices compile a
/// kernel for each, which takes seconds on some, so the others are met in [`every_activation`] only.
pub(super) const FOLLOWING: [Option<Activation>; 2] = [None, Some(Activation::Gelu)];

pub(super) fn cases() -> Result<Vec<Case>, CaseError> {
    let mut all = every_activation()?;
    let dtypes = [DType::F32, DType::F16, DType::BF16];
    for (i, &(m, k, n)) in SIZES.iter().enumerate() {
        // Each size meets every stored dtype, with and without bias, with something after it and with nothing.
        for (j, &stored) in dtypes.iter().enumerate() {
            all.push(linear(&[m], k, n, stored, Some(dtypes[i % 3]), FOLLOWING[(i + j) % 2])?);
            all.push(linear(&[m], k, n, stored, None, FOLLOWING[(i + j + 1) % 2])?);
        }
        all.push(matmul(&[m, k], &[k, n], false)?);
        all.push(matmul(&[m, k], &[n, k], true)?);
    }
    for &(m, k, n) in SIZES {
        all.push(residual_linear(&[m], k, n, m % 2 == 0, None)?);
    }
    // Large enough to be multiplied by quarters, with rows, steps and blocks left over.
    for (i, (m, k, n)) in [(97, 130, 128), (251, 1540, 64)].into_iter().enumerate() {
        all.push(linear(&[m], k, n, dtypes[i], Some(DType::F32), Some(Activation::Gelu))?);
        all.push(residual_linear(&[m], k, n, i == 0, None)?);
    }
    all.push(columns_of_two_sizes()?);
    all.push(residual_that_is_the_operand()?);
    for (m, stored) in [(1, DType::F32), (5, DType::F16), (50, DType::BF16)] {
        all.push(turned_weights(m, stored)?);
    }
    all.push(linear(&[], 33, 17, DType::F32, Some(DType::F32), None)?);
    all.push(linear(&[2, 3, 5], 7, 9, DType::F16, None, None)?);
    let batches: [(&[usize], &[usize]); 7] = [
        (&[3, 7, 5], &[3, 5, 9]),
        (&[3, 7, 5], &[5, 9]),
        (&[7, 5], &[3, 5, 9]),
        (&[2, 1, 7, 5], &[1, 3, 5, 9]),
        (&[2, 3, 33, 17], &[2, 3, 17, 35]),
        (&[2, 3, 7, 5], &[3, 5, 9]),
        (&[2, 3, 1, 65], &[2, 3, 65, 1]),
    ];
    for (a, b) in batches {
        all.push(matmul(a, b, false)?);
        let mut turned = b.to_vec();
        turned.swap(b.len() - 2, b.len() - 1);
        all.push(matmul(a, &turned, true)?);
    }
    all.extend([computed_weight()?, one_weight_in_two_roles()?, product_with_a_weight()?]);
    Ok(all)
}

/// Layers with each activation, under a name of their own: the variants of a kernel share the text of the functions, and
/// need not meet all of them.
fn every_activation() -> Result<Vec<Case>, CaseError> {
    let activations = [
        None,
        Some(Activation::Gelu),
        Some(Activation::GeluTanh),
        Some(Activation::Relu),
        Some(Activation::Tanh),
        Some(Activation::Sigmoid),
        Some(Activation::Silu),
        Some(Activation::QuickGelu),
    ];
    let mut all = Vec::new();
    for activation in activations {
        all.push(linear(&[3, 5], 33, 61, DType::F32, Some(DType::F32), activation)?);
        all.push(linear(&[5], 17, 9, DType::F16, None, activation)?);
        all.push(residual_linear(&[3, 5], 33, 61, true, activation)?);
    }
    let named = |case: Case| Case { name: case.name.replace("linear", "activation of a layer"), ..case };
    Ok(all.into_iter().map(named).collect())
}

fn linear(
    rows: &[usize],
    k: usize,
    n: usize,
    stored: DType,
    bias: Option<DType>,
    activation: Option<Activation>,
) -> Result<Case, CaseError> {
    let followed = activation.map_or("nothing", |a| Op::Unary(a.unary()).name());
    let biased = bias.map_or("without bias".to_owned(), |d| format!("with {d} bias"));
    let mut s = Sketch::new(format!("linear {rows:?} {k} to {n} {stored} {biased} then {followed}"));
    let x = s.input([rows, &[k]].concat(), Fill::PLAIN)?;
    let mut operands = vec![x, s.weight(stored, [n, k])?];
    if let Some(stored) = bias {
        operands.push(s.weight_between(stored, [n], -1.0, 1.0)?);
    }
    let y = s.node(Op::Linear { activation, residual: false }, &operands)?;
    s.finish(&[y], 2e-5)
}

fn residual_linear(
    rows: &[usize],
    k: usize,
    n: usize,
    biased: bool,
    activation: Option<Activation>,
) -> Result<Case, CaseError> {
    let followed = activation.map_or("nothing", |a| Op::Unary(a.unary()).name());
    let mut s = Sketch::new(format!("linear {rows:?} {k} to {n} with bias {biased} then {followed} and a residual"));
    let mut operands = vec![s.input([rows, &[k]].concat(), Fill::PLAIN)?, s.weight(DType::F32, [n, k])?];
    if biased {
        operands.push(s.weight_between(DType::F32, [n], -1.0, 1.0)?);
    }
    operands.push(s.input([rows, &[n]].concat(), Fill::PLAIN)?);
    let y = s.node(Op::Linear { activation, residual: true }, &operands)?;
    s.finish(&[y], 2e-5)
}

/// A weight whose columns differ by a factor of a million, so that whoever adds large and small ones loses the small. Columns 8, 16 or 32
/// apart are never of one size.
fn columns_of_two_sizes() -> Result<Case, CaseError> {
    let (m, k, n) = (96, 128, 128);
    let mut s = Sketch::new("linear with a weight of large and small columns".to_owned());
    let x = s.input([m, k], Fill::Uniform(-1.0, 1.0))?;
    let sizes = (0..n).map(|column: usize| if (column / 8).count_ones().is_multiple_of(2) { 1.0 } else { 1e6 });
    let weights = sizes
        .clone()
        .enumerate()
        .flat_map(|(column, size)| (0..k).map(move |step| size * ((column * 31 + step * 17) % 64) as f32 / 256.0));
    let weight = s.weight_of(Tensor::from_f32([n, k], weights.collect())?)?;
    let large = s.node(Op::LINEAR, &[x, weight])?;
    // Back to one size, for one tolerance.
    let back = s.weight_of(Tensor::from_f32([n], sizes.map(f32::recip).collect())?)?;
    let y = s.node(Op::Binary(Binary::Mul), &[large, back])?;
    s.finish(&[y], 2e-5)
}

/// A layer that adds to what it reads, its weight computed.
fn residual_that_is_the_operand() -> Result<Case, CaseError> {
    let mut s = Sketch::new("linear of a value added to that value");
    let x = s.input([17, 13], Fill::PLAIN)?;
    let w = s.input([13, 13], Fill::Uniform(-0.5, 0.5))?;
    let y = s.node(Op::Linear { activation: Some(Activation::Relu), residual: true }, &[x, w, x])?;
    let z = s.node(Op::Linear { activation: None, residual: true }, &[y, w, x])?;
    s.finish(&[y, z], 2e-5)
}

fn matmul(a: &[usize], b: &[usize], transpose_b: bool) -> Result<Case, CaseError> {
    let turned = if transpose_b { " transposed" } else { "" };
    let mut s = Sketch::new(format!("matmul {a:?} {b:?}{turned}"));
    let a = s.input(a, Fill::Uniform(-1.0, 1.0))?;
    let b = s.input(b, Fill::Uniform(-1.0, 1.0))?;
    let y = s.node(Op::MatMul { transpose_b }, &[a, b])?;
    s.finish(&[y], 2e-5)
}

/// Weights that are stored the other way round, in sizes that fill neither panels nor fours: one that two layers read, and one
/// that is read as it is stored, too.
fn turned_weights(m: usize, stored: DType) -> Result<Case, CaseError> {
    let mut s = Sketch::new(format!("linear of [{m}] with turned weights in {stored}"));
    let x = s.input([m, 37], Fill::PLAIN)?;
    let (up, down) = (s.weight(stored, [37, 53])?, s.weight(stored, [53, 37])?);
    let turn = || Op::Transpose { permutation: vec![1, 0] };
    let (up_turned, down_turned) = (s.node(turn(), &[up])?, s.node(turn(), &[down])?);
    let bias = s.weight_between(DType::F32, [53], -1.0, 1.0)?;
    let wide = s.node(Op::LINEAR, &[x, up_turned, bias])?;
    let again = s.node(Op::LINEAR, &[wide, down_turned])?;
    let again = s.node(Op::Linear { activation: Some(Activation::Relu), residual: false }, &[again, up_turned])?;
    let plain = s.node(Op::MatMul { transpose_b: false }, &[x, up])?;
    s.finish(&[wide, again, plain], 2e-5)
}

/// The weight of a linear node need not be a weight of the graph, nor its bias.
fn computed_weight() -> Result<Case, CaseError> {
    let mut s = Sketch::new("linear with a computed weight");
    let x = s.input([5, 7], Fill::PLAIN)?;
    let w = s.input([7, 9], Fill::PLAIN)?;
    let w = s.node(Op::Transpose { permutation: vec![1, 0] }, &[w])?;
    let bias = s.input([9], Fill::PLAIN)?;
    let y = s.node(Op::Linear { activation: Some(Activation::Relu), residual: false }, &[x, w, bias])?;
    s.finish(&[y], 2e-5)
}

/// An embedding table that is the output layer too, as masked language models tie them.
fn one_weight_in_two_roles() -> Result<Case, CaseError> {
    let mut s = Sketch::new("a weight that is table and linear weight");
    let table = s.weight(DType::F16, [61, 33])?;
    let ids = s.input([3, 5], Fill::Integers(0, 61))?;
    let x = s.node(Op::Gather, &[table, ids])?;
    let y = s.node(Op::LINEAR, &[x, table])?;
    s.finish(&[y, table], 2e-5)
}

fn product_with_a_weight() -> Result<Case, CaseError> {
    let mut s = Sketch::new("matmul with weights on either side");
    let x = s.input([3, 17, 33], Fill::Uniform(-1.0, 1.0))?;
    let right = s.weight(DType::BF16, [33, 9])?;
    let left = s.weight(DType::F16, [5, 17])?;
    let y = s.node(Op::MatMul { transpose_b: false }, &[x, right])?;
    let y = s.node(Op::MatMul { transpose_b: false }, &[left, y])?;
    s.finish(&[y], 2e-5)
}
