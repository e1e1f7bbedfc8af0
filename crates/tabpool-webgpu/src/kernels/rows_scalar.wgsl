// Prelude: the left operand of a GEMM with rows of any length. Elements past a row's end are zero.

@group(0) @binding(1) var<storage, read> a: array<f32>;

// Elements 4 * quad to 4 * quad + 3 of a row.
fn row_quad(row: u32, quad: u32) -> vec4f {
    let k = quad * 4u;
    let at = row * p.k + k;
    let left = p.k - k;
    return vec4f(
        a[at],
        select(0.0, a[at + 1u], left > 1u),
        select(0.0, a[at + 2u], left > 2u),
        select(0.0, a[at + 3u], left > 3u),
    );
}
