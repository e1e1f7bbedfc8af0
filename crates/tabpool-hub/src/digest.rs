//! The hashes a hub gives for files: sha256 for large ones, git's blob hash for those that lie in the repository itself.

use std::fmt::Write as _;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// What a file must hash to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Sha256(String),
    /// `sha1("blob <length>\0" + bytes)`: needs the length before the first byte.
    GitBlob {
        hash: String,
        size: u64,
    },
    /// The hub gave no hash; only the size can be compared.
    Unknown,
}

impl Expected {
    pub(crate) fn what(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::GitBlob { .. } => "git blob hash",
            Self::Unknown => "hash",
        }
    }

    pub(crate) fn start(&self) -> Running {
        match self {
            Self::Sha256(_) => Running::Sha256(Sha256::new()),
            Self::GitBlob { size, .. } => Running::Sha1(Sha1::new_with_prefix(format!("blob {size}\0"))),
            Self::Unknown => Running::None,
        }
    }

    /// The hash expected and the one found, where they differ.
    pub(crate) fn differs(&self, found: Running) -> Option<(String, String)> {
        let (expected, found) = match (self, found) {
            (Self::Sha256(hash), Running::Sha256(running)) => (hash, hex(&running.finalize())),
            (Self::GitBlob { hash, .. }, Running::Sha1(running)) => (hash, hex(&running.finalize())),
            _ => return None,
        };
        (*expected != found).then(|| (expected.clone(), found))
    }
}

/// A hash being computed.
#[derive(Clone, Debug)]
pub(crate) enum Running {
    Sha256(Sha256),
    Sha1(Sha1),
    None,
}

impl Running {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(running) => running.update(bytes),
            Self::Sha1(running) => running.update(bytes),
            Self::None => {}
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_sha256sum_and_git() {
        // `printf hello | sha256sum` and `printf hello | git hash-object --stdin`.
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let git = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
        for expected in [Expected::Sha256(sha256.into()), Expected::GitBlob { hash: git.into(), size: 5 }] {
            let mut running = expected.start();
            running.update(b"hel");
            running.update(b"lo");
            assert_eq!(expected.differs(running.clone()), None);
            running.update(b"!");
            assert!(expected.differs(running).is_some());
        }
    }
}
