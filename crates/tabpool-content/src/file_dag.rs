//! From a row of leaves to one root: the balanced tree that `ipfs add` builds.
//!
//! All leaves are at the same depth and every node but the last of its level is full. A file of one leaf is that leaf:
//! no node is spent on it.

use bytes::Bytes;

use crate::address::Block;
use crate::dag_pb::{Link, Node};
use crate::unixfs::UnixFs;
use cid::Cid;

/// A leaf, or a node with all below it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subtree {
    pub(crate) cid: Cid,
    /// Bytes of the file below here.
    pub(crate) file_size: u64,
    /// Bytes of all blocks here and below, each link counted.
    pub(crate) total_size: u64,
}

impl Subtree {
    pub(crate) fn leaf(cid: Cid, len: u64) -> Self {
        Self { cid, file_size: len, total_size: len }
    }

    pub(crate) fn link(&self, name: &str) -> Link {
        Link { cid: self.cid, name: name.to_owned(), total_size: Some(self.total_size) }
    }
}

/// Joins leaves (at least one) under one root, handing every node made to `keep`.
pub(crate) fn join<E>(
    leaves: Vec<Subtree>,
    width: usize,
    keep: &mut dyn FnMut(&Block) -> Result<(), E>,
) -> Result<Option<Subtree>, E> {
    let mut level = leaves;
    while level.len() > 1 {
        let mut above = Vec::with_capacity(level.len().div_ceil(width));
        for children in level.chunks(width) {
            let sizes = children.iter().map(|child| child.file_size).collect();
            let links = children.iter().map(|child| child.link("")).collect();
            above.push(keep_node(links, &UnixFs::file(sizes), keep)?);
        }
        level = above;
    }
    Ok(level.pop())
}

/// Encodes one node, hands it to `keep` and says what a link to it has to say.
pub(crate) fn keep_node<E>(
    links: Vec<Link>,
    unixfs: &UnixFs,
    keep: &mut dyn FnMut(&Block) -> Result<(), E>,
) -> Result<Subtree, E> {
    let below: u64 = links.iter().filter_map(|link| link.total_size).sum();
    let block = Block::dag_pb(Bytes::from(Node { links, data: unixfs.encode() }.encode()));
    keep(&block)?;
    Ok(Subtree {
        cid: *block.cid(),
        file_size: unixfs.file_size.unwrap_or_default(),
        total_size: below + block.bytes().len() as u64,
    })
}
