//! One DuckDB file opened safely: its settings, its lock, and its errors in our words.
//!
//! DuckDB locks its file with POSIX record locks, which a process loses as soon as it closes *any* descriptor of that file
//! and which never exclude the process itself. Two stores on one file in one process would therefore both open, and both
//! write. A lock file beside the database (`flock`, or its equivalent) has neither weakness and says who holds it; DuckDB's
//! own lock still keeps foreign programs out. For the same reason nothing in this crate opens the database file itself.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use duckdb::{AccessMode, Config, Connection};

use crate::error::OpenError;

/// Whether a database may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Write,
    Read,
}

/// An open database file with the lock that protects it. The lock ends with the value, or with the process.
pub(crate) struct Database {
    // Declared before the lock so that DuckDB has closed the file before another process may open it.
    pub(crate) connection: Connection,
    pub(crate) lock: Option<FileLock>,
}

impl Database {
    pub(crate) fn open(path: &Path, access: Access) -> Result<Self, OpenError> {
        if access == Access::Read && !path.exists() {
            return Err(OpenError::Missing { path: path.to_owned() });
        }
        if access == Access::Write
            && let Some(folder) = path.parent()
        {
            std::fs::create_dir_all(folder).map_err(io(path, "make the folder"))?;
        }
        let lock = FileLock::acquire(path, access)?;
        let connection = config(access)
            .and_then(|config| Connection::open_with_flags(path, config))
            .map_err(|error| in_our_words(path, error))?;
        Ok(Self { connection, lock })
    }

    pub(crate) fn in_memory() -> Result<Self, OpenError> {
        let connection = config(Access::Write)
            .and_then(Connection::open_in_memory_with_flags)
            .map_err(|error| in_our_words(Path::new(":memory:"), error))?;
        Ok(Self { connection, lock: None })
    }
}

/// The settings of every connection. Nothing is ever downloaded or loaded, SQL reaches no other file, and a database of
/// measurements takes neither all cores nor all memory from what is being measured.
fn config(access: Access) -> duckdb::Result<Config> {
    let config = Config::default()
        .enable_autoload_extension(false)?
        .enable_external_access(false)?
        .threads(2)?
        .max_memory("512MB")?
        .with("lock_configuration", "true")?;
    match access {
        Access::Write => Ok(config),
        Access::Read => config.access_mode(AccessMode::ReadOnly),
    }
}

/// The lock file beside a database: exclusive for the writer, shared by readers.
pub(crate) struct FileLock {
    file: File,
    access: Access,
}

impl FileLock {
    fn acquire(path: &Path, access: Access) -> Result<Option<Self>, OpenError> {
        let mut name = OsString::from(path);
        name.push(".lock");
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(PathBuf::from(name));
        let mut file = match (opened, access) {
            (Ok(file), _) => file,
            // A reader of a read-only folder has nobody to be protected from but writers elsewhere, whom DuckDB sees.
            (Err(_), Access::Read) => return Ok(None),
            (Err(source), Access::Write) => return Err(io(path, "make the lock file")(source)),
        };
        let tried = match access {
            Access::Write => file.try_lock(),
            Access::Read => file.try_lock_shared(),
        };
        match tried {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&mut file, access);
                return Err(OpenError::Locked { path: path.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(io(path, "lock the lock file")(source)),
        }
        let mut lock = Self { file, access };
        if access == Access::Write {
            lock.sign().map_err(io(path, "write the lock file"))?;
        }
        Ok(Some(lock))
    }

    /// Leaves the name of this process for whoever finds the lock taken.
    fn sign(&mut self) -> std::io::Result<()> {
        let program = std::env::current_exe().unwrap_or_default();
        let text = format!("{} (process {})", program.display(), std::process::id());
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        if self.access == Access::Write {
            // Only the courtesy of a name is at stake: the lock itself ends with the descriptor.
            let _ = self.file.set_len(0);
        }
    }
}

/// Who holds a lock that was just refused.
fn holder(file: &mut File, wanted: Access) -> Option<String> {
    if wanted == Access::Write && file.try_lock_shared().is_ok() {
        return Some("a reader".to_owned());
    }
    let mut text = String::new();
    // A name is short; anything longer is not ours.
    file.take(4096).read_to_string(&mut text).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> OpenError {
    move |source| OpenError::Io { path: path.to_owned(), action, source }
}

/// DuckDB has one code for everything, so the kinds are told apart by its messages; an unknown one is passed on whole.
pub(crate) fn in_our_words(path: &Path, error: duckdb::Error) -> OpenError {
    let path = path.to_owned();
    let message = error.to_string();
    if message.contains("Could not set lock on file") {
        return OpenError::Locked { path, holder: duckdb_holder(&message) };
    }
    if message.contains("not a valid DuckDB database file") {
        return OpenError::NotADatabase { path };
    }
    let damaged = ["Corrupt database file", "Could not read enough bytes", "Failure while replaying WAL"];
    if damaged.iter().any(|sign| message.contains(sign)) {
        return OpenError::Damaged { path, detail: message };
    }
    OpenError::Database { path, source: error }
}

/// `… Conflicting lock is held in /usr/bin/duckdb (PID 12) by user x. See also …` names a foreign holder.
fn duckdb_holder(message: &str) -> Option<String> {
    let rest = message.split("lock is held in ").nth(1)?;
    let end = rest.find(')')?;
    Some(rest[..end].replace("(PID ", "(process ") + ")")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_read_from_duckdbs_message() {
        let message = "IO Error: Could not set lock on file \"/x\": Conflicting lock is held in /usr/bin/duckdb (PID 12). See also";
        assert_eq!(duckdb_holder(message).as_deref(), Some("/usr/bin/duckdb (process 12)"));
        assert_eq!(duckdb_holder("Could not set lock on file"), None);
    }
}
