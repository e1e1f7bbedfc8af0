//! Where kernels run: this process, or a WebAssembly module apart from the one this code is in.
//!
//! A processor has memory of its own, named by addresses. Natively those are addresses of this process; in a browser the
//! kernels are another module's, built with instructions and shared memory that the runtime's module does not have.

use std::rc::Rc;

use futures::future::LocalBoxFuture;
use tabpool_kernels::weights::{Rows, Stored};
use tabpool_kernels::{Step, TileSize};

use crate::backend::EngineError;

/// Where a part of a weight goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// How the bytes are stored.
    pub stored: Stored,
    /// Which of the weight's elements the bytes begin with.
    pub first: usize,
    /// How it lies as stored, where it is packed as a right operand; `None` where it stays row-major.
    pub packed: Option<Rows>,
    /// Where the weight's memory begins.
    pub address: usize,
    /// How many words it has.
    pub len: usize,
}

/// Memory, and threads that execute steps in it.
///
/// # Safety
/// [`allocate`](Self::allocate) gives memory of the length asked for, zeroed, aligned to 64 bytes, that is nobody else's
/// until it is freed.
pub unsafe trait Processor {
    /// What this is, for people: `AVX-512, 2 threads`.
    fn description(&self) -> String;

    /// How the kernels tile products.
    fn tile(&self) -> TileSize;

    /// How many threads execute steps. It may grow until [`assembled`](Self::assembled), and does not change after it.
    fn threads(&self) -> usize;

    /// Waits for threads that are still being started. Weights can be brought into place before; steps that were made for
    /// fewer threads must not be executed after.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`] where there is no room for the threads.
    fn assembled(&self) -> LocalBoxFuture<'_, Result<(), EngineError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// So many bytes will be allocated in a moment: room can be made for them beside whatever else is done.
    fn expect(&self, _bytes: usize) {}

    /// Has the system give the pages of memory that was just allocated, where it would otherwise do so only once they are used: what
    /// every run uses is made at the load. The memory's contents are still zeros.
    fn touch(&self, _address: usize, _bytes: usize) {}

    /// Wakes threads that sleep, where that takes time: there will be steps to execute in a moment.
    fn rouse(&self) {}

    /// The address of new memory, zeroed.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`], saying what needed it.
    fn allocate(&self, bytes: usize, doing: &str) -> Result<usize, EngineError>;

    /// Gives memory back.
    ///
    /// # Safety
    /// The address came from [`allocate`](Self::allocate) for as many bytes, and nothing uses it any more.
    unsafe fn free(&self, address: usize, bytes: usize);

    /// Copies bytes of this process into memory. They may be of any type, padding included.
    ///
    /// # Safety
    /// Both sides have `len` bytes; nothing else uses the memory meanwhile.
    unsafe fn write(&self, address: usize, bytes: *const u8, len: usize);

    /// Copies memory into bytes of this process.
    ///
    /// # Safety
    /// The memory is there and initialised; nothing writes it meanwhile.
    unsafe fn read(&self, address: usize, bytes: &mut [u8]);

    /// Widens a part of a weight into its place.
    ///
    /// # Errors
    /// [`EngineError::DeviceLost`] where the kernels failed.
    ///
    /// # Safety
    /// The placement's memory is a weight's of this processor, and the part lies inside it.
    unsafe fn place(&self, placement: Placement, bytes: &[u8]) -> Result<(), EngineError>;

    /// Whether columns of a packed weight of `k` rows are [alike enough](tabpool_kernels::columns_alike) to be added.
    ///
    /// # Errors
    /// [`EngineError::DeviceLost`] where the kernels failed.
    ///
    /// # Safety
    /// The memory is all of such a weight, an even number of panels, and nothing writes it meanwhile.
    unsafe fn columns_alike(&self, address: usize, len: usize, k: usize) -> Result<bool, EngineError>;

    /// Executes steps in order; they are over when this returns.
    ///
    /// # Errors
    /// [`EngineError::DeviceLost`] where the kernels or one of their threads failed. Nothing more can be executed then.
    ///
    /// # Safety
    /// `count` steps were written to the address; all that they name is living memory of this processor that nobody else
    /// uses meanwhile, operands apart from results, with a lane of scratch memory for each thread.
    unsafe fn execute(&self, address: usize, count: usize) -> Result<(), EngineError>;
}

/// Memory of a processor, given back when this is dropped.
pub(crate) struct Region {
    processor: Rc<dyn Processor>,
    address: usize,
    bytes: usize,
}

impl Region {
    /// Zeroed words.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`].
    pub(crate) fn words(processor: &Rc<dyn Processor>, words: usize, doing: &str) -> Result<Self, EngineError> {
        let bytes = words.max(1).checked_mul(4).ok_or_else(|| EngineError::OutOfMemory {
            doing: doing.to_owned(),
            reason: format!("{words} words are more than can be addressed"),
        })?;
        let address = processor.allocate(bytes, doing)?;
        Ok(Self { processor: Rc::clone(processor), address, bytes })
    }

    /// Zeroed words that a run needs not wait for.
    ///
    /// # Errors
    /// As for [`words`](Self::words).
    pub(crate) fn ready(processor: &Rc<dyn Processor>, words: usize, doing: &str) -> Result<Self, EngineError> {
        let region = Self::words(processor, words, doing)?;
        processor.touch(region.address, region.bytes);
        Ok(region)
    }

    /// A copy of steps.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`].
    pub(crate) fn of_steps(processor: &Rc<dyn Processor>, steps: &[Step]) -> Result<Self, EngineError> {
        let bytes = size_of_val(steps);
        let region = Self::words(processor, bytes.div_ceil(4), "keeping a program's steps")?;
        // SAFETY: the region is as long as the steps, which are here to be read, and new.
        unsafe { processor.write(region.address, steps.as_ptr().cast(), bytes) };
        Ok(region)
    }

    /// Whether this is memory of that processor.
    pub(crate) fn is_of(&self, processor: &Rc<dyn Processor>) -> bool {
        Rc::ptr_eq(&self.processor, processor)
    }

    pub(crate) fn address(&self) -> usize {
        self.address
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: this region's own memory; whoever has addresses into it holds the region.
        unsafe { self.processor.free(self.address, self.bytes) };
    }
}
