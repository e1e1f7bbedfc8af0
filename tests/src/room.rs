//! A small disk of a case's own, which can be filled without anybody else's coming to harm.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::Fault;

/// What is written at a time to fill it.
const PIECE: usize = 1 << 20;

/// A folder on a file system in memory that is no larger than asked for. It is there until this is dropped.
#[derive(Debug)]
pub struct Room {
    folder: TempDir,
    mounted: bool,
}

impl Room {
    /// Mounts one of so many MiB. Where that is not permitted the folder is on the ordinary disk, which cannot be
    /// [filled](Self::fill).
    ///
    /// # Errors
    /// Where no folder can be made.
    pub fn new(mebibytes: usize) -> Result<Self, Fault> {
        let folder = tempfile::tempdir()?;
        let size = format!("size={mebibytes}m,mode=700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path());
        let status = mount.stdout(Stdio::null()).stderr(Stdio::null()).status();
        Ok(Self { folder, mounted: status.is_ok_and(|status| status.success()) })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Whether it can be filled.
    #[must_use]
    pub fn is_small(&self) -> bool {
        self.mounted
    }

    /// Writes until nothing more fits. There is room again when what this gives is dropped.
    ///
    /// # Errors
    /// Where the folder is on the ordinary disk, or refuses to be written for another reason.
    pub fn fill(&self) -> Result<Filled, Fault> {
        if !self.mounted {
            return Err("an ordinary disk is not filled".into());
        }
        let filled = Filled { path: self.path().join("filled"), bytes: 0 };
        let mut filled = filled;
        let mut file = File::create(&filled.path)?;
        let piece = vec![0; PIECE];
        let mut length = PIECE;
        // Down to the last page: a database that appends to its log notices only that.
        while length > 0 {
            match file.write(&piece[..length]) {
                Ok(written) => filled.bytes += written as u64,
                Err(e) if e.kind() == ErrorKind::StorageFull => length /= 2,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(filled)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.mounted {
            // What still holds a file open keeps the memory until it ends; the folder is free at once.
            let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
        }
    }
}

/// What fills a room.
#[derive(Debug)]
pub struct Filled {
    path: PathBuf,
    /// How much it is.
    pub bytes: u64,
}

impl Drop for Filled {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Room;

    #[test]
    fn a_room_that_was_filled_takes_nothing_and_then_does_again() {
        let room = Room::new(2).expect("a folder");
        if !room.is_small() {
            eprintln!("left out: a full disk: mounting is not permitted");
            assert!(room.fill().is_err(), "somebody's disk would have been filled");
            return;
        }
        let filled = room.fill().expect("it fills up");
        assert!(filled.bytes <= 2 << 20, "{} bytes", filled.bytes);
        fs::write(room.path().join("more"), [0; 8192]).expect_err("it is full");
        drop(filled);
        fs::write(room.path().join("more"), [0; 8192]).expect("there is room again");
    }
}
