//! The models of one data folder: blocks under their CIDs, names that point at them, and how a model gets in and out.
//!
//! A name that a person types is resolved here and nowhere else, so the program and the API agree: first a name in the
//! library, then a folder of the disk (imported, but not named), otherwise an error that says what there is. Whatever is
//! added is opened as a model before it gets its name: what the list shows can be run.
//!
//! Several processes may use one data folder. Collecting garbage is the one act that hurts others, because a model that is
//! being added, or that a pool runs from a folder, has blocks no name leads to. So whoever needs such blocks holds the
//! library's lock shared ([`Library::in_use`]), and collecting asks for it alone.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tabpool_content::{Cid, Directory, DiskStore, ImportOptions, RefError, RefStore, collect_garbage, import_folder};
use tabpool_hub::{HubClient, HubModel};
use tabpool_models::Model as ModelFolder;

pub use error::LibraryError;

mod error;
#[cfg(test)]
mod tests;

/// The models of one data folder. Cheap to clone; clones are the same library.
#[derive(Clone, Debug)]
pub struct Library {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    data_dir: PathBuf,
    store: DiskStore,
    refs: RefStore,
}

/// Keeps blocks that no name leads to from being collected, for as long as it lives.
#[derive(Debug)]
#[must_use]
pub struct InUse {
    // Unlocked when the file is closed.
    _lock: File,
}

/// What an addition is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Files come from the hub.
    Downloading,
    /// Files are hashed and stored as blocks.
    Storing,
}

/// How far an addition has come.
#[derive(Clone, Copy, Debug)]
pub struct AddProgress<'a> {
    /// What it is doing.
    pub stage: Stage,
    /// The file at hand, by its path inside the model's folder.
    pub file: &'a str,
    /// Bytes of all files that are done with.
    pub done: u64,
    /// The size of all files.
    pub total: u64,
}

/// A model that was added, or found by [`Library::resolve`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// The name it has in the library.
    pub name: String,
    /// The CID of its folder.
    pub root: Cid,
    /// What its configuration calls its architecture, as in `bert`.
    pub architecture: String,
    /// How many files it has.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
    /// Bytes of blocks that the library did not hold before.
    pub bytes_new: u64,
    /// Bytes that came over the network.
    pub bytes_fetched: u64,
    /// What the name pointed at before, where that was something else.
    pub replaced: Option<Cid>,
}

/// One name of the library.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The name.
    pub name: String,
    /// The CID of the model's folder.
    pub root: Cid,
    /// What is behind the name, or why it cannot be told: a damaged or missing block, say.
    pub summary: Result<Summary, String>,
}

/// What a model's folder says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// What its configuration calls its architecture, as in `bert`.
    pub architecture: String,
    /// How many files it has.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
    /// The longest sequence it takes, in tokens.
    pub max_sequence: usize,
}

/// What became of the blocks when garbage was collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freed {
    /// Blocks that no name led to are gone.
    Blocks {
        /// How many.
        blocks: u64,
        /// Their size.
        bytes: u64,
    },
    /// A pool runs, or a model is being added: nothing was removed, the next collection does it.
    InUse,
}

/// A name or folder, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The name to show: the one in the library, or the folder's.
    pub name: String,
    /// The CID of the model's folder.
    pub root: Cid,
}

impl Library {
    /// Opens the library in a data folder, making `blocks/` and `refs/` where needed.
    ///
    /// # Errors
    ///
    /// [`LibraryError::Store`], [`LibraryError::Refs`].
    pub fn open(data_dir: impl Into<PathBuf>) -> Result<Self, LibraryError> {
        let data_dir = data_dir.into();
        let store = DiskStore::open(data_dir.join("blocks"))?;
        let refs = RefStore::open(data_dir.join("refs"))?;
        Ok(Self { shared: Arc::new(Shared { data_dir, store, refs }) })
    }

    /// The data folder.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.shared.data_dir
    }

    /// The blocks.
    #[must_use]
    pub fn store(&self) -> &DiskStore {
        &self.shared.store
    }

    /// Keeps every block from being collected until the value is dropped. Waits while somebody collects.
    ///
    /// # Errors
    ///
    /// [`LibraryError::Lock`].
    pub fn in_use(&self) -> Result<InUse, LibraryError> {
        let (file, path) = self.lock_file()?;
        file.lock_shared().map_err(|source| LibraryError::Lock { path, source })?;
        Ok(InUse { _lock: file })
    }

    /// Adds a folder of the disk, under `name` or else under the folder's own. Blocks the thread.
    ///
    /// # Errors
    ///
    /// [`LibraryError`]; the library's names are then as before.
    pub fn add_folder(
        &self,
        folder: &Path,
        name: Option<&str>,
        progress: &mut dyn FnMut(AddProgress<'_>),
    ) -> Result<Added, LibraryError> {
        let _in_use = self.in_use()?;
        let name = match name {
            Some(name) => name.to_owned(),
            None => folder_name(folder)?,
        };
        // Also refuses a name that cannot be one before anything is copied.
        let before = self.shared.refs.get(&name)?;
        let (imported, model) = self.import(folder, progress)?;
        self.shared.refs.set(&name, &imported.root, &self.shared.store)?;
        Ok(Added {
            name,
            root: imported.root,
            architecture: model.architecture().to_owned(),
            files: imported.files,
            bytes: imported.bytes,
            bytes_new: imported.bytes_new,
            bytes_fetched: 0,
            replaced: before.filter(|before| *before != imported.root),
        })
    }

    /// Downloads a model from a hub and adds it, under `name` or else under the repository's own (with `@revision`
    /// unless that is `main`).
    ///
    /// The files are kept until the model is in the library, so that what was cut off goes on where it stopped. Cancel
    /// safe in that sense.
    ///
    /// # Errors
    ///
    /// [`LibraryError`]; the library's names are then as before.
    pub async fn add_hub(
        &self,
        client: &HubClient,
        model: &HubModel,
        name: Option<&str>,
        progress: &mut (dyn FnMut(AddProgress<'_>) + Send),
    ) -> Result<Added, LibraryError> {
        let name = name.map_or_else(|| hub_name(model), str::to_owned);
        self.shared.refs.get(&name)?;
        let folder = self.data_dir().join("downloads").join(download_folder(model));
        let downloaded = client
            .download(model, &folder, &mut |at| {
                progress(AddProgress { stage: Stage::Downloading, file: at.file, done: at.done, total: at.total });
            })
            .await?;
        // Hashing a model takes a core for seconds; the caller's threads are not for that. Progress comes back through a
        // channel, because the caller's closure must stay on the caller's side.
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<(String, u64, u64)>(16);
        let (library, from) = (self.clone(), folder.clone());
        let storing = tokio::task::spawn_blocking(move || {
            library.add_folder(&from, Some(&name), &mut |at| {
                // A full channel means that somebody is behind with drawing; the next report says more anyway.
                let _ = sender.try_send((at.file.to_owned(), at.done, at.total));
            })
        });
        while let Some((file, done, total)) = receiver.recv().await {
            progress(AddProgress { stage: Stage::Storing, file: &file, done, total });
        }
        let mut added = storing.await.map_err(|_| LibraryError::Interrupted { folder: folder.clone() })??;
        added.bytes_fetched = downloaded.bytes_fetched;
        // The blocks hold the same bytes. Where it cannot be removed it is only in the way.
        if let Err(error) = fs::remove_dir_all(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "a finished download could not be removed");
        }
        Ok(added)
    }

    /// Every name, in order, with what is behind it.
    ///
    /// # Errors
    ///
    /// [`LibraryError::Refs`]. A model that cannot be read is listed with the reason.
    pub fn list(&self) -> Result<Vec<Listed>, LibraryError> {
        let listed = self.shared.refs.list()?.into_iter().map(|(name, root)| {
            let summary = self.summary(&root).map_err(|error| chain(&error));
            Listed { name, root, summary }
        });
        Ok(listed.collect())
    }

    /// Forgets a name. Its blocks stay until [`Library::collect`].
    ///
    /// # Errors
    ///
    /// [`LibraryError::Unknown`] where there is no such name, [`LibraryError::Refs`].
    pub fn remove(&self, name: &str) -> Result<(), LibraryError> {
        if self.shared.refs.remove(name)? { Ok(()) } else { Err(self.unknown(name)) }
    }

    /// Removes the blocks that no name leads to, unless somebody [uses](Library::in_use) the library.
    ///
    /// # Errors
    ///
    /// [`LibraryError::Garbage`], [`LibraryError::Lock`], [`LibraryError::Refs`].
    pub fn collect(&self) -> Result<Freed, LibraryError> {
        let (file, path) = self.lock_file()?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Freed::InUse),
            Err(TryLockError::Error(source)) => return Err(LibraryError::Lock { path, source }),
        }
        let roots: Vec<Cid> = self.shared.refs.list()?.into_iter().map(|(_, root)| root).collect();
        let collected = collect_garbage(&self.shared.store, &roots)?;
        Ok(Freed::Blocks { blocks: collected.removed, bytes: collected.bytes })
    }

    /// Finds what a person means by a model's name: a name in the library, else a folder of the disk, which is imported
    /// without getting a name. Blocks the thread; keep [`Library::in_use`] held until the model is done with.
    ///
    /// # Errors
    ///
    /// [`LibraryError::Unknown`] where it is neither, otherwise as [`Library::add_folder`].
    pub fn resolve(&self, name: &str, progress: &mut dyn FnMut(AddProgress<'_>)) -> Result<Resolved, LibraryError> {
        match self.shared.refs.get(name) {
            Ok(Some(root)) => return Ok(Resolved { name: name.to_owned(), root }),
            // What cannot be a name may still be a path.
            Ok(None) | Err(RefError::BadName { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let folder = Path::new(name);
        if !folder.is_dir() {
            return Err(self.unknown(name));
        }
        let (imported, _) = self.import(folder, progress)?;
        Ok(Resolved { name: folder_name(folder)?, root: imported.root })
    }

    /// Opens a model of the library: its signature and its configuration, no weights.
    ///
    /// # Errors
    ///
    /// [`LibraryError::Model`].
    pub fn open_model(&self, root: &Cid) -> Result<ModelFolder, LibraryError> {
        ModelFolder::open(&self.shared.store, root)
            .map_err(|source| LibraryError::Model { place: root.to_string(), source: Box::new(source) })
    }

    fn import(
        &self,
        folder: &Path,
        progress: &mut dyn FnMut(AddProgress<'_>),
    ) -> Result<(tabpool_content::Imported, ModelFolder), LibraryError> {
        let imported = import_folder(folder, &self.shared.store, &ImportOptions::default(), &mut |at| {
            progress(AddProgress { stage: Stage::Storing, file: at.file, done: at.done, total: at.total });
        })
        .map_err(|source| LibraryError::Import { folder: folder.to_owned(), source: Box::new(source) })?;
        let model = ModelFolder::open(&self.shared.store, &imported.root)
            .map_err(|source| LibraryError::Model { place: folder.display().to_string(), source: Box::new(source) })?;
        Ok((imported, model))
    }

    fn summary(&self, root: &Cid) -> Result<Summary, LibraryError> {
        let failed = |source| LibraryError::Model { place: root.to_string(), source: Box::new(source) };
        let directory = Directory::open(&self.shared.store, root).map_err(|error| failed(error.into()))?;
        let files = directory.list();
        let model = ModelFolder::read(&directory).map_err(failed)?;
        Ok(Summary {
            architecture: model.architecture().to_owned(),
            files: files.len() as u64,
            bytes: files.iter().map(|file| file.size).sum(),
            max_sequence: model.max_sequence(),
        })
    }

    fn unknown(&self, name: &str) -> LibraryError {
        // The list is help, not the matter: where it cannot be read, the name is unknown all the same.
        let known = self.shared.refs.list().unwrap_or_default().into_iter().map(|(name, _)| name).collect();
        LibraryError::Unknown { name: name.to_owned(), known }
    }

    fn lock_file(&self) -> Result<(File, PathBuf), LibraryError> {
        let path = self.data_dir().join("library.lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        Ok((file.map_err(|source| LibraryError::Lock { path: path.clone(), source })?, path))
    }
}

/// An error with everything under it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        below = cause.source();
    }
    text
}

/// The name of a model in a folder: the folder's, or the repository's for a snapshot of a Hugging Face cache
/// (`models--org--name/snapshots/<revision>`), whose own name is a hash.
fn folder_name(folder: &Path) -> Result<String, LibraryError> {
    let nameless = || LibraryError::Nameless { folder: folder.to_owned() };
    // `.` and `..` have names only once they are resolved.
    let real = folder.canonicalize().map_err(|source| LibraryError::Folder { folder: folder.to_owned(), source })?;
    let part = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    if let Some(snapshots) = real.parent()
        && part(snapshots).as_deref() == Some("snapshots")
        && let Some(cache) = snapshots.parent().and_then(part)
        && let Some(repository) = cache.strip_prefix("models--")
        && let Some(name) = repository.rsplit("--").next()
    {
        return Ok(name.to_owned());
    }
    part(&real).ok_or_else(nameless)
}

/// The name a model of a hub gets unless another is given.
fn hub_name(model: &HubModel) -> String {
    let name = model.repository().rsplit('/').next().unwrap_or(model.repository());
    if model.revision() == "main" { name.to_owned() } else { format!("{name}@{}", model.revision()) }
}

/// A folder name of its own for each model and revision: `/` is the one character in them that no file name may hold,
/// and neither holds the `+` that stands for it.
fn download_folder(model: &HubModel) -> String {
    format!("{}@{}", model.repository(), model.revision()).replace('/', "+")
}
