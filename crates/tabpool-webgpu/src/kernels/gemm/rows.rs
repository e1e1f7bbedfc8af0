//! Writes the part of a GEMM that reads the left operand: so many elements of a row at once.

/// WGSL with the binding of `a`, `row_start` and `row_step`: a row's beginning, and its elements `steps * step` and those
/// that follow, `steps` of them (1, 2 or 4). `aligned` says that rows are multiples of four long; where they are
/// not, elements past a row's end are zero.
pub(super) fn source(steps: u32, aligned: bool) -> String {
    let vector = match steps {
        1 => "f32",
        2 => "vec2f",
        _ => "vec4f",
    };
    let mut text = String::new();
    if aligned || steps == 1 {
        text += &format!(
            "
@group(0) @binding(1) var<storage, read> a: array<{vector}>;

fn row_start(row: u32) -> u32 {{ return row * (p.k / {steps}u); }}
fn row_step(start: u32, step: u32) -> {vector} {{ return a[start + step]; }}
"
        );
        return text;
    }
    let rest: Vec<String> =
        (1..steps).map(|i| format!("select(0.0, a[at + {i}u], step * {steps}u + {i}u < p.k)")).collect();
    text += &format!(
        "
@group(0) @binding(1) var<storage, read> a: array<f32>;

fn row_start(row: u32) -> u32 {{ return row * p.k; }}
fn row_step(start: u32, step: u32) -> {vector} {{
    let at = start + step * {steps}u;
    return {vector}(select(0.0, a[at], step * {steps}u < p.k), {});
}}
",
        rest.join(", ")
    );
    text
}
