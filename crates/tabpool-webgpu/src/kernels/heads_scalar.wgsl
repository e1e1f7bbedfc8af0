// Prelude of attention with heads of any size. Elements past a head's end are zero.

@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;

// Elements 4 * quad to 4 * quad + 3 of the head's row that begins at element `at`.
fn q_quad(at: u32, quad: u32) -> vec4f {
    let i = at + quad * 4u;
    let left = p.d - quad * 4u;
    return vec4f(
        q[i],
        select(0.0, q[i + 1u], left > 1u),
        select(0.0, q[i + 2u], left > 2u),
        select(0.0, q[i + 3u], left > 3u),
    );
}

fn k_quad(at: u32, quad: u32) -> vec4f {
    let i = at + quad * 4u;
    let left = p.d - quad * 4u;
    return vec4f(
        k[i],
        select(0.0, k[i + 1u], left > 1u),
        select(0.0, k[i + 2u], left > 2u),
        select(0.0, k[i + 3u], left > 3u),
    );
}

fn v_quad(at: u32, quad: u32) -> vec4f {
    let i = at + quad * 4u;
    let left = p.dv - quad * 4u;
    return vec4f(
        v[i],
        select(0.0, v[i + 1u], left > 1u),
        select(0.0, v[i + 2u], left > 2u),
        select(0.0, v[i + 3u], left > 3u),
    );
}
