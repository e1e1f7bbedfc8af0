//! Frames as bytes: encoding, decoding, limits.

use bytes::{BufMut, Bytes, BytesMut};
use tabpool_tensor::{DType, Shape, Tensor};

use crate::{HeldStates, Message, VERSION};

/// The length of a frame's header in bytes.
pub const HEADER_LEN: usize = 16;

/// The kinds this version knows; see [`Message`].
const KINDS: [u8; 24] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75];

/// The first version whose `Hello` lists sets of states.
const LISTS_STATES: u8 = 2;

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
        let listed = match &self.message {
            Message::Hello(hello) if !hello.states.is_empty() && version >= LISTS_STATES => list_states(&hello.states),
            _ => None,
        };
        let tensors = || listed.iter().chain(&self.tensors);
        let headers: Vec<(u8, Vec<u64>)> =
            tensors().map(|t| (t.dtype().code(), t.shape().iter().map(|&d| d as u64).collect())).collect();
        // Serialising plain data into memory cannot fail; an empty body would be refused by the other side.
        let body = postcard::to_allocvec(&(&self.message, headers)).unwrap_or_default();
        let payload: usize = tensors().map(|t| aligned(t.data().len())).sum();
        let mut out = BytesMut::with_capacity(aligned(HEADER_LEN + body.len()) + payload);
        out.put_u8(version);
        out.put_u8(self.message.kind());
        out.put_u16_le(0);
        out.put_u32_le(u32::try_from(body.len()).unwrap_or(u32::MAX));
        out.put_u64_le(self.id);
        out.put_slice(&body);
        pad(&mut out);
        for t in tensors() {
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
        let ((mut message, headers), rest) =
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
        if let Message::Hello(hello) = &mut message {
            // What a later version may send beside this is not known here.
            if let Some(list) = tensors.first().filter(|_| version >= LISTS_STATES) {
                bound("bytes of a list of states", list.data().len(), limits.body)?;
                let fail = |reason: String| FrameError::Tensor { kind, index: 0, reason };
                hello.states = listed_states(list).map_err(fail)?;
            }
            tensors.clear();
        }
        let id = u64::from_le_bytes(*id);
        Ok(Self { id, message, tensors })
    }
}

/// The sets of states that a `Hello` lists, as its tensor.
fn list_states(states: &[HeldStates]) -> Option<Tensor> {
    let bytes = postcard::to_allocvec(states).ok()?;
    Tensor::new(DType::U8, [bytes.len()], bytes.into()).ok()
}

fn listed_states(list: &Tensor) -> Result<Vec<HeldStates>, String> {
    if list.dtype() != DType::U8 {
        return Err(format!("a list of states is u8, not {}", list.dtype()));
    }
    match postcard::take_from_bytes(list.data()) {
        Ok((states, [])) => Ok(states),
        Ok((_, rest)) => Err(format!("{} bytes follow the list of states", rest.len())),
        Err(e) => Err(format!("no list of states: {e}")),
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
mod tests;
