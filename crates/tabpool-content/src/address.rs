//! Block addresses: how bytes get their CID, and how a CID is held against bytes.
//!
//! Everything this workspace writes is CIDv1, sha2-256, codec `raw` or `dag-pb`. Other hashes are refused by name
//! instead of being trusted: a block whose hash cannot be computed here cannot be verified here.

use bytes::Bytes;
use cid::{Cid, Version};
use multihash::Multihash;
use sha2::{Digest, Sha256};

/// The codec number of blocks that are nothing but file bytes.
pub(crate) const RAW: u64 = 0x55;
/// The codec number of blocks that link other blocks: UnixFS files of several leaves, and directories.
pub(crate) const DAG_PB: u64 = 0x70;
/// The multihash number of sha2-256.
const SHA2_256: u64 = 0x12;

/// The largest block any store here takes: 2 MiB, the most that other IPFS implementations agree to exchange.
pub const MAX_BLOCK_BYTES: usize = 2 << 20;

/// A block: bytes together with the CID they were proved to have.
///
/// The only ways to make one compute or check the hash, so whoever holds a `Block` need not check again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    cid: Cid,
    bytes: Bytes,
}

impl Block {
    /// A block of file bytes, addressed by its hash.
    #[must_use]
    pub fn raw(bytes: Bytes) -> Self {
        Self { cid: raw_cid(&bytes), bytes }
    }

    /// A block that holds an encoded dag-pb node, addressed by its hash. The encoding is not looked at.
    #[must_use]
    pub fn dag_pb(bytes: Bytes) -> Self {
        Self { cid: dag_pb_cid(&bytes), bytes }
    }

    /// Bytes that came from elsewhere under a name they claim.
    ///
    /// # Errors
    ///
    /// As [`verify`].
    pub fn verified(cid: Cid, bytes: Bytes) -> Result<Self, VerifyError> {
        verify(&cid, &bytes)?;
        Ok(Self { cid, bytes })
    }

    /// The block's address.
    #[must_use]
    pub fn cid(&self) -> &Cid {
        &self.cid
    }

    /// The block's bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Takes the block apart.
    #[must_use]
    pub fn into_parts(self) -> (Cid, Bytes) {
        (self.cid, self.bytes)
    }
}

/// The CID of a block of plain file bytes: version 1, codec `raw`, sha2-256.
#[must_use]
pub fn raw_cid(bytes: &[u8]) -> Cid {
    cid_of(RAW, bytes)
}

/// The CID of a block that holds a dag-pb node: version 1, codec `dag-pb`, sha2-256.
#[must_use]
pub fn dag_pb_cid(bytes: &[u8]) -> Cid {
    cid_of(DAG_PB, bytes)
}

/// The sha2-256 of bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn cid_of(codec: u64, bytes: &[u8]) -> Cid {
    cid_of_digest(codec, &sha256(bytes))
}

fn cid_of_digest(codec: u64, digest: &[u8; 32]) -> Cid {
    #[expect(clippy::expect_used, reason = "a digest of 32 bytes always fits a multihash of 64")]
    let hash = Multihash::wrap(SHA2_256, digest).expect("32 bytes fit a 64 byte multihash");
    Cid::new_v1(codec, hash)
}

/// Why bytes were not accepted under a CID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The bytes are not the ones the CID names.
    #[error("the bytes given for block {cid} hash to {actual} ({len} bytes): they are damaged or another block's")]
    Mismatch {
        /// The address they were given under.
        cid: Box<Cid>,
        /// The address they really have.
        actual: Box<Cid>,
        /// How many bytes were given.
        len: usize,
    },
    /// The CID is of version 0.
    #[error("block {cid} is addressed by CID version 0; only version 1 is used here")]
    UnsupportedVersion {
        /// The address.
        cid: Box<Cid>,
    },
    /// The CID's hash function is not sha2-256.
    #[error("block {cid} is addressed by {name} (0x{code:x}); only sha2-256 can be verified here")]
    UnsupportedHash {
        /// The address.
        cid: Box<Cid>,
        /// The hash function's number in the multicodec table.
        code: u64,
        /// Its name there, or `an unknown hash`.
        name: &'static str,
    },
    /// The CID's codec is neither `raw` nor `dag-pb`.
    #[error("block {cid} has codec 0x{code:x}; only raw (0x55) and dag-pb (0x70) blocks are used here")]
    UnsupportedCodec {
        /// The address.
        cid: Box<Cid>,
        /// The codec's number in the multicodec table.
        code: u64,
    },
}

/// Tells whether `bytes` are the block that `cid` names.
///
/// # Errors
///
/// [`VerifyError::Mismatch`] when they are not; the `Unsupported…` errors when that cannot be told here.
pub fn verify(cid: &Cid, bytes: &[u8]) -> Result<(), VerifyError> {
    supported(cid)?;
    verify_digest(cid, bytes.len(), &sha256(bytes))
}

/// Tells whether `len` bytes whose sha2-256 is `digest` are the block that `cid` names: for places that have means of
/// their own to hash.
///
/// # Errors
///
/// As [`verify`].
pub fn verify_digest(cid: &Cid, len: usize, digest: &[u8; 32]) -> Result<(), VerifyError> {
    supported(cid)?;
    let actual = cid_of_digest(cid.codec(), digest);
    if actual == *cid {
        Ok(())
    } else {
        Err(VerifyError::Mismatch { cid: Box::new(*cid), actual: Box::new(actual), len })
    }
}

/// Refuses addresses that [`verify`] could not check, before anybody fetches or stores under them.
pub(crate) fn supported(cid: &Cid) -> Result<(), VerifyError> {
    if cid.version() != Version::V1 {
        return Err(VerifyError::UnsupportedVersion { cid: Box::new(*cid) });
    }
    let code = cid.hash().code();
    if code != SHA2_256 {
        return Err(VerifyError::UnsupportedHash { cid: Box::new(*cid), code, name: hash_name(code) });
    }
    match cid.codec() {
        RAW | DAG_PB => Ok(()),
        code => Err(VerifyError::UnsupportedCodec { cid: Box::new(*cid), code }),
    }
}

fn hash_name(code: u64) -> &'static str {
    match code {
        0x00 => "the identity hash",
        0x11 => "sha1",
        0x12 => "sha2-256",
        0x13 => "sha2-512",
        0x14 => "sha3-512",
        0x16 => "sha3-256",
        0x1b => "keccak-256",
        0x1e => "blake3",
        0x56 => "dbl-sha2-256",
        0xb220 => "blake2b-256",
        _ => "an unknown hash",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_bytes_have_the_cid_that_other_implementations_give() {
        let cid = raw_cid(b"");
        assert_eq!(cid.to_string(), "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku");
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let cid = raw_cid(b"weights");
        assert_eq!(verify(&cid, b"weights"), Ok(()));
        let error = verify(&cid, b"weighus").expect_err("one bit differs");
        assert_eq!(error, VerifyError::Mismatch { cid: Box::new(cid), actual: Box::new(raw_cid(b"weighus")), len: 7 });
    }

    #[test]
    fn equal_bytes_under_another_codec_are_another_block() {
        assert!(verify(&dag_pb_cid(b"weights"), b"weights").is_ok());
        assert_ne!(dag_pb_cid(b"weights"), raw_cid(b"weights"));
    }

    #[test]
    fn hashes_that_cannot_be_checked_are_refused_by_name() {
        let identity = Cid::new_v1(RAW, Multihash::wrap(0, b"weights").expect("7 bytes fit"));
        let error = verify(&identity, b"weights").expect_err("the identity hash proves nothing");
        assert!(error.to_string().contains("the identity hash (0x0)"), "{error}");

        let sha256 = *raw_cid(b"x").hash();
        let dag_cbor = Cid::new_v1(0x71, sha256);
        assert!(matches!(verify(&dag_cbor, b"x"), Err(VerifyError::UnsupportedCodec { code: 0x71, .. })));
        let version_0 = Cid::new_v0(sha256).expect("sha2-256 is what version 0 means");
        assert!(matches!(verify(&version_0, b"x"), Err(VerifyError::UnsupportedVersion { .. })));
    }

    #[test]
    fn a_truncated_digest_is_not_taken_for_the_whole() {
        let whole = Sha256::digest(b"x");
        let short = Cid::new_v1(RAW, Multihash::wrap(SHA2_256, &whole[..4]).expect("4 bytes fit"));
        assert!(matches!(verify(&short, b"x"), Err(VerifyError::Mismatch { .. })));
    }
}
