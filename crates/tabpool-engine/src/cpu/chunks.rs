//! This process's memory for weights and activations, in chunks that the system may back with large pages.
//!
//! A run reads every weight once, and an encoder has tens of megabytes of them: with pages of four kilobytes the
//! processor looks up more translations than it can remember, and its prefetching ends at every page. What is taken therefore lies
//! close together in chunks for which Linux is asked to use pages of two megabytes; elsewhere chunks are ordinary memory.

use std::alloc::{Layout, alloc, dealloc};

use super::arena::Arena;

/// A large page of x86-64 and of most of ARM.
const LARGE_PAGE: usize = 2 << 20;

/// The smallest chunk. Pages nobody has taken anything of are not backed by memory.
const LEAST_BYTES: usize = 32 << 20;

/// Stretches of memory in use, and where there is room for more.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    chunks: Vec<Chunk>,
}

/// Memory of the allocator's.
#[derive(Debug)]
struct Chunk {
    address: usize,
    layout: Layout,
    /// What of it is free.
    arena: Arena,
    /// How many stretches were taken and not given back.
    taken: usize,
}

impl Chunks {
    /// The address of zeroed memory that begins at a cache line; `None` where the system has no more.
    pub(super) fn take(&mut self, bytes: usize) -> Option<usize> {
        let room = self.chunks.iter_mut().find_map(|chunk| chunk.take(bytes));
        let address = match room {
            Some(address) => address,
            None => {
                let mut chunk = Chunk::new(bytes)?;
                let address = chunk.take(bytes)?;
                self.chunks.push(chunk);
                address
            }
        };
        // SAFETY: the stretch was just taken, of memory that is as long and nobody else's.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write_bytes(0, bytes) };
        Some(address)
    }

    /// Gives memory back. A chunk that is all free goes back to the system.
    ///
    /// # Safety
    /// The address came from [`take`](Self::take) for as many bytes, and nothing uses it any more.
    pub(super) unsafe fn give(&mut self, address: usize, bytes: usize) {
        let owner = self.chunks.iter().position(|chunk| chunk.holds(address));
        debug_assert!(owner.is_some(), "memory at {address:#x} was never given out");
        let Some(owner) = owner else { return };
        let chunk = &mut self.chunks[owner];
        chunk.arena.give(address, bytes);
        chunk.taken -= 1;
        if chunk.taken == 0 {
            self.chunks.swap_remove(owner);
        }
    }
}

impl Chunk {
    /// Memory with room for one stretch of so many bytes at least.
    fn new(bytes: usize) -> Option<Self> {
        let bytes = bytes.max(LEAST_BYTES).checked_next_multiple_of(LARGE_PAGE)?;
        let layout = Layout::from_size_align(bytes, LARGE_PAGE).ok()?;
        // SAFETY: the size is not zero.
        let memory = unsafe { alloc(layout) };
        if memory.is_null() {
            return None;
        }
        #[cfg(target_os = "linux")]
        {
            // Where the system does not do it, everything works as well, and a little slower.
            // SAFETY: the advice is about memory of this chunk's own, and changes nothing that is in it.
            let _ = unsafe { rustix::mm::madvise(memory.cast(), bytes, rustix::mm::Advice::LinuxHugepage) };
        }
        let address = memory.expose_provenance();
        Some(Self { address, layout, arena: Arena::new(address, address + bytes), taken: 0 })
    }

    fn take(&mut self, bytes: usize) -> Option<usize> {
        let taken = self.arena.take(bytes)?;
        self.taken += 1;
        Some(taken.address)
    }

    fn holds(&self, address: usize) -> bool {
        (self.address..self.address + self.layout.size()).contains(&address)
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: this is what was allocated; whoever took a stretch of it holds the processor whose chunk this is.
        unsafe { dealloc(std::ptr::with_exposed_provenance_mut(self.address), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::{Chunks, LEAST_BYTES};

    /// Fills a stretch, so that whoever gets it next sees whether it was zeroed.
    fn fill(address: usize, bytes: usize) {
        let memory = std::ptr::with_exposed_provenance_mut::<u8>(address);
        // SAFETY: the tests fill what they have taken.
        unsafe { memory.write_bytes(0xa5, bytes) };
    }

    fn is_zero(address: usize, bytes: usize) -> bool {
        // SAFETY: as for `fill`.
        let memory = unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(address), bytes) };
        memory.iter().all(|&byte| byte == 0)
    }

    #[test]
    fn memory_is_zeroed_aligned_and_apart_and_chunks_go_when_they_are_free() {
        let mut chunks = Chunks::default();
        let [a, b] = [100, LEAST_BYTES - 4096].map(|bytes| chunks.take(bytes).expect("memory"));
        assert_eq!(chunks.chunks.len(), 1, "both fit into one");
        assert!(a + 100 <= b && a % 64 == 0 && b % 64 == 0, "{a:#x} {b:#x}");
        fill(a, 100);
        // SAFETY: taken above and not used any more.
        unsafe { chunks.give(a, 100) };
        let c = chunks.take(100).expect("memory");
        assert!(c == a && is_zero(c, 100), "given back, then zeroed");
        let large = chunks.take(2 * LEAST_BYTES + 1).expect("memory");
        assert_eq!(chunks.chunks.len(), 2);
        fill(large, 2 * LEAST_BYTES + 1);
        for (address, bytes, left) in [(large, 2 * LEAST_BYTES + 1, 1), (c, 100, 1), (b, LEAST_BYTES - 4096, 0)] {
            // SAFETY: taken above and not used any more.
            unsafe { chunks.give(address, bytes) };
            assert_eq!(chunks.chunks.len(), left);
        }
        assert_eq!(chunks.take(usize::MAX), None);
    }
}
