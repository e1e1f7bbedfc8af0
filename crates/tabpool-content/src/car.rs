//! Many blocks in one stream, as [CARv1](https://ipld.io/specs/transport/car/carv1/) lays them out: a header, then
//! sections, each the length of what follows, a CID and the block's bytes.
//!
//! A stream here has no roots: it answers a list of CIDs, not a question for a graph. Nothing is verified; whoever reads holds
//! every block against its CID, because a stream may come from anywhere.

use bytes::Bytes;
use cid::Cid;

use crate::MAX_BLOCK_BYTES;

/// The DAG-CBOR of `{"roots": [], "version": 1}` after its length.
const HEADER: [u8; 18] = *b"\x11\xa2eroots\x80gversion\x01";
/// The longest header that is read. One of others may name roots, which are passed over.
const LONGEST_HEADER: usize = 4096;
/// Bytes of the longest CID that can be read: version, codec and a multihash of 64 bytes.
const LONGEST_CID: usize = 96;
/// Bytes of a length: seven bits each, and no section has 2^28 bytes.
const LONGEST_LENGTH: usize = 4;

/// Why bytes are no stream of blocks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CarError {
    /// The header is not one of CARv1, or too long.
    #[error("the stream does not begin as a CAR of version 1")]
    Header,
    /// A section's length cannot be one.
    #[error("section {section} says it has {len} bytes; a CID and a block have {} at most", LONGEST_CID + MAX_BLOCK_BYTES)]
    Length {
        /// Which section, counted from 0.
        section: usize,
        /// What it says.
        len: usize,
    },
    /// A section does not begin with a CID.
    #[error("section {section} does not begin with a CID: {reason}")]
    Cid {
        /// Which section, counted from 0.
        section: usize,
        /// What is wrong.
        reason: String,
    },
    /// The stream ended within a section.
    #[error("the stream ended within section {section}")]
    Cut {
        /// Which section, counted from 0.
        section: usize,
    },
}

/// What a stream begins with.
#[must_use]
pub fn car_header() -> &'static [u8] {
    &HEADER
}

/// What stands before the bytes of a block.
#[must_use]
pub fn car_section(cid: &Cid, len: usize) -> Vec<u8> {
    let cid = cid.to_bytes();
    let mut rest = cid.len() + len;
    let mut section = Vec::with_capacity(LONGEST_LENGTH + cid.len());
    while rest >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
        section.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "what is left has seven bits")]
    section.push(rest as u8);
    section.extend(cid);
    section
}

/// Reads a stream as it arrives, in pieces of any length. It holds one block at a time.
#[derive(Debug)]
pub struct CarReader {
    state: State,
    section: usize,
}

#[derive(Debug)]
enum State {
    /// The length of the header, or of a section where the header was read.
    Length { header: bool, so_far: Vec<u8> },
    /// The header, of which so many bytes are still to come.
    Header { missing: usize, so_far: Vec<u8> },
    /// A section's beginning, until it holds a CID; and the bytes of the section.
    Cid { so_far: Vec<u8>, len: usize },
    /// A block's bytes, of which so many are still to come.
    Block { cid: Cid, missing: usize, so_far: Vec<u8> },
}

impl Default for CarReader {
    fn default() -> Self {
        Self { state: State::Length { header: true, so_far: Vec::new() }, section: 0 }
    }
}

impl CarReader {
    /// Takes the next piece, and gives `found` every block that it completes. A block that lies whole in a piece is a part of
    /// it, without a copy.
    ///
    /// # Errors
    ///
    /// [`CarError`]; the reader is of no use after that.
    pub fn push(&mut self, whole: &Bytes, mut found: impl FnMut(Cid, Bytes)) -> Result<(), CarError> {
        let mut piece = &whole[..];
        while !piece.is_empty() {
            piece = match &mut self.state {
                State::Length { .. } => self.length(piece)?,
                State::Header { missing, so_far } => {
                    let rest = take(piece, missing, so_far);
                    if *missing == 0 {
                        // Roots come first, as DAG-CBOR sorts its keys; the version ends the map.
                        let sound = so_far.starts_with(b"\xa2eroots") && so_far.ends_with(b"gversion\x01");
                        sound.then_some(()).ok_or(CarError::Header)?;
                        self.state = State::Length { header: false, so_far: Vec::new() };
                    }
                    rest
                }
                State::Cid { .. } => self.cid(piece)?,
                State::Block { missing, so_far, .. } => {
                    so_far.reserve_exact(*missing);
                    take(piece, missing, so_far)
                }
            };
            if let State::Block { cid, missing, so_far } = &mut self.state
                && so_far.is_empty()
                && let Some(bytes) = piece.get(..*missing)
            {
                found(*cid, whole.slice_ref(bytes));
                piece = &piece[*missing..];
                self.next_section();
            } else if let State::Block { cid, missing: 0, so_far } = &mut self.state {
                found(*cid, std::mem::take(so_far).into());
                self.next_section();
            }
        }
        Ok(())
    }

    fn next_section(&mut self) {
        self.section += 1;
        self.state = State::Length { header: false, so_far: Vec::new() };
    }

    /// The stream is over.
    ///
    /// # Errors
    ///
    /// [`CarError::Cut`] where a section is not whole, [`CarError::Header`] where not even the header came.
    pub fn finish(self) -> Result<(), CarError> {
        match self.state {
            State::Length { header: false, so_far } if so_far.is_empty() => Ok(()),
            State::Length { header: true, .. } | State::Header { .. } => Err(CarError::Header),
            _ => Err(CarError::Cut { section: self.section }),
        }
    }

    fn length<'p>(&mut self, piece: &'p [u8]) -> Result<&'p [u8], CarError> {
        let State::Length { header, so_far } = &mut self.state else { return Ok(piece) };
        let (byte, rest) = piece.split_first().map_or((0, piece), |(byte, rest)| (*byte, rest));
        so_far.push(byte);
        let len = so_far.iter().rev().fold(0usize, |len, byte| len << 7 | usize::from(byte & 0x7f));
        if byte & 0x80 != 0 {
            if so_far.len() < LONGEST_LENGTH {
                return Ok(rest);
            }
            return Err(if *header { CarError::Header } else { CarError::Length { section: self.section, len } });
        }
        self.state = if *header {
            if len == 0 || len > LONGEST_HEADER {
                return Err(CarError::Header);
            }
            State::Header { missing: len, so_far: Vec::new() }
        } else {
            if len == 0 || len > LONGEST_CID + MAX_BLOCK_BYTES {
                return Err(CarError::Length { section: self.section, len });
            }
            State::Cid { so_far: Vec::new(), len }
        };
        Ok(rest)
    }

    /// A CID tells its length only to those who read it: bytes are added until it is whole.
    fn cid<'p>(&mut self, piece: &'p [u8]) -> Result<&'p [u8], CarError> {
        let State::Cid { so_far, len } = &mut self.state else { return Ok(piece) };
        let before = so_far.len();
        let most = LONGEST_CID.min(*len);
        so_far.extend(piece.iter().take(most - before));
        match Cid::read_bytes(&so_far[..]) {
            Ok(cid) => {
                let length = cid.encoded_len();
                let missing = *len - length;
                if missing > MAX_BLOCK_BYTES {
                    return Err(CarError::Length { section: self.section, len: *len });
                }
                self.state = State::Block { cid, missing, so_far: Vec::new() };
                // Of this piece, what belongs to the CID: the bytes before it were too few.
                Ok(&piece[length - before..])
            }
            Err(_) if so_far.len() < most => Ok(&piece[so_far.len() - before..]),
            Err(e) => Err(CarError::Cid { section: self.section, reason: e.to_string() }),
        }
    }
}

/// Moves bytes over until none is missing; gives the rest.
fn take<'p>(piece: &'p [u8], missing: &mut usize, so_far: &mut Vec<u8>) -> &'p [u8] {
    let (taken, rest) = piece.split_at((*missing).min(piece.len()));
    so_far.extend_from_slice(taken);
    *missing -= taken.len();
    rest
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::{CarError, CarReader, car_header, car_section};
    use crate::{Cid, MAX_BLOCK_BYTES, dag_pb_cid, raw_cid};

    fn stream(blocks: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = car_header().to_vec();
        for (at, block) in blocks.iter().enumerate() {
            let cid = if at % 2 == 0 { raw_cid(block) } else { dag_pb_cid(block) };
            bytes.extend(car_section(&cid, block.len()));
            bytes.extend(block);
        }
        bytes
    }

    /// What is read when the stream comes in pieces of these lengths, again and again.
    fn read(bytes: &[u8], pieces: &[usize]) -> Result<Vec<(Cid, Bytes)>, CarError> {
        let (mut reader, mut found, mut rest) = (CarReader::default(), Vec::new(), bytes);
        for &piece in pieces.iter().cycle() {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            reader.push(&Bytes::copy_from_slice(now), |cid, bytes| found.push((cid, bytes)))?;
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        reader.finish().map(|()| found)
    }

    #[test]
    fn a_stream_is_laid_out_as_the_specification_says() {
        let bytes = stream(&[b"hi".to_vec()]);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let cid = "01551220".to_owned() + "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4";
        assert_eq!(hex, format!("11a265726f6f7473806776657273696f6e0126{cid}6869"));
    }

    #[test]
    fn a_block_that_comes_whole_is_not_copied() {
        let whole = Bytes::from(stream(&[vec![7; 300], vec![], vec![8; 20]]));
        let (mut reader, mut found) = (CarReader::default(), Vec::new());
        reader.push(&whole, |_, bytes| found.push(bytes)).expect("a stream");
        reader.finish().expect("whole");
        assert_eq!(found.iter().map(Bytes::len).collect::<Vec<_>>(), [300, 0, 20]);
        assert!(found.iter().filter(|b| !b.is_empty()).all(|b| whole.as_ptr_range().contains(&b.as_ptr())));
    }

    #[test]
    fn lengths_and_cuts_are_refused() {
        let whole = stream(&[vec![7; 300], vec![]]);
        assert_eq!(read(&whole, &[4096]).expect("sound").len(), 2);
        assert_eq!(read(&whole[..5], &[1]), Err(CarError::Header));
        assert_eq!(read(&whole[..whole.len() - 1], &[64]), Err(CarError::Cut { section: 1 }));
        assert_eq!(read(b"\x05junk!", &[3]), Err(CarError::Header));
        let mut long = car_header().to_vec();
        long.extend(car_section(&raw_cid(b""), MAX_BLOCK_BYTES + 1));
        assert!(matches!(read(&long, &[9]), Err(CarError::Length { section: 0, .. })));
        let mut no_cid = car_header().to_vec();
        no_cid.extend([3, 1, 0x55, 0xff]);
        assert!(matches!(read(&no_cid, &[1]), Err(CarError::Cid { section: 0, .. })));
    }

    proptest! {
        #[test]
        fn blocks_come_back_whatever_the_pieces(
            blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..6),
            pieces in prop::collection::vec(1usize..90, 1..5),
        ) {
            let found = read(&stream(&blocks), &pieces).expect("a stream");
            prop_assert_eq!(found.len(), blocks.len());
            for ((_, bytes), block) in found.iter().zip(&blocks) {
                prop_assert_eq!(&bytes[..], &block[..]);
            }
        }

        #[test]
        fn junk_is_an_error_and_no_panic(
            junk in prop::collection::vec(any::<u8>(), 0..300),
            pieces in prop::collection::vec(1usize..40, 1..4),
        ) {
            let mut bytes = car_header().to_vec();
            bytes.extend(&junk);
            let _ = read(&bytes, &pieces);
            let _ = read(&junk, &pieces);
        }
    }
}
