// Prelude: sums and maxima over a workgroup of 64. Every invocation adds up all partial results itself: one barrier
// instead of a tree of six, which software adapters pay dearly for. Call only in uniform control flow.

var<workgroup> partial: array<f32, 64>;

fn sum_across(local: u32, value: f32) -> f32 {
    partial[local] = value;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < 64u; i++) { sum += partial[i]; }
    workgroupBarrier();
    return sum;
}

fn max_across(local: u32, value: f32) -> f32 {
    partial[local] = value;
    workgroupBarrier();
    var most = partial[0];
    for (var i = 1u; i < 64u; i++) { most = max(most, partial[i]); }
    workgroupBarrier();
    return most;
}
