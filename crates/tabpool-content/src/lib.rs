//! Content-addressed model storage: CIDs, UnixFS directories, block stores.
//!
//! A model is a folder; here a folder becomes a UnixFS directory: a tree of *blocks*, each named by the hash of its
//! own bytes, the whole named by one root CID. Two consequences carry everything above this crate: a block can come
//! from anywhere, because [`verify`] tells whether it is the right one, and equal bytes are stored, sent and uploaded
//! once, whichever model they belong to. The trees are plain UnixFS, so any IPFS client reads the same files back; what
//! is ours is only *where* a `*.safetensors` file is cut: at its tensors, so that equal tensors are equal blocks.
//!
//! ```
//! use tabpool_content::{Directory, ImportOptions, MemoryStore, import_files};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = MemoryStore::new(64 << 20);
//! let files = [("config.json", &b"{}"[..]), ("1_Pooling/config.json", &b"{\"dim\":3}"[..])];
//! let imported = import_files(&files, &store, &ImportOptions::default(), &mut |_| {})?;
//!
//! let folder = Directory::open(&store, &imported.root)?;
//! assert_eq!(folder.read("1_Pooling/config.json", 1024)?, &b"{\"dim\":3}"[..]);
//! # Ok(())
//! # }
//! ```
//!
//! The crate does no network I/O and knows nothing of models, graphs or workers. Without a disk (in a browser) it
//! lacks `DiskStore`, `RefStore` and `import_folder` and is otherwise the same.

mod address;
mod car;
mod dag_pb;
mod directory;
#[cfg(not(target_family = "wasm"))]
mod disk_store;
mod file_dag;
#[cfg(not(target_family = "wasm"))]
mod folder;
mod garbage;
mod import;
mod protobuf;
#[cfg(not(target_family = "wasm"))]
mod refs;
mod safetensors_layout;
mod store;
mod unixfs;

pub use address::{Block, MAX_BLOCK_BYTES, VerifyError, dag_pb_cid, raw_cid, sha256, verify, verify_digest};
pub use car::{CarError, CarReader, car_header, car_section};
pub use cid::Cid;
pub use directory::{Directory, DirectoryError, Entry, Leaf};
#[cfg(not(target_family = "wasm"))]
pub use disk_store::DiskStore;
#[cfg(not(target_family = "wasm"))]
pub use folder::import_folder;
pub use garbage::{Collected, GarbageError, collect_garbage};
pub use import::{ImportError, ImportOptions, Imported, Progress, import_files};
#[cfg(not(target_family = "wasm"))]
pub use refs::{RefError, RefStore};
pub use store::{BlockStore, MemoryStore, StoreError, Stored};
