// Prelude: numbers as 8-bit integers.

struct Params {
    rows: u32,
    n: u32,
    spare: vec2u,
}

// What brings numbers of at most this size to whole numbers of at most 127. Below the smallest normal number the factor
// would be infinite; such rows count as zeros.
fn factor_of(most: f32) -> f32 {
    return select(0.0, 127.0 / most, most > 1e-30);
}

fn packed(four: vec4f) -> u32 {
    let whole = vec4u(vec4i(clamp(round(four), vec4f(-127.0), vec4f(127.0)))) & vec4u(255u);
    return whole.x | (whole.y << 8u) | (whole.z << 16u) | (whole.w << 24u);
}
