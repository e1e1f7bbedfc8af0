// Prelude of `binary.wgsl`: an element at a time, for operands that broadcast in any way.

alias element = u32;
alias real = f32;
alias whole = i32;

@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;

fn a_at(i: u32) -> element { return a[i]; }
fn b_at(i: u32) -> element { return b[i]; }
