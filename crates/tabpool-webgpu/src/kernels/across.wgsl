// Prelude: sums and maxima over a workgroup of 64. Eight invocations join eight partial results each, then everybody
// joins those eight: two barriers instead of a tree of six, which software adapters pay dearly for. Call only in uniform
// control flow. Calling again right away is safe: the first barrier inside comes after everybody's last read.

var<workgroup> partial: array<f32, 64>;
var<workgroup> joined: array<f32, 8>;

fn sum_across(local: u32, value: f32) -> f32 {
    partial[local] = value;
    workgroupBarrier();
    if (local < 8u) {
        var sum = 0.0;
        for (var i = 0u; i < 8u; i++) { sum += partial[local * 8u + i]; }
        joined[local] = sum;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < 8u; i++) { sum += joined[i]; }
    return sum;
}

fn max_across(local: u32, value: f32) -> f32 {
    partial[local] = value;
    workgroupBarrier();
    if (local < 8u) {
        var most = partial[local * 8u];
        for (var i = 1u; i < 8u; i++) { most = max(most, partial[local * 8u + i]); }
        joined[local] = most;
    }
    workgroupBarrier();
    var most = joined[0];
    for (var i = 1u; i < 8u; i++) { most = max(most, joined[i]); }
    return most;
}
