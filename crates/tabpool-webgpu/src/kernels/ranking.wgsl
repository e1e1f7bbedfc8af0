// Prelude: the order of numbers, and the first in it among a workgroup of 256. Numbers become integers that are ordered as
// they are, so that infinities and the smallest numbers count whatever a device does to them.

struct Params {
    rows: u32,
    n: u32,
    // How many are wanted of each row.
    k: u32,
    spare: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

override INTEGER: bool = false;

// The place of what is nowhere.
const NOWHERE: u32 = 0xffffffffu;

var<workgroup> keys: array<u32, 256>;
var<workgroup> places: array<u32, 256>;
var<workgroup> joined_keys: array<u32, 16>;
var<workgroup> joined_places: array<u32, 16>;

// The larger a number, the larger its key; minus zero is zero.
fn key_of(bits: u32) -> u32 {
    if (INTEGER) { return bits ^ 0x80000000u; }
    let plain = select(bits, 0u, bits == 0x80000000u);
    return plain ^ select(0x80000000u, 0xffffffffu, plain >= 0x80000000u);
}

// Whether the first is larger, or as large and at a lower place. A vector is a key and a place.
fn before(a: vec2u, b: vec2u) -> bool { return a.x > b.x || (a.x == b.x && a.y < b.y); }

// The first of all. Call only in uniform control flow; calling again right away is safe.
fn first_across(local: u32, mine: vec2u) -> vec2u {
    keys[local] = mine.x;
    places[local] = mine.y;
    workgroupBarrier();
    if (local < 16u) {
        var first = vec2u(0u, NOWHERE);
        for (var i = local * 16u; i < local * 16u + 16u; i++) {
            let other = vec2u(keys[i], places[i]);
            if (before(other, first)) { first = other; }
        }
        joined_keys[local] = first.x;
        joined_places[local] = first.y;
    }
    workgroupBarrier();
    var first = vec2u(0u, NOWHERE);
    for (var i = 0u; i < 16u; i++) {
        let other = vec2u(joined_keys[i], joined_places[i]);
        if (before(other, first)) { first = other; }
    }
    return first;
}
