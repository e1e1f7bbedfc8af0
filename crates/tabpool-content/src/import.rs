//! From files to blocks: cuts files into leaves, joins them into UnixFS trees, puts every block into a store.
//!
//! Files are streamed: besides a safetensors header, no more than one batch of leaves is in memory. The cuts decide the
//! CIDs, so they are part of what this crate promises: fixed chunks as `ipfs add --cid-version=1
//! --chunker=size-1048576` makes them, and for `*.safetensors` the header, then each tensor, counted from its own first
//! byte, in pieces that suit browsers.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::path::PathBuf;

use bytes::Bytes;
use cid::Cid;

use crate::address::{Block, MAX_BLOCK_BYTES};
use crate::file_dag::{Subtree, join, keep_node};
use crate::safetensors_layout;
use crate::store::{BlockStore, StoreError, Stored};
use crate::unixfs::UnixFs;

/// The directory size at which other implementations begin to shard it: past this our CIDs would differ from theirs.
const MAX_DIRECTORY_BYTES: u64 = 256 << 10;
/// How much is read before it is hashed and stored together.
const BATCH_BYTES: usize = 16 << 20;
/// How many leaves are hashed and stored together at most: a bound for files of many tiny tensors.
const BATCH_LEAVES: usize = 512;

/// The largest leaf of a `*.safetensors`. Chromium's allocator gives memory of up to 960 KiB from what it has, and has the system map
/// and clear it anew for every larger piece, each time that it is hashed.
const TENSOR_PIECE_BYTES: usize = 896 << 10;

/// How to cut, and how much to take on.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    pub(crate) chunk_bytes: usize,
    pub(crate) width: usize,
    pub(crate) max_depth: usize,
    pub(crate) max_files: usize,
}

impl Default for ImportOptions {
    /// 1 MiB chunks, 896 KiB of tensors, 174 links a node, folders at most 16 deep, at most 10,000 files.
    fn default() -> Self {
        Self { chunk_bytes: 1 << 20, width: 174, max_depth: 16, max_files: 10_000 }
    }
}

impl ImportOptions {
    /// The largest leaf, in bytes. Brought into 1 to 2 MiB, the largest block; tensors are cut into 896 KiB at most. Another size
    /// than the default gives other CIDs.
    #[must_use]
    pub fn chunk_bytes(mut self, bytes: usize) -> Self {
        self.chunk_bytes = bytes.clamp(1, MAX_BLOCK_BYTES);
        self
    }

    /// How many folders may lie inside each other.
    #[must_use]
    pub fn max_depth(mut self, depth: usize) -> Self {
        self.max_depth = depth;
        self
    }

    /// How many files the folder may hold, those of its sub-folders included.
    #[must_use]
    pub fn max_files(mut self, files: usize) -> Self {
        self.max_files = files;
        self
    }
}

/// How far an import has come. Reported after every batch of leaves (16 MiB) and at the end of every file.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The file being read, by its path inside the folder.
    pub file: &'a str,
    /// Bytes of it that are stored.
    pub file_done: u64,
    /// Its size.
    pub file_bytes: u64,
    /// Bytes of all files that are stored.
    pub done: u64,
    /// The size of all files.
    pub total: u64,
}

/// What an import made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The directory's CID.
    pub root: Cid,
    /// How many files it holds.
    pub files: u64,
    /// The size of all its files.
    pub bytes: u64,
    /// Blocks that the store did not hold before.
    pub blocks_new: u64,
    /// Blocks that the store held already, or that occurred before in this import.
    pub blocks_known: u64,
    /// The size of the new blocks.
    pub bytes_new: u64,
}

/// Why a folder could not be imported. Paths are those inside the folder, or whole ones where the disk is at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The store refused a block.
    #[error("cannot store a block of {path}")]
    Store {
        /// The file or directory it belongs to.
        path: String,
        /// What the store said.
        source: StoreError,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was being done, as in `read`.
        action: &'static str,
        /// The file or folder it was done to.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A `*.safetensors` file is not what its name says, or lies about itself.
    #[error("{path} is not a valid safetensors file: {reason}")]
    Safetensors {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A path that no directory can hold, or that would lead out of it.
    #[error("{path:?} cannot be the path of a file in a model folder: {reason}")]
    BadPath {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two files, or a file and a folder, have one path.
    #[error("{path} is there twice")]
    Duplicate {
        /// The path.
        path: String,
    },
    /// A symbolic link leads to where this import must not read.
    #[error("{} is a symbolic link to {}, outside of the folder", path.display(), target.display())]
    OutsideFolder {
        /// The link.
        path: PathBuf,
        /// What it resolves to.
        target: PathBuf,
    },
    /// Symbolic links form a loop.
    #[error("{} is a symbolic link to a folder that holds it", path.display())]
    Loop {
        /// The link.
        path: PathBuf,
    },
    /// Something that is neither a file nor a folder.
    #[error("{} is neither a file nor a folder", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Folders lie too deep inside each other.
    #[error("{path} lies more than {limit} folders deep")]
    TooDeep {
        /// The folder.
        path: String,
        /// The limit.
        limit: usize,
    },
    /// The folder holds too many files or folders.
    #[error("the folder holds more than {limit} files or folders")]
    TooManyFiles {
        /// The limit.
        limit: usize,
    },
    /// One directory's list of names is too long for one block.
    #[error("directory {path:?} needs {bytes} bytes for its names, more than the {MAX_DIRECTORY_BYTES} of one block")]
    DirectoryTooLarge {
        /// The directory; empty for the folder itself.
        path: String,
        /// What its block would take.
        bytes: u64,
    },
    /// A file grew or shrank while it was read.
    #[error("{path} changed while it was read: it had {expected} bytes at first")]
    Changed {
        /// The file.
        path: String,
        /// Its size when the import began.
        expected: u64,
    },
}

impl ImportError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store { source, .. } => source.hint(),
            Self::Safetensors { .. } => Some("download or export the file again; the copy here is damaged".into()),
            Self::OutsideFolder { .. } => Some("copy the file into the folder in place of the link".into()),
            Self::Changed { .. } => Some("wait until whatever writes the folder is done, then add it again".into()),
            Self::TooManyFiles { .. } | Self::TooDeep { .. } => {
                Some("check that the path is a model's folder and not one above it".into())
            }
            _ => None,
        }
    }
}

/// Imports files given as paths and bytes; `/` in a path makes sub-folders.
///
/// When it returns, every block is in the store and the store is synced.
///
/// # Errors
///
/// See [`ImportError`]. Blocks stored before an error stay; garbage collection finds them.
pub fn import_files(
    files: &[(&str, &[u8])],
    store: &dyn BlockStore,
    options: &ImportOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Imported, ImportError> {
    let total = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let mut importer = Importer::new(store, options, total, progress);
    for (path, bytes) in files {
        let mut reader = *bytes;
        importer.file(path, &mut reader, bytes.len() as u64)?;
    }
    importer.finish()
}

enum Entry {
    File(Subtree),
    Folder(BTreeMap<String, Entry>),
}

/// One import under way: the directory so far, and what has been counted.
pub(crate) struct Importer<'a> {
    store: &'a dyn BlockStore,
    options: &'a ImportOptions,
    progress: &'a mut dyn FnMut(Progress<'_>),
    total: u64,
    done: u64,
    files: u64,
    blocks_new: u64,
    blocks_known: u64,
    bytes_new: u64,
    tree: BTreeMap<String, Entry>,
}

impl<'a> Importer<'a> {
    pub(crate) fn new(
        store: &'a dyn BlockStore,
        options: &'a ImportOptions,
        total: u64,
        progress: &'a mut dyn FnMut(Progress<'_>),
    ) -> Self {
        Self {
            store,
            options,
            progress,
            total,
            done: 0,
            files: 0,
            blocks_new: 0,
            blocks_known: 0,
            bytes_new: 0,
            tree: BTreeMap::new(),
        }
    }

    /// Reads one file of `len` bytes to its end.
    pub(crate) fn file(&mut self, path: &str, reader: &mut dyn Read, len: u64) -> Result<(), ImportError> {
        check_path(path, self.options)?;
        if self.files as usize >= self.options.max_files {
            return Err(ImportError::TooManyFiles { limit: self.options.max_files });
        }
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => ImportError::Changed { path: path.to_owned(), expected: len },
            _ => ImportError::Io { action: "read", path: PathBuf::from(path), source: error },
        };

        let chunk = self.options.chunk_bytes;
        let leaves = if path.ends_with(".safetensors") {
            let layout = safetensors_layout::read(reader, len)
                .map_err(failed)?
                .map_err(|reason| ImportError::Safetensors { path: path.to_owned(), reason })?;
            let regions = std::iter::once(layout.head.len() as u64).chain(layout.tensors.iter().copied());
            let piece = chunk.min(TENSOR_PIECE_BYTES);
            let mut whole = layout.head.as_slice().chain(&mut *reader);
            self.leaves(path, &mut whole, len, regions.flat_map(|region| pieces(region, piece)), failed)?
        } else {
            self.leaves(path, &mut *reader, len, pieces(len, chunk), failed)?
        };
        if reader.read(&mut [0]).map_err(failed)? != 0 {
            return Err(ImportError::Changed { path: path.to_owned(), expected: len });
        }

        let width = self.options.width;
        let file = join(leaves, width, &mut |block| self.keep(path, block))?;
        let file = match file {
            Some(file) => file,
            // An empty file is one empty leaf.
            None => {
                let block = Block::raw(Bytes::new());
                self.keep(path, &block)?;
                Subtree::leaf(*block.cid(), 0)
            }
        };
        self.files += 1;
        self.insert(path, file)
    }

    /// Writes the directories, syncs the store and sums up.
    pub(crate) fn finish(mut self) -> Result<Imported, ImportError> {
        let tree = std::mem::take(&mut self.tree);
        let root = self.directory("", tree)?.cid;
        self.store.sync().map_err(|source| ImportError::Store { path: String::new(), source })?;
        Ok(Imported {
            root,
            files: self.files,
            bytes: self.done,
            blocks_new: self.blocks_new,
            blocks_known: self.blocks_known,
            bytes_new: self.bytes_new,
        })
    }

    fn leaves(
        &mut self,
        path: &str,
        reader: &mut dyn Read,
        len: u64,
        pieces: impl Iterator<Item = usize>,
        failed: impl Fn(std::io::Error) -> ImportError,
    ) -> Result<Vec<Subtree>, ImportError> {
        let mut leaves = Vec::new();
        let mut pieces = pieces.peekable();
        let mut file_done = 0;
        while pieces.peek().is_some() {
            let (mut batch, mut batch_bytes) = (Vec::new(), 0);
            while batch_bytes < BATCH_BYTES
                && batch.len() < BATCH_LEAVES
                && let Some(piece) = pieces.next()
            {
                let mut bytes = vec![0; piece];
                reader.read_exact(&mut bytes).map_err(&failed)?;
                batch_bytes += piece;
                batch.push(Bytes::from(bytes));
            }
            leaves.extend(self.keep_batch(path, batch)?);
            file_done += batch_bytes as u64;
            self.done += batch_bytes as u64;
            let (done, total) = (self.done, self.total);
            (self.progress)(Progress { file: path, file_done, file_bytes: len, done, total });
        }
        if len == 0 {
            let (done, total) = (self.done, self.total);
            (self.progress)(Progress { file: path, file_done: 0, file_bytes: 0, done, total });
        }
        Ok(leaves)
    }

    /// Hashes and stores leaves, on several threads where there are threads.
    fn keep_batch(&mut self, path: &str, batch: Vec<Bytes>) -> Result<Vec<Subtree>, ImportError> {
        let blocks = map_parallel(batch, Block::raw);
        let leaves = blocks.iter().map(|block| Subtree::leaf(*block.cid(), block.bytes().len() as u64)).collect();
        // Equal leaves of one batch would race each other into the store and be counted twice as new.
        let mut seen = HashSet::new();
        let count = blocks.len() as u64;
        let distinct: Vec<_> = blocks.into_iter().filter(|block| seen.insert(*block.cid())).collect();
        self.blocks_known += count - distinct.len() as u64;
        let store = self.store;
        let stored = map_parallel(distinct, |block| (store.put_block(&block), block.bytes().len() as u64));
        for (result, len) in stored {
            self.count(result.map_err(|source| ImportError::Store { path: path.to_owned(), source })?, len);
        }
        Ok(leaves)
    }

    fn keep(&mut self, path: &str, block: &Block) -> Result<(), ImportError> {
        let stored =
            self.store.put_block(block).map_err(|source| ImportError::Store { path: path.to_owned(), source })?;
        self.count(stored, block.bytes().len() as u64);
        Ok(())
    }

    fn count(&mut self, stored: Stored, len: u64) {
        match stored {
            Stored::New => {
                self.blocks_new += 1;
                self.bytes_new += len;
            }
            Stored::Known => self.blocks_known += 1,
        }
    }

    fn insert(&mut self, path: &str, file: Subtree) -> Result<(), ImportError> {
        let mut folder = &mut self.tree;
        let (parents, name) = path.rsplit_once('/').map_or(("", path), |(parents, name)| (parents, name));
        for parent in parents.split('/').filter(|parent| !parent.is_empty()) {
            let entry = folder.entry(parent.to_owned()).or_insert_with(|| Entry::Folder(BTreeMap::new()));
            let Entry::Folder(inner) = entry else {
                return Err(ImportError::Duplicate { path: path.to_owned() });
            };
            folder = inner;
        }
        match folder.insert(name.to_owned(), Entry::File(file)) {
            None => Ok(()),
            Some(_) => Err(ImportError::Duplicate { path: path.to_owned() }),
        }
    }

    /// Recursion is bounded by `max_depth`, which every path was held against.
    fn directory(&mut self, path: &str, entries: BTreeMap<String, Entry>) -> Result<Subtree, ImportError> {
        let mut links = Vec::with_capacity(entries.len());
        // The map's order is that of the names' bytes, which is the order dag-pb asks for.
        for (name, entry) in entries {
            let below = match entry {
                Entry::File(file) => file,
                Entry::Folder(inner) => self.directory(&format!("{path}{name}/"), inner)?,
            };
            links.push(below.link(&name));
        }
        keep_node(links, &UnixFs::directory(), &mut |block| {
            let bytes = block.bytes().len() as u64;
            if bytes > MAX_DIRECTORY_BYTES {
                return Err(ImportError::DirectoryTooLarge { path: path.to_owned(), bytes });
            }
            self.keep(path, block)
        })
    }
}

/// The lengths of the pieces a region of `len` bytes is cut into.
fn pieces(len: u64, chunk: usize) -> impl Iterator<Item = usize> {
    let whole = len / chunk as u64;
    let rest = (len % chunk as u64) as usize;
    (0..whole).map(move |_| chunk).chain((rest > 0).then_some(rest))
}

fn check_path(path: &str, options: &ImportOptions) -> Result<(), ImportError> {
    let bad = |reason| Err(ImportError::BadPath { path: path.to_owned(), reason });
    if path.contains('\0') {
        return bad("it holds a zero byte");
    }
    for part in path.split('/') {
        match part {
            "" => return bad("a part of it is empty"),
            "." | ".." => return bad("it must not lead elsewhere"),
            _ => {}
        }
    }
    if path.split('/').count() > options.max_depth + 1 {
        return Err(ImportError::TooDeep { path: path.to_owned(), limit: options.max_depth });
    }
    Ok(())
}

#[cfg(not(target_family = "wasm"))]
fn map_parallel<T: Send, R: Send>(items: Vec<T>, map: impl Fn(T) -> R + Sync + Send) -> Vec<R> {
    use rayon::iter::{IntoParallelIterator, ParallelIterator};
    items.into_par_iter().map(map).collect()
}

#[cfg(target_family = "wasm")]
fn map_parallel<T, R>(items: Vec<T>, map: impl Fn(T) -> R) -> Vec<R> {
    items.into_iter().map(map).collect()
}
