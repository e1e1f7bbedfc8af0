// Prelude: the weight of a GEMM as f16 for devices that compute with it. Four columns of a row are a vec4h.

alias quad = vec4<f16>;

@group(0) @binding(2) var<storage, read> b: array<vec4<f16>>;

fn b_quad(at: u32) -> quad { return b[at]; }
fn widened(v: quad) -> vec4f { return vec4f(v); }
