//! Finding and removing blocks that no name leads to any more.
//!
//! A block is kept when it can be reached from a root. Blocks are shared between models, so removing a name removes
//! nothing by itself. Nothing else may be writing: a block stored for a model that has no name yet looks like garbage.

use std::collections::HashSet;

use cid::Cid;

use crate::address::DAG_PB;
use crate::dag_pb::Node;
use crate::store::{BlockStore, StoreError};

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// How many blocks were removed.
    pub removed: u64,
    /// Their size together.
    pub bytes: u64,
    /// How many blocks stay.
    pub kept: u64,
}

/// Why garbage could not be collected. Nothing was removed unless the store failed while removing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GarbageError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A block that must be followed is not a node, so what it keeps is unknown.
    #[error("block {cid} is malformed ({reason}), so what it leads to is unknown and nothing was removed")]
    Malformed {
        /// The block.
        cid: Box<Cid>,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Removes every block that cannot be reached from `roots`. Blocks that are missing (of a model not fetched whole) are
/// passed over.
///
/// # Errors
///
/// See [`GarbageError`].
pub fn collect_garbage(store: &dyn BlockStore, roots: &[Cid]) -> Result<Collected, GarbageError> {
    let mut reachable: HashSet<Cid> = roots.iter().copied().collect();
    let mut open: Vec<Cid> = reachable.iter().copied().collect();
    while let Some(cid) = open.pop() {
        if cid.codec() != DAG_PB {
            continue;
        }
        let Some(bytes) = store.get(&cid)? else { continue };
        let node =
            Node::decode(&bytes).map_err(|error| GarbageError::Malformed { cid: Box::new(cid), reason: error.0 })?;
        // Each block is followed once, however often it is linked: that bounds the walk by what the store holds.
        open.extend(node.links.into_iter().map(|link| link.cid).filter(|cid| reachable.insert(*cid)));
    }

    let mut collected = Collected::default();
    for (cid, size) in store.list()? {
        if reachable.contains(&cid) {
            collected.kept += 1;
        } else if store.remove(&cid)? {
            collected.removed += 1;
            collected.bytes += size;
        }
    }
    Ok(collected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Block, Directory, ImportOptions, MemoryStore, import_files};
    use bytes::Bytes;

    fn import(store: &MemoryStore, files: &[(&str, &[u8])]) -> Cid {
        let options = ImportOptions::default().chunk_bytes(4);
        import_files(files, store, &options, &mut |_| {}).expect("imports").root
    }

    #[test]
    fn only_what_no_root_leads_to_is_removed() {
        let store = MemoryStore::new(1 << 20);
        let kept = import(&store, &[("shared", b"aaaabbbbcccc"), ("sub/own", b"ddddeeee")]);
        let before = store.list().expect("lists").len() as u64;
        let gone = import(&store, &[("shared", b"aaaabbbbcccc"), ("other", b"ffffgg")]);
        let used = store.used();

        let collected = collect_garbage(&store, &[kept]).expect("collects");
        assert_eq!(collected.kept, before);
        // The other directory, the node of its one file of its own, and that file's two leaves.
        assert_eq!(collected.removed, 4);
        assert_eq!(collected.bytes, used - store.used());
        let folder = Directory::open(&store, &kept).expect("whole");
        assert_eq!(folder.read("shared", 100).expect("whole"), "aaaabbbbcccc");
        assert!(Directory::open(&store, &gone).is_err());
        assert_eq!(collect_garbage(&store, &[kept]).expect("collects").removed, 0);
    }

    #[test]
    fn a_missing_block_is_passed_over_and_a_malformed_one_stops_everything() {
        let store = MemoryStore::new(1 << 20);
        let root = import(&store, &[("a", b"aaaabbbb")]);
        store.remove(&crate::raw_cid(b"aaaa")).expect("removes");
        assert_eq!(collect_garbage(&store, &[root]).expect("collects").removed, 0);

        let junk = Block::dag_pb(Bytes::from_static(b"\xff\xff"));
        store.put_block(&junk).expect("stores");
        let error = collect_garbage(&store, &[*junk.cid()]).expect_err("what it keeps is unknown");
        assert!(matches!(error, GarbageError::Malformed { .. }));
        assert!(store.contains(&root).expect("looks"), "nothing was removed");
    }
}
