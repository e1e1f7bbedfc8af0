//! UnixFS: what the data field of a dag-pb node says about the file or directory it is part of.
//!
//! Of the specification's six types, files and plain directories are used here. Symbolic links, sharded directories and
//! the two obsolete types are recognised so that they can be refused by name.

use crate::protobuf::{Fields, Malformed, put_bytes_field, put_varint_field};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An obsolete leaf of a file, read like `File`.
    Raw,
    Directory,
    File,
    Metadata,
    Symlink,
    ShardedDirectory,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "a raw leaf",
            Self::Directory => "a directory",
            Self::File => "a file",
            Self::Metadata => "a metadata node",
            Self::Symlink => "a symbolic link",
            Self::ShardedDirectory => "a sharded directory",
        }
    }
}

/// The decoded data field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnixFs {
    pub(crate) kind: Kind,
    /// File bytes held in this node itself, before those of its links.
    pub(crate) data: Vec<u8>,
    /// Bytes of the file that this node and all below it hold.
    pub(crate) file_size: Option<u64>,
    /// For each link, the bytes of the file below it.
    pub(crate) block_sizes: Vec<u64>,
}

impl UnixFs {
    pub(crate) fn directory() -> Self {
        Self { kind: Kind::Directory, data: Vec::new(), file_size: None, block_sizes: Vec::new() }
    }

    pub(crate) fn file(block_sizes: Vec<u64>) -> Self {
        Self { kind: Kind::File, data: Vec::new(), file_size: Some(block_sizes.iter().sum()), block_sizes }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + 4 * self.block_sizes.len() + self.data.len());
        let kind = match self.kind {
            Kind::Raw => 0,
            Kind::Directory => 1,
            Kind::File => 2,
            Kind::Metadata => 3,
            Kind::Symlink => 4,
            Kind::ShardedDirectory => 5,
        };
        put_varint_field(&mut out, 1, kind);
        if !self.data.is_empty() {
            put_bytes_field(&mut out, 2, &self.data);
        }
        if let Some(size) = self.file_size {
            put_varint_field(&mut out, 3, size);
        }
        for size in &self.block_sizes {
            put_varint_field(&mut out, 4, *size);
        }
        out
    }

    /// Reads the data field. Modes, times and shard parameters (fields 5 to 8) are skipped.
    pub(crate) fn decode(message: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::of(message);
        let (mut kind, mut data, mut file_size, mut block_sizes) = (None, Vec::new(), None, Vec::new());
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => {
                    kind = Some(match value.varint()? {
                        0 => Kind::Raw,
                        1 => Kind::Directory,
                        2 => Kind::File,
                        3 => Kind::Metadata,
                        4 => Kind::Symlink,
                        5 => Kind::ShardedDirectory,
                        _ => return Err(Malformed("the node is of a UnixFS type that does not exist")),
                    });
                }
                2 => data = value.bytes()?.to_vec(),
                3 => file_size = Some(value.varint()?),
                4 => match value {
                    // Packed lists are legal protobuf, though no known writer makes them here.
                    crate::protobuf::Value::Bytes(packed) => {
                        let mut packed = Fields::of(packed);
                        while !packed.is_empty() {
                            block_sizes.push(packed.varint()?);
                        }
                    }
                    crate::protobuf::Value::Varint(size) => block_sizes.push(size),
                },
                5..=8 => {}
                _ => return Err(Malformed("the node has a field that UnixFS does not know")),
            }
        }
        let kind = kind.ok_or(Malformed("the node does not say what it is"))?;
        Ok(Self { kind, data, file_size, block_sizes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn files_survive_the_round_trip(data: Vec<u8>, block_sizes in prop::collection::vec(0..u64::MAX / 8, 0..6)) {
            let file = UnixFs { data, ..UnixFs::file(block_sizes) };
            prop_assert_eq!(UnixFs::decode(&file.encode()), Ok(file));
        }

        #[test]
        fn junk_never_panics(junk: Vec<u8>) {
            let _ = UnixFs::decode(&junk);
        }
    }

    #[test]
    fn modes_and_times_are_skipped_and_packed_sizes_read() {
        // Type 2, file size 5, mode 0o644, mtime {seconds 9}, block sizes [2, 3] packed.
        let message = [0x08, 2, 0x18, 5, 0x38, 0xa4, 3, 0x42, 2, 0x08, 9, 0x22, 2, 2, 3];
        assert_eq!(UnixFs::decode(&message), Ok(UnixFs::file(vec![2, 3])));
    }

    #[test]
    fn a_node_must_say_what_it_is() {
        assert_eq!(UnixFs::decode(&[]), Err(Malformed("the node does not say what it is")));
        assert!(UnixFs::decode(&[0x08, 9]).is_err());
    }
}
