//! Blocks kept in the browser's private file system, so that a tab that comes back fetches nothing twice.
//!
//! They lie in one file, a [`Pack`], which this tab opens once and keeps for itself: opening files is what these file systems
//! are slow at. A browser lets one tab at a time have a file, so the second tab of a profile takes the second
//! pack, and fills it with blocks of its own.

use std::cell::{Cell, RefCell};

use async_trait::async_trait;
use bytes::Bytes;
use js_sys::{Date, Promise, Reflect};
use tabpool_content::{Cid, MAX_BLOCK_BYTES};
use tabpool_worker::BlockCache;
use wasm_bindgen::prelude::{JsCast, JsValue, wasm_bindgen};
use web_sys::{
    FileSystemDirectoryHandle, FileSystemFileHandle, FileSystemGetDirectoryOptions, FileSystemGetFileOptions,
    FileSystemReadWriteOptions, FileSystemSyncAccessHandle, StorageEstimate,
};

use crate::navigator::{scope, text, thrown};
use crate::pack::{Pack, Storage, Trouble};
use crate::timers::{sleep, within};

const FOLDER: &str = "packs";
/// Tabs of one profile that keep blocks at most.
const PACKS: usize = 4;
/// How long the browser has to open its file system. One that never answers must not keep a tab from joining.
const OPEN_TIMEOUT_MS: u32 = 5_000;
/// How often the first pack is tried, and the pause between: the tab that was here before this one may still be going.
const TRIES: usize = 8;
const PAUSE_MS: u32 = 50;
/// The share of the browser's quota that is used.
const SHARE_OF_QUOTA: f64 = 0.6;
/// The limit where a browser tells no quota.
const LIMIT_UNTOLD: f64 = (1u64 << 30) as f64;
/// The limit however large the quota is: a pool's tab should not fill a disk.
const LIMIT_MOST: f64 = (32u64 << 30) as f64;

#[wasm_bindgen]
extern "C" {
    /// A file, with the one method that web-sys has only behind its unstable flag.
    type Lockable;
    #[wasm_bindgen(method, catch, js_name = createSyncAccessHandle)]
    fn lock(this: &Lockable) -> Result<Promise, JsValue>;
}

/// The blocks of this tab.
pub(crate) struct Opfs {
    pack: RefCell<Pack<Access>>,
    served: Cell<(u32, u64)>,
    trouble: RefCell<Option<String>>,
}

impl Opfs {
    /// Opens the first pack that no other tab has.
    ///
    /// # Errors
    /// A clause for people: why this browser keeps nothing.
    pub(crate) async fn open() -> Result<Self, String> {
        let storage = scope()
            .navigator()
            .storage()
            .ok_or("this browser lends no storage to this page (private windows and plain http have none)")?;
        let get_directory = Reflect::has(&storage, &JsValue::from_str("getDirectory")).unwrap_or(false);
        if !get_directory {
            return Err("this browser has no private file system".to_owned());
        }
        let root = within(OPEN_TIMEOUT_MS, storage.get_directory()).await.map_err(|e| thrown(&e))?;
        let root: FileSystemDirectoryHandle = root.unchecked_into();
        let create = FileSystemGetDirectoryOptions::new();
        create.set_create(true);
        let folder = root.get_directory_handle_with_options(FOLDER, &create);
        let folder = within(OPEN_TIMEOUT_MS, folder).await.map_err(|e| thrown(&e))?.unchecked_into();
        let quota = match storage.estimate() {
            Ok(promise) => within(OPEN_TIMEOUT_MS, promise).await.ok(),
            Err(_) => None,
        };
        let quota = quota.and_then(|e| e.unchecked_into::<StorageEstimate>().get_quota());
        let limit = quota.map_or(LIMIT_UNTOLD, |q| q * SHARE_OF_QUOTA).clamp(0.0, LIMIT_MOST);
        let access = first_free(&folder).await?;
        let pack = Pack::open(access, limit as u64).map_err(|trouble| trouble.reason)?;
        Ok(Self { pack: RefCell::new(pack), served: Cell::default(), trouble: RefCell::default() })
    }

    /// Blocks and bytes that are here.
    pub(crate) fn holds(&self) -> (u32, u64) {
        self.pack.borrow().holds()
    }

    /// Blocks and bytes that were read.
    pub(crate) fn served(&self) -> (u32, u64) {
        self.served.get()
    }

    /// What last went wrong with keeping blocks.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Gives what was asked for, or notes why not: a cache that fails is no cache, and the load goes on.
    fn noted<T>(&self, result: Result<T, Trouble>) -> Option<T> {
        result.inspect_err(|trouble| *self.trouble.borrow_mut() = Some(trouble.reason.clone())).ok()
    }
}

#[async_trait(?Send)]
impl BlockCache for Opfs {
    async fn get(&self, cid: &Cid) -> Option<Bytes> {
        let found = self.pack.borrow_mut().get(&cid.to_bytes(), Date::now() as u64);
        let bytes = self.noted(found)??;
        let (blocks, total) = self.served.get();
        self.served.set((blocks + 1, total + bytes.len() as u64));
        Some(bytes.into())
    }

    async fn put(&self, cid: &Cid, bytes: &Bytes) {
        if bytes.len() <= MAX_BLOCK_BYTES {
            let kept = self.pack.borrow_mut().put(&cid.to_bytes(), bytes, Date::now() as u64);
            self.noted(kept);
        }
    }

    async fn remove(&self, cid: &Cid) {
        let removed = self.pack.borrow_mut().remove(&cid.to_bytes());
        self.noted(removed);
    }

    async fn settle(&self) {
        let flushed = self.pack.borrow().flush();
        self.noted(flushed);
    }
}

/// The first pack that can be had.
async fn first_free(folder: &FileSystemDirectoryHandle) -> Result<Access, String> {
    let create = FileSystemGetFileOptions::new();
    create.set_create(true);
    let mut reason = String::new();
    for number in 0..PACKS {
        for attempt in 0..if number == 0 { TRIES } else { 1 } {
            if attempt > 0 {
                sleep(PAUSE_MS).await;
            }
            let file = folder.get_file_handle_with_options(&format!("pack-{number}"), &create);
            let file = within(OPEN_TIMEOUT_MS, file).await.map_err(|e| thrown(&e))?;
            match Access::open(file.unchecked_into()).await {
                Ok(access) => return Ok(access),
                Err(e) if text(&e, "name").as_deref() == Some("NoModificationAllowedError") => reason = thrown(&e),
                Err(e) => return Err(thrown(&e)),
            }
        }
    }
    Err(format!("other tabs of this profile have all {PACKS} packs of blocks: {reason}"))
}

/// A file that this tab alone has open.
#[derive(Debug)]
struct Access(FileSystemSyncAccessHandle);

impl Access {
    async fn open(file: FileSystemFileHandle) -> Result<Self, JsValue> {
        let file: Lockable = file.unchecked_into();
        let access = within(OPEN_TIMEOUT_MS, file.lock()?).await;
        // Chromium forgets the promise of a file whose object was collected in the meantime: it then stays pending for ever.
        drop(file);
        Ok(Self(access?.unchecked_into()))
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn from(at: u64) -> FileSystemReadWriteOptions {
    let options = FileSystemReadWriteOptions::new();
    options.set_at(at as f64);
    options
}

fn trouble(error: &JsValue) -> Trouble {
    let reason = thrown(error);
    Trouble { full: reason.starts_with("QuotaExceededError"), reason }
}

impl Storage for Access {
    fn len(&self) -> Result<u64, Trouble> {
        self.0.get_size().map(|len| len as u64).map_err(|e| trouble(&e))
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<usize, Trouble> {
        let read = self.0.read_with_u8_array_and_options(into, &from(at));
        read.map(|read| read as usize).map_err(|e| trouble(&e))
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Trouble> {
        let written = self.0.write_with_u8_array_and_options(bytes, &from(at)).map_err(|e| trouble(&e))?;
        if written as usize == bytes.len() {
            return Ok(());
        }
        Err(Trouble { reason: "QuotaExceededError: only a part was written".to_owned(), full: true })
    }

    fn truncate(&self, len: u64) -> Result<(), Trouble> {
        self.0.truncate_with_f64(len as f64).map_err(|e| trouble(&e))
    }

    fn flush(&self) -> Result<(), Trouble> {
        self.0.flush().map_err(|e| trouble(&e))
    }
}
