//! Which parts of a memory that may grow are free: the kernels allocate nothing themselves, and a backend's weights lie better
//! close together.
//!
//! Best fit over free stretches, which are joined with their neighbours when they are given back. Weights and activations
//! are few and large, so the list stays short.

use std::collections::BTreeMap;

/// Everything begins at a cache line.
const LINE: usize = 64;

/// The free parts of a memory.
#[derive(Debug)]
pub struct Arena {
    /// Free stretches: where each begins, and its bytes.
    free: BTreeMap<usize, usize>,
    /// Where the memory ends.
    end: usize,
    /// What lies beyond was never given out and is still zero.
    used: usize,
}

/// A stretch of memory that was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Where it begins.
    pub address: usize,
    /// The bytes at its beginning that were in use before, and are not zero.
    pub stale: usize,
}

impl Arena {
    /// A memory of `end` bytes whose first `start` bytes are somebody else's.
    #[must_use]
    pub fn new(start: usize, end: usize) -> Self {
        let mut arena = Self { free: BTreeMap::new(), end, used: start.next_multiple_of(LINE) };
        if arena.used < end {
            arena.free.insert(arena.used, end - arena.used);
        }
        arena
    }

    /// Takes memory, `None` where there is none; see [`missing`](Self::missing).
    pub fn take(&mut self, bytes: usize) -> Option<Taken> {
        let bytes = rounded(bytes)?;
        let fits = self.free.iter().filter(|(_, len)| **len >= bytes).min_by_key(|(at, len)| (**len, **at));
        let (&address, &len) = fits?;
        self.free.remove(&address);
        if len > bytes {
            self.free.insert(address + bytes, len - bytes);
        }
        let stale = self.used.saturating_sub(address).min(bytes);
        self.used = self.used.max(address + bytes);
        Some(Taken { address, stale })
    }

    /// Bytes that are free, be they in one piece or not.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.free.values().sum()
    }

    /// How many bytes the memory must grow by before so many can be taken; `None` where that is more than can be counted.
    #[must_use]
    pub fn missing(&self, bytes: usize) -> Option<usize> {
        let last = self.free.last_key_value().filter(|(at, len)| *at + *len == self.end).map_or(0, |(_, len)| *len);
        Some(rounded(bytes)?.saturating_sub(last))
    }

    /// The memory has grown.
    pub fn grown(&mut self, end: usize) {
        let (start, bytes) = (self.end, end.saturating_sub(self.end));
        self.end = self.end.max(end);
        self.insert(start, bytes);
    }

    /// Gives back what was taken for as many bytes.
    pub fn give(&mut self, address: usize, bytes: usize) {
        // What could be taken could be rounded.
        self.insert(address, rounded(bytes).unwrap_or(bytes));
    }

    fn insert(&mut self, mut address: usize, mut bytes: usize) {
        if bytes == 0 {
            return;
        }
        if let Some(after) = self.free.remove(&(address + bytes)) {
            bytes += after;
        }
        if let Some((&before, &len)) = self.free.range(..address).next_back()
            && before + len == address
        {
            address = before;
            bytes += len;
        }
        self.free.insert(address, bytes);
    }
}

fn rounded(bytes: usize) -> Option<usize> {
    bytes.max(1).checked_next_multiple_of(LINE)
}

#[cfg(test)]
mod tests {
    use super::{Arena, Taken};

    fn address(taken: Option<Taken>) -> Option<usize> {
        taken.map(|t| t.address)
    }

    #[test]
    fn stretches_are_cut_joined_and_taken_where_they_fit_best() {
        let mut arena = Arena::new(1000, 2048);
        let [a, b, c] = [100, 64, 200].map(|bytes| arena.take(bytes).expect("room"));
        assert_eq!([a.address, b.address, c.address], [1024, 1152, 1216]);
        assert_eq!(arena.missing(600), Some(640 - (2048 - 1472)));
        assert_eq!(arena.free_bytes(), 2048 - 1472);
        arena.give(a.address, 100);
        arena.give(c.address, 200);
        assert_eq!(address(arena.take(128)), Some(1024), "the smallest that fits");
        arena.give(1024, 128);
        arena.give(b.address, 64);
        assert_eq!(address(arena.take(1024)), Some(1024), "all is one again");
        assert_eq!(arena.take(1), None);
    }

    #[test]
    fn memory_grows_at_its_end_and_says_what_is_stale() {
        let mut arena = Arena::new(0, 64);
        let first = arena.take(64).expect("room");
        assert_eq!(first, Taken { address: 0, stale: 0 });
        assert_eq!((arena.take(100), arena.missing(100)), (None, Some(128)));
        arena.grown(64 + 192);
        assert_eq!(arena.take(100), Some(Taken { address: 64, stale: 0 }));
        assert_eq!(arena.missing(128), Some(64), "what is free at the end counts");
        arena.give(64, 100);
        assert_eq!(arena.take(192), Some(Taken { address: 64, stale: 128 }));
        arena.give(0, 64);
        assert_eq!(arena.take(1), Some(Taken { address: 0, stale: 64 }));
        assert_eq!(arena.missing(usize::MAX), None);
    }
}
