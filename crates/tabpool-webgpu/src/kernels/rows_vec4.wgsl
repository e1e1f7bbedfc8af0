// Prelude: the left operand of a GEMM whose rows are multiples of four long, so that four elements load at once.

@group(0) @binding(1) var<storage, read> a: array<vec4f>;

// Elements 4 * quad to 4 * quad + 3 of a row.
fn row_quad(row: u32, quad: u32) -> vec4f {
    return a[row * (p.k / 4u) + quad];
}
