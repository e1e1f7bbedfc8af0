//! The processor as a browser offers it: the kernels' module, its memory, and the threads that share it.
//!
//! `static/kernels.js` chooses and opens the module. Weights, activations and steps live in its memory only; this side
//! decides where ([`Arena`]), copies inputs in and outputs out, and calls.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use futures::lock::Mutex;
use js_sys::{Array, ArrayBuffer, Promise, Uint8Array};
use tabpool_engine::EngineError;
use tabpool_engine::cpu::tabpool_kernels::weights::Rows;
use tabpool_engine::cpu::tabpool_kernels::{Step, TileSize};
use tabpool_engine::cpu::{Arena, CpuBackend, Placement, Processor};
use wasm_bindgen::prelude::{JsCast, JsValue, wasm_bindgen};
use wasm_bindgen_futures::{JsFuture, spawn_local};

use crate::navigator::thrown;
use crate::timers::sleep;

/// How long the kernels are exercised once they are open, in slices between which whatever else has come is done: enough for browsers
/// to find that they deserve to be compiled well, which they then do beside the load.
const WARM_UP: Duration = Duration::from_millis(60);
/// One slice, and the milliseconds before it, in which a tab goes on with joining and loading. Browsers make short ones four.
const WARM_UP_SLICE: Duration = Duration::from_millis(4);
const WARM_UP_REST: u32 = 1;

/// Bytes of a page of WebAssembly memory.
const PAGE: usize = 65536;

/// Growing takes a moment, and more so where threads share the memory: it is done in steps of this many pages at least.
const LEAST_GROWTH: usize = 16;

#[wasm_bindgen(raw_module = "./kernels.js")]
extern "C" {
    #[wasm_bindgen(js_name = hasRelaxedSimd)]
    pub(crate) fn has_relaxed_simd() -> bool;
    #[wasm_bindgen(js_name = canShareMemory)]
    pub(crate) fn can_share_memory() -> bool;
    /// How many threads are used where so many are wanted, or where nobody says how many (0).
    #[wasm_bindgen(js_name = threadsHere)]
    fn threads_here(wanted: u32) -> u32;
    #[wasm_bindgen(js_name = stackBytes)]
    fn stack_bytes() -> usize;
    /// Has a thread of the kernels that has nothing else to do yet touch memory.
    #[wasm_bindgen(js_name = touchAside)]
    fn touch_aside(address: usize, bytes: usize);
    #[wasm_bindgen(js_name = openKernels, catch)]
    async fn open_kernels(relaxed: bool, threads: u32) -> Result<JsValue, JsValue>;
}

#[wasm_bindgen]
extern "C" {
    type Opened;
    #[wasm_bindgen(method, getter)]
    fn exports(this: &Opened) -> Exports;
    #[wasm_bindgen(method, getter)]
    fn memory(this: &Opened) -> Memory;
    /// A promise of an array of helpers.
    #[wasm_bindgen(method, getter)]
    fn helpers(this: &Opened) -> Promise;

    type Memory;
    #[wasm_bindgen(method, getter)]
    fn buffer(this: &Memory) -> ArrayBuffer;
    #[wasm_bindgen(method, catch)]
    fn grow(this: &Memory, pages: usize) -> Result<usize, JsValue>;

    type Helper;
    #[wasm_bindgen(method)]
    fn join(this: &Helper, lane: usize, stack: usize);
    #[wasm_bindgen(method)]
    fn end(this: &Helper);

    /// The module's own functions.
    type Exports;
    #[wasm_bindgen(method, getter, js_name = "__heap_base")]
    fn heap_base(this: &Exports) -> Global;
    #[wasm_bindgen(method, catch)]
    fn tile_rows(this: &Exports) -> Result<usize, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn tile_columns(this: &Exports) -> Result<usize, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn step_bytes(this: &Exports) -> Result<usize, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn place(
        this: &Exports,
        stored: u32,
        bytes: usize,
        len: usize,
        first: usize,
        row: usize,
        turned: u32,
        address: usize,
        words: usize,
    ) -> Result<u32, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn alike(this: &Exports, address: usize, words: usize, k: usize) -> Result<u32, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn execute(this: &Exports, address: usize, count: usize) -> Result<u32, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn rouse(this: &Exports) -> Result<(), JsValue>;

    type Global;
    #[wasm_bindgen(method, getter)]
    fn value(this: &Global) -> usize;
}

/// Which of the module's builds is wanted, and how many threads. What is left open, the browser decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelChoice {
    /// Whether with relaxed SIMD.
    pub(crate) relaxed: Option<bool>,
    /// How many threads.
    pub(crate) threads: Option<NonZeroU32>,
}

impl KernelChoice {
    /// Reads the page's words: `simd128` or `relaxed-simd`, and a number, either of which may be empty.
    pub(crate) fn parse(kernels: &str, threads: &str) -> Result<Self, String> {
        let relaxed = match kernels {
            "" => None,
            "simd128" => Some(false),
            "relaxed-simd" => Some(true),
            other => return Err(format!("no kernels are called {other:?}: there are simd128 and relaxed-simd")),
        };
        let threads = match threads {
            "" => None,
            number => Some(number.parse().map_err(|_| format!("threads must be a number from 1 on, not {number:?}"))?),
        };
        Ok(Self { relaxed, threads })
    }

    /// What will be opened here: the instructions, and how many threads.
    pub(crate) fn here(self) -> (bool, u32) {
        let threads = threads_here(self.threads.map_or(0, NonZeroU32::get));
        (self.relaxed.unwrap_or_else(has_relaxed_simd), threads)
    }
}

/// The name of a build's instructions.
pub(crate) fn instructions(relaxed: bool) -> &'static str {
    if relaxed { "relaxed-simd" } else { "simd128" }
}

/// `1 thread`, `2 threads`.
pub(crate) fn count_of_threads(threads: usize) -> String {
    format!("{threads} thread{}", if threads == 1 { "" } else { "s" })
}

/// Opens the kernels.
///
/// # Errors
/// [`EngineError::Device`] where the module does not come, does not compile, or is another build's.
pub(crate) async fn open_cpu(choice: KernelChoice) -> Result<CpuBackend, EngineError> {
    let (relaxed, threads) = choice.here();
    let fail = |reason: String| EngineError::Device { doing: "opening the CPU kernels".to_owned(), reason };
    let opened: Opened = open_kernels(relaxed, threads).await.map_err(|e| fail(thrown(&e)))?.unchecked_into();
    let exports = opened.exports();
    let asked = || -> Result<_, JsValue> {
        let tile = TileSize { rows: exports.tile_rows()?, columns: exports.tile_columns()? };
        Ok((tile, exports.step_bytes()?))
    };
    let (tile, step_bytes) = asked().map_err(|e| fail(thrown(&e)))?;
    if step_bytes != size_of::<Step>() {
        let reason = format!("they are of another build: a step has {step_bytes} bytes, not {}", size_of::<Step>());
        return Err(fail(reason));
    }
    let memory = opened.memory();
    let arena = Arena::new(exports.heap_base().value(), memory.buffer().byte_length() as usize);
    let kernels = Rc::new(Kernels {
        relaxed,
        exports,
        memory,
        tile,
        starting: RefCell::new(Some(opened.helpers())),
        assembling: Mutex::new(()),
        helpers: RefCell::default(),
        arena: RefCell::new(arena),
        staging: Cell::default(),
        broken: RefCell::default(),
    });
    spawn_local(warm_up(Rc::clone(&kernels)));
    Ok(CpuBackend::on(kernels))
}

/// Exercises the kernels before somebody needs them.
async fn warm_up(kernels: Rc<Kernels>) {
    let aside = CpuBackend::on(Rc::clone(&kernels) as Rc<dyn Processor>);
    let mut left = WARM_UP;
    while let Some(rest) = left.checked_sub(WARM_UP_SLICE) {
        left = rest;
        sleep(WARM_UP_REST).await;
        // Once a program is whole it will be run, which exercises them better. Where something is broken, whoever runs it is told.
        if kernels.starting.borrow().is_none() || aside.warm_up(WARM_UP_SLICE).await.is_err() {
            return;
        }
    }
}

/// The open kernels.
struct Kernels {
    relaxed: bool,
    exports: Exports,
    memory: Memory,
    tile: TileSize,
    /// Helpers that have not joined yet.
    starting: RefCell<Option<Promise>>,
    /// Lets one task at a time wait for them; the others wait until they have joined.
    assembling: Mutex<()>,
    helpers: RefCell<Vec<Helper>>,
    arena: RefCell<Arena>,
    /// Where blocks of weights wait to be put in place: address and bytes.
    staging: Cell<(usize, usize)>,
    /// Why nothing can be executed any more.
    broken: RefCell<Option<String>>,
}

impl Kernels {
    /// A view of memory. Made anew each time: growing replaces the buffer.
    fn view(&self, address: usize, len: usize) -> Uint8Array {
        // Both are below 2^32, as all addresses here.
        Uint8Array::new_with_byte_offset_and_length(&self.memory.buffer(), address as u32, len as u32)
    }

    fn check(&self, doing: &str, result: Result<u32, JsValue>) -> Result<(), EngineError> {
        match result {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.lost(doing, "a thread of the kernels was lost")),
            Err(e) => Err(self.lost(doing, &thrown(&e))),
        }
    }

    /// After a trap, or with a thread lost, memory cannot be trusted.
    fn lost(&self, doing: &str, why: &str) -> EngineError {
        let reason = format!("{doing}: {why}");
        *self.broken.borrow_mut() = Some(reason.clone());
        EngineError::DeviceLost { reason }
    }

    fn whole(&self) -> Result<(), EngineError> {
        match &*self.broken.borrow() {
            Some(reason) => Err(EngineError::DeviceLost { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Room for a block on its way into place. Blocks are cut to one size at most, so this grows once or twice.
    fn stage(&self, bytes: &[u8]) -> Result<usize, EngineError> {
        let (address, room) = self.staging.get();
        if room >= bytes.len() {
            return Ok(address);
        }
        self.staging.take();
        if room > 0 {
            self.arena.borrow_mut().give(address, room);
        }
        let address = self.allocate(bytes.len(), "placing weights")?;
        self.staging.set((address, bytes.len()));
        Ok(address)
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        for helper in self.helpers.get_mut() {
            helper.end();
        }
        if let Some(starting) = self.starting.take() {
            // Nobody waits for these any more, but they must not stay.
            spawn_local(async move {
                for helper in arrived(starting).await {
                    helper.end();
                }
            });
        }
    }
}

/// The helpers that came up.
async fn arrived(starting: Promise) -> Vec<Helper> {
    // The promise cannot fail: a helper that does not come up is left out.
    let helpers = JsFuture::from(starting).await.map(|helpers| Array::from(&helpers)).unwrap_or_default();
    helpers.iter().map(JsCast::unchecked_into).collect()
}

// SAFETY: the arena gives out each stretch of the module's memory once, from the end of its statics on, at cache lines, and
// what was used before is filled with zeros.
unsafe impl Processor for Kernels {
    fn description(&self) -> String {
        format!("wasm {}, {}", instructions(self.relaxed), count_of_threads(self.threads()))
    }

    fn tile(&self) -> TileSize {
        self.tile
    }

    fn threads(&self) -> usize {
        self.helpers.borrow().len() + 1
    }

    fn assembled(&self) -> LocalBoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async {
            let _turn = self.assembling.lock().await;
            let Some(starting) = self.starting.take() else { return Ok(()) };
            let helpers = arrived(starting).await;
            for (helper, lane) in helpers.iter().zip(1..) {
                let stack = self.allocate(stack_bytes(), "starting threads")?;
                // A stack grows downwards from its end.
                helper.join(lane, stack + stack_bytes());
            }
            *self.helpers.borrow_mut() = helpers;
            Ok(())
        })
    }

    fn expect(&self, bytes: usize) {
        let mut arena = self.arena.borrow_mut();
        let missing = bytes.saturating_sub(arena.free_bytes());
        // Where it is refused, whoever needs it is told.
        if missing > 0
            && let Ok(pages_before) = self.memory.grow(missing.div_ceil(PAGE))
        {
            arena.grown(self.memory.buffer().byte_length() as usize);
            touch_aside(pages_before * PAGE, missing);
        }
    }

    fn touch(&self, address: usize, bytes: usize) {
        self.view(address, bytes).fill(0, 0, bytes as u32);
    }

    fn rouse(&self) {
        // Nothing can go wrong in it; where the module is broken, whatever runs next says so.
        let _ = self.exports.rouse();
    }

    fn allocate(&self, bytes: usize, doing: &str) -> Result<usize, EngineError> {
        let fail = |reason: String| EngineError::OutOfMemory { doing: doing.to_owned(), reason };
        let mut arena = self.arena.borrow_mut();
        let taken = match arena.take(bytes) {
            Some(taken) => taken,
            None => {
                let missing = arena.missing(bytes).ok_or_else(|| fail(format!("{bytes} bytes cannot be addressed")))?;
                let pages = missing.div_ceil(PAGE);
                // Where the generous step is refused, the needed one may not be.
                let grown = self.memory.grow(pages.max(LEAST_GROWTH)).or_else(|_| self.memory.grow(pages));
                grown.map_err(|e| fail(format!("{pages} pages of wasm memory: {}", thrown(&e))))?;
                arena.grown(self.memory.buffer().byte_length() as usize);
                arena.take(bytes).ok_or_else(|| fail(format!("{bytes} bytes after growing")))?
            }
        };
        self.view(taken.address, taken.stale).fill(0, 0, taken.stale as u32);
        Ok(taken.address)
    }

    unsafe fn free(&self, address: usize, bytes: usize) {
        self.arena.borrow_mut().give(address, bytes);
    }

    unsafe fn write(&self, address: usize, bytes: *const u8, len: usize) {
        let own: ArrayBuffer = wasm_bindgen::memory().unchecked_into::<Memory>().buffer();
        // JavaScript reads this module's memory, so padding without a value is nothing to worry about.
        let from = Uint8Array::new_with_byte_offset_and_length(&own, bytes.addr() as u32, len as u32);
        self.view(address, len).set(&from, 0);
    }

    unsafe fn read(&self, address: usize, bytes: &mut [u8]) {
        self.view(address, bytes.len()).copy_to(bytes);
    }

    unsafe fn place(&self, placement: Placement, bytes: &[u8]) -> Result<(), EngineError> {
        self.whole()?;
        let staged = self.stage(bytes)?;
        self.view(staged, bytes.len()).copy_from(bytes);
        let Placement { stored, first, packed, address, len } = placement;
        let (row, turned) = match packed {
            None => (0, 0),
            Some(Rows::Of(row)) => (row, 0),
            Some(Rows::Turned(row)) => (row, 1),
        };
        let (stored, count) = (stored as u32, bytes.len());
        self.check("placing weights", self.exports.place(stored, staged, count, first, row, turned, address, len))
    }

    unsafe fn columns_alike(&self, address: usize, len: usize, k: usize) -> Result<bool, EngineError> {
        self.whole()?;
        let alike = self.exports.alike(address, len, k);
        alike.map(|alike| alike == 1).map_err(|e| self.lost("looking at weights", &thrown(&e)))
    }

    unsafe fn execute(&self, address: usize, count: usize) -> Result<(), EngineError> {
        self.whole()?;
        self.check("executing a program", self.exports.execute(address, count))
    }
}
