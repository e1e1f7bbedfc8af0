//! Blocks kept in the browser's private file system, so that a tab that comes back fetches nothing twice.
//!
//! They lie in one file, a [`Pack`], which this tab opens once and keeps for itself: opening files is what these file systems
//! are slow at. A browser lets one tab at a time have a file, so the second tab of a profile takes the second
//! pack, and fills it with blocks of its own.
//!
//! Writing takes a browser up to four times as long as fetching did, and nobody waits for it: blocks are written once the worker
//! has been quiet for a moment, one at a time, or when too many wait. Those that wait are served as if they were written.
//! What still waits when the worker ends for good is written then; what a tab that is killed had not written, it fetches
//! again.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use async_trait::async_trait;
use bytes::Bytes;
use js_sys::{Date, Promise, Reflect, Uint8Array};
use tabpool_content::{Cid, MAX_BLOCK_BYTES};
use tabpool_worker::BlockCache;
use wasm_bindgen::prelude::{JsCast, JsValue, wasm_bindgen};
use wasm_bindgen_futures::spawn_local;
use web_sys::{
    FileSystemDirectoryHandle, FileSystemFileHandle, FileSystemGetDirectoryOptions, FileSystemGetFileOptions,
    FileSystemReadWriteOptions, FileSystemSyncAccessHandle, StorageEstimate,
};
use web_time::{Duration, Instant};

use crate::navigator::{scope, text, thrown};
use crate::outside::Outside;
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

/// How long the worker must have been quiet before it writes.
const QUIET: Duration = Duration::from_millis(250);
/// A worker that is never quiet writes a block each time so long has passed.
const PATIENCE: Duration = Duration::from_millis(500);
/// The pause after a block, so that whatever came meanwhile goes first.
const BREATH_MS: u32 = 4;
/// Bytes that wait to be written at most; beyond these a block is written as it comes.
const MOST_WAITING: u64 = 128 << 20;

/// The blocks of this tab.
pub(crate) struct Opfs(Rc<Keeper>);

struct Keeper {
    pack: RefCell<Pack<Access>>,
    served: Cell<(u32, u64)>,
    trouble: RefCell<Option<String>>,
    /// What came from the host whole.
    outside: Rc<Outside>,
    /// Blocks to be written, oldest first. They lie outside the module's memory, which would never shrink again.
    waiting: RefCell<VecDeque<(Cid, Uint8Array)>>,
    waiting_bytes: Cell<u64>,
    /// Whether somebody sees to it that they are written.
    writing: Cell<bool>,
    /// When the worker last did something.
    active: Cell<Instant>,
}

impl Opfs {
    /// Opens the first pack that no other tab has. `begun` promises one that was opened while this module was still compiling, or
    /// nothing.
    ///
    /// # Errors
    /// A clause for people: why this browser keeps nothing.
    pub(crate) async fn open(begun: Option<Promise>, outside: Rc<Outside>) -> Result<Self, String> {
        let storage = scope()
            .navigator()
            .storage()
            .ok_or("this browser lends no storage to this page (private windows and plain http have none)")?;
        let get_directory = Reflect::has(&storage, &JsValue::from_str("getDirectory")).unwrap_or(false);
        if !get_directory {
            return Err("this browser has no private file system".to_owned());
        }
        let quota = async {
            let promise = storage.estimate().ok()?;
            within(OPEN_TIMEOUT_MS, promise).await.ok()?.unchecked_into::<StorageEstimate>().get_quota()
        };
        let access = async {
            if let Some(begun) = begun
                && let Ok(access) = within(OPEN_TIMEOUT_MS, begun).await
                && access.is_object()
            {
                return Ok(Access(access.unchecked_into()));
            }
            let root = within(OPEN_TIMEOUT_MS, storage.get_directory()).await.map_err(|e| thrown(&e))?;
            let root: FileSystemDirectoryHandle = root.unchecked_into();
            let create = FileSystemGetDirectoryOptions::new();
            create.set_create(true);
            let folder = root.get_directory_handle_with_options(FOLDER, &create);
            first_free(&within(OPEN_TIMEOUT_MS, folder).await.map_err(|e| thrown(&e))?.unchecked_into()).await
        };
        let (quota, access) = futures::join!(quota, access);
        let limit = quota.map_or(LIMIT_UNTOLD, |q| q * SHARE_OF_QUOTA).clamp(0.0, LIMIT_MOST);
        let access = access?;
        let pack = Pack::open(access, limit as u64).map_err(|trouble| trouble.reason)?;
        Ok(Self(Rc::new(Keeper {
            pack: RefCell::new(pack),
            served: Cell::default(),
            trouble: RefCell::default(),
            outside,
            waiting: RefCell::default(),
            waiting_bytes: Cell::default(),
            writing: Cell::default(),
            active: Cell::new(Instant::now()),
        })))
    }

    /// Blocks and bytes that are here.
    pub(crate) fn holds(&self) -> (u32, u64) {
        self.0.pack.borrow().holds()
    }

    /// Blocks and bytes that were read.
    pub(crate) fn served(&self) -> (u32, u64) {
        self.0.served.get()
    }

    /// What last went wrong with keeping blocks.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.0.trouble.borrow().clone()
    }

    /// The worker does something that should not wait for a block to be written.
    pub(crate) fn touch(&self) {
        self.0.active.set(Instant::now());
    }

    /// Writes everything that waits, now.
    pub(crate) fn settle(&self) {
        if self.0.waiting.borrow().is_empty() {
            return;
        }
        while self.0.write_one() {}
        self.0.flush();
    }
}

impl Keeper {
    /// Writes what waits, whenever the worker is quiet.
    async fn write_when_quiet(self: Rc<Self>) {
        let mut last = Instant::now();
        loop {
            sleep(BREATH_MS).await;
            let quiet = self.active.get().elapsed();
            if quiet < QUIET && last.elapsed() < PATIENCE {
                // At most a quarter of a second.
                sleep((QUIET - quiet).as_millis() as u32).await;
                continue;
            }
            if !self.write_one() {
                break;
            }
            last = Instant::now();
        }
        self.flush();
        self.writing.set(false);
    }

    /// Writes the oldest block that waits; `false` where none does.
    fn write_one(&self) -> bool {
        let Some((cid, bytes)) = self.waiting.borrow_mut().pop_front() else { return false };
        self.waiting_bytes.set(self.waiting_bytes.get() - u64::from(bytes.length()));
        let kept = self.pack.borrow_mut().put(&cid.to_bytes(), &bytes.to_vec(), Date::now() as u64);
        self.noted(kept);
        true
    }

    fn flush(&self) {
        let flushed = self.pack.borrow().flush();
        self.noted(flushed);
    }

    /// Gives what was asked for, or notes why not: a cache that fails is no cache, and the load goes on.
    fn noted<T>(&self, result: Result<T, Trouble>) -> Option<T> {
        result.inspect_err(|trouble| *self.trouble.borrow_mut() = Some(trouble.reason.clone())).ok()
    }
}

#[async_trait(?Send)]
impl BlockCache for Opfs {
    fn has(&self, cid: &Cid) -> bool {
        self.0.pack.borrow().has(&cid.to_bytes())
    }

    async fn get(&self, cid: &Cid) -> Option<Bytes> {
        self.touch();
        let waits = self.0.waiting.borrow().iter().find(|(waiting, _)| waiting == cid).map(|(_, bytes)| bytes.to_vec());
        let bytes = match waits {
            Some(bytes) => bytes,
            None => {
                let found = self.0.pack.borrow_mut().get(&cid.to_bytes(), Date::now() as u64);
                self.0.noted(found)??
            }
        };
        let (blocks, total) = self.0.served.get();
        self.0.served.set((blocks + 1, total + bytes.len() as u64));
        Some(bytes.into())
    }

    async fn put(&self, cid: &Cid, bytes: &Bytes) {
        self.touch();
        let waits = self.0.waiting.borrow().iter().any(|(waiting, _)| waiting == cid);
        if waits || bytes.len() > MAX_BLOCK_BYTES {
            return;
        }
        let outside = self.0.outside.take(cid, bytes.len()).unwrap_or_else(|| Uint8Array::from(&bytes[..]));
        self.0.waiting.borrow_mut().push_back((*cid, outside));
        self.0.waiting_bytes.set(self.0.waiting_bytes.get() + bytes.len() as u64);
        while self.0.waiting_bytes.get() > MOST_WAITING && self.0.write_one() {}
        if !self.0.writing.replace(true) {
            spawn_local(Rc::clone(&self.0).write_when_quiet());
        }
    }

    async fn remove(&self, cid: &Cid) {
        let removed = self.0.pack.borrow_mut().remove(&cid.to_bytes());
        self.0.noted(removed);
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
