// Prelude: what a linear layer's result gets after the sum: a bias for each column, the function, and a residual.

// Whether a result gets something after the sum and its bias are stored.
fn refines() -> bool { return HAS_RESIDUAL || FUNCTION != 0u; }

fn bias_quad(column: u32) -> vec4f {
    if (!HAS_BIAS) { return vec4f(0.0); }
    let last = p.n - 1u;
    return vec4f(
        bias[min(column, last)],
        bias[min(column + 1u, last)],
        bias[min(column + 2u, last)],
        bias[min(column + 3u, last)],
    );
}
