//! dag-pb nodes: a list of links and some data, in the canonical encoding that every IPFS implementation writes.
//!
//! The schema is that of the IPLD dag-pb specification: `PBNode { Links = 2, Data = 1 }`,
//! `PBLink { Hash = 1, Name = 2, Tsize = 3 }`, links before data. What the data means is `unixfs`'s business.

use cid::Cid;

use crate::protobuf::{Fields, Malformed, put_bytes_field, put_varint_field};

/// A link to another block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) cid: Cid,
    /// Empty inside files.
    pub(crate) name: String,
    /// Bytes of the linked block and of all below it, by the writer's account; absent in some old nodes.
    pub(crate) total_size: Option<u64>,
}

/// A node: what a dag-pb block decodes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) links: Vec<Link>,
    pub(crate) data: Vec<u8>,
}

impl Node {
    /// The canonical encoding. Links are written in the order given: a directory's must be sorted by name.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.links.len() * 52 + self.data.len() + 8);
        let mut link_bytes = Vec::new();
        for link in &self.links {
            link_bytes.clear();
            put_bytes_field(&mut link_bytes, 1, &link.cid.to_bytes());
            put_bytes_field(&mut link_bytes, 2, link.name.as_bytes());
            if let Some(size) = link.total_size {
                put_varint_field(&mut link_bytes, 3, size);
            }
            put_bytes_field(&mut out, 2, &link_bytes);
        }
        put_bytes_field(&mut out, 1, &self.data);
        out
    }

    /// Reads a block. The number of links is bounded by the block's own bound.
    pub(crate) fn decode(block: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::of(block);
        let (mut links, mut data) = (Vec::new(), None);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 if data.is_some() => return Err(Malformed("the node has two data fields")),
                1 => data = Some(value.bytes()?.to_vec()),
                2 => links.push(decode_link(value.bytes()?)?),
                _ => return Err(Malformed("the node has a field that dag-pb does not know")),
            }
        }
        Ok(Self { links, data: data.unwrap_or_default() })
    }
}

fn decode_link(message: &[u8]) -> Result<Link, Malformed> {
    let mut fields = Fields::of(message);
    let (mut cid, mut name, mut total_size) = (None, None, None);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 if cid.is_none() => {
                let bytes = value.bytes()?;
                cid = Some(Cid::try_from(bytes).map_err(|_| Malformed("a link does not hold a CID"))?);
            }
            2 if name.is_none() => {
                let text = std::str::from_utf8(value.bytes()?).map_err(|_| Malformed("a link's name is not UTF-8"))?;
                name = Some(text.to_owned());
            }
            3 if total_size.is_none() => total_size = Some(value.varint()?),
            1..=3 => return Err(Malformed("a link has a field twice")),
            _ => return Err(Malformed("a link has a field that dag-pb does not know")),
        }
    }
    let cid = cid.ok_or(Malformed("a link names no block"))?;
    Ok(Link { cid, name: name.unwrap_or_default(), total_size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::raw_cid;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nodes_survive_the_round_trip(
            links in prop::collection::vec((any::<u64>(), "\\PC{0,12}", any::<Option<u64>>()), 0..6),
            data: Vec<u8>,
        ) {
            let links = links
                .into_iter()
                .map(|(seed, name, total_size)| Link { cid: raw_cid(&seed.to_le_bytes()), name, total_size })
                .collect();
            let node = Node { links, data };
            prop_assert_eq!(Node::decode(&node.encode()), Ok(node));
        }

        #[test]
        fn junk_never_panics(junk: Vec<u8>) {
            let _ = Node::decode(&junk);
        }
    }

    #[test]
    fn a_link_without_a_block_is_an_error() {
        assert_eq!(Node::decode(&[0x12, 2, 0x12, 0]), Err(Malformed("a link names no block")));
        assert_eq!(Node::decode(&[0x0a, 0, 0x0a, 0]), Err(Malformed("the node has two data fields")));
        assert_eq!(Node::decode(&[0x1a, 0]), Err(Malformed("the node has a field that dag-pb does not know")));
    }
}
