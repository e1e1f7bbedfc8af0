//! What a cache of blocks holds, and what goes when there is no room. Names and lengths only; `opfs` has the files.

use std::collections::HashMap;

/// The index of a cache, bounded by bytes.
#[derive(Debug)]
pub(crate) struct Shelf {
    limit: u64,
    bytes: u64,
    blocks: HashMap<String, Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    len: u64,
    /// When it was last used, in milliseconds of any one clock.
    used: u64,
}

impl Shelf {
    /// An empty shelf for so many bytes.
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, bytes: 0, blocks: HashMap::new() }
    }

    /// How many blocks and bytes are here.
    pub(crate) fn holds(&self) -> (u32, u64) {
        (u32::try_from(self.blocks.len()).unwrap_or(u32::MAX), self.bytes)
    }

    /// A block is here, or was used.
    pub(crate) fn note(&mut self, name: &str, len: u64, used: u64) {
        match self.blocks.get_mut(name) {
            Some(place) => {
                self.bytes = self.bytes - place.len + len;
                *place = Place { len, used: used.max(place.used) };
            }
            None => {
                self.bytes += len;
                self.blocks.insert(name.to_owned(), Place { len, used });
            }
        }
    }

    /// A block is gone.
    pub(crate) fn forget(&mut self, name: &str) {
        if let Some(place) = self.blocks.remove(name) {
            self.bytes -= place.len;
        }
    }

    /// The browser gives less room than it promised: what is here now is all there is.
    pub(crate) fn shrink(&mut self) {
        self.limit = self.limit.min(self.bytes);
    }

    /// Which blocks must go for another of `len` bytes to find room, the longest unused first; `None` where none would
    /// make room enough. A tenth of the limit is freed at once, so that a full cache does not look for victims at
    /// every block.
    pub(crate) fn victims(&self, len: u64) -> Option<Vec<String>> {
        if len > self.limit {
            return None;
        }
        if self.bytes + len <= self.limit {
            return Some(Vec::new());
        }
        let goal = (self.limit - self.limit / 10).min(self.limit - len);
        let mut oldest: Vec<(&String, &Place)> = self.blocks.iter().collect();
        oldest.sort_by_key(|(name, place)| (place.used, *name));
        let mut left = self.bytes;
        let mut victims = Vec::new();
        for (name, place) in oldest {
            if left <= goal {
                break;
            }
            left -= place.len;
            victims.push(name.clone());
        }
        Some(victims)
    }
}

#[cfg(test)]
mod tests {
    use super::Shelf;

    #[test]
    fn the_longest_unused_go_first_and_a_tenth_is_freed() {
        let mut shelf = Shelf::new(100);
        for (name, used) in [("a", 3), ("b", 1), ("c", 2)] {
            shelf.note(name, 30, used);
        }
        assert_eq!(shelf.holds(), (3, 90));
        assert_eq!(shelf.victims(10), Some(Vec::new()));
        assert_eq!(shelf.victims(11), Some(vec!["b".to_owned()]));
        assert_eq!(shelf.victims(60), Some(vec!["b".to_owned(), "c".to_owned()]));
        shelf.note("b", 30, 9);
        assert_eq!(shelf.victims(11), Some(vec!["c".to_owned()]));
        assert_eq!(shelf.victims(101), None);
    }

    #[test]
    fn a_block_counts_once_and_only_while_it_is_here() {
        let mut shelf = Shelf::new(100);
        shelf.note("a", 30, 1);
        shelf.note("a", 40, 2);
        assert_eq!(shelf.holds(), (1, 40));
        shelf.forget("b");
        shelf.forget("a");
        shelf.forget("a");
        assert_eq!(shelf.holds(), (0, 0));
    }

    #[test]
    fn a_shelf_that_was_told_there_is_no_room_makes_room_first() {
        let mut shelf = Shelf::new(100);
        shelf.note("a", 30, 1);
        shelf.note("b", 20, 2);
        shelf.shrink();
        assert_eq!(shelf.victims(10), Some(vec!["a".to_owned()]));
        assert_eq!(shelf.victims(60), None);
    }
}
