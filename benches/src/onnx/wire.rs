//! The protobuf wire format, as far as an ONNX file needs it: variable-length integers, 32-bit floats, and fields that
//! carry their length. Nothing is read here and no schema is known; field numbers come from the caller.

/// A message being written. Fields are appended in the order of the calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Message(Vec<u8>);

/// How a field's value is laid out.
const VARIABLE: u64 = 0;
const WITH_LENGTH: u64 = 2;
const FOUR_BYTES: u64 = 5;

impl Message {
    /// An integer field. Negative ones take ten bytes, as the format has it.
    pub(super) fn integer(mut self, field: u64, value: i64) -> Self {
        self.varint(field << 3 | VARIABLE);
        self.varint(value.cast_unsigned());
        self
    }

    /// A 32-bit float.
    pub(super) fn float(mut self, field: u64, value: f32) -> Self {
        self.varint(field << 3 | FOUR_BYTES);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Bytes or text.
    pub(super) fn bytes(mut self, field: u64, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.varint(field << 3 | WITH_LENGTH);
        // A length of memory fits 64 bits on every platform there is.
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    /// A message within this one.
    pub(super) fn message(self, field: u64, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    /// Each of several messages under the same number.
    pub(super) fn messages<'a>(self, field: u64, values: impl IntoIterator<Item = &'a Self>) -> Self {
        values.into_iter().fold(self, |message, value| message.message(field, value))
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            // The low seven bits; the mask keeps it within a byte.
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::Message;

    #[test]
    fn fields_are_the_bytes_that_the_format_prescribes() {
        // The examples of the format's own description: 150 in field 1, "testing" in field 2.
        assert_eq!(Message::default().integer(1, 150).finish(), [0x08, 0x96, 0x01]);
        let text = Message::default().bytes(2, "testing").finish();
        assert_eq!(text, [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67]);
        let inner = Message::default().message(3, &Message::default().integer(1, 150)).finish();
        assert_eq!(inner, [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert_eq!(Message::default().integer(1, -1).finish().len(), 11);
        assert_eq!(Message::default().float(2, 1.0).finish(), [0x15, 0, 0, 0x80, 0x3f]);
    }
}
