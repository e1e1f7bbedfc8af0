//! Frames as bytes: encoding, decoding, limits.

use bytes::{BufMut, Bytes, BytesMut};
use tabpool_tensor::{DType, Shape, Tensor};

use crate::{Message, VERSION};

/// The length of a frame's header in bytes.
pub const HEADER_LEN: usize = 16;

/// The kinds this version knows; see [`Message`].
const KINDS: [u8; 19] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 64, 65, 66, 67, 68, 69, 70, 71, 72];

/// How large frames may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a whole frame.
    pub frame: usize,
    /// Bytes of a frame's body.
    pub body: usize,
    /// Tensors of a frame.
    pub tensors: usize,
    /// Dimensions of a tensor.
    pub rank: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { frame: 256 << 20, body: 1 << 20, tensors: 256, rank: 8 }
    }
}

/// Why bytes are not a frame.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// Fewer bytes than the header or the header's lengths say.
    #[error("the frame is cut short: {got} bytes, {want} expected")]
    Short {
        /// Bytes there are.
        got: usize,
        /// Bytes there should be.
        want: usize,
    },
    /// A kind this version does not know.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// A frame of another protocol version.
    #[error("the frame is of protocol version {got}, {want} was agreed on")]
    Version {
        /// The frame's version.
        got: u8,
        /// The version of this side.
        want: u8,
    },
    /// The body does not decode.
    #[error("the body of a frame of kind {kind} is malformed: {reason}")]
    Body {
        /// The kind.
        kind: u8,
        /// What is wrong.
        reason: String,
    },
    /// A tensor's header is not sound.
    #[error("tensor {index} of a frame of kind {kind}: {reason}")]
    Tensor {
        /// The kind.
        kind: u8,
        /// Which tensor.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// Something is larger than the limits allow.
    #[error("{what}: {got}, at most {limit} allowed")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How large it is.
        got: usize,
        /// How large it may be.
        limit: usize,
    },
}

/// One message with its id and its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// The request, or 0.
    pub id: u64,
    /// What it says.
    pub message: Message,
    /// What comes with it.
    pub tensors: Vec<Tensor>,
}

impl From<Message> for Frame {
    fn from(message: Message) -> Self {
        Self { id: 0, message, tensors: Vec::new() }
    }
}

impl Frame {
    /// The frame as bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        self.encode_as(VERSION)
    }

    /// The frame as bytes under another version number: for `Hello`, `Welcome` and `Refused`, which keep their shape.
    #[must_use]
    pub fn encode_as(&self, version: u8) -> Bytes {
        let headers: Vec<(u8, Vec<u64>)> =
            self.tensors.iter().map(|t| (t.dtype().code(), t.shape().iter().map(|&d| d as u64).collect())).collect();
        // Serialising plain data into memory cannot fail; an empty body would be refused by the other side.
        let body = postcard::to_allocvec(&(&self.message, headers)).unwrap_or_default();
        let payload: usize = self.tensors.iter().map(|t| aligned(t.data().len())).sum();
        let mut out = BytesMut::with_capacity(aligned(HEADER_LEN + body.len()) + payload);
        out.put_u8(version);
        out.put_u8(self.message.kind());
        out.put_u16_le(0);
        out.put_u32_le(u32::try_from(body.len()).unwrap_or(u32::MAX));
        out.put_u64_le(self.id);
        out.put_slice(&body);
        pad(&mut out);
        for t in &self.tensors {
            out.put_slice(t.data());
            pad(&mut out);
        }
        out.freeze()
    }

    /// Reads a frame. Its tensors are slices of `bytes`.
    ///
    /// # Errors
    /// [`FrameError`]; bytes from outside never panic.
    pub fn decode(bytes: &Bytes, limits: &Limits) -> Result<Self, FrameError> {
        bound("bytes of a frame", bytes.len(), limits.frame)?;
        let Some((&[version, kind, _, _, l0, l1, l2, l3, ref id @ ..], _)) = bytes.split_first_chunk::<HEADER_LEN>()
        else {
            return Err(FrameError::Short { got: bytes.len(), want: HEADER_LEN });
        };
        if !KINDS.contains(&kind) {
            return Err(FrameError::Kind(kind));
        }
        // The handshake's frames are read whatever their version, so that a refusal can say why.
        if version != VERSION && !matches!(kind, 1 | 2 | 64) {
            return Err(FrameError::Version { got: version, want: VERSION });
        }
        let body_len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        bound("bytes of a frame's body", body_len, limits.body)?;
        let end = HEADER_LEN + body_len;
        let body = bytes.get(HEADER_LEN..end).ok_or(FrameError::Short { got: bytes.len(), want: end })?;
        let malformed = |reason: String| FrameError::Body { kind, reason };
        let ((message, headers), rest) =
            postcard::take_from_bytes::<(Message, Vec<(u8, Vec<u64>)>)>(body).map_err(|e| malformed(e.to_string()))?;
        if message.kind() != kind || !rest.is_empty() {
            return Err(malformed("it holds something else than its kind says".to_owned()));
        }
        bound("tensors of a frame", headers.len(), limits.tensors)?;
        let mut at = aligned(end);
        let mut tensors = Vec::with_capacity(headers.len());
        for (index, (dtype, dims)) in headers.into_iter().enumerate() {
            let fail = |reason: String| FrameError::Tensor { kind, index, reason };
            bound("dimensions of a tensor", dims.len(), limits.rank)?;
            let dtype = DType::from_code(dtype).ok_or_else(|| fail(format!("unknown dtype code {dtype}")))?;
            let dims = dims.into_iter().map(usize::try_from).collect::<Result<Vec<_>, _>>();
            let shape = Shape::from(dims.map_err(|e| fail(e.to_string()))?);
            let len = shape.checked_elements().and_then(|n| n.checked_mul(dtype.size()));
            let len = len.filter(|&l| l <= limits.frame).ok_or_else(|| fail(format!("{dtype}{shape} is too large")))?;
            if bytes.len() < at + len {
                return Err(FrameError::Short { got: bytes.len(), want: at + len });
            }
            let tensor = Tensor::new(dtype, shape, bytes.slice(at..at + len)).map_err(|e| fail(e.to_string()))?;
            tensors.push(tensor);
            at += aligned(len);
        }
        let id = u64::from_le_bytes(*id);
        Ok(Self { id, message, tensors })
    }
}

fn bound(what: &'static str, got: usize, limit: usize) -> Result<(), FrameError> {
    (got <= limit).then_some(()).ok_or(FrameError::TooLarge { what, got, limit })
}

/// The next multiple of 8.
fn aligned(len: usize) -> usize {
    len.next_multiple_of(8)
}

fn pad(out: &mut BytesMut) {
    out.put_bytes(0, aligned(out.len()) - out.len());
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::{any, prop, proptest};
    use tabpool_tensor::{Precision, Tensor};

    use super::{Frame, FrameError, Limits};
    use crate::{ApiKind, Capabilities, Hello, LoadStats, Message, RunStats, TunedClass};

    fn run() -> Frame {
        Frame {
            id: 7,
            message: Message::Run { program: 300, api: ApiKind::Cpu, attempt: 2 },
            tensors: vec![
                Tensor::from_i32([1, 3], vec![1, 2, 3]).expect("three"),
                Tensor::from_f32([2], vec![0.5, -1.0]).expect("two"),
            ],
        }
    }

    #[test]
    fn the_bytes_of_version_1_stay_as_they_are() {
        let hex = |f: &Frame| f.encode().iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(&run()),
            "01050000\
             0d000000\
             0700000000000000\
             04ac0202020205020103000102000000\
             0100000002000000030000000000000\
             00000003f000080bf"
        );
        assert_eq!(
            hex(&Message::Ping { nonce: 5 }.into()),
            "0107000003000000000000000000000006050000000000 00".replace(' ', "")
        );
    }

    #[test]
    fn frames_round_trip_and_their_tensors_are_aligned_slices() {
        let bytes = run().encode();
        let frame = Frame::decode(&bytes, &Limits::default()).expect("decodes");
        assert_eq!(frame, run());
        for t in &frame.tensors {
            assert_eq!((t.data().as_ptr() as usize - bytes.as_ptr() as usize) % 8, 0);
        }
        let others = [
            Message::Hello(Box::new(Hello { capabilities: Capabilities::default(), ..Hello::default() })),
            Message::Loaded {
                program: 1,
                api: ApiKind::WebGpu,
                stats: LoadStats { precision: Precision::F16, ..LoadStats::default() },
                kept: vec!["layer.0".to_owned()],
            },
            Message::Finished { attempt: 1, stats: RunStats { precision: Precision::Int8, ..RunStats::default() } },
            Message::Bye { reason: "done".to_owned() },
            Message::Tune { api: ApiKind::WebGpu, budget_ms: 1000, at_load: true, known: vec![TunedClass::default()] },
            Message::Tuned { api: ApiKind::WebGpu, found: vec![TunedClass::default()] },
        ];
        for message in others {
            let frame = Frame::from(message);
            assert_eq!(Frame::decode(&frame.encode(), &Limits::default()).expect("decodes"), frame);
        }
    }

    #[test]
    fn a_hello_of_a_newer_version_is_read_and_anything_else_is_not() {
        let hello = Frame::from(Message::Hello(Box::default()));
        assert!(Frame::decode(&hello.encode_as(9), &Limits::default()).is_ok());
        let err = Frame::decode(&run().encode_as(9), &Limits::default()).expect_err("newer");
        assert_eq!(err, FrameError::Version { got: 9, want: 1 });
    }

    #[test]
    fn limits_are_checked_before_anything_is_read() {
        let limits = Limits { frame: 40, ..Limits::default() };
        let err = Frame::decode(&run().encode(), &limits).expect_err("too long");
        assert!(matches!(err, FrameError::TooLarge { what: "bytes of a frame", limit: 40, .. }));
    }

    proptest! {
        #[test]
        fn junk_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frame::decode(&Bytes::from(bytes), &Limits::default());
        }

        #[test]
        fn damaged_frames_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = run().encode().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Frame::decode(&bytes.into(), &Limits::default());
        }

        #[test]
        fn cut_frames_are_refused(cut in 1usize..50) {
            let bytes = run().encode();
            let cut = cut.min(bytes.len());
            assert!(Frame::decode(&bytes.slice(..bytes.len() - cut), &Limits::default()).is_err());
        }
    }
}
