//! How a [`Precision`] travels within a frame's body: as its code.

use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
use tabpool_tensor::Precision;

pub(crate) fn serialize<S: Serializer>(precision: &Precision, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(precision.code())
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Precision, D::Error> {
    let code = u8::deserialize(deserializer)?;
    Precision::from_code(code).ok_or_else(|| D::Error::custom(format_args!("unknown precision code {code}")))
}
