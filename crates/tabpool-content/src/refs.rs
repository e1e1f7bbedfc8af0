//! Names for roots: one small file per model name, holding the root's CID.
//!
//! A name may be anything a person types (`org/name@rev`, `all-MiniLM-L6-v2`), a file name may not: on some disks two
//! names that differ only in case are one file, on others `con` is a device. So the file is named by what is harmless in
//! the name plus part of its hash, and the name itself stands inside, beside the CID: `<cid> <name>\n`.
//!
//! *Invariant: a name never outlives what it names.* The blocks are flushed before the name is written.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use cid::Cid;
use sha2::{Digest, Sha256};

use crate::disk_store::flush_folder;
use crate::store::{BlockStore, StoreError};

const MAX_NAME_BYTES: usize = 256;
/// A name, a CID and the two characters between them.
const MAX_FILE_BYTES: u64 = 1024;
const SUFFIX: &str = ".ref";

/// The names known to one data folder. Several processes may use one folder at the same time.
#[derive(Debug)]
pub struct RefStore {
    folder: PathBuf,
    written: AtomicU64,
}

/// Why a name could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefError {
    /// The name cannot be a model's name.
    #[error("{name:?} cannot be a model's name: {reason}")]
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The root is not in the store the name is to point into.
    #[error("cannot name {root} {name:?}: the store does not hold that block")]
    MissingRoot {
        /// The name.
        name: String,
        /// The root.
        root: Box<Cid>,
    },
    /// The store that holds the root's blocks failed.
    #[error("cannot make the blocks of {name:?} safe before naming them")]
    Store {
        /// The name.
        name: String,
        /// What the store said.
        source: StoreError,
    },
    /// A file in the folder is not a ref.
    #[error("{} does not hold a name and its CID: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
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
}

impl RefError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Corrupt { path, .. } => Some(format!("delete {} and add the model again", path.display())),
            Self::Store { source, .. } => source.hint(),
            _ => None,
        }
    }
}

impl RefStore {
    /// Opens the names kept in `folder` (usually `refs/` in the data folder), making it where needed.
    ///
    /// # Errors
    ///
    /// [`RefError::Io`].
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, RefError> {
        let folder = folder.into();
        fs::create_dir_all(&folder).map_err(io("create folder", &folder))?;
        Ok(Self { folder, written: AtomicU64::new(0) })
    }

    /// Points a name at a root, whatever it pointed at before. `store` is flushed first, so that after a crash either the
    /// old root or the whole new one is there.
    ///
    /// # Errors
    ///
    /// [`RefError::BadName`], [`RefError::MissingRoot`], [`RefError::Store`], [`RefError::Io`].
    pub fn set(&self, name: &str, root: &Cid, store: &dyn BlockStore) -> Result<(), RefError> {
        let path = self.path_of(name)?;
        let failed = |source| RefError::Store { name: name.to_owned(), source };
        if !store.contains(root).map_err(failed)? {
            return Err(RefError::MissingRoot { name: name.to_owned(), root: Box::new(*root) });
        }
        store.sync().map_err(failed)?;

        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let tmp = path.with_extension(format!("{}-{number}.tmp", std::process::id()));
        let written = File::create(&tmp)
            .and_then(|mut file| {
                file.write_all(format!("{root} {name}\n").as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&tmp, &path));
        if let Err(source) = written {
            // The first error is the one to report.
            let _ = fs::remove_file(&tmp);
            return Err(RefError::Io { action: "write", path, source });
        }
        self.flush()
    }

    /// The root a name points at; `None` for a name that is not known.
    ///
    /// # Errors
    ///
    /// [`RefError::BadName`], [`RefError::Corrupt`], [`RefError::Io`].
    pub fn get(&self, name: &str) -> Result<Option<Cid>, RefError> {
        let path = self.path_of(name)?;
        match read(&path)? {
            Some((found, root)) if found == name => Ok(Some(root)),
            Some(_) => Err(RefError::Corrupt { path, reason: "it is named after another name than it holds" }),
            None => Ok(None),
        }
    }

    /// Every name with its root, in the order of the names.
    ///
    /// # Errors
    ///
    /// [`RefError::Corrupt`], [`RefError::Io`].
    pub fn list(&self) -> Result<Vec<(String, Cid)>, RefError> {
        let mut refs = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(io("list", &self.folder))? {
            let path = entry.map_err(io("list", &self.folder))?.path();
            if path.to_string_lossy().ends_with(SUFFIX) {
                // One that was removed meanwhile is no longer a name.
                refs.extend(read(&path)?);
            }
        }
        refs.sort();
        Ok(refs)
    }

    /// Forgets a name; its blocks stay until garbage is collected. `false` when it was not known.
    ///
    /// # Errors
    ///
    /// [`RefError::BadName`], [`RefError::Io`].
    pub fn remove(&self, name: &str) -> Result<bool, RefError> {
        let path = self.path_of(name)?;
        match fs::remove_file(&path) {
            Ok(()) => self.flush().map(|()| true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io("remove", &path)(error)),
        }
    }

    fn flush(&self) -> Result<(), RefError> {
        flush_folder(&self.folder).map_err(|error| match error {
            StoreError::Io { action, path, source } => RefError::Io { action, path, source },
            source => RefError::Store { name: String::new(), source },
        })
    }

    fn path_of(&self, name: &str) -> Result<PathBuf, RefError> {
        let bad = |reason| Err(RefError::BadName { name: name.to_owned(), reason });
        if name.is_empty() {
            return bad("it is empty");
        }
        if name.len() > MAX_NAME_BYTES {
            return bad("it is longer than 256 bytes");
        }
        if name.chars().any(char::is_control) {
            return bad("it holds a control character");
        }
        if name.trim() != name {
            return bad("it begins or ends with a space");
        }
        let harmless = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let readable: String = name.chars().map(harmless).take(60).collect();
        let hash: String = Sha256::digest(name).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(self.folder.join(format!("{readable}-{hash}{SUFFIX}")))
    }
}

fn read(path: &Path) -> Result<Option<(String, Cid)>, RefError> {
    let corrupt = |reason| Err(RefError::Corrupt { path: path.to_owned(), reason });
    let text = match fs::metadata(path)
        .and_then(|metadata| if metadata.len() > MAX_FILE_BYTES { Ok(Vec::new()) } else { fs::read(path) })
    {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io("read", path)(error)),
    };
    let Ok(text) = String::from_utf8(text) else { return corrupt("it is not text") };
    let Some((cid, name)) = text.strip_suffix('\n').and_then(|line| line.split_once(' ')) else {
        return corrupt("it is not one line of a CID, a space and a name");
    };
    let Ok(cid) = Cid::try_from(cid) else { return corrupt("it does not begin with a CID") };
    Ok(Some((name.to_owned(), cid)))
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RefError {
    let path = path.to_owned();
    move |source| RefError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Block, MemoryStore};
    use bytes::Bytes;

    fn refs() -> (tempfile::TempDir, RefStore, MemoryStore, Cid, Cid) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let refs = RefStore::open(folder.path().join("refs")).expect("opens");
        let store = MemoryStore::new(100);
        let [one, other] = [&b"one"[..], b"other"].map(|bytes| {
            let block = Block::raw(Bytes::from_static(bytes));
            store.put_block(&block).expect("fits");
            *block.cid()
        });
        (folder, refs, store, one, other)
    }

    #[test]
    fn names_are_set_replaced_listed_and_removed() {
        let (folder, refs, store, one, other) = refs();
        let names = ["all-MiniLM-L6-v2", "all-minilm-l6-v2", "org/name@rev", "../../etc/passwd", "con", "ünï/模型"];
        for name in names {
            assert_eq!(refs.get(name).expect("reads"), None);
            refs.set(name, &one, &store).expect("written");
        }
        refs.set("con", &other, &store).expect("replaced");

        let reopened = RefStore::open(folder.path().join("refs")).expect("opens");
        assert_eq!(reopened.get("con").expect("reads"), Some(other));
        assert_eq!(reopened.get("all-MiniLM-L6-v2").expect("reads"), Some(one));
        let mut sorted = names.to_vec();
        sorted.sort_unstable();
        let listed = reopened.list().expect("lists");
        assert_eq!(listed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), sorted);
        // All of them lie in the folder, and there is nothing else in it.
        assert_eq!(fs::read_dir(folder.path().join("refs")).expect("lists").count(), names.len());

        assert!(reopened.remove("../../etc/passwd").expect("removes"));
        assert!(!reopened.remove("../../etc/passwd").expect("is gone"));
        assert_eq!(reopened.get("../../etc/passwd").expect("reads"), None);
    }

    #[test]
    fn names_that_no_file_could_hold_are_refused() {
        let (_folder, refs, store, one, _) = refs();
        for name in ["", "a\nb", " a", "a ", "\0", &"x".repeat(257)] {
            assert!(matches!(refs.set(name, &one, &store), Err(RefError::BadName { .. })), "{name:?}");
        }
        refs.set(&"x".repeat(256), &one, &store).expect("the longest");
    }

    #[test]
    fn a_root_that_is_not_there_gets_no_name() {
        let (_folder, refs, store, _, _) = refs();
        let error = refs.set("name", &crate::raw_cid(b"elsewhere"), &store).expect_err("not in the store");
        assert!(matches!(error, RefError::MissingRoot { .. }));
        assert_eq!(refs.get("name").expect("reads"), None);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let (_folder, refs, store, one, _) = refs();
        refs.set("name", &one, &store).expect("written");
        let path = refs.path_of("name").expect("a name");
        let line = format!("{one} another\n");
        for damage in ["", "no cid here\n", "bafy", "\u{0}\u{0}", &line, &"x".repeat(2000)] {
            fs::write(&path, damage).expect("damaged");
            let error = refs.get("name").expect_err("no ref");
            assert!(matches!(&error, RefError::Corrupt { path: named, .. } if *named == path), "{damage:?}");
            assert!(error.hint().is_some());
        }
    }
}
