//! Profile folders: made for one launch and removed after it, or kept under a name and lent to one launch at a time.
//!
//! Beside each folder `X` lies a lock file `X.lock`, held by the host that uses it and by the browser's guard. The
//! lock, not a process number, says whether anybody answers for the folder: the kernel releases it however its
//! holders end, a recycled number cannot fool it, and it works between containers that share the folder but not
//! their processes. The file also records the host's number and start ([`OwnerRecord`]), for error messages, for file
//! systems without locks, and to tell a host that lives from one whose guard is still cleaning up.
//!
//! *Invariant*: an ephemeral folder exists only while its lock file does; the lock file is made first and removed
//! last. So a folder without one is stale.

use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::process;

/// Folders that are removed when their browser ends.
pub(crate) const EPHEMERAL_PREFIX: &str = "ephemeral-";
/// Folders that stay.
pub(crate) const KEPT_PREFIX: &str = "keep-";
/// Added to a folder's name to get its lock file's.
pub(crate) const LOCK_SUFFIX: &str = ".lock";

/// An owner's record is one short line; more is not read.
const RECORD_LIMIT: u64 = 512;
/// A browser that was just killed may still be writing while its folder is being removed.
const REMOVAL_ATTEMPTS: u32 = 20;

/// How long the guard of a dead host is waited for. It takes half a second, more on a machine under load.
const CLEANING_LIMIT: Duration = Duration::from_secs(10);

/// Which profile a browser gets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum ProfileKind {
    /// A new folder, removed when the browser ends.
    #[default]
    Ephemeral,
    /// The folder `keep-NAME`, made at first use and kept, so that what pages stored there is found again. One
    /// browser may use it at a time.
    Kept(String),
}

/// Why a profile could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// A kept profile's name is used as a folder's name.
    #[error("profile name {name:?} is not 1 to 64 letters, digits, '-' or '_'")]
    Name {
        /// The name as it was given.
        name: String,
    },
    /// The folder's path must pass through command lines and a line-based pipe.
    #[error("profiles folder {} cannot be used: its path is not UTF-8 or contains a line break", path.display())]
    Path {
        /// The folder.
        path: PathBuf,
    },
    /// Another browser uses this kept profile.
    #[error("profile {} is in use by another browser ({owner})", path.display())]
    InUse {
        /// The profile folder.
        path: PathBuf,
        /// What its lock file says about the owner.
        owner: String,
    },
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ProfileError {
    move |source| ProfileError::Io { action, path: path.to_owned(), source }
}

/// A profile folder this process holds the lock of.
#[derive(Debug)]
pub(crate) struct Profile {
    folder: PathBuf,
    lock: ProfileLock,
    ephemeral: bool,
}

impl Profile {
    /// Makes or takes the folder under `root`, which is made where absent.
    pub(crate) fn acquire(root: &Path, kind: &ProfileKind) -> Result<Self, ProfileError> {
        create_private_folder(root).map_err(io_error("make the profiles folder", root))?;
        let root = root.canonicalize().map_err(io_error("resolve the profiles folder", root))?;
        if root.to_str().is_none_or(|path| path.contains(['\n', '\r'])) {
            return Err(ProfileError::Path { path: root });
        }
        match kind {
            ProfileKind::Ephemeral => Self::acquire_ephemeral(&root),
            ProfileKind::Kept(name) => Self::acquire_kept(&root, name),
        }
    }

    fn acquire_ephemeral(root: &Path) -> Result<Self, ProfileError> {
        loop {
            // Fixed width, so that no folder's name is the beginning of another's.
            let name = format!("{EPHEMERAL_PREFIX}{}-{:016x}", std::process::id(), random());
            let folder = root.join(name);
            // `None` is a sweep that got hold of the new file first, or a name already taken: take another.
            let Some(lock) = ProfileLock::try_acquire(&lock_path(&folder))? else { continue };
            create_private_folder(&folder).map_err(io_error("make the profile folder", &folder))?;
            return Ok(Self { folder, lock, ephemeral: true });
        }
    }

    fn acquire_kept(root: &Path, name: &str) -> Result<Self, ProfileError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
            return Err(ProfileError::Name { name: name.to_owned() });
        }
        let folder = root.join(format!("{KEPT_PREFIX}{name}"));
        let path = lock_path(&folder);
        let deadline = Instant::now() + CLEANING_LIMIT;
        let lock = loop {
            if let Some(lock) = ProfileLock::try_acquire(&path)? {
                break lock;
            }
            let owner = OwnerRecord::read(&path);
            // A dead owner's lock is held by its guard, which lets go when it has ended the owner's browser.
            if owner.as_ref().is_none_or(OwnerRecord::lives) || Instant::now() > deadline {
                let owner = owner.map_or_else(|| "owner unknown".to_owned(), |owner| owner.to_string());
                return Err(ProfileError::InUse { path: folder, owner });
            }
            thread::sleep(Duration::from_millis(50));
        };
        create_private_folder(&folder).map_err(io_error("make the profile folder", &folder))?;
        Ok(Self { folder, lock, ephemeral: false })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The lock file that goes with the folder, where the folder goes at all.
    pub(crate) fn ephemeral_lock(&self) -> Option<&Path> {
        self.ephemeral.then_some(self.lock.path.as_path())
    }

    /// The locked file, to be held by somebody else as well: the lock lasts until both have closed it.
    pub(crate) fn share_lock(&self) -> io::Result<File> {
        self.lock.file.try_clone()
    }

    /// Gives the profile back: removes an ephemeral one, unlocks a kept one. The browser must have ended.
    pub(crate) fn release(self) -> Result<(), ProfileError> {
        remove_socket_folder(&self.folder);
        if self.ephemeral {
            remove_folder(&self.folder).map_err(io_error("remove the profile folder", &self.folder))?;
            self.lock.remove()?;
        }
        Ok(())
    }
}

/// An exclusive lock on a file, held until dropped.
#[derive(Debug)]
pub(crate) struct ProfileLock {
    path: PathBuf,
    /// The lock lasts as long as this, or what it is shared with, is open.
    file: File,
}

impl ProfileLock {
    /// Locks `path`, made where absent, and records this process in it. `None` when another owner lives.
    pub(crate) fn try_acquire(path: &Path) -> Result<Option<Self>, ProfileError> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io_error("open the lock file", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                if OwnerRecord::read(path).is_some_and(|owner| owner.lives()) {
                    return Ok(None);
                }
            }
            Err(TryLockError::Error(error)) => return Err(io_error("lock", path)(error)),
        }
        // Between opening and locking, a sweep may have removed the file: the lock would then be on a file nobody
        // else can find.
        if !is_still_at(&file, path) {
            return Ok(None);
        }
        let record = OwnerRecord::of_this_process().to_string();
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(record.as_bytes()))
            .map_err(io_error("write the lock file", path))?;
        Ok(Some(Self { path: path.to_owned(), file }))
    }

    /// Removes the file while still holding it, so that nobody can take it in between.
    pub(crate) fn remove(self) -> Result<(), ProfileError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &self.path)(error)),
            _ => Ok(()),
        }
    }
}

#[cfg(unix)]
fn is_still_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(opened), Ok(found)) => (opened.dev(), opened.ino()) == (found.dev(), found.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_still_at(_file: &File, path: &Path) -> bool {
    path.exists()
}

/// Who holds a lock, as written into the lock file: the process number and what its start looked like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnerRecord {
    pid: u32,
    start: String,
}

impl OwnerRecord {
    fn of_this_process() -> Self {
        let pid = std::process::id();
        Self { pid, start: process::start_stamp(pid).unwrap_or_default() }
    }

    pub(crate) fn read(path: &Path) -> Option<Self> {
        let mut text = String::new();
        File::open(path).ok()?.take(RECORD_LIMIT).read_to_string(&mut text).ok()?;
        let rest = text.trim_end().strip_prefix("process ")?;
        let (pid, start) = rest.split_once(" started ").unwrap_or((rest, ""));
        Some(Self { pid: pid.parse().ok()?, start: start.to_owned() })
    }

    /// Whether the recorded process still runs, and is not another one with the same number.
    pub(crate) fn lives(&self) -> bool {
        process::start_stamp(self.pid).is_some_and(|start| self.start.is_empty() || start == self.start)
    }
}

impl std::fmt::Display for OwnerRecord {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "process {} started {}", self.pid, self.start)
    }
}

pub(crate) fn lock_path(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(LOCK_SUFFIX);
    PathBuf::from(name)
}

/// The standard library seeds its hashers from the system's randomness. Names need to be unique, not secret.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Makes a folder, and its parents, that only this user can look into: profiles hold cookies and join tokens.
fn create_private_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Removes a folder that a process which is just ending may still write into.
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    let mut last = None;
    for _ in 0..REMOVAL_ATTEMPTS {
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => return Ok(()),
            Err(error) => last = Some(error),
        }
        thread::sleep(Duration::from_millis(25));
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::DirectoryNotEmpty.into()))
}

/// Chromium keeps the socket of a profile in a folder of its own under the system's temporary folder, which a kill
/// leaves behind. Only its two known names are removed, then the folder if that left it empty. The links in the
/// profile go as well: in a kept profile they would make Chromium believe it is open on another machine.
pub(crate) fn remove_socket_folder(profile: &Path) {
    let Ok(socket) = fs::read_link(profile.join("SingletonSocket")) else { return };
    if let (true, Some("SingletonSocket"), Some(folder)) =
        (socket.is_absolute(), socket.file_name().and_then(|name| name.to_str()), socket.parent())
    {
        // Nothing depends on these removals: what is left is an empty folder in the temporary folder.
        drop(fs::remove_file(&socket));
        drop(fs::remove_file(folder.join("SingletonCookie")));
        drop(fs::remove_dir(folder));
    }
    for link in ["SingletonSocket", "SingletonCookie", "SingletonLock"] {
        drop(fs::remove_file(profile.join(link)));
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fs;

    use super::{OwnerRecord, Profile, ProfileError, ProfileKind, ProfileLock, lock_path};

    #[test]
    fn an_ephemeral_profile_leaves_nothing() -> Result<(), Box<dyn Error>> {
        let root = tempfile::tempdir()?;
        let profile = Profile::acquire(root.path(), &ProfileKind::Ephemeral)?;
        let folder = profile.folder().to_owned();
        fs::create_dir(folder.join("Default"))?;
        fs::write(folder.join("Default/Cookies"), "x")?;
        assert!(lock_path(&folder).exists());
        profile.release()?;
        assert_eq!(fs::read_dir(root.path())?.count(), 0);
        Ok(())
    }

    #[test]
    fn a_kept_profile_serves_one_owner_at_a_time_and_keeps_its_files() -> Result<(), Box<dyn Error>> {
        let root = tempfile::tempdir()?;
        let kind = ProfileKind::Kept("phone".to_owned());
        let first = Profile::acquire(root.path(), &kind)?;
        fs::write(first.folder().join("stored"), "x")?;
        let refused = Profile::acquire(root.path(), &kind).expect_err("the first owner holds it");
        assert!(
            matches!(&refused, ProfileError::InUse { owner, .. } if owner.contains(&std::process::id().to_string())),
            "{refused}"
        );
        first.release()?;
        let second = Profile::acquire(root.path(), &kind)?;
        assert_eq!(fs::read_to_string(second.folder().join("stored"))?, "x");
        Ok(())
    }

    #[test]
    fn a_name_that_leaves_the_folder_is_refused() -> Result<(), Box<dyn Error>> {
        let root = tempfile::tempdir()?;
        for name in ["", "..", "a/b", "a b", "a\nb", &"x".repeat(65)] {
            let outcome = Profile::acquire(root.path(), &ProfileKind::Kept(name.to_owned()));
            assert!(matches!(outcome, Err(ProfileError::Name { .. })), "{name:?}");
        }
        Ok(())
    }

    #[test]
    fn a_root_with_a_line_break_is_refused() -> Result<(), Box<dyn Error>> {
        let root = tempfile::tempdir()?;
        let outcome = Profile::acquire(&root.path().join("a\nb"), &ProfileKind::Ephemeral);
        assert!(matches!(outcome, Err(ProfileError::Path { .. })));
        Ok(())
    }

    #[test]
    fn a_lock_is_free_again_after_its_holder() -> Result<(), Box<dyn Error>> {
        let root = tempfile::tempdir()?;
        let path = root.path().join("x.lock");
        let held = ProfileLock::try_acquire(&path)?.expect("nobody else has it");
        assert!(ProfileLock::try_acquire(&path)?.is_none());
        drop(held);
        assert!(ProfileLock::try_acquire(&path)?.is_some());
        Ok(())
    }

    #[test]
    fn a_recycled_process_number_does_not_pass_for_the_owner() -> Result<(), Box<dyn Error>> {
        let root = tempfile::tempdir()?;
        let path = root.path().join("x.lock");
        let myself = OwnerRecord::of_this_process();
        fs::write(&path, myself.to_string())?;
        let read = OwnerRecord::read(&path).expect("a record was written");
        assert_eq!(read, myself);
        assert!(read.lives());
        let earlier = OwnerRecord { start: "1@earlier boot".to_owned(), ..myself };
        assert!(!earlier.lives());
        Ok(())
    }
}
