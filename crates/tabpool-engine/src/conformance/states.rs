//! Rows that are written, and what stays between runs.

use tabpool_graph::{Binary, Op, Unary, ValueId};
use tabpool_tensor::{DType, Tensor};

use super::case::{Case, CaseError, Fill, Sketch};

pub(super) fn cases() -> Result<Vec<Case>, CaseError> {
    let mut all = Vec::new();
    for (capacity, rows, width) in [(1, 1, 1), (9, 3, 5), (33, 1, 17), (65, 7, 70), (130, 130, 3)] {
        for batch in [1, 3] {
            let sizes = [batch, capacity, rows, width];
            all.push(write_rows(sizes, Fill::PLAIN, false)?);
            all.push(write_rows(sizes, Fill::Integers(-99, 99), false)?);
            all.push(write_rows(sizes, Fill::PLAIN, true)?);
            all.push(write_rows(sizes, Fill::Integers(-99, 99), true)?);
        }
    }
    all.extend([counter()?, states_of_every_kind()?, written_twice()?]);
    for (heads, shared, tokens) in [(4, 2, 1), (3, 1, 1), (2, 2, 5)] {
        let decoder = decoder(heads, shared, tokens)?;
        all.push(decoder.optimised()?);
        all.push(decoder);
    }
    Ok(all)
}

/// Positions inside, at both ends, and outside on either side: some rows are dropped, or all.
const POSITIONS: &[i32] = &[0, 2, 1, -1, 6, 64, 1000, -1000, i32::MAX, i32::MIN];

/// Rows written into a value, or into a state where it lies.
fn write_rows([batch, capacity, rows, width]: [usize; 4], fill: Fill, state: bool) -> Result<Case, CaseError> {
    let kept = if state { "kept" } else { "passing" };
    let mut s = Sketch::new(format!("write_rows of {batch}x{rows}x{width} into {capacity} {kept} {fill:?}"));
    let dtype = if matches!(fill, Fill::Integers(..)) { DType::I32 } else { DType::F32 };
    let target = [batch, capacity, width];
    let target = if state { s.state(dtype, target)? } else { s.input(target, fill)? };
    let rows = s.input([batch, rows, width], fill)?;
    let at = s.input([1], Fill::Each(POSITIONS))?;
    let y = s.node(Op::WriteRows, &[target, rows, at])?;
    if state {
        s.next(target, y)?;
    }
    let last = s.node(Op::Slice { axis: 1, start: capacity - 1, length: 1 }, &[y])?;
    s.runs(POSITIONS.len());
    s.finish(&[y, last], 0.0)
}

/// Counts runs, and adds up what it is given.
fn counter() -> Result<Case, CaseError> {
    let mut s = Sketch::new("states that count");
    let one = s.constant(Tensor::from_i32([1], vec![1])?)?;
    let count = s.state(DType::I32, [1])?;
    let sum = s.state(DType::F32, [3, 5])?;
    let x = s.input([3, 5], Fill::PLAIN)?;
    let more = s.node(Op::Binary(Binary::Add), &[count, one])?;
    let total = s.node(Op::Binary(Binary::Add), &[sum, x])?;
    s.next(count, more)?;
    s.next(sum, total)?;
    let flipped = s.node(Op::Unary(Unary::Neg), &[sum])?;
    s.runs(5);
    s.finish(&[more, flipped, total], 1e-5)
}

/// States that become an input, a constant, a weight, a reshape, another state's next value, and that stay.
fn states_of_every_kind() -> Result<Case, CaseError> {
    let mut s = Sketch::new("states of every kind");
    let x = s.input([2, 3], Fill::PLAIN)?;
    let c = s.constant(Tensor::from_f32([3], vec![1.0, 2.0, 3.0])?)?;
    let w = s.weight(DType::F16, [5])?;
    let at = s.input([1], Fill::Each(&[0, 2, 1]))?;
    let [input, constant, weight] =
        [s.state(DType::F32, [2, 3])?, s.state(DType::F32, [3])?, s.state(DType::F32, [5])?];
    let [reshaped, written, twin] =
        [s.state(DType::F32, [6])?, s.state(DType::F32, [1, 4, 3])?, s.state(DType::F32, [1, 4, 3])?];
    let stays = s.state(DType::I32, [2])?;
    let flat = s.node(Op::Reshape { shape: [6].into() }, &[x])?;
    let rows = s.node(Op::Reshape { shape: [1, 2, 3].into() }, &[x])?;
    let y = s.node(Op::WriteRows, &[written, rows, at])?;
    for (state, next) in [(input, x), (constant, c), (weight, w), (reshaped, flat), (written, y), (twin, y)] {
        s.next(state, next)?;
    }
    let read: Vec<ValueId> = [input, constant, weight, reshaped, twin]
        .into_iter()
        .map(|state| s.node(Op::Unary(Unary::Neg), &[state]))
        .collect::<Result<_, _>>()?;
    s.runs(4);
    s.finish(&[&read[..], &[stays, y]].concat(), 0.0)
}

/// Rows that are written into what was written just now: only one of the two can be in place.
fn written_twice() -> Result<Case, CaseError> {
    let mut s = Sketch::new("a state written twice in a run");
    let cache = s.state(DType::F32, [2, 7, 3])?;
    let x = s.input([2, 2, 3], Fill::PLAIN)?;
    let first = s.input([1], Fill::Each(&[0, 2, 5]))?;
    let second = s.input([1], Fill::Each(&[3, 1, 6]))?;
    let y = s.node(Op::WriteRows, &[cache, x, first])?;
    let z = s.node(Op::WriteRows, &[y, x, second])?;
    let sum = s.node(Op::Binary(Binary::Add), &[y, z])?;
    s.next(cache, z)?;
    s.runs(3);
    s.finish(&[sum], 1e-6)
}

/// One layer of a decoder with a cache, `tokens` at a time: norm, rotary attention over all that was before, and the token it
/// would say next.
fn decoder(heads: usize, shared: usize, tokens: usize) -> Result<Case, CaseError> {
    let (depth, capacity, vocabulary) = (6, 29, 41);
    let (hidden, kv_heads) = (heads * depth, heads / shared);
    let mut s = Sketch::new(format!("a decoder of {heads} heads sharing keys by {shared}, {tokens} tokens a run"));
    let position = s.state(DType::I32, [1])?;
    let [keys, values] =
        [s.state(DType::F32, [1, capacity, kv_heads * depth])?, s.state(DType::F32, [1, capacity, kv_heads * depth])?];
    let ids = s.input([1, tokens], Fill::Integers(0, 41))?;
    let table = s.weight_between(DType::F32, [vocabulary, hidden], -1.0, 1.0)?;
    let scale = s.weight_between(DType::F32, [hidden], 0.5, 1.5)?;
    let cos = s.input([1, tokens, 2], Fill::Uniform(-1.0, 1.0))?;
    let sin = s.input([1, tokens, 2], Fill::Uniform(-1.0, 1.0))?;
    let x = s.node(Op::Gather, &[table, ids])?;
    let y = s.node(Op::RmsNorm { epsilon: 1e-6 }, &[x, scale])?;
    let mut projected = |width: usize| {
        let weight = s.weight(DType::F16, [width, hidden])?;
        s.node(Op::LINEAR, &[y, weight])
    };
    let (q, k, v) = (projected(hidden)?, projected(kv_heads * depth)?, projected(kv_heads * depth)?);
    let q = s.node(Op::Rope { heads, rotary: 4 }, &[q, cos, sin])?;
    let k = s.node(Op::Rope { heads: kv_heads, rotary: 4 }, &[k, cos, sin])?;
    let k = s.node(Op::WriteRows, &[keys, k, position])?;
    let v = s.node(Op::WriteRows, &[values, v, position])?;
    s.next(keys, k)?;
    s.next(values, v)?;
    let attention = Op::Attention { heads, kv_heads, scale: 0.4, causal: true };
    let y = s.node(attention, &[q, k, v, position])?;
    let weight = s.weight(DType::F32, [hidden, hidden])?;
    let y = s.node(Op::LINEAR, &[y, weight])?;
    let y = s.node(Op::Binary(Binary::Add), &[x, y])?;
    let z = s.node(Op::RmsNorm { epsilon: 1e-6 }, &[y, scale])?;
    let scores = s.node(Op::LINEAR, &[z, table])?;
    let count = s.constant(Tensor::from_i32([1], vec![i32::try_from(tokens).unwrap_or(1)])?)?;
    let next = s.node(Op::Binary(Binary::Add), &[position, count])?;
    s.next(position, next)?;
    s.runs(5);
    s.finish(&[y, scores, next], 1e-4)
}
