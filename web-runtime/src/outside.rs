//! Blocks as they came from the host, outside this module's memory, which would never shrink again: what the cache is to
//! write need not be copied out of the module once more.

use std::cell::RefCell;
use std::collections::HashMap;

use js_sys::Uint8Array;
use tabpool_content::Cid;

/// Blocks that may lie here at most. Those beyond are copied by whoever wants them.
const MOST: usize = 256;

/// Blocks between the gateway, which lays them here, and the cache, which takes them.
#[derive(Debug, Default)]
pub(crate) struct Outside(RefCell<HashMap<Cid, Uint8Array>>);

impl Outside {
    /// A block came. Where too many lie here nobody takes them: blocks that turned out to be others, loads given up.
    pub(crate) fn lay(&self, cid: Cid, bytes: Uint8Array) {
        let mut blocks = self.0.borrow_mut();
        if blocks.len() >= MOST {
            blocks.clear();
        }
        blocks.insert(cid, bytes);
    }

    /// A block came otherwise: what lies here of it may be what was wrong with it the first time.
    pub(crate) fn forget(&self, cid: &Cid) {
        self.0.borrow_mut().remove(cid);
    }

    /// A block that was laid here and has so many bytes.
    pub(crate) fn take(&self, cid: &Cid, len: usize) -> Option<Uint8Array> {
        self.0.borrow_mut().remove(cid).filter(|bytes| bytes.length() as usize == len)
    }
}
