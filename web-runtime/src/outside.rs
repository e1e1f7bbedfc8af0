//! Blocks as they came from the host, outside this module's memory, which would never shrink again: what the cache is to
//! write need not be copied out of the module once more.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use js_sys::Uint8Array;
use tabpool_content::Cid;

/// Blocks that may lie here at most. Those beyond are copied by whoever wants them.
const MOST: usize = 256;

/// Blocks between the gateway, which lays them here or says that they came, and the cache, which takes them.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    /// Blocks by their digests.
    blocks: RefCell<HashMap<Vec<u8>, Uint8Array>>,
    /// The digests that blocks should have which came into this module's memory only.
    expected: RefCell<HashSet<Vec<u8>>>,
}

impl Outside {
    /// A block came. Where too many lie here nobody takes them: blocks that turned out to be others, loads given up.
    pub(crate) fn lay(&self, cid: &Cid, bytes: Uint8Array) {
        self.keep(cid.hash().digest().to_vec(), bytes);
    }

    /// A block came into this module's memory. Whoever copies it for another reason may [offer](Self::offer) the copy.
    pub(crate) fn expect(&self, cid: &Cid) {
        let mut expected = self.expected.borrow_mut();
        if expected.len() >= MOST {
            expected.clear();
        }
        expected.insert(cid.hash().digest().to_vec());
    }

    /// Takes a copy of bytes that have this digest, or gives it back where nobody expects it.
    pub(crate) fn offer(&self, digest: &[u8], bytes: Uint8Array) -> Option<Uint8Array> {
        if !self.expected.borrow_mut().remove(digest) {
            return Some(bytes);
        }
        self.keep(digest.to_vec(), bytes);
        None
    }

    /// A block came otherwise: what lies here of it may be what was wrong with it the first time.
    pub(crate) fn forget(&self, cid: &Cid) {
        self.blocks.borrow_mut().remove(cid.hash().digest());
    }

    /// A block that was laid here and has so many bytes.
    pub(crate) fn take(&self, cid: &Cid, len: usize) -> Option<Uint8Array> {
        let digest = cid.hash().digest();
        self.expected.borrow_mut().remove(digest);
        self.blocks.borrow_mut().remove(digest).filter(|bytes| bytes.length() as usize == len)
    }

    fn keep(&self, digest: Vec<u8>, bytes: Uint8Array) {
        let mut blocks = self.blocks.borrow_mut();
        if blocks.len() >= MOST {
            blocks.clear();
        }
        blocks.insert(digest, bytes);
    }
}
