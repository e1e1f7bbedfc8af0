// Prelude: the weight of a GEMM as f32. Four columns of a row are a vec4f.

alias quad = vec4f;

@group(0) @binding(2) var<storage, read> b: array<vec4f>;

fn b_quad(at: u32) -> quad { return b[at]; }
fn widened(v: quad) -> vec4f { return v; }
