//! Writes the part of a GEMM that reads the left operand: so many elements of a row at once.

use super::Numbers;

/// WGSL with the binding of `a`, `row_start` and `row_step`: a row's beginning, and its elements `steps * step` and those
/// that follow, `steps` of them (1, 2 or 4), in the numbers that are multiplied. `aligned` says that rows are multiples
/// of four long; where they are not, elements past a row's end are zero. Integers come sixteen at once, with `row_scale`.
pub(super) fn source(steps: u32, aligned: bool, numbers: Numbers) -> String {
    if numbers == Numbers::Int8 {
        return INTEGERS.to_owned();
    }
    let (vector, narrowed) = match (steps, numbers == Numbers::Half) {
        (1, false) => ("f32", "f32"),
        (1, true) => ("f32", "f16"),
        (2, false) => ("vec2f", "vec2f"),
        (2, true) => ("vec2f", "vec2<f16>"),
        (_, false) => ("vec4f", "vec4f"),
        (_, true) => ("vec4f", "vec4<f16>"),
    };
    if aligned || steps == 1 {
        return format!(
            "
@group(0) @binding(1) var<storage, read> a: array<{vector}>;

fn row_start(row: u32) -> u32 {{ return (p.first_row + row) * (p.k / {steps}u); }}
fn row_step(start: u32, step: u32) -> {narrowed} {{ return {narrowed}(a[start + step]); }}
"
        );
    }
    let rest: Vec<String> =
        (1..steps).map(|i| format!("select(0.0, a[at + {i}u], step * {steps}u + {i}u < p.k)")).collect();
    format!(
        "
@group(0) @binding(1) var<storage, read> a: array<f32>;

fn row_start(row: u32) -> u32 {{ return (p.first_row + row) * p.k; }}
fn row_step(start: u32, step: u32) -> {narrowed} {{
    let at = start + step * {steps}u;
    return {narrowed}({vector}(select(0.0, a[at], step * {steps}u < p.k), {}));
}}
",
        rest.join(", ")
    )
}

/// Sixteen integers of a row, and what they are multiples of.
const INTEGERS: &str = "
@group(0) @binding(1) var<storage, read> a: array<vec4u>;

fn row_start(row: u32) -> u32 { return row * depth(); }
fn row_step(start: u32, step: u32) -> vec4u { return a[start + step]; }
fn row_scale(row: u32) -> f32 { return bitcast<f32>(a[p.m * depth() + row / 4u][row % 4u]); }
";
