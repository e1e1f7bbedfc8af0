//! Blocks kept in the browser's private file system, so that a tab that comes back fetches nothing twice.
//!
//! One flat folder, one file a block, named by its CID: the private file system is an index in the browser, not a directory
//! on a disk, so folders below would only cost a lookup each. Files are written in place. A tab may die at any
//! moment and leave half a file; that is noticed where it matters, because the worker verifies every block it reads
//! and removes what does not hash to its name.
//!
//! Writing goes on in the background, a bounded number of blocks behind: a load need not wait until its weights are kept.
//!
//! Several tabs of a profile share the folder. A file that another tab has open counts as missing, and the block comes
//! from the host as if it were not here.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::{mpsc, oneshot};
use futures::{SinkExt, StreamExt};
use js_sys::{Date, Object, Promise, Reflect};
use tabpool_content::{Cid, MAX_BLOCK_BYTES};
use tabpool_worker::BlockCache;
use wasm_bindgen::prelude::{JsCast, JsValue, wasm_bindgen};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{
    File, FileSystemDirectoryHandle, FileSystemFileHandle, FileSystemGetDirectoryOptions, FileSystemGetFileOptions,
    FileSystemSyncAccessHandle, StorageEstimate,
};

use crate::navigator::{scope, text, thrown};
use crate::shelf::Shelf;
use crate::timers::within;

const FOLDER: &str = "blocks";
/// How long the browser has to open its file system. One that never answers must not keep a tab from joining.
const OPEN_TIMEOUT_MS: u32 = 5_000;
/// How long it has to open one file. A block that is not there by then comes from the host.
const FILE_TIMEOUT_MS: u32 = 5_000;
/// The share of the browser's quota that is used.
const SHARE_OF_QUOTA: f64 = 0.6;
/// The limit where a browser tells no quota.
const LIMIT_UNTOLD: f64 = (1u64 << 30) as f64;
/// The limit however large the quota is: a pool's tab should not fill a disk.
const LIMIT_MOST: f64 = (32u64 << 30) as f64;

/// Blocks that wait to be written at most, of up to a megabyte each as a rule; then loads wait for the file system.
const MOST_WAITING: usize = 32;

#[wasm_bindgen]
extern "C" {
    /// A file, with the one method that web-sys has only behind its unstable flag.
    type Lockable;
    #[wasm_bindgen(method, catch, js_name = createSyncAccessHandle)]
    fn lock(this: &Lockable, options: &Object) -> Result<Promise, JsValue>;
}

/// The blocks of this origin.
pub(crate) struct Opfs {
    files: Rc<Files>,
    writes: mpsc::Sender<Write>,
}

/// What the queue of writes holds, done in order.
enum Write {
    /// This block, whose bytes wait.
    Block(Cid),
    /// Everything before it is kept.
    Settled(oneshot::Sender<()>),
}

/// The files, and what waits to become one.
struct Files {
    folder: FileSystemDirectoryHandle,
    shelf: RefCell<Shelf>,
    waiting: RefCell<HashMap<Cid, Bytes>>,
    served: Cell<(u32, u64)>,
    trouble: RefCell<Option<String>>,
}

impl Opfs {
    /// Opens the folder.
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
        let files = Rc::new(Files {
            folder,
            shelf: RefCell::new(Shelf::new(limit as u64)),
            waiting: RefCell::default(),
            served: Cell::default(),
            trouble: RefCell::default(),
        });
        let (writes, queue) = mpsc::channel(MOST_WAITING);
        spawn_local(Rc::clone(&files).write_all(queue));
        Ok(Self { files, writes })
    }

    /// Blocks and bytes that are here, as far as is known yet.
    pub(crate) fn holds(&self) -> (u32, u64) {
        self.files.shelf.borrow().holds()
    }

    /// Blocks and bytes that were read.
    pub(crate) fn served(&self) -> (u32, u64) {
        self.files.served.get()
    }

    /// What last went wrong with keeping blocks.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.files.trouble.borrow().clone()
    }

    /// Looks at every file once, to know what is here and how old it is.
    pub(crate) async fn survey(&self) {
        let files = self.files.folder.values();
        while let Ok(next) = files.next() {
            let Ok(step) = JsFuture::from(next).await else { return };
            let step: js_sys::IteratorNext = step.unchecked_into();
            if step.done() {
                return;
            }
            let handle: FileSystemFileHandle = step.value().unchecked_into();
            // A file that another tab holds open tells no size; it counts once this tab uses it.
            if let Ok(file) = within(FILE_TIMEOUT_MS, handle.get_file()).await {
                let file: File = file.unchecked_into();
                self.files.shelf.borrow_mut().note(&handle.name(), file.size() as u64, file.last_modified() as u64);
            }
        }
    }
}

impl Files {
    /// Writes what is asked for, until nobody can ask any more.
    async fn write_all(self: Rc<Self>, mut queue: mpsc::Receiver<Write>) {
        while let Some(write) = queue.next().await {
            let cid = match write {
                Write::Block(cid) => cid,
                Write::Settled(done) => {
                    // Whoever waited may have given up.
                    let _ = done.send(());
                    continue;
                }
            };
            let bytes = self.waiting.borrow().get(&cid).cloned();
            if let Some(bytes) = bytes {
                self.keep(&cid.to_string(), &bytes).await;
                self.waiting.borrow_mut().remove(&cid);
            }
        }
    }

    async fn keep(&self, name: &str, bytes: &Bytes) {
        let victims = self.shelf.borrow().victims(bytes.len() as u64);
        let Some(victims) = victims else { return };
        for victim in victims {
            self.delete(&victim).await;
        }
        match self.write(name, bytes).await {
            Ok(()) => self.shelf.borrow_mut().note(name, bytes.len() as u64, Date::now() as u64),
            // Another tab is writing the same block.
            Err(e) if text(&e, "name").as_deref() == Some("NoModificationAllowedError") => {}
            Err(e) => {
                let reason = thrown(&e);
                self.delete(name).await;
                if reason.starts_with("QuotaExceededError") {
                    self.shelf.borrow_mut().shrink();
                }
                *self.trouble.borrow_mut() = Some(reason);
            }
        }
    }

    async fn read(&self, name: &str) -> Option<Bytes> {
        let file = self.file(name, false).await.ok()?;
        let access = Access::open(file, "read-only").await.ok()?;
        let len = access.0.get_size().ok()? as usize;
        if len > MAX_BLOCK_BYTES {
            return None;
        }
        let mut bytes = vec![0; len];
        let read = access.0.read_with_u8_array(&mut bytes).ok()? as usize;
        bytes.truncate(read);
        Some(Bytes::from(bytes))
    }

    async fn file(&self, name: &str, create: bool) -> Result<FileSystemFileHandle, JsValue> {
        let options = FileSystemGetFileOptions::new();
        options.set_create(create);
        let promise = self.folder.get_file_handle_with_options(name, &options);
        Ok(within(FILE_TIMEOUT_MS, promise).await?.unchecked_into())
    }

    async fn delete(&self, name: &str) {
        // A file that another tab has open stays; a later look for room finds it again.
        if JsFuture::from(self.folder.remove_entry(name)).await.is_ok() {
            self.shelf.borrow_mut().forget(name);
        }
    }

    async fn write(&self, name: &str, bytes: &Bytes) -> Result<(), JsValue> {
        let file = self.file(name, true).await?;
        let access = Access::open(file, "readwrite").await?;
        access.0.truncate_with_f64(0.0)?;
        let written = access.0.write_with_u8_array(bytes)?;
        if written as usize == bytes.len() {
            return Ok(());
        }
        Err(JsValue::from_str("QuotaExceededError: only a part was written"))
    }
}

#[async_trait(?Send)]
impl BlockCache for Opfs {
    async fn get(&self, cid: &Cid) -> Option<Bytes> {
        let waiting = self.files.waiting.borrow().get(cid).cloned();
        let bytes = match waiting {
            Some(bytes) => bytes,
            None => {
                let name = cid.to_string();
                let bytes = self.files.read(&name).await?;
                self.files.shelf.borrow_mut().note(&name, bytes.len() as u64, Date::now() as u64);
                bytes
            }
        };
        let (blocks, total) = self.files.served.get();
        self.files.served.set((blocks + 1, total + bytes.len() as u64));
        Some(bytes)
    }

    async fn put(&self, cid: &Cid, bytes: &Bytes) {
        if self.files.waiting.borrow_mut().insert(*cid, bytes.clone()).is_none() {
            // The queue ends with this cache, so it takes what is sent.
            let _ = self.writes.clone().send(Write::Block(*cid)).await;
        }
    }

    async fn remove(&self, cid: &Cid) {
        self.files.delete(&cid.to_string()).await;
    }

    async fn settle(&self) {
        let (done, settled) = oneshot::channel();
        // Writes are done in order and each is bounded in time, so the answer comes; without a queue nothing is written.
        if self.writes.clone().send(Write::Settled(done)).await.is_ok() {
            let _ = settled.await;
        }
    }
}

/// A file that is open for reading or writing at once, which the browser lets one tab do, or with `read-only` and a
/// browser that knows it, several.
struct Access(FileSystemSyncAccessHandle);

impl Access {
    async fn open(file: FileSystemFileHandle, mode: &str) -> Result<Self, JsValue> {
        let options = Object::new();
        Reflect::set(&options, &JsValue::from_str("mode"), &JsValue::from_str(mode))?;
        let file: Lockable = file.unchecked_into();
        let access = within(FILE_TIMEOUT_MS, file.lock(&options)?).await;
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
