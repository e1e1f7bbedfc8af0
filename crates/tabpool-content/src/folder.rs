//! Importing a folder of the disk: which of its files belong to the model, and which links may be followed.
//!
//! A model's folder may come from anywhere and what is imported may be served to others, so a symbolic link must not
//! pull in files from elsewhere on the machine. The one layout that needs links is the Hugging Face cache,
//! `models--x/snapshots/<revision>/`, whose files are links into `models--x/blobs/`: that folder is allowed too.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::import::{ImportError, ImportOptions, Imported, Importer, Progress};
use crate::store::BlockStore;

/// Imports a folder with its sub-folders; files and folders whose name begins with a dot are left out.
///
/// Symbolic links are followed where they stay inside the folder, or lead from a snapshot of a Hugging Face cache to its
/// blobs. When it returns, every block is in the store and the store is synced.
///
/// # Errors
///
/// See [`ImportError`]. Blocks stored before an error stay; garbage collection finds them.
pub fn import_folder(
    path: &Path,
    store: &dyn BlockStore,
    options: &ImportOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Imported, ImportError> {
    let root = fs::canonicalize(path).map_err(io("open", path))?;
    if !root.is_dir() {
        let source = std::io::Error::from(std::io::ErrorKind::NotADirectory);
        return Err(ImportError::Io { action: "list", path: root, source });
    }
    let mut walk = Walk {
        blobs: blobs_beside(&root),
        root: root.clone(),
        options,
        above: Vec::new(),
        folders: 0,
        found: Vec::new(),
    };
    walk.folder(&root, "")?;
    // The system lists in any order; people and tests prefer to see the same one each time.
    walk.found.sort_by(|one, other| one.path.cmp(&other.path));

    let total = walk.found.iter().map(|file| file.len).sum();
    let mut importer = Importer::new(store, options, total, progress);
    for found in &walk.found {
        let mut file = File::open(&found.disk_path).map_err(io("open", &found.disk_path))?;
        importer.file(&found.path, &mut file, found.len)?;
    }
    importer.finish()
}

/// The folder a Hugging Face cache keeps the bytes of this snapshot in.
fn blobs_beside(root: &Path) -> Option<PathBuf> {
    let snapshots = root.parent()?;
    if snapshots.file_name()? != "snapshots" {
        return None;
    }
    Some(snapshots.parent()?.join("blobs"))
}

struct Found {
    /// Inside the folder, with `/` between its parts.
    path: String,
    disk_path: PathBuf,
    len: u64,
}

struct Walk<'a> {
    root: PathBuf,
    blobs: Option<PathBuf>,
    options: &'a ImportOptions,
    /// The real paths of the folders being walked, outermost first.
    above: Vec<PathBuf>,
    /// How many folders were entered. Links can make one folder appear many times, so files alone bound nothing.
    folders: usize,
    found: Vec<Found>,
}

impl Walk<'_> {
    /// Recursion is bounded by `max_depth`.
    fn folder(&mut self, disk_path: &Path, path: &str) -> Result<(), ImportError> {
        if self.above.len() > self.options.max_depth {
            return Err(ImportError::TooDeep { path: path.to_owned(), limit: self.options.max_depth });
        }
        self.folders += 1;
        if self.folders > self.options.max_files {
            return Err(ImportError::TooManyFiles { limit: self.options.max_files });
        }
        self.above.push(disk_path.to_owned());
        for entry in fs::read_dir(disk_path).map_err(io("list", disk_path))? {
            let entry = entry.map_err(io("list", disk_path))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                let path = format!("{path}{}", name.to_string_lossy());
                return Err(ImportError::BadPath { path, reason: "it is not Unicode" });
            };
            if !name.starts_with('.') {
                self.entry(&entry.path(), format!("{path}{name}"))?;
            }
        }
        self.above.pop();
        Ok(())
    }

    fn entry(&mut self, disk_path: &Path, path: String) -> Result<(), ImportError> {
        let real = fs::canonicalize(disk_path).map_err(io("follow", disk_path))?;
        let metadata = fs::metadata(&real).map_err(io("look at", &real))?;
        let in_blobs = metadata.is_file() && self.blobs.as_ref().is_some_and(|blobs| real.starts_with(blobs));
        if !real.starts_with(&self.root) && !in_blobs {
            return Err(ImportError::OutsideFolder { path: disk_path.to_owned(), target: real });
        }
        if metadata.is_dir() {
            if self.above.contains(&real) {
                return Err(ImportError::Loop { path: disk_path.to_owned() });
            }
            return self.folder(&real, &format!("{path}/"));
        }
        if !metadata.is_file() {
            return Err(ImportError::NotAFile { path: disk_path.to_owned() });
        }
        if self.found.len() >= self.options.max_files {
            return Err(ImportError::TooManyFiles { limit: self.options.max_files });
        }
        self.found.push(Found { path, disk_path: real, len: metadata.len() });
        Ok(())
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ImportError {
    let path = path.to_owned();
    move |source| ImportError::Io { action, path, source }
}
