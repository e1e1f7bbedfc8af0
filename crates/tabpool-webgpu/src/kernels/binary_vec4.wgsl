// Prelude of `binary.wgsl`: four elements of the innermost dimension at once. Each operand has them side by side, and its
// strides count fours; or it repeats one element over that dimension, and its strides count elements.

alias element = vec4u;
alias real = vec4f;
alias whole = vec4i;

@group(0) @binding(1) var<storage, read> a: array<vec4u>;
@group(0) @binding(2) var<storage, read> b: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4u>;

override A_REPEATS: bool = false;
override B_REPEATS: bool = false;

fn a_at(i: u32) -> element {
    if (A_REPEATS) { return vec4u(a[i / 4u][i % 4u]); }
    return a[i];
}

fn b_at(i: u32) -> element {
    if (B_REPEATS) { return vec4u(b[i / 4u][i % 4u]); }
    return b[i];
}
