//! A pack against a map, on a file in memory that can die at any write.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use proptest::prelude::{Strategy, any, prop, proptest};

use super::{GRAIN, Pack, Storage, Trouble};

/// A file in memory. After `writes` more changes it takes none; it never grows past `room`.
#[derive(Clone, Debug)]
struct Memory {
    bytes: Rc<RefCell<Vec<u8>>>,
    writes: Rc<Cell<usize>>,
    room: u64,
}

impl Memory {
    fn new() -> Self {
        Self { bytes: Rc::default(), writes: Rc::new(Cell::new(usize::MAX)), room: u64::MAX }
    }

    fn change(&self) -> Result<(), Trouble> {
        let left = self.writes.get().checked_sub(1);
        self.writes.set(left.ok_or(Trouble { reason: "the tab died".to_owned(), full: false })?);
        Ok(())
    }
}

impl Storage for Memory {
    fn len(&self) -> Result<u64, Trouble> {
        Ok(self.bytes.borrow().len() as u64)
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<usize, Trouble> {
        let bytes = self.bytes.borrow();
        let there = bytes.get(at as usize..).unwrap_or_default();
        let len = there.len().min(into.len());
        into[..len].copy_from_slice(&there[..len]);
        Ok(len)
    }

    fn write(&self, at: u64, from: &[u8]) -> Result<(), Trouble> {
        let end = at as usize + from.len();
        if end as u64 > self.room {
            return Err(Trouble { reason: "QuotaExceededError".to_owned(), full: true });
        }
        self.change()?;
        let mut bytes = self.bytes.borrow_mut();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[at as usize..end].copy_from_slice(from);
        Ok(())
    }

    fn truncate(&self, len: u64) -> Result<(), Trouble> {
        self.change()?;
        self.bytes.borrow_mut().truncate(len as usize);
        Ok(())
    }

    fn flush(&self) -> Result<(), Trouble> {
        Ok(())
    }
}

/// The bytes of a block, which its name tells.
fn content(name: u8, len: usize) -> Vec<u8> {
    vec![name; len]
}

fn names(pack: &Pack<Memory>) -> Vec<u8> {
    let mut names: Vec<u8> = pack.blocks.keys().map(|name| name[0]).collect();
    names.sort_unstable();
    names
}

#[test]
fn blocks_are_found_again_in_a_file_that_is_opened_again() {
    let memory = Memory::new();
    let mut pack = Pack::open(memory.clone(), 1 << 20).expect("empty");
    assert!(pack.put(b"a", &content(1, 5000), 1).expect("written"));
    assert!(pack.put(b"b", &[], 1).expect("written"));
    assert!(pack.put(b"a", &content(9, 9), 1).expect("known"), "a name says what the bytes are");
    pack.flush().expect("kept");
    let mut pack = Pack::open(memory, 1 << 20).expect("there");
    assert_eq!(pack.holds(), (2, 5000));
    assert_eq!(pack.get(b"a", 2).expect("read"), Some(content(1, 5000)));
    assert_eq!(pack.get(b"b", 2).expect("read"), Some(Vec::new()));
    assert_eq!(pack.get(b"c", 2).expect("read"), None);
    assert_eq!([b"a", b"b", b"c"].map(|name| pack.has(name)), [true, true, false]);
}

#[test]
fn the_longest_unused_go_and_their_room_is_used_again() {
    let memory = Memory::new();
    let mut pack = Pack::open(memory.clone(), 4 * GRAIN).expect("empty");
    for name in 1..=4 {
        assert!(pack.put(&[name], &content(name, 1000), u64::from(name)).expect("written"));
    }
    let full = memory.len().expect("known");
    pack.get(&[1], 10_000_000).expect("read");
    assert!(pack.put(&[5], &content(5, 1000), 10_000_001).expect("written"));
    assert_eq!(names(&pack), [1, 3, 4, 5], "the second was used before all others");
    assert_eq!(memory.len().expect("known"), full);
    assert!(!pack.put(&[6], &content(6, 5 * GRAIN as usize), 1).expect("nothing written"), "more than there is room");
    assert_eq!(names(&pack), [1, 3, 4, 5]);
    let pack = Pack::open(memory, 4 * GRAIN).expect("there");
    assert_eq!(names(&pack), [1, 3, 4, 5]);
    assert_eq!(pack.blocks[&[1][..]].used, 10_000_000, "uses are written down");
}

#[test]
fn a_browser_that_gives_less_than_it_promised_is_believed() {
    let memory = Memory { room: 3 * GRAIN, ..Memory::new() };
    let mut pack = Pack::open(memory, 1 << 20).expect("empty");
    assert!(pack.put(&[1], &content(1, 4000), 1).expect("written"));
    assert!(pack.put(&[2], &content(2, 4000), 2).expect("written"));
    assert!(pack.put(&[3], &content(3, 4000), 3).expect_err("no room").full);
    assert_eq!(names(&pack), [1, 2]);
    assert!(pack.put(&[3], &content(3, 4000), 3).expect("in another's place"));
    assert!(pack.get(&[3], 3).expect("read").is_some() && pack.get(&[1], 3).expect("read").is_none());
}

#[test]
fn what_is_no_pack_is_emptied_and_damage_ends_the_file() {
    let memory = Memory::new();
    memory.write(0, &[7; 10_000]).expect("written");
    let mut pack = Pack::open(memory.clone(), 1 << 20).expect("emptied");
    assert_eq!(pack.holds(), (0, 0));
    for name in 1..=3 {
        pack.put(&[name], &content(name, 100), 1).expect("written");
    }
    memory.write(16 + GRAIN + 8, &[0xff; 8]).expect("damaged");
    let mut pack = Pack::open(memory.clone(), 1 << 20).expect("shortened");
    assert_eq!(names(&pack), [1]);
    assert!(pack.put(&[2], &content(2, 100), 1).expect("written"));
    assert_eq!(names(&Pack::open(memory, 1 << 20).expect("there")), [1, 2]);
}

#[derive(Clone, Debug)]
enum Deed {
    Put(u8, usize),
    Get(u8),
    Remove(u8),
    Reopen,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop::strategy::Union::new([
        (0..12u8, 0..3 * GRAIN as usize).prop_map(|(name, len)| Deed::Put(name, len)).boxed(),
        (0..12u8).prop_map(Deed::Get).boxed(),
        (0..12u8).prop_map(Deed::Remove).boxed(),
        any::<bool>().prop_map(|_| Deed::Reopen).boxed(),
    ])
}

proptest! {
    /// Whatever is done, and at whatever write the tab dies: what is there is whole, and nothing overlaps.
    #[test]
    fn what_is_named_is_whole(deeds in prop::collection::vec(deed(), 1..60), dies in 0..200usize) {
        let limit = 12 * GRAIN;
        let memory = Memory::new();
        memory.writes.set(dies);
        let mut lengths = HashMap::new();
        let mut pack = Pack::open(memory.clone(), limit);
        for (now, deed) in deeds.into_iter().enumerate() {
            let Ok(open) = &mut pack else { break };
            let now = now as u64 * 1_000_000;
            let done = match deed {
                Deed::Put(name, len) => {
                    // A block has one length for ever, as if its name were its hash.
                    let len = *lengths.entry(name).or_insert(len);
                    open.put(&[name], &content(name, len), now).map(drop)
                }
                Deed::Get(name) => open.get(&[name], now).map(|found| {
                    assert!(found.is_none_or(|bytes| bytes == content(name, lengths[&name])));
                }),
                Deed::Remove(name) => open.remove(&[name]),
                Deed::Reopen => {
                    let before = names(open);
                    let (again, len) = (Pack::open(memory.clone(), limit), open.end);
                    if let Ok(again) = &again {
                        assert_eq!((names(again), again.end), (before, len));
                    }
                    pack = again;
                    continue;
                }
            };
            assert!(open.live <= limit);
            if done.is_err() {
                break;
            }
        }
        memory.writes.set(usize::MAX);
        let mut pack = Pack::open(memory, limit).expect("opens after any death");
        for name in names(&pack) {
            assert!(pack.has(&[name]));
            assert_eq!(pack.get(&[name], 0).expect("read"), Some(content(name, lengths[&name])));
        }
    }
}
