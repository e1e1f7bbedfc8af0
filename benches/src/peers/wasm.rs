//! A WebAssembly module that does nothing but arithmetic, or nothing but reading memory: for the most that a browser can do
//! on this machine, measured in the same run.
//!
//! Assembled here byte by byte: a compiler would see that nobody wants the results. Each function takes how often its loop
//! runs, and returns a number that depends on all of it.

/// Vectors that a loop of arithmetic works on at once: enough to hide the latency of one multiplication and addition, few
/// enough to stay in registers.
const LANES: u8 = 10;
/// Repetitions of the whole set within the loop's body, so that counting it costs nothing.
const UNROLLED: u8 = 4;
/// Pages of the module's memory, of 64 KiB: 256 MiB, more than any processor's caches. Whoever measures fills it first: the
/// system gives memory that nobody has written as one page of zeros again and again, which a cache holds.
const PAGES: u16 = 4096;
/// Bytes one turn of the reading loop reads.
const STRIDE: u8 = 64;

/// Floating-point operations in one turn of the arithmetic loop.
pub(super) const OPERATIONS: f64 = LANES as f64 * UNROLLED as f64 * 4.0 * 2.0;
/// Bytes in one call to `read` with a count of one: the whole memory.
pub(super) const BYTES: f64 = PAGES as f64 * 65536.0;

/// How a multiplication and an addition are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    /// `f32x4.mul`, then `f32x4.add`.
    Separate,
    /// `f32x4.relaxed_madd`. An engine without relaxed SIMD rejects the module.
    Relaxed,
}

mod op {
    pub(super) const BLOCK: u8 = 0x02;
    pub(super) const LOOP: u8 = 0x03;
    pub(super) const END: u8 = 0x0b;
    pub(super) const BR_IF: u8 = 0x0d;
    pub(super) const LOCAL_GET: u8 = 0x20;
    pub(super) const LOCAL_SET: u8 = 0x21;
    pub(super) const LOCAL_TEE: u8 = 0x22;
    pub(super) const I32_CONST: u8 = 0x41;
    pub(super) const I32_EQZ: u8 = 0x45;
    pub(super) const I32_LT_U: u8 = 0x49;
    pub(super) const I32_ADD: u8 = 0x6a;
    pub(super) const I32_SUB: u8 = 0x6b;
    pub(super) const SIMD: u8 = 0xfd;
    pub(super) const V128_LOAD: [u8; 4] = [SIMD, 0x00, 4, 0];
    pub(super) const SPLAT: [u8; 2] = [SIMD, 0x13];
    pub(super) const EXTRACT: [u8; 3] = [SIMD, 0x1f, 0];
    pub(super) const ADD: [u8; 3] = [SIMD, 0xe4, 0x01];
    pub(super) const MUL: [u8; 3] = [SIMD, 0xe6, 0x01];
    pub(super) const MADD: [u8; 3] = [SIMD, 0x85, 0x02];
    pub(super) const F32_CONST: u8 = 0x43;
}

const I32: u8 = 0x7f;
const F32: u8 = 0x7d;
const V128: u8 = 0x7b;
const EMPTY: u8 = 0x40;

/// The module: functions `arithmetic` and `read`, each from a count to a float.
pub(super) fn module(arithmetic: Arithmetic) -> Vec<u8> {
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    section(&mut module, 1, &[1, 0x60, 1, I32, 1, F32]);
    section(&mut module, 3, &[2, 0, 0]);
    let mut memory = vec![1, 0];
    unsigned(&mut memory, u32::from(PAGES));
    section(&mut module, 5, &memory);
    let mut exports = vec![3];
    vector(&mut exports, b"memory");
    exports.extend([2, 0]);
    for (index, name) in [(0, "arithmetic"), (1, "read")] {
        vector(&mut exports, name.as_bytes());
        exports.extend([0, index]);
    }
    section(&mut module, 7, &exports);
    let mut code = vec![2];
    vector(&mut code, &arithmetic_body(arithmetic));
    vector(&mut code, &read_body());
    section(&mut module, 10, &code);
    module
}

/// Locals: 0 counts down, 1 and 2 are factors, the others are the lanes.
fn arithmetic_body(arithmetic: Arithmetic) -> Vec<u8> {
    let mut body = vec![1, LANES + 2, V128];
    // Lanes begin apart: of equal ones a compiler would keep one.
    let lanes = (0..LANES).map(|lane| (3 + lane, f32::from(lane) * 0.125));
    for (local, value) in [(1, 0.999_f32), (2, 0.001)].into_iter().chain(lanes) {
        body.push(op::F32_CONST);
        body.extend(value.to_le_bytes());
        body.extend(op::SPLAT);
        body.extend([op::LOCAL_SET, local]);
    }
    body.extend([op::LOOP, EMPTY]);
    for _ in 0..UNROLLED {
        for lane in 3..3 + LANES {
            match arithmetic {
                // Of a product of the two factors alone there would be one for all turns.
                Arithmetic::Separate => {
                    body.extend([op::LOCAL_GET, lane, op::LOCAL_GET, 1]);
                    body.extend(op::MUL);
                    body.extend([op::LOCAL_GET, 2]);
                    body.extend(op::ADD);
                }
                // The lane is what is added to, as in a product of matrices: Firefox moves it first otherwise.
                Arithmetic::Relaxed => {
                    body.extend([op::LOCAL_GET, 1, op::LOCAL_GET, 2, op::LOCAL_GET, lane]);
                    body.extend(op::MADD);
                }
            }
            body.extend([op::LOCAL_SET, lane]);
        }
    }
    body.extend([op::LOCAL_GET, 0, op::I32_CONST, 1, op::I32_SUB, op::LOCAL_TEE, 0, op::BR_IF, 0, op::END]);
    body.extend([op::LOCAL_GET, 3]);
    for lane in 4..3 + LANES {
        body.extend([op::LOCAL_GET, lane]);
        body.extend(op::ADD);
    }
    body.extend(op::EXTRACT);
    body.push(op::END);
    body
}

/// Locals: 0 counts down, 1 is the address, 2 to 5 are sums.
fn read_body() -> Vec<u8> {
    let mut body = vec![2, 1, I32, 4, V128];
    body.extend([op::BLOCK, EMPTY, op::LOOP, EMPTY]);
    body.extend([op::LOCAL_GET, 0, op::I32_EQZ, op::BR_IF, 1]);
    body.extend([op::I32_CONST, 0, op::LOCAL_SET, 1, op::LOOP, EMPTY]);
    for part in 0..4 {
        let sum = 2 + part;
        body.extend([op::LOCAL_GET, sum, op::LOCAL_GET, 1]);
        let mut load = op::V128_LOAD;
        load[3] = part * 16;
        body.extend(load);
        body.extend(op::ADD);
        body.extend([op::LOCAL_SET, sum]);
    }
    body.extend([op::LOCAL_GET, 1, op::I32_CONST]);
    signed(&mut body, i64::from(STRIDE));
    body.extend([op::I32_ADD, op::LOCAL_TEE, 1, op::I32_CONST]);
    signed(&mut body, i64::from(PAGES) * 65536);
    body.extend([op::I32_LT_U, op::BR_IF, 0, op::END]);
    body.extend([op::LOCAL_GET, 0, op::I32_CONST, 1, op::I32_SUB, op::LOCAL_SET, 0]);
    // Back to the outer loop as long as the count is not used up; the test stands at its head.
    body.extend([op::I32_CONST, 1, op::BR_IF, 0, op::END, op::END]);
    body.extend([op::LOCAL_GET, 2]);
    for sum in 3..6 {
        body.extend([op::LOCAL_GET, sum]);
        body.extend(op::ADD);
    }
    body.extend(op::EXTRACT);
    body.push(op::END);
    body
}

fn section(module: &mut Vec<u8>, id: u8, content: &[u8]) {
    module.push(id);
    vector(module, content);
}

/// Bytes behind their count.
fn vector(into: &mut Vec<u8>, bytes: &[u8]) {
    unsigned(into, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    into.extend(bytes);
}

fn unsigned(into: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        into.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn signed(into: &mut Vec<u8>, mut value: i64) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if (value == 0 && byte & 0x40 == 0) || (value == -1 && byte & 0x40 != 0) {
            into.push(byte);
            return;
        }
        into.push(byte | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::{Arithmetic, module, signed, unsigned};

    #[test]
    fn numbers_are_in_the_variable_length_encoding() {
        let encoded = |value| {
            let mut bytes = Vec::new();
            signed(&mut bytes, value);
            bytes
        };
        // 64 has the sign's bit of one byte set, so it takes two.
        assert_eq!(
            [encoded(1), encoded(64), encoded(-1), encoded(128)],
            [vec![1], vec![0xc0, 0], vec![0x7f], vec![0x80, 1]]
        );
        let mut bytes = Vec::new();
        unsigned(&mut bytes, 624_485);
        assert_eq!(bytes, [0xe5, 0x8e, 0x26]);
    }

    #[test]
    fn sections_fill_the_module_to_its_end() {
        for arithmetic in [Arithmetic::Separate, Arithmetic::Relaxed] {
            let module = module(arithmetic);
            let mut at = 8;
            let mut ids = Vec::new();
            while at < module.len() {
                ids.push(module[at]);
                let (mut length, mut shift) = (0usize, 0);
                loop {
                    at += 1;
                    length |= usize::from(module[at] & 0x7f) << shift;
                    shift += 7;
                    if module[at] & 0x80 == 0 {
                        break;
                    }
                }
                at += 1 + length;
            }
            assert_eq!((at, ids), (module.len(), vec![1, 3, 5, 7, 10]));
        }
    }
}
