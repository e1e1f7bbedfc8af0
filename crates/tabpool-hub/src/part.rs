//! A file that is arriving: kept beside its place under a hidden name, hashed as it grows, renamed when it is whole.
//!
//! Writing and hashing happen on the runtime's blocking threads. The state travels there and back, so a download that is
//! dropped in the middle leaves a shorter part, never a broken one.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::digest::{Expected, Running};
use crate::error::HubError;

/// How much arrives before it is written.
const BUFFER_BYTES: usize = 1 << 20;
/// How long to wait for a part that somebody else writes. A download that was just dropped lets go within a write.
const LOCK_ATTEMPTS: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Part {
    path: PathBuf,
    expected: Expected,
    /// Absent only while it is on a blocking thread, or after a failure there.
    state: Option<State>,
    buffer: Vec<u8>,
    len: u64,
}

struct State {
    file: File,
    digest: Running,
}

impl Part {
    /// Opens the part, with what an earlier download left in it, unless that is more than the file can have.
    pub(crate) async fn open(path: PathBuf, expected: Expected, size: Option<u64>) -> Result<Self, HubError> {
        for _ in 0..LOCK_ATTEMPTS {
            let (path_there, expected_there) = (path.clone(), expected.clone());
            let opened = blocking(&path, move || open(&path_there, &expected_there, size)).await?;
            if let Some((state, len)) = opened {
                return Ok(Self { path, expected, state: Some(state), buffer: Vec::new(), len });
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
        Err(HubError::Busy { path })
    }

    /// How many bytes have arrived, over all attempts.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) async fn push(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.buffer.extend_from_slice(bytes);
        self.len += bytes.len() as u64;
        if self.buffer.len() >= BUFFER_BYTES { self.flush().await } else { Ok(()) }
    }

    pub(crate) async fn flush(&mut self) -> Result<(), HubError> {
        let bytes = std::mem::take(&mut self.buffer);
        if bytes.is_empty() {
            return Ok(());
        }
        self.with_state("write", move |state| {
            state.file.write_all(&bytes)?;
            state.digest.update(&bytes);
            Ok(())
        })
        .await
    }

    /// Forgets everything that has arrived.
    pub(crate) async fn restart(&mut self) -> Result<(), HubError> {
        let digest = self.expected.start();
        self.buffer.clear();
        self.len = 0;
        self.with_state("truncate", move |state| {
            state.file.set_len(0)?;
            state.file.seek(SeekFrom::Start(0))?;
            state.digest = digest;
            Ok(())
        })
        .await
    }

    /// Removes the part.
    pub(crate) async fn discard(self) -> Result<(), HubError> {
        let path = self.path.clone();
        // Windows removes no open file.
        drop(self);
        let there = path.clone();
        blocking(&path, move || fs::remove_file(&there).map_err(io("remove", &there))).await
    }

    /// Holds what has arrived against the hash; flushes it to the disk and gives it its name, or removes it.
    pub(crate) async fn finish(mut self, name: &str, target: PathBuf) -> Result<(), HubError> {
        self.flush().await?;
        let digest = match &self.state {
            Some(state) => state.digest.clone(),
            None => return Err(gone(&self.path)),
        };
        if let Some((expected, actual)) = self.expected.differs(digest) {
            let what = self.expected.what();
            self.discard().await?;
            return Err(HubError::Mismatch { path: name.to_owned(), what, expected, actual });
        }
        self.with_state("flush", |state| state.file.sync_all()).await?;
        let path = std::mem::take(&mut self.path);
        drop(self);
        blocking(&target.clone(), move || fs::rename(&path, &target).map_err(io("rename a new file to", &target))).await
    }

    async fn with_state(
        &mut self,
        action: &'static str,
        work: impl FnOnce(&mut State) -> std::io::Result<()> + Send + 'static,
    ) -> Result<(), HubError> {
        let Some(mut state) = self.state.take() else { return Err(gone(&self.path)) };
        let path = self.path.clone();
        let done = blocking(&self.path, move || {
            work(&mut state).map_err(io(action, &path))?;
            Ok(state)
        });
        self.state = Some(done.await?);
        Ok(())
    }
}

/// Opens and locks a part and hashes what it holds; `None` while another holds the lock.
fn open(path: &Path, expected: &Expected, size: Option<u64>) -> Result<Option<(State, u64)>, HubError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(io("create folder", folder))?;
    }
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(io("open", path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        // Some network disks have no locks. Two downloads at once would spoil each other's part there, and the hash
        // would tell.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
        Err(TryLockError::Error(error)) => return Err(io("lock", path)(error)),
    }
    let mut len = file.metadata().map_err(io("look at", path))?.len();
    if size.is_some_and(|size| len > size) {
        file.set_len(0).map_err(io("truncate", path))?;
        len = 0;
    }
    let digest = hash(&mut file, expected).map_err(io("read", path))?;
    Ok(Some((State { file, digest }, len)))
}

/// Whether a file that is already in its place is the one expected. One without a known hash is not trusted.
pub(crate) async fn is_whole(path: &Path, expected: Expected, size: Option<u64>) -> Result<bool, HubError> {
    let there = path.to_owned();
    blocking(path, move || {
        if expected == Expected::Unknown {
            return Ok(false);
        }
        let mut file = match File::open(&there) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(io("open", &there)(error)),
        };
        let len = file.metadata().map_err(io("look at", &there))?.len();
        if size.is_some_and(|size| size != len) {
            return Ok(false);
        }
        let digest = hash(&mut file, &expected).map_err(io("read", &there))?;
        Ok(expected.differs(digest).is_none())
    })
    .await
}

/// Hashes a file from where it stands to its end.
fn hash(file: &mut File, expected: &Expected) -> std::io::Result<Running> {
    let mut digest = expected.start();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(digest),
            Ok(len) => digest.update(&buffer[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Runs what may block on a thread where it may.
async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, HubError> + Send + 'static,
) -> Result<T, HubError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Only a runtime that is shutting down cancels such work.
        Err(error) => Err(io("work on", path)(std::io::Error::other(error))),
    }
}

fn gone(path: &Path) -> HubError {
    io("go on with", path)(std::io::Error::other("an earlier write failed"))
}

pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> HubError {
    let path = path.to_owned();
    move |source| HubError::Io { action, path, source }
}
