//! What a block store promises, and the store that lives in memory.
//!
//! A store never hands out bytes that are not the block asked for, and never takes any in: `put` verifies, `get`
//! verifies what has been where others could reach it. Writes may be buffered until [`BlockStore::sync`]; whoever
//! writes a name down for a root (a ref) syncs first.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use cid::Cid;

use crate::address::{Block, MAX_BLOCK_BYTES, VerifyError};

/// Whether a block that was put had been there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The block was not in the store.
    New,
    /// The store held the same block already; nothing was written.
    Known,
}

/// A place that keeps blocks under their CIDs. Calls block the thread; none is slow for a store on a local disk.
pub trait BlockStore: Send + Sync {
    /// The block's bytes, verified; `None` when the store does not hold it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] when what is stored under the CID is not that block; [`StoreError::Io`].
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError>;

    /// What is stored under the CID, not necessarily verified: for whoever hands it on to somebody who verifies it in any case.
    ///
    /// # Errors
    ///
    /// As [`BlockStore::get`].
    fn stored(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
        self.get(cid)
    }

    /// Keeps a block that was already proved to be what its CID says.
    ///
    /// # Errors
    ///
    /// [`StoreError::Full`], [`StoreError::TooLarge`], [`StoreError::Io`].
    fn put_block(&self, block: &Block) -> Result<Stored, StoreError>;

    /// Verifies bytes and keeps them.
    ///
    /// # Errors
    ///
    /// [`StoreError::Verify`] when they are not the block the CID names, otherwise as [`BlockStore::put_block`].
    fn put(&self, cid: &Cid, bytes: &Bytes) -> Result<Stored, StoreError> {
        refuse_large(cid, bytes.len())?;
        self.put_block(&Block::verified(*cid, bytes.clone())?)
    }

    /// Whether the store holds something under this CID. Cheap: the bytes are not read, so not verified either.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    fn contains(&self, cid: &Cid) -> Result<bool, StoreError>;

    /// Forgets a block. `false` when the store did not hold it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    fn remove(&self, cid: &Cid) -> Result<bool, StoreError>;

    /// Every block held, with its size in bytes, in no particular order.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    fn list(&self) -> Result<Vec<(Cid, u64)>, StoreError>;

    /// Returns once every block put before is safe from a crash of the machine.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    fn sync(&self) -> Result<(), StoreError>;
}

/// What a block store cannot do, and for which block or file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The bytes to be stored are not the block they were said to be.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A file in the store does not hold the block it is named after.
    #[error("block {cid} is corrupted on disk: {} holds other bytes", path.display())]
    Corrupt {
        /// The block asked for.
        cid: Box<Cid>,
        /// The file that should hold it.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was being done, as in `read` or `create folder`.
        action: &'static str,
        /// The file or folder it was done to.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A bounded store has no room left.
    #[error("block {cid} of {needed} bytes does not fit: {used} of {limit} bytes are in use")]
    Full {
        /// The block.
        cid: Box<Cid>,
        /// Its size.
        needed: u64,
        /// Bytes the store holds.
        used: u64,
        /// Bytes it may hold.
        limit: u64,
    },
    /// A block is larger than blocks may be.
    #[error("block {cid} has {len} bytes; blocks are limited to {MAX_BLOCK_BYTES}")]
    TooLarge {
        /// The block.
        cid: Box<Cid>,
        /// Its size in bytes.
        len: u64,
    },
}

impl StoreError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Corrupt { path, .. } => Some(format!(
                "delete {} and add the model again; blocks that are whole are kept, not copied",
                path.display()
            )),
            Self::Full { .. } => Some("raise the store's limit or remove models that are no longer needed".into()),
            Self::Io { source, path, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull => Some("free some disk space, or choose another data folder".into()),
                std::io::ErrorKind::PermissionDenied => {
                    Some(format!("check who owns {} and that it may be written", path.display()))
                }
                _ => None,
            },
            _ => None,
        }
    }
}

pub(crate) fn refuse_large(cid: &Cid, len: usize) -> Result<(), StoreError> {
    if len > MAX_BLOCK_BYTES {
        return Err(StoreError::TooLarge { cid: Box::new(*cid), len: len as u64 });
    }
    Ok(())
}

/// A store in memory, bounded by the bytes it holds: for tests, and for workers without a disk.
#[derive(Debug)]
pub struct MemoryStore {
    limit: u64,
    held: RwLock<Held>,
}

#[derive(Debug, Default)]
struct Held {
    used: u64,
    blocks: HashMap<Cid, Bytes>,
}

impl MemoryStore {
    /// A store that holds at most `limit` bytes of blocks.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { limit, held: RwLock::default() }
    }

    /// How many bytes of blocks it holds.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.read().used
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Held> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockStore for MemoryStore {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
        Ok(self.read().blocks.get(cid).cloned())
    }

    fn put_block(&self, block: &Block) -> Result<Stored, StoreError> {
        let (cid, needed) = (*block.cid(), block.bytes().len() as u64);
        refuse_large(&cid, block.bytes().len())?;
        let mut held = self.write();
        if held.blocks.contains_key(&cid) {
            return Ok(Stored::Known);
        }
        if needed > self.limit - held.used {
            return Err(StoreError::Full { cid: Box::new(cid), needed, used: held.used, limit: self.limit });
        }
        held.used += needed;
        held.blocks.insert(cid, block.bytes().clone());
        Ok(Stored::New)
    }

    fn contains(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.read().blocks.contains_key(cid))
    }

    fn remove(&self, cid: &Cid) -> Result<bool, StoreError> {
        let mut held = self.write();
        let Some(bytes) = held.blocks.remove(cid) else { return Ok(false) };
        held.used -= bytes.len() as u64;
        Ok(true)
    }

    fn list(&self) -> Result<Vec<(Cid, u64)>, StoreError> {
        Ok(self.read().blocks.iter().map(|(cid, bytes)| (*cid, bytes.len() as u64)).collect())
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_store_verifies_counts_and_is_bounded() {
        let store = MemoryStore::new(10);
        let block = Block::raw(Bytes::from_static(b"12345678"));
        assert_eq!(store.put(block.cid(), block.bytes()).expect("fits"), Stored::New);
        assert_eq!(store.put_block(&block).expect("known"), Stored::Known);
        assert_eq!(store.used(), 8);

        let wrong = store.put(block.cid(), &Bytes::from_static(b"87654321"));
        assert!(matches!(wrong, Err(StoreError::Verify(VerifyError::Mismatch { .. }))));
        let more = store.put_block(&Block::raw(Bytes::from_static(b"123")));
        assert!(matches!(more, Err(StoreError::Full { needed: 3, used: 8, limit: 10, .. })), "{more:?}");

        assert!(store.remove(block.cid()).expect("no I/O"));
        assert!(!store.remove(block.cid()).expect("no I/O"));
        assert_eq!((store.used(), store.get(block.cid()).expect("no I/O")), (0, None));
    }

    #[test]
    fn a_block_over_two_mebibytes_is_refused() {
        let store = MemoryStore::new(u64::MAX);
        let block = Block::raw(Bytes::from(vec![0; MAX_BLOCK_BYTES + 1]));
        assert!(matches!(store.put_block(&block), Err(StoreError::TooLarge { .. })));
        assert!(matches!(store.put(block.cid(), block.bytes()), Err(StoreError::TooLarge { .. })));
    }
}
