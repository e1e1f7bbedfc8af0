// Prelude: what a linear layer's result gets after the sum: a bias for each column, the function, and a residual.

// Whether a result gets something after the sum and its bias are stored.
fn refines() -> bool { return HAS_RESIDUAL || FUNCTION != 0u; }

fn bias_quad(column: u32) -> vec4f {
    if (!HAS_BIAS) { return vec4f(0.0); }
    let last = p.length - 1u;
    let at = p.first_column + column;
    return vec4f(bias[min(at, last)], bias[min(at + 1u, last)], bias[min(at + 2u, last)], bias[min(at + 3u, last)]);
}

// Where a column of a row lies in the result.
fn place(row: u32, column: u32) -> u32 { return row * p.length + p.first_column + column; }
