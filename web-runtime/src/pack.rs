//! Many blocks in one file, because opening a file is what a browser's private file system is slow at: tens of milliseconds
//! in Firefox, where reading a megabyte of a file that is open takes one.
//!
//! After [`MAGIC`] the file is a row of extents, each a header and room for bytes, without gaps. An extent is live, and holds
//! a block under its name, or free. New blocks go to the smallest free extent that takes them, or to the end; when
//! there is no room, the blocks that were not used for longest go. Nothing but the headers says what is where: they are read
//! once, at the start.
//!
//! A tab may die between any two writes. Bytes are written before the header that names them, so what is named is whole;
//! a header that makes no sense ends the file. Should bytes rot all the same, whoever reads them notices, because
//! blocks are named by their hash.

use std::collections::{BTreeMap, HashMap};

/// What the file begins with; another version of this layout begins otherwise.
const MAGIC: &[u8; 16] = b"tabpool pack v1\n";
const EXTENT_MAGIC: &[u8; 4] = b"extn";
/// Bytes of an extent's header.
const HEADER: usize = 96;
/// A name's bytes at most: a CID with a 256-bit hash has 36.
const NAME: usize = 64;
/// Extents begin and end on multiples of this, after [`MAGIC`], so that blocks of about the same length fit one another's.
const GRAIN: u64 = 4096;
/// Uses closer together than this are not written down.
const USE_MS: u64 = 10 * 60 * 1000;

/// A file that is open, read and written at once.
pub(crate) trait Storage {
    /// Bytes of the file.
    fn len(&self) -> Result<u64, Trouble>;
    /// Reads from a position on; gives how many bytes there were.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<usize, Trouble>;
    /// Writes all bytes at a position.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Trouble>;
    /// Cuts the file.
    fn truncate(&self, len: u64) -> Result<(), Trouble>;
    /// Brings what was written to the disk.
    fn flush(&self) -> Result<(), Trouble>;
}

/// Why a file could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// For people.
    pub(crate) reason: String,
    /// Whether there was no room.
    pub(crate) full: bool,
}

/// The blocks in a file.
#[derive(Debug)]
pub(crate) struct Pack<S> {
    storage: S,
    /// Bytes of live extents at most.
    limit: u64,
    /// Bytes of live extents.
    live: u64,
    /// Bytes of live blocks.
    bytes: u64,
    blocks: HashMap<Box<[u8]>, Place>,
    /// Free extents and their sizes, by position.
    free: BTreeMap<u64, u64>,
    end: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    at: u64,
    /// Of the extent, header included.
    size: u64,
    len: u32,
    /// When it was last used, in milliseconds of any one clock.
    used: u64,
}

impl<S: Storage> Pack<S> {
    /// Reads what a file holds; one that holds something else is emptied.
    pub(crate) fn open(storage: S, limit: u64) -> Result<Self, Trouble> {
        let len = storage.len()?;
        let mut magic = [0; MAGIC.len()];
        let ours = storage.read(0, &mut magic)? == MAGIC.len() && &magic == MAGIC;
        let end = MAGIC.len() as u64;
        if !ours {
            storage.truncate(0)?;
            storage.write(0, MAGIC)?;
        }
        let mut pack = Self { storage, limit, live: 0, bytes: 0, blocks: HashMap::new(), free: BTreeMap::new(), end };
        while ours && pack.end < len {
            let mut header = [0; HEADER];
            let whole = pack.storage.read(pack.end, &mut header)? == HEADER;
            let extent = Extent::decode(&header).filter(|extent| whole && pack.end + extent.size <= len);
            let Some(extent) = extent else {
                pack.storage.truncate(pack.end)?;
                break;
            };
            pack.found(extent);
        }
        Ok(pack)
    }

    fn found(&mut self, Extent { size, used, block }: Extent) {
        let at = self.end;
        self.end += size;
        match block {
            Some((name, len)) if !self.blocks.contains_key(&name) => {
                self.live += size;
                self.bytes += u64::from(len);
                self.blocks.insert(name, Place { at, size, len, used });
            }
            _ => drop(self.free.insert(at, size)),
        }
    }

    /// How many blocks and bytes are here.
    pub(crate) fn holds(&self) -> (u32, u64) {
        (u32::try_from(self.blocks.len()).unwrap_or(u32::MAX), self.bytes)
    }

    /// Whether a block is here.
    pub(crate) fn has(&self, name: &[u8]) -> bool {
        self.blocks.contains_key(name)
    }

    /// The bytes of a block, which was used `now`.
    pub(crate) fn get(&mut self, name: &[u8], now: u64) -> Result<Option<Vec<u8>>, Trouble> {
        let Some(place) = self.blocks.get_mut(name) else { return Ok(None) };
        let mut bytes = vec![0; place.len as usize];
        if self.storage.read(place.at + HEADER as u64, &mut bytes)? != bytes.len() {
            self.remove(name)?;
            return Ok(None);
        }
        if now.saturating_sub(place.used) >= USE_MS {
            place.used = now;
            let header = Extent::live(place.size, now, name, place.len).encode();
            self.storage.write(place.at, &header)?;
        }
        Ok(Some(bytes))
    }

    /// Keeps a block, if it fits at all. Says whether it is here now.
    pub(crate) fn put(&mut self, name: &[u8], bytes: &[u8], now: u64) -> Result<bool, Trouble> {
        let size = (HEADER as u64 + bytes.len() as u64).next_multiple_of(GRAIN);
        let Ok(len) = u32::try_from(bytes.len()) else { return Ok(false) };
        if name.is_empty() || name.len() > NAME || size > self.limit {
            return Ok(false);
        }
        if self.blocks.contains_key(name) {
            return Ok(true);
        }
        self.make_room(size)?;
        let (at, size) = self.take(size)?;
        let place = Place { at, size, len, used: now };
        let written = self.storage.write(at + HEADER as u64, bytes).and_then(|()| {
            // Up to the next extent, lest the file ends before its last extent does.
            let end = at + HEADER as u64 + bytes.len() as u64;
            if at + size == self.end && end < self.end { self.storage.write(self.end - 1, &[0]) } else { Ok(()) }
        });
        let written = written.and_then(|()| self.storage.write(at, &Extent::live(size, now, name, len).encode()));
        if let Err(trouble) = written {
            if trouble.full {
                // The browser gives less than it promised: what is here now is all there is.
                self.limit = self.limit.min(self.live);
            }
            self.release(at, size)?;
            return Err(trouble);
        }
        self.live += size;
        self.bytes += u64::from(len);
        self.blocks.insert(name.into(), place);
        Ok(true)
    }

    /// Forgets a block.
    pub(crate) fn remove(&mut self, name: &[u8]) -> Result<(), Trouble> {
        let Some(place) = self.blocks.remove(name) else { return Ok(()) };
        self.live -= place.size;
        self.bytes -= u64::from(place.len);
        self.release(place.at, place.size)
    }

    /// Brings what was put to the disk.
    pub(crate) fn flush(&self) -> Result<(), Trouble> {
        self.storage.flush()
    }

    /// Forgets the longest unused blocks until another extent of this size is within the limit. A tenth of the limit is freed
    /// at once, so that a full pack does not look for victims at every block.
    fn make_room(&mut self, size: u64) -> Result<(), Trouble> {
        if self.live + size <= self.limit {
            return Ok(());
        }
        let goal = (self.limit - self.limit / 10).min(self.limit - size);
        let mut oldest: Vec<(u64, Box<[u8]>)> = self.blocks.iter().map(|(name, p)| (p.used, name.clone())).collect();
        oldest.sort_unstable();
        for (_, name) in oldest {
            if self.live <= goal {
                break;
            }
            self.remove(&name)?;
        }
        Ok(())
    }

    /// Takes an extent of this size, or of a little more, out of what is free. Its header is written by the caller.
    fn take(&mut self, size: u64) -> Result<(u64, u64), Trouble> {
        let fitting = self.free.iter().filter(|(_, have)| **have >= size).min_by_key(|(at, have)| (**have, **at));
        let Some((&at, &have)) = fitting else {
            let at = self.end;
            self.end += size;
            return Ok((at, size));
        };
        if have > size {
            // Hidden within the free extent until the header in front of it is written.
            self.storage.write(at + size, &Extent::free(have - size).encode())?;
            self.free.insert(at + size, have - size);
        }
        self.free.remove(&at);
        Ok((at, size))
    }

    /// Gives an extent back, together with its free neighbours; at the end of the file it is cut off.
    fn release(&mut self, mut at: u64, mut size: u64) -> Result<(), Trouble> {
        if let Some(after) = self.free.remove(&(at + size)) {
            size += after;
        }
        if let Some((&before, &len)) = self.free.range(..at).next_back().filter(|(before, len)| **before + **len == at)
        {
            (at, size) = (before, size + len);
            self.free.remove(&before);
        }
        if at + size == self.end {
            self.end = at;
            return self.storage.truncate(at);
        }
        self.free.insert(at, size);
        self.storage.write(at, &Extent::free(size).encode())
    }
}

/// A header, read.
struct Extent {
    size: u64,
    used: u64,
    /// The block's name and length, where it is live.
    block: Option<(Box<[u8]>, u32)>,
}

impl Extent {
    fn free(size: u64) -> Self {
        Self { size, used: 0, block: None }
    }

    fn live(size: u64, used: u64, name: &[u8], len: u32) -> Self {
        Self { size, used, block: Some((name.into(), len)) }
    }

    /// Magic, checksum, size, time of use, length, length of the name, name; numbers are little-endian.
    fn encode(&self) -> [u8; HEADER] {
        let (name, len) = self.block.as_ref().map_or((&[][..], 0), |(name, len)| (&name[..], *len));
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(EXTENT_MAGIC);
        header[8..16].copy_from_slice(&self.size.to_le_bytes());
        header[16..24].copy_from_slice(&self.used.to_le_bytes());
        header[24..28].copy_from_slice(&len.to_le_bytes());
        header[28] = u8::try_from(name.len()).unwrap_or(0);
        header[32..32 + name.len()].copy_from_slice(name);
        let check = checksum(&header[8..]).to_le_bytes();
        header[4..8].copy_from_slice(&check);
        header
    }

    fn decode(header: &[u8; HEADER]) -> Option<Self> {
        let word = |at: usize| header[at..].first_chunk().map(|word| u64::from_le_bytes(*word));
        let short = |at: usize| header[at..].first_chunk().map(|word| u32::from_le_bytes(*word));
        let (size, used, len, name) = (word(8)?, word(16)?, short(24)?, usize::from(header[28]));
        let sound = header.starts_with(EXTENT_MAGIC) && short(4)? == checksum(&header[8..]) && name <= NAME;
        // A size of zero would be read for ever.
        let fits = size > 0 && size.is_multiple_of(GRAIN) && HEADER as u64 + u64::from(len) <= size;
        let block = (name > 0).then(|| (header[32..32 + name].into(), len));
        (sound && fits).then_some(Self { size, used, block })
    }
}

/// FNV-1a: tells a header from chance, not from malice.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests;
