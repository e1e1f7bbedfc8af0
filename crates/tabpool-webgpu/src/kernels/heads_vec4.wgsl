// Prelude of attention where head sizes are multiples of four: four elements load at once.

@group(0) @binding(1) var<storage, read> q: array<vec4f>;
@group(0) @binding(2) var<storage, read> k: array<vec4f>;
@group(0) @binding(3) var<storage, read> v: array<vec4f>;

// Elements 4 * quad to 4 * quad + 3 of the head's row that begins at element `at`.
fn q_quad(at: u32, quad: u32) -> vec4f { return q[at / 4u + quad]; }
fn k_quad(at: u32, quad: u32) -> vec4f { return k[at / 4u + quad]; }
fn v_quad(at: u32, quad: u32) -> vec4f { return v[at / 4u + quad]; }
