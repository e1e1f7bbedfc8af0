//! The largest elements of rows.

use std::collections::BTreeSet;

use tabpool_graph::{Op, Unary};
use tabpool_tensor::DType;

use super::case::{Case, CaseError, Fill, Sketch};

const SHAPES: &[&[usize]] = &[&[1], &[7], &[5, 33], &[3, 5, 17], &[1, 1031], &[2, 3, 129], &[3, 20_011]];

/// Numbers that come back, so that the order among equals shows.
const REPEATED: Fill = Fill::Cycle(&[0.5, -1.0, 3.25, 0.0, 3.25, 2.0, -7.0, 3.25, 0.5, 2.0, 1.0]);

pub(super) fn cases() -> Result<Vec<Case>, CaseError> {
    let mut all = Vec::new();
    for &shape in SHAPES {
        let width = shape.last().copied().unwrap_or(1);
        for (fill, what) in [(Fill::PLAIN, "numbers"), (REPEATED, "numbers that come back"), (LOWEST, "lowest numbers")]
        {
            all.push(one(format!("arg_max {shape:?} of {what}"), Op::ArgMax, shape, fill)?);
            // All of a row, where that is not too much to sort.
            let all_of_it = if width < 200 { width } else { 1 };
            let counts = BTreeSet::from([1, 3, 50, all_of_it]);
            for k in counts.into_iter().filter(|&k| k <= width) {
                all.push(one(format!("top_k {k} of {shape:?} of {what}"), Op::TopK { k }, shape, fill)?);
            }
        }
        all.push(one(format!("arg_max {shape:?} of integers"), Op::ArgMax, shape, Fill::Integers(-9, 9))?);
        all.push(one(
            format!("arg_max {shape:?} of large integers"),
            Op::ArgMax,
            shape,
            Fill::Integers(2_000_000_000, i32::MAX),
        )?);
    }
    all.push(positions_that_are_read()?);
    Ok(all)
}

/// Nothing is larger than what a search may begin with.
const LOWEST: Fill = Fill::Cycle(&[f32::NEG_INFINITY, f32::NEG_INFINITY, f32::MIN]);

fn one(name: String, op: Op, shape: &[usize], fill: Fill) -> Result<Case, CaseError> {
    let mut s = Sketch::new(name);
    let x = s.input(shape, fill)?;
    let y = s.node(op, &[x])?;
    s.finish(&[y], 0.0)
}

/// The token a decoder takes and looks up, as its next run does.
fn positions_that_are_read() -> Result<Case, CaseError> {
    let mut s = Sketch::new("arg_max that is looked up");
    let x = s.input([3, 2, 61], Fill::PLAIN)?;
    let x = s.node(Op::Unary(Unary::Neg), &[x])?;
    let table = s.weight(DType::F16, [61, 5])?;
    let token = s.node(Op::ArgMax, &[x])?;
    let y = s.node(Op::Gather, &[table, token])?;
    s.finish(&[token, y], 0.0)
}
