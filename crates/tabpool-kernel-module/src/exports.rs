//! What JavaScript calls. Addresses and lengths are trusted: whoever instantiates this module owns its memory.

use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use core::slice;
use core::sync::atomic::AtomicU32;

use tabpool_kernels::team::{Park, Team};
use tabpool_kernels::weights::{self, Rows, Stored};
use tabpool_kernels::{Isa, Step, columns_alike};

/// The one team of this module's memory. All instances that share the memory share it.
static TEAM: Team = Team::new();

/// A panic is a bug, and ends the instance: JavaScript sees the trap.
#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

/// Waiting as JavaScript does it. WebAssembly's own instruction for it is not stable in Rust yet.
struct Atomics;

#[cfg(feature = "shared")]
mod imports {
    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        /// `Atomics.wait` for the word at an address; for ever where `milliseconds` is negative.
        pub(super) safe fn park(address: usize, seen: u32, milliseconds: i32);
        /// `Atomics.notify` for everybody.
        pub(super) safe fn wake(address: usize);
        /// `performance.now` in microseconds, modulo 2^32.
        pub(super) safe fn micros() -> u32;
    }
}

impl Park for Atomics {
    #[cfg(feature = "shared")]
    fn wait(&self, word: &AtomicU32, seen: u32, milliseconds: u32) {
        imports::park(core::ptr::from_ref(word).addr(), seen, i32::try_from(milliseconds).unwrap_or(-1));
    }

    #[cfg(feature = "shared")]
    fn wake(&self, word: &AtomicU32) {
        imports::wake(core::ptr::from_ref(word).addr());
    }

    /// One thread waits for nobody.
    #[cfg(not(feature = "shared"))]
    fn wait(&self, _: &AtomicU32, _: u32, _: u32) {}

    #[cfg(not(feature = "shared"))]
    fn wake(&self, _: &AtomicU32) {}

    #[cfg(feature = "shared")]
    fn micros(&self) -> u32 {
        imports::micros()
    }

    #[cfg(not(feature = "shared"))]
    fn micros(&self) -> u32 {
        0
    }

    fn gives_up(&self) -> bool {
        // The memory is this team's alone, and is of no more use with it.
        true
    }
}

/// Rows of a tile.
#[unsafe(no_mangle)]
extern "C" fn tile_rows() -> usize {
    Isa::detect().tile().rows
}

/// Columns of a tile.
#[unsafe(no_mangle)]
extern "C" fn tile_columns() -> usize {
    Isa::detect().tile().columns
}

/// The bytes of a step, for the runtime to see that it was built from the same source.
#[unsafe(no_mangle)]
extern "C" fn step_bytes() -> usize {
    size_of::<Step>()
}

/// Widens bytes of a weight into place; `row` is how long its rows are where it is packed, 0 where it is not, and `turned` is not
/// 0 where it is stored the other way round. Gives 0, or 1 where `stored` is no way to store weights.
///
/// # Safety
/// The addresses are those of as many bytes and words, and the part lies inside the weight.
#[unsafe(no_mangle)]
unsafe extern "C" fn place(
    stored: u32,
    bytes: usize,
    bytes_len: usize,
    first: usize,
    row: usize,
    turned: u32,
    address: usize,
    len: usize,
) -> u32 {
    let Some(stored) = Stored::from_number(stored) else { return 1 };
    // SAFETY: the caller's promise.
    let (bytes, out) = unsafe {
        (
            slice::from_raw_parts(with_exposed_provenance::<u8>(bytes), bytes_len),
            slice::from_raw_parts_mut(with_exposed_provenance_mut::<f32>(address), len),
        )
    };
    if row > 0 {
        let rows = if turned == 0 { Rows::Of(row) } else { Rows::Turned(row) };
        weights::pack(Isa::detect().tile(), stored, bytes, first, rows, out);
    } else {
        weights::widen(stored, bytes, &mut out[first..][..bytes_len / stored.size()]);
    }
    0
}

/// Whether the columns of a packed weight of `k` rows may be added: 1 where they are alike in size, 0 where not.
///
/// # Safety
/// The address is that of as many words.
#[unsafe(no_mangle)]
unsafe extern "C" fn alike(address: usize, len: usize, k: usize) -> u32 {
    // SAFETY: the caller's promise.
    let packed = unsafe { slice::from_raw_parts(with_exposed_provenance::<f32>(address), len) };
    u32::from(columns_alike(Isa::detect(), packed, k))
}

/// Executes steps, with the helpers there are. Gives 0, or 1 where one of them was lost.
///
/// # Safety
/// The promises of [`Team::lead`].
#[unsafe(no_mangle)]
unsafe extern "C" fn execute(address: usize, count: usize) -> u32 {
    // SAFETY: the caller's promise.
    let led = unsafe {
        let steps = slice::from_raw_parts(with_exposed_provenance::<Step>(address), count);
        TEAM.lead(Isa::detect(), steps, &Atomics)
    };
    u32::from(led.is_err())
}

/// Wakes helpers that sleep: there will be work for them in a moment.
#[unsafe(no_mangle)]
extern "C" fn rouse() {
    TEAM.rouse(&Atomics);
}

/// Helps, as the thread of a lane, for as long as the worker lives, and looks out for work for `patience` microseconds before
/// it sleeps.
///
/// # Safety
/// The promises of [`Team::help`]; this instance's stack is its own.
#[cfg(feature = "shared")]
#[unsafe(no_mangle)]
unsafe extern "C" fn help(lane: usize, patience: u32) {
    // SAFETY: the caller's promise.
    unsafe { TEAM.help(Isa::detect(), lane, patience, &Atomics) };
}

/// A helper trapped: whoever waits for it need not.
#[cfg(feature = "shared")]
#[unsafe(no_mangle)]
extern "C" fn abandon() {
    TEAM.abandon(&Atomics);
}
