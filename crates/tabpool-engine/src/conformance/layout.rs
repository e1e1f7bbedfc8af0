//! Operators that move elements, token positions, and what may be an output.

use tabpool_graph::{Binary, Op, Unary};
use tabpool_tensor::{DType, Shape, Tensor};

use super::case::{Case, CaseError, Fill, Sketch};

pub(super) fn cases() -> Result<Vec<Case>, CaseError> {
    let mut all = vec![outputs_of_every_kind()?, work_on_weights_alone()?, diamond()?, long_chain()?];
    for stored in [DType::F32, DType::F16, DType::BF16] {
        for (table, indices) in
            [(&[1, 1][..], &[1][..]), (&[61, 33], &[3, 7]), (&[127, 65], &[129]), (&[9, 5, 3], &[2, 2])]
        {
            all.push(gather_weight(stored, table, indices)?);
        }
    }
    all.push(gather_computed()?);
    let transposes: [(&[usize], &[usize]); 11] = [
        (&[7], &[0]),
        (&[33, 65], &[1, 0]),
        (&[3, 5, 7], &[0, 1, 2]),
        (&[3, 5, 7], &[2, 1, 0]),
        (&[3, 17, 5], &[1, 0, 2]),
        (&[2, 3, 5, 7], &[0, 2, 1, 3]),
        (&[2, 3, 5, 7], &[0, 2, 3, 1]),
        (&[2, 1, 5, 3, 4], &[4, 2, 0, 1, 3]),
        (&[129, 70], &[1, 0]),
        // What windows of images are cut out by, and what no two dimensions can be joined in.
        (&[2, 2, 3, 3, 5, 7], &[0, 1, 3, 2, 4, 5]),
        (&[2, 3, 2, 5, 3, 4], &[5, 3, 1, 4, 0, 2]),
    ];
    for (shape, permutation) in transposes {
        all.push(transpose(shape, permutation, Fill::PLAIN)?);
        all.push(transpose(shape, permutation, Fill::Integers(-1000, 1000))?);
    }
    let slices: [(&[usize], usize, usize, usize); 7] = [
        (&[7], 0, 3, 1),
        (&[5, 33], 0, 1, 3),
        (&[5, 33], 1, 32, 1),
        (&[3, 17, 7], 1, 0, 5),
        (&[3, 17, 7], 1, 16, 1),
        (&[2, 3, 65], 2, 1, 63),
        (&[2, 3, 2, 5, 3, 4], 3, 1, 3),
    ];
    for (shape, axis, start, length) in slices {
        all.push(slice(shape, (axis, start, length), Fill::PLAIN)?);
        all.push(slice(shape, (axis, start, length), Fill::Integers(-1000, 1000))?);
    }
    let joins: [(&[&[usize]], usize); 9] = [
        (&[&[5]], 0),
        (&[&[3], &[1], &[7]], 0),
        (&[&[3, 17], &[5, 17]], 0),
        (&[&[3, 17], &[3, 5], &[3, 1]], 1),
        (&[&[2, 3, 7], &[2, 65, 7]], 1),
        (&[&[1, 1, 33], &[1, 129, 33]], 1),
        (&[&[3, 1, 1], &[3, 1, 1]], 2),
        (&[&[2, 3, 2, 5, 3, 4], &[2, 3, 2, 1, 3, 4], &[2, 3, 2, 2, 3, 4]], 3),
        (&[&[3, 5][..]; 16], 1),
    ];
    for (shapes, axis) in joins {
        all.push(concat(shapes, axis, Fill::PLAIN)?);
        all.push(concat(shapes, axis, Fill::Integers(-1000, 1000))?);
    }
    all.push(concat_with_itself()?);
    for shape in [[1, 1], [3, 17], [5, 127], [2, 513]] {
        all.push(token_positions(shape)?);
    }
    Ok(all)
}

fn gather_weight(stored: DType, table: &[usize], indices: &[usize]) -> Result<Case, CaseError> {
    let mut s = Sketch::new(format!("gather {stored} {table:?} {indices:?}"));
    let table_id = s.weight(stored, table)?;
    // Indices outside the table are part of the operator's meaning.
    let rows = i32::try_from(table[0]).unwrap_or(i32::MAX);
    let indices = s.input(indices, Fill::Integers(-2, rows + 2))?;
    let y = s.node(Op::Gather, &[table_id, indices])?;
    s.finish(&[y], 0.0)
}

fn gather_computed() -> Result<Case, CaseError> {
    let mut s = Sketch::new("gather from a computed table by computed indices");
    let table = s.input([17, 3], Fill::PLAIN)?;
    let table = s.node(Op::Unary(Unary::Neg), &[table])?;
    let indices = s.input([5], Fill::Integers(0, 9))?;
    let indices = s.node(Op::Binary(Binary::Add), &[indices, indices])?;
    let y = s.node(Op::Gather, &[table, indices])?;
    s.finish(&[y], 0.0)
}

fn transpose(shape: &[usize], permutation: &[usize], fill: Fill) -> Result<Case, CaseError> {
    let mut s = Sketch::new(format!("transpose {shape:?} by {permutation:?} {fill:?}"));
    let x = s.input(shape, fill)?;
    let y = s.node(Op::Transpose { permutation: permutation.to_vec() }, &[x])?;
    s.finish(&[y], 0.0)
}

fn slice(shape: &[usize], (axis, start, length): (usize, usize, usize), fill: Fill) -> Result<Case, CaseError> {
    let mut s = Sketch::new(format!("slice {shape:?} axis {axis} from {start} take {length} {fill:?}"));
    let x = s.input(shape, fill)?;
    let y = s.node(Op::Slice { axis, start, length }, &[x])?;
    s.finish(&[y], 0.0)
}

fn concat(shapes: &[&[usize]], axis: usize, fill: Fill) -> Result<Case, CaseError> {
    let mut s = Sketch::new(format!("concat {shapes:?} axis {axis} {fill:?}"));
    let operands = shapes.iter().map(|&shape| s.input(shape, fill)).collect::<Result<Vec<_>, _>>()?;
    let y = s.node(Op::Concat { axis }, &operands)?;
    s.finish(&[y], 0.0)
}

/// Operands of every origin, one of them twice, and results that others read.
fn concat_with_itself() -> Result<Case, CaseError> {
    let mut s = Sketch::new("concat of one value twice, a weight and a constant");
    let x = s.input([1, 5, 3], Fill::PLAIN)?;
    let y = s.node(Op::Unary(Unary::Tanh), &[x])?;
    let w = s.weight(DType::F16, [1, 2, 3])?;
    let c = s.constant(Tensor::from_f32([1, 1, 3], vec![1.0, 2.0, 3.0])?)?;
    let fixed = s.node(Op::Concat { axis: 1 }, &[c, w])?;
    let z = s.node(Op::Concat { axis: 1 }, &[y, c, w, y, fixed])?;
    let flat = s.node(Op::Reshape { shape: Shape::from([16, 3]) }, &[z])?;
    let again = s.node(Op::Concat { axis: 1 }, &[flat, flat])?;
    s.finish(&[z, again], 1e-5)
}

fn token_positions(shape: [usize; 2]) -> Result<Case, CaseError> {
    let mut s = Sketch::new(format!("token_positions {shape:?}"));
    let ids = s.input(shape, Fill::Integers(0, 4))?;
    let y = s.node(Op::TokenPositions { padding_id: 1 }, &[ids])?;
    s.finish(&[y], 0.0)
}

/// A run's outputs may be an input, a weight, a constant, a reshape of either, a value something else reads too, and
/// one value under two names.
fn outputs_of_every_kind() -> Result<Case, CaseError> {
    let mut s = Sketch::new("outputs of every kind");
    let x = s.input([3, 5], Fill::PLAIN)?;
    let ids = s.input([7], Fill::Integers(0, 9))?;
    let w = s.weight(DType::F16, [5, 3])?;
    let c = s.constant(Tensor::from_f32([3], vec![1.0, 2.0, 3.0])?)?;
    let k = s.constant(Tensor::from_i32([2], vec![-4, 5])?)?;
    let flat = s.node(Op::Reshape { shape: Shape::from([15]) }, &[x])?;
    let flat_w = s.node(Op::Reshape { shape: Shape::from([15]) }, &[w])?;
    let y = s.node(Op::Binary(Binary::Add), &[flat, flat_w])?;
    let y2 = s.node(Op::Reshape { shape: Shape::from([5, 3]) }, &[y])?;
    let z = s.node(Op::Binary(Binary::Mul), &[y2, c])?;
    s.finish(&[x, ids, w, c, k, flat, flat_w, y, y2, z, z], 1e-6)
}

/// Nodes over weights and constants alone are computed at load and must survive every run.
fn work_on_weights_alone() -> Result<Case, CaseError> {
    let mut s = Sketch::new("work on weights alone");
    let w = s.weight(DType::BF16, [17, 5])?;
    let c = s.constant(Tensor::from_i32([3, 3], vec![0, 4, 16, 2, 2, 2, 9, 8, 7])?)?;
    let rows = s.node(Op::Gather, &[w, c])?;
    let turned = s.node(Op::Transpose { permutation: vec![2, 0, 1] }, &[rows])?;
    let bias = s.node(Op::Reshape { shape: Shape::from([1, 5, 3, 3]) }, &[turned])?;
    let x = s.input([2, 5, 3, 3], Fill::PLAIN)?;
    let y = s.node(Op::Binary(Binary::Add), &[x, bias])?;
    let z = s.node(Op::Unary(Unary::Tanh), &[y])?;
    let z = s.node(Op::Binary(Binary::Mul), &[z, bias])?;
    s.finish(&[z, turned], 1e-5)
}

/// A value that is read again long after it was made must not be overwritten in between.
fn diamond() -> Result<Case, CaseError> {
    let mut s = Sketch::new("a value read late");
    let x = s.input([65], Fill::PLAIN)?;
    let first = s.node(Op::Unary(Unary::Abs), &[x])?;
    let mut y = first;
    for _ in 0..5 {
        y = s.node(Op::Unary(Unary::Tanh), &[y])?;
    }
    let y = s.node(Op::Binary(Binary::Sub), &[first, y])?;
    s.finish(&[y], 1e-5)
}

fn long_chain() -> Result<Case, CaseError> {
    let mut s = Sketch::new("a chain of sizes that grow and shrink");
    let x = s.input([1, 7], Fill::PLAIN)?;
    let column = s.input([33, 1], Fill::PLAIN)?;
    let mut y = x;
    for _ in 0..4 {
        let wide = s.node(Op::Binary(Binary::Add), &[y, column])?;
        let turned = s.node(Op::Transpose { permutation: vec![1, 0] }, &[wide])?;
        let back = s.node(Op::Transpose { permutation: vec![1, 0] }, &[turned])?;
        y = s.node(Op::Slice { axis: 0, start: 5, length: 1 }, &[back])?;
    }
    s.finish(&[y], 1e-6)
}
