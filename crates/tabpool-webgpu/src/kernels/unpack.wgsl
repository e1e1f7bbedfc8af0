// Brings a piece of a stored weight into its buffer as f32: as it lies, or in panels for GEMMs. A piece may begin and
// end anywhere between two elements. f16 is decoded by its bits, because the built-in may flush small numbers to zero.

struct Params {
    // The number of elements in the piece, and the position of its first element in the weight.
    count: u32,
    first: u32,
    // For panels: the weight's row length, and how many rows of 16 elements a panel has.
    columns: u32,
    panel: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

// 0 f32, 1 f16, 2 bf16.
override STORED: u32 = 0u;
// 0 as it lies, 1 a matrix [n, k] in panels, 2 a matrix [k, n] in panels.
override ORDER: u32 = 0u;

fn from_f16(bits: u32) -> f32 {
    let exponent = (bits >> 10u) & 31u;
    let fraction = bits & 1023u;
    let sign = (bits & 0x8000u) << 16u;
    if (exponent == 0u) {
        let magnitude = f32(fraction) * 5.9604644775390625e-8;
        return select(magnitude, -magnitude, sign != 0u);
    }
    // 112 moves the bias from 15 to 127; an exponent of 31 stands for infinity and becomes 255.
    let wide = select(exponent + 112u, 255u, exponent == 31u);
    return bitcast<f32>(sign | (wide << 23u) | (fraction << 13u));
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let i = folded(group, groups) * 64u + local;
    if (i >= p.count) { return; }
    var value = 0.0;
    if (STORED == 0u) {
        value = bitcast<f32>(words[i]);
    } else {
        let half = (words[i / 2u] >> (16u * (i % 2u))) & 0xffffu;
        if (STORED == 1u) { value = from_f16(half); } else { value = bitcast<f32>(half << 16u); }
    }
    let at = p.first + i;
    if (ORDER == 1u) {
        let n = at / p.columns;
        y[(n / 16u * p.panel + at % p.columns) * 16u + n % 16u] = value;
    } else if (ORDER == 2u) {
        let n = at % p.columns;
        y[(n / 16u * p.panel + at / p.columns) * 16u + n % 16u] = value;
    } else {
        y[at] = value;
    }
}
