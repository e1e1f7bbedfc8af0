// Prelude: both operands of a GEMM as 8-bit integers, four along k in a word. `a` has rows of k up to a multiple of 16 and
// after them a scale for each row. The weight's panels have four columns of four k in a vec4u, and after all of them
// a scale for each column up to a multiple of 16.

@group(0) @binding(2) var<storage, read> b: array<vec4u>;

// Sixteens of k in a row of `a`.
fn depth() -> u32 { return (p.k + 15u) / 16u; }

// The scales of four columns.
fn column_scales(column: u32) -> vec4f {
    let panels = (p.n + 15u) / 16u;
    return bitcast<vec4f>(b[panels * p.panel + min(column, panels * 16u - 4u) / 4u]);
}

fn dots(a: u32, four: vec4u) -> vec4i {
    return vec4i(dot4I8Packed(a, four.x), dot4I8Packed(a, four.y), dot4I8Packed(a, four.z), dot4I8Packed(a, four.w));
}
