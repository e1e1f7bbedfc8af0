// Prelude: the weight of a GEMM as f16, widened as it is read; every device can. Four columns of a row are two words.

alias quad = vec4f;

@group(0) @binding(2) var<storage, read> b: array<vec2u>;

fn b_quad(at: u32) -> quad {
    let words = b[at];
    return vec4f(unpack2x16float(words.x), unpack2x16float(words.y));
}
fn widened(v: quad) -> vec4f { return v; }
