//! Reading a UnixFS directory back: its list of files, their leaves, their bytes.
//!
//! The tree may come from a stranger. Blocks are verified, so nobody can make a cycle or swap bytes, but a tree can still
//! lie about sizes, name one child a million times, or be absurdly deep. Every such tree ends in an error that names
//! the block and the path, after bounded work.

use std::collections::BTreeMap;

use bytes::Bytes;
use cid::Cid;

use crate::address::{DAG_PB, RAW};
use crate::dag_pb::Node;
use crate::store::{BlockStore, StoreError};
use crate::unixfs::{Kind, UnixFs};

/// How many folders may lie inside each other, and how many levels of nodes a file may have. Full levels of the usual 174
/// links hold more than any disk at depth 5; two links a node would reach 4 TiB at 22.
const MAX_DEPTH: usize = 32;
/// How many files and folders a tree may list.
const MAX_ENTRIES: usize = 100_000;
/// How many nodes one reading of a file may visit.
const MAX_NODES: usize = 100_000;
/// How many leaves one reading of a file may visit: 1 TiB of 1 MiB leaves.
const MAX_LEAVES: usize = 1 << 20;

/// A file of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path inside the directory, with `/` between its parts.
    pub path: String,
    /// Its root: a leaf, or the node above its leaves.
    pub cid: Cid,
    /// Its size in bytes, as the tree states it; reading checks it.
    pub size: u64,
}

/// A piece of a file: one raw block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The block.
    pub cid: Cid,
    /// Where in the file it begins.
    pub offset: u64,
    /// How many bytes it holds, as the tree states it; reading checks it.
    pub len: u64,
}

/// Why a tree could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// A block is not in the store.
    #[error("block {cid} of {path:?} is not in the store")]
    Missing {
        /// The block.
        cid: Box<Cid>,
        /// The file or directory it belongs to; empty for the root.
        path: String,
    },
    /// The store failed.
    #[error("cannot read {path:?}")]
    Store {
        /// The file or directory that was read; empty for the root.
        path: String,
        /// What the store said.
        source: StoreError,
    },
    /// A block is not what its place in the tree says.
    #[error("block {cid} of {path:?} is malformed: {reason}")]
    Malformed {
        /// The block.
        cid: Box<Cid>,
        /// The file or directory it belongs to; empty for the root.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The tree uses a part of UnixFS that is not read here.
    #[error("{path:?} is {kind}, which is not supported (block {cid})")]
    Unsupported {
        /// The block.
        cid: Box<Cid>,
        /// The path; empty for the root.
        path: String,
        /// What it is.
        kind: &'static str,
    },
    /// A tree states one size in one place and another in the next.
    #[error("block {cid} of {path:?} should hold {claimed} bytes of the file, but holds {actual}")]
    SizeLie {
        /// The block.
        cid: Box<Cid>,
        /// The file.
        path: String,
        /// What the node above states.
        claimed: u64,
        /// What the block holds or states.
        actual: u64,
    },
    /// A tree is larger than any model's.
    #[error("{path:?} has more than {limit} {what}")]
    Limit {
        /// The file or directory; empty for the root.
        path: String,
        /// What there is too much of.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// The directory has no such file.
    #[error("directory {root} holds no file {path:?}")]
    NotFound {
        /// The directory.
        root: Box<Cid>,
        /// The path asked for.
        path: String,
    },
    /// A file is larger than the caller wants to hold.
    #[error("{path:?} has {size} bytes, more than the {limit} allowed here")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        size: u64,
        /// The caller's limit.
        limit: u64,
    },
    /// A range reaches past the end of its file.
    #[error("{path:?} has {size} bytes; {len} bytes from {offset} on reach past its end")]
    OutOfRange {
        /// The file.
        path: String,
        /// Where the range begins.
        offset: u64,
        /// Its length.
        len: u64,
        /// The file's size.
        size: u64,
    },
}

/// A directory with all its sub-directories, opened for reading.
///
/// Opening reads the directories and the root node of every file, not their leaves: which leaves to fetch can be
/// learned before any of them is here.
pub struct Directory<'a> {
    store: &'a dyn BlockStore,
    root: Cid,
    files: BTreeMap<String, (Cid, u64)>,
}

impl std::fmt::Debug for Directory<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Directory").field("root", &self.root).field("files", &self.files.len()).finish()
    }
}

impl<'a> Directory<'a> {
    /// Opens the directory under `root`.
    ///
    /// # Errors
    ///
    /// See [`DirectoryError`].
    pub fn open(store: &'a dyn BlockStore, root: &Cid) -> Result<Self, DirectoryError> {
        let mut opened = Self { store, root: *root, files: BTreeMap::new() };
        let (node, unixfs) = opened.node(root, "")?;
        if unixfs.kind != Kind::Directory {
            return Err(DirectoryError::Unsupported {
                cid: Box::new(*root),
                path: String::new(),
                kind: unixfs.kind.name(),
            });
        }
        let mut seen = 0;
        let mut open = vec![(*root, String::new(), node, 0)];
        while let Some((cid, path, node, depth)) = open.pop() {
            let mut names = std::collections::HashSet::new();
            for link in &node.links {
                check_name(&cid, &path, &link.name)?;
                if !names.insert(link.name.as_str()) {
                    return Err(malformed(&cid, &path, format!("it lists {:?} twice", link.name)));
                }
                seen += 1;
                if seen > MAX_ENTRIES {
                    return Err(limit("", "files and folders", MAX_ENTRIES));
                }
                let below = if path.is_empty() { link.name.clone() } else { format!("{path}/{}", link.name) };
                if link.cid.codec() == RAW {
                    let size = match link.total_size {
                        Some(size) => size,
                        None => opened.block(&link.cid, &below)?.len() as u64,
                    };
                    opened.files.insert(below, (link.cid, size));
                    continue;
                }
                let (node, unixfs) = opened.node(&link.cid, &below)?;
                match unixfs.kind {
                    Kind::Directory if depth >= MAX_DEPTH => {
                        return Err(limit(&below, "folders above it", MAX_DEPTH));
                    }
                    Kind::Directory => open.push((link.cid, below, node, depth + 1)),
                    Kind::File | Kind::Raw => {
                        let size = stated_size(&link.cid, &below, &node, &unixfs)?;
                        opened.files.insert(below, (link.cid, size));
                    }
                    kind => {
                        return Err(DirectoryError::Unsupported {
                            cid: Box::new(link.cid),
                            path: below,
                            kind: kind.name(),
                        });
                    }
                }
            }
        }
        Ok(opened)
    }

    /// The directory's CID.
    #[must_use]
    pub fn root(&self) -> &Cid {
        &self.root
    }

    /// Every file, those of sub-directories included, in the order of their paths.
    #[must_use]
    pub fn list(&self) -> Vec<Entry> {
        self.files.iter().map(|(path, (cid, size))| Entry { path: path.clone(), cid: *cid, size: *size }).collect()
    }

    /// Whether there is a file under this path.
    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    /// A file's size in bytes, as the tree states it; `None` where there is no such file.
    #[must_use]
    pub fn size(&self, path: &str) -> Option<u64> {
        self.files.get(path).map(|(_, size)| *size)
    }

    /// A whole file of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::NotFound`], [`DirectoryError::TooLarge`], and whatever is wrong with the tree or its blocks.
    pub fn read(&self, path: &str, limit: u64) -> Result<Bytes, DirectoryError> {
        let (_, size) = self.file(path)?;
        if size > limit {
            return Err(DirectoryError::TooLarge { path: path.to_owned(), size, limit });
        }
        self.read_range(path, 0, size)
    }

    /// Part of a file: exactly `len` bytes from `offset` on. Only the leaves that hold them are read.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::NotFound`], [`DirectoryError::OutOfRange`], and whatever is wrong with the tree or its blocks.
    pub fn read_range(&self, path: &str, offset: u64, len: u64) -> Result<Bytes, DirectoryError> {
        let (_, size) = self.file(path)?;
        let Some(end) = offset.checked_add(len).filter(|end| *end <= size) else {
            return Err(DirectoryError::OutOfRange { path: path.to_owned(), offset, len, size });
        };
        // The size is a claim until every leaf was seen, so memory is taken as bytes arrive.
        let mut pieces: Vec<Bytes> = Vec::new();
        for (piece_offset, piece) in self.pieces(path, offset, end)? {
            let bytes = match piece {
                Piece::Inline(bytes) => bytes,
                Piece::Leaf(leaf) => {
                    let bytes = self.block(&leaf.cid, path)?;
                    check_size(&leaf.cid, path, leaf.len, bytes.len() as u64)?;
                    bytes
                }
            };
            // Both ends lie inside a block of at most 2 MiB.
            let from = offset.saturating_sub(piece_offset) as usize;
            let to = (end - piece_offset).min(bytes.len() as u64) as usize;
            pieces.push(bytes.slice(from..to));
        }
        match pieces.as_slice() {
            [] => Ok(Bytes::new()),
            [one] => Ok(one.clone()),
            many => Ok(many.concat().into()),
        }
    }

    /// A file's leaves in file order, from first to last byte. The leaves themselves need not be in the store.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::NotFound`]; [`DirectoryError::Unsupported`] where bytes are kept inside nodes and not in raw
    /// leaves of their own; and whatever is wrong with the tree or its blocks.
    pub fn leaves(&self, path: &str) -> Result<Vec<Leaf>, DirectoryError> {
        let (cid, size) = self.file(path)?;
        let pieces = self.pieces(path, 0, size)?;
        pieces
            .into_iter()
            .map(|(_, piece)| match piece {
                Piece::Leaf(leaf) => Ok(leaf),
                Piece::Inline(_) => {
                    let kind = "a file that keeps bytes inside its nodes";
                    Err(DirectoryError::Unsupported { cid: Box::new(cid), path: path.to_owned(), kind })
                }
            })
            .collect()
    }

    fn file(&self, path: &str) -> Result<(Cid, u64), DirectoryError> {
        let found = self.files.get(path).copied();
        found.ok_or_else(|| DirectoryError::NotFound { root: Box::new(self.root), path: path.to_owned() })
    }

    /// The pieces of a file that hold any of the bytes from `begin` to `end`, in file order.
    fn pieces(&self, path: &str, begin: u64, end: u64) -> Result<Vec<(u64, Piece)>, DirectoryError> {
        let (root, size) = self.file(path)?;
        let mut pieces = Vec::new();
        if begin == end {
            return Ok(pieces);
        }
        let mut nodes = 0;
        let mut open = vec![(root, 0u64, size, 0)];
        while let Some((cid, offset, claimed, depth)) = open.pop() {
            if cid.codec() == RAW {
                pieces.push((offset, Piece::Leaf(Leaf { cid, offset, len: claimed })));
                if pieces.len() > MAX_LEAVES {
                    return Err(limit(path, "leaves", MAX_LEAVES));
                }
                continue;
            }
            nodes += 1;
            if nodes > MAX_NODES {
                return Err(limit(path, "nodes", MAX_NODES));
            }
            if depth > MAX_DEPTH {
                return Err(limit(path, "levels of nodes", MAX_DEPTH));
            }
            let (node, unixfs) = self.node(&cid, path)?;
            if !matches!(unixfs.kind, Kind::File | Kind::Raw) {
                return Err(malformed(&cid, path, format!("it is {} inside a file", unixfs.kind.name())));
            }
            check_size(&cid, path, claimed, stated_size(&cid, path, &node, &unixfs)?)?;
            let wanted = |offset: u64, len: u64| offset < end && offset + len > begin;
            let inline = unixfs.data.len() as u64;
            if inline > 0 && wanted(offset, inline) {
                pieces.push((offset, Piece::Inline(Bytes::from(unixfs.data))));
            }
            let mut at = offset + inline;
            let first = open.len();
            for (link, len) in node.links.iter().zip(unixfs.block_sizes) {
                if len == 0 {
                    // Nobody writes such links, and without this a small tree could cost endless visits.
                    return Err(malformed(&cid, path, "it links a child that holds no bytes".to_owned()));
                }
                // The sum of all sizes was checked against overflow by `stated_size`.
                if wanted(at, len) {
                    open.push((link.cid, at, len, depth + 1));
                }
                at += len;
            }
            // The last pushed is visited first, so file order needs the first child on top.
            open[first..].reverse();
            if open.len() > MAX_LEAVES {
                return Err(limit(path, "leaves", MAX_LEAVES));
            }
        }
        Ok(pieces)
    }

    fn node(&self, cid: &Cid, path: &str) -> Result<(Node, UnixFs), DirectoryError> {
        if cid.codec() != DAG_PB {
            let reason = format!("its codec is 0x{:x} where a dag-pb node belongs", cid.codec());
            return Err(malformed(cid, path, reason));
        }
        let bytes = self.block(cid, path)?;
        let node = Node::decode(&bytes).map_err(|error| malformed(cid, path, error.0.to_owned()))?;
        let unixfs = UnixFs::decode(&node.data).map_err(|error| malformed(cid, path, error.0.to_owned()))?;
        Ok((node, unixfs))
    }

    fn block(&self, cid: &Cid, path: &str) -> Result<Bytes, DirectoryError> {
        self.store
            .get(cid)
            .map_err(|source| DirectoryError::Store { path: path.to_owned(), source })?
            .ok_or_else(|| DirectoryError::Missing { cid: Box::new(*cid), path: path.to_owned() })
    }
}

enum Piece {
    Leaf(Leaf),
    Inline(Bytes),
}

/// The size a file's node states, once it agrees with itself.
fn stated_size(cid: &Cid, path: &str, node: &Node, unixfs: &UnixFs) -> Result<u64, DirectoryError> {
    if node.links.len() != unixfs.block_sizes.len() {
        let reason = format!("it has {} links and sizes for {}", node.links.len(), unixfs.block_sizes.len());
        return Err(malformed(cid, path, reason));
    }
    let sum = unixfs.block_sizes.iter().try_fold(unixfs.data.len() as u64, |sum, size| sum.checked_add(*size));
    let Some(sum) = sum else {
        return Err(malformed(cid, path, "its sizes add up to more than 64 bits".to_owned()));
    };
    check_size(cid, path, unixfs.file_size.unwrap_or(sum), sum)?;
    Ok(sum)
}

fn check_size(cid: &Cid, path: &str, claimed: u64, actual: u64) -> Result<(), DirectoryError> {
    if claimed != actual {
        return Err(DirectoryError::SizeLie { cid: Box::new(*cid), path: path.to_owned(), claimed, actual });
    }
    Ok(())
}

fn check_name(cid: &Cid, path: &str, name: &str) -> Result<(), DirectoryError> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', '\0']) {
        return Err(malformed(cid, path, format!("it lists {name:?}, which cannot be a file's name")));
    }
    Ok(())
}

fn malformed(cid: &Cid, path: &str, reason: String) -> DirectoryError {
    DirectoryError::Malformed { cid: Box::new(*cid), path: path.to_owned(), reason }
}

fn limit(path: &str, what: &'static str, limit: usize) -> DirectoryError {
    DirectoryError::Limit { path: path.to_owned(), what, limit }
}

#[cfg(test)]
mod tests;
