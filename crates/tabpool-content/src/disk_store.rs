//! The block store on disk: one file a block, named after its CID.
//!
//! Layout of the folder: `xy/<cid>` where `xy` are the CID's last two characters (its first ones are alike for all), and
//! `tmp/` for files being written. A file appears under its final name only whole, by renaming. Nothing is flushed while blocks arrive, since
//! a flush per block would take seconds a model; [`BlockStore::sync`] flushes all at once, on several threads. What a
//! crash leaves half-written before that is found by its hash, and replaced when the block is put again.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cid::Cid;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::address::{Block, MAX_BLOCK_BYTES, supported, verify};
use crate::store::{BlockStore, StoreError, Stored, refuse_large};

/// Temporary files older than this belong to a process that is gone. Younger ones may be another process at work.
const STALE_AFTER: Duration = Duration::from_secs(3600);
/// How many blocks may wait to be flushed before `put` flushes them itself.
const MAX_UNSYNCED: usize = 4096;

/// Blocks in a folder. Several processes may use one folder at the same time.
#[derive(Debug)]
pub struct DiskStore {
    folder: PathBuf,
    /// Makes the names of temporary files unique among processes, also among those that reuse a process id.
    run: u128,
    written: AtomicU64,
    unsynced: Mutex<BTreeSet<Cid>>,
    /// Held while flushing, so that a second `sync` does not return before the first has flushed what it took.
    syncing: Mutex<()>,
}

impl DiskStore {
    /// Opens the store in `folder` (usually `blocks/` in the data folder), making it where needed, and sweeps temporary
    /// files that an earlier process left.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let folder = folder.into();
        let run = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let store =
            Self { folder, run, written: AtomicU64::new(0), unsynced: Mutex::default(), syncing: Mutex::default() };
        let tmp = store.tmp();
        fs::create_dir_all(&tmp).map_err(io("create folder", &tmp))?;
        for entry in fs::read_dir(&tmp).map_err(io("list", &tmp))? {
            let path = entry.map_err(io("list", &tmp))?.path();
            // A file that another process renames or sweeps meanwhile is no concern of ours.
            let Ok(modified) = fs::metadata(&path).and_then(|metadata| metadata.modified()) else { continue };
            if modified.elapsed().is_ok_and(|age| age > STALE_AFTER) {
                remove_if_there(&path)?;
            }
        }
        Ok(store)
    }

    /// The folder the blocks are in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file that holds, or would hold, a block.
    #[must_use]
    pub fn path_of(&self, cid: &Cid) -> PathBuf {
        let name = cid.to_string();
        self.folder.join(shard(&name)).join(name)
    }

    fn corrupt(&self, cid: &Cid) -> StoreError {
        StoreError::Corrupt { cid: Box::new(*cid), path: self.path_of(cid) }
    }

    fn tmp(&self) -> PathBuf {
        self.folder.join("tmp")
    }

    fn unsynced(&self) -> MutexGuard<'_, BTreeSet<Cid>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, block: &Block, path: &Path) -> Result<(), StoreError> {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let tmp = self.tmp().join(format!("{}-{}-{number}", std::process::id(), self.run));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&tmp)
            .and_then(|mut file| file.write_all(block.bytes()))
            .map_err(io("write", &tmp))
            .and_then(|()| rename(&tmp, path));
        if written.is_err() {
            // The first error is the one to report; what cannot be removed now is swept later.
            let _ = fs::remove_file(&tmp);
        }
        written
    }
}

impl BlockStore for DiskStore {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
        let Some(bytes) = self.stored(cid)? else { return Ok(None) };
        verify(cid, &bytes).map_err(|_| self.corrupt(cid))?;
        Ok(Some(bytes))
    }

    fn stored(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
        supported(cid)?;
        let Some(bytes) = read_block(&self.path_of(cid))? else { return Ok(None) };
        bytes.map(Some).ok_or_else(|| self.corrupt(cid))
    }

    fn put_block(&self, block: &Block) -> Result<Stored, StoreError> {
        refuse_large(block.cid(), block.bytes().len())?;
        let path = self.path_of(block.cid());
        // A file with other bytes was damaged; it is replaced, which is how a store heals.
        let known = read_block(&path)?.flatten().is_some_and(|bytes| bytes == block.bytes());
        if !known {
            self.write(block, &path)?;
        }
        // A known block may have been written by a process that ended before it flushed.
        let waiting = {
            let mut unsynced = self.unsynced();
            unsynced.insert(*block.cid());
            unsynced.len()
        };
        if waiting >= MAX_UNSYNCED {
            self.sync()?;
        }
        Ok(if known { Stored::Known } else { Stored::New })
    }

    fn contains(&self, cid: &Cid) -> Result<bool, StoreError> {
        let path = self.path_of(cid);
        path.try_exists().map_err(io("look for", &path))
    }

    fn remove(&self, cid: &Cid) -> Result<bool, StoreError> {
        remove_if_there(&self.path_of(cid))
    }

    fn list(&self) -> Result<Vec<(Cid, u64)>, StoreError> {
        let mut blocks = Vec::new();
        for shard in fs::read_dir(&self.folder).map_err(io("list", &self.folder))? {
            let shard = shard.map_err(io("list", &self.folder))?.path();
            if !shard.is_dir() {
                continue;
            }
            for file in fs::read_dir(&shard).map_err(io("list", &shard))? {
                let file = file.map_err(io("list", &shard))?;
                // Temporary files, and what others may have put here, do not have a CID for a name.
                let Some(cid) = file.file_name().to_str().and_then(|name| Cid::try_from(name).ok()) else { continue };
                match file.metadata() {
                    Ok(metadata) => blocks.push((cid, metadata.len())),
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(io("look at", &file.path())(error)),
                }
            }
        }
        Ok(blocks)
    }

    fn sync(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let cids = std::mem::take(&mut *self.unsynced());
        if cids.is_empty() {
            return Ok(());
        }
        let files: Vec<_> = cids.iter().map(|cid| self.path_of(cid)).collect();
        let folders: BTreeSet<_> = files.iter().filter_map(|file| file.parent()).collect();
        let folders: Vec<_> = folders.into_iter().chain([self.folder.as_path()]).collect();
        let flushed = files
            .par_iter()
            .try_for_each(|file| flush_file(file))
            .and_then(|()| folders.par_iter().try_for_each(|folder| flush_folder(folder)));
        if flushed.is_err() {
            self.unsynced().extend(cids);
        }
        flushed
    }
}

fn shard(name: &str) -> &str {
    // CIDs are ASCII and far longer than two characters.
    &name[name.len().saturating_sub(2)..]
}

/// A block file's bytes: the outer `None` where there is no file, the inner where it is too large to be a block.
#[expect(clippy::option_option, reason = "absent and oversized are different findings, each used by a caller")]
fn read_block(path: &Path) -> Result<Option<Option<Bytes>>, StoreError> {
    let read = || {
        if fs::metadata(path)?.len() > MAX_BLOCK_BYTES as u64 {
            return Ok(None);
        }
        fs::read(path).map(|bytes| Some(Bytes::from(bytes)))
    };
    match read() {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("read", path)(error)),
    }
}

/// Renames, making the shard's folder the first time it is needed.
fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder).map_err(io("create folder", folder))?;
            }
            fs::rename(from, to).map_err(io("rename a new file to", to))
        }
        result => result.map_err(io("rename a new file to", to)),
    }
}

fn remove_if_there(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io("remove", path)(error)),
    }
}

/// Flushes a file; one that was removed meanwhile needs no flushing.
fn flush_file(path: &Path) -> Result<(), StoreError> {
    // Opened for writing because Windows flushes no others.
    match OpenOptions::new().write(true).open(path).and_then(|file| file.sync_all()) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.map_err(io("flush", path)),
    }
}

/// Flushes a folder's list of names. Only Unix has such a call; elsewhere names are flushed with the file.
pub(crate) fn flush_folder(path: &Path) -> Result<(), StoreError> {
    if cfg!(unix) {
        File::open(path).and_then(|folder| folder.sync_all()).map_err(io("flush folder", path))
    } else {
        Ok(())
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, DiskStore) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = DiskStore::open(folder.path().join("blocks")).expect("opens");
        (folder, store)
    }

    fn block(bytes: &'static [u8]) -> Block {
        Block::raw(Bytes::from_static(bytes))
    }

    #[test]
    fn blocks_outlive_the_store_that_wrote_them() {
        let (folder, store) = store();
        let block = block(b"weights");
        assert_eq!(store.put_block(&block).expect("written"), Stored::New);
        assert_eq!(store.put(block.cid(), block.bytes()).expect("known"), Stored::Known);
        store.sync().expect("flushed");
        drop(store);

        let store = DiskStore::open(folder.path().join("blocks")).expect("opens again");
        assert_eq!(store.get(block.cid()).expect("reads").as_ref(), Some(block.bytes()));
        assert_eq!(store.list().expect("lists"), [(*block.cid(), 7)]);
        assert!(store.contains(block.cid()).expect("looks"));
        assert!(store.remove(block.cid()).expect("removes"));
        assert!(!store.remove(block.cid()).expect("is gone"));
        assert_eq!(store.get(block.cid()).expect("looks"), None);
        assert_eq!(fs::read_dir(store.tmp()).expect("lists").count(), 0);
    }

    #[test]
    fn a_damaged_file_is_named_and_healed_by_putting_the_block_again() {
        let (_folder, store) = store();
        let block = block(b"weights");
        store.put_block(&block).expect("written");
        let path = store.path_of(block.cid());
        for damage in [&b"weighty"[..], b"weigh", b"", &[0; MAX_BLOCK_BYTES + 1]] {
            fs::write(&path, damage).expect("damaged");
            let error = store.get(block.cid()).expect_err("other bytes");
            assert!(matches!(&error, StoreError::Corrupt { path: named, .. } if *named == path), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains(&*path.to_string_lossy())));
            assert_eq!(store.put_block(&block).expect("healed"), Stored::New);
            assert!(store.get(block.cid()).expect("whole").is_some());
        }
    }

    #[test]
    fn only_stale_temporary_files_are_swept() {
        let (folder, store) = store();
        let (stale, fresh) = (store.tmp().join("1-1-1"), store.tmp().join("2-2-2"));
        for path in [&stale, &fresh] {
            fs::write(path, b"half a blo").expect("written");
        }
        let old = SystemTime::now() - STALE_AFTER - Duration::from_secs(1);
        File::options().write(true).open(&stale).and_then(|file| file.set_modified(old)).expect("aged");

        let store = DiskStore::open(folder.path().join("blocks")).expect("opens");
        assert!(!stale.exists(), "nobody can be writing it any more");
        assert!(fresh.exists(), "another process may be writing it");
        assert_eq!(store.list().expect("lists"), [], "neither is a block");
    }

    #[test]
    fn wrong_bytes_leave_no_file_behind() {
        let (_folder, store) = store();
        let cid = *block(b"weights").cid();
        assert!(matches!(store.put(&cid, &Bytes::from_static(b"other")), Err(StoreError::Verify(_))));
        assert!(!store.contains(&cid).expect("looks"));
    }

    #[test]
    fn threads_may_put_the_same_block_at_once() {
        let (_folder, store) = store();
        let block = block(b"weights");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    store.put_block(&block).expect("written");
                    store.sync().expect("flushed");
                });
            }
        });
        assert_eq!(store.get(block.cid()).expect("reads").as_ref(), Some(block.bytes()));
    }
}
