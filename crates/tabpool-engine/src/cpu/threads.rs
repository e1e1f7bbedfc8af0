//! Splitting work over threads: rayon natively, a plain loop in WebAssembly, where the worker is one thread.

#[cfg(not(target_arch = "wasm32"))]
use rayon::prelude::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator, ParallelSliceMut};

use crate::backend::EngineError;

/// The threads of one backend.
pub(crate) struct Threads {
    count: usize,
    #[cfg(not(target_arch = "wasm32"))]
    pool: Option<rayon::ThreadPool>,
}

impl Threads {
    /// # Errors
    /// [`EngineError::Device`] where the operating system gives no threads.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn new(count: usize) -> Result<Self, EngineError> {
        let build = || rayon::ThreadPoolBuilder::new().num_threads(count).thread_name(|n| format!("tabpool-cpu-{n}"));
        let pool = (count > 1)
            .then(|| build().build())
            .transpose()
            .map_err(|e| EngineError::Device { doing: format!("starting {count} threads"), reason: e.to_string() })?;
        Ok(Self { count, pool })
    }

    /// # Errors
    /// None; natively the operating system may refuse.
    #[cfg(target_arch = "wasm32")]
    #[expect(clippy::unnecessary_wraps, reason = "the signature is that of native builds")]
    pub(crate) fn new(_count: usize) -> Result<Self, EngineError> {
        Ok(Self { count: 1 })
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Runs work that will be split, so that each split inside need not wake the threads from outside.
    pub(crate) fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(pool) = &self.pool {
            return pool.install(work);
        }
        work()
    }

    /// Calls `f` for each of `0..tasks`, in any order and on any thread.
    pub(crate) fn each(&self, tasks: usize, f: impl Fn(usize) + Sync) {
        #[cfg(not(target_arch = "wasm32"))]
        if self.pool.is_some() && tasks > 1 {
            (0..tasks).into_par_iter().with_max_len(1).for_each(&f);
            return;
        }
        (0..tasks).for_each(f);
    }

    /// Cuts `out` into pieces of whole rows of `width` and calls `f` with the number of the first row and the piece, in
    /// any order and on any thread. Pieces are large enough to be worth a thread.
    pub(crate) fn rows<T: Send>(&self, out: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        #[cfg(not(target_arch = "wasm32"))]
        if self.pool.is_some() && out.len() >= 2 * SMALLEST_PIECE {
            let rows = (out.len() / width).div_ceil(self.count * 2).max(SMALLEST_PIECE.div_ceil(width));
            out.par_chunks_mut(rows * width).enumerate().for_each(|(i, piece)| f(i * rows, piece));
            return;
        }
        let _ = width;
        f(0, out);
    }
}

/// Elements of the smallest piece handed to another thread: some microseconds of work, as much as waking it costs.
#[cfg(not(target_arch = "wasm32"))]
const SMALLEST_PIECE: usize = 8192;
