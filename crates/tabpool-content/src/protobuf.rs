//! The protobuf wire format, as far as dag-pb and UnixFS need it: varints and length-delimited fields.
//!
//! Both schemas are frozen and have a dozen fields between them, so a code generator and its runtime would cost more
//! than these lines. Reading is strict where a lie could matter (lengths, over-long numbers) and never allocates.

/// What is wrong with an encoded message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// One field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub(crate) fn varint(self) -> Result<u64, Malformed> {
        match self {
            Self::Varint(value) => Ok(value),
            Self::Bytes(_) => Err(Malformed("bytes stand where a number belongs")),
        }
    }

    pub(crate) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) => Err(Malformed("a number stands where bytes belong")),
        }
    }
}

/// Reads a message field by field.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and value, `None` at the end of the message.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed("a field is longer than memory"))?;
                let (bytes, rest) =
                    self.rest.split_at_checked(len).ok_or(Malformed("a field is longer than its message"))?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            1 => Value::Bytes(self.fixed(8)?),
            5 => Value::Bytes(self.fixed(4)?),
            _ => return Err(Malformed("a field has an unknown wire type")),
        };
        Ok(Some((key >> 3, value)))
    }

    /// A bare varint, as in a packed list.
    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(Malformed("a number is cut off"))?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed("a number has more than 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("a number has more than 64 bits"))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn fixed(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Malformed("a fixed number is cut off"))?;
        self.rest = rest;
        Ok(bytes)
    }
}

/// Appends a number field.
pub(crate) fn put_varint_field(out: &mut Vec<u8>, field: u64, value: u64) {
    put_varint(out, field << 3);
    put_varint(out, value);
}

/// Appends a length-delimited field.
pub(crate) fn put_bytes_field(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_survive_the_round_trip(value: u64) {
            let mut out = Vec::new();
            put_varint_field(&mut out, 3, value);
            let mut fields = Fields::of(&out);
            prop_assert_eq!(fields.next(), Ok(Some((3, Value::Varint(value)))));
            prop_assert_eq!(fields.next(), Ok(None));
        }
    }

    #[test]
    fn cut_off_and_over_long_input_is_an_error() {
        assert_eq!(Fields::of(&[0x80]).next(), Err(Malformed("a number is cut off")));
        assert_eq!(Fields::of(&[0x0a, 5, 1]).next(), Err(Malformed("a field is longer than its message")));
        assert_eq!(Fields::of(&[0xff; 11]).varint(), Err(Malformed("a number has more than 64 bits")));
        assert_eq!(Fields::of(&[0x0b]).next(), Err(Malformed("a field has an unknown wire type")));
        assert_eq!(Fields::of(&[0x09, 1, 2]).next(), Err(Malformed("a fixed number is cut off")));
    }
}
