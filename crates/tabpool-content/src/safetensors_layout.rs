//! Where a safetensors file is cut: after its header and at the first byte of every tensor.
//!
//! The format (from its published description): eight bytes with the header's length N, little-endian; N bytes of JSON
//! that give each tensor a dtype, a shape and a byte range after the header; then the tensors, without holes. The
//! header is believed only where it agrees with itself and with the file, by the rules of the reference reader.

use std::fmt;
use std::io::Read;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

/// The longest header the reference implementation reads.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// What is known of a file once its header has been read.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The bytes consumed: the eight of the length, then the JSON.
    pub(crate) head: Vec<u8>,
    /// The length of each tensor in file order; those without bytes left out.
    pub(crate) tensors: Vec<u64>,
}

/// Reads the header of a file of `len` bytes and checks it against the file.
///
/// The outer error is the reader's; the inner says in words what is wrong with the file.
pub(crate) fn read(reader: &mut dyn Read, len: u64) -> std::io::Result<Result<Layout, String>> {
    if len < 8 {
        return Ok(Err(format!("the file has {len} bytes, fewer than the 8 that give the header's length")));
    }
    let mut head = vec![0; 8];
    reader.read_exact(&mut head)?;
    let header_len = head.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    if header_len > MAX_HEADER_BYTES {
        return Ok(Err(format!("the header claims {header_len} bytes; the format allows {MAX_HEADER_BYTES}")));
    }
    if header_len > len - 8 {
        return Ok(Err(format!("the header claims {header_len} bytes, but only {} follow", len - 8)));
    }
    // At most 100 MB, checked above, so the cast and the allocation are safe.
    head.resize(8 + header_len as usize, 0);
    reader.read_exact(&mut head[8..])?;
    Ok(check(&head[8..], len - 8 - header_len).map(|tensors| Layout { head, tensors }))
}

/// Checks the JSON against the `data_len` bytes that follow it; the tensors' lengths in file order.
fn check(json: &[u8], data_len: u64) -> Result<Vec<u64>, String> {
    let Header(mut tensors) =
        serde_json::from_slice(json).map_err(|error| format!("the header is not readable: {error}"))?;
    tensors.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut lengths = Vec::with_capacity(tensors.len());
    let mut end_of_last = 0;
    for (name, tensor) in &tensors {
        let (begin, end) = tensor.data_offsets;
        if begin > end {
            return Err(format!("tensor {name:?} ends at {end}, before its beginning at {begin}"));
        }
        if end > data_len {
            return Err(format!(
                "tensor {name:?} ends at byte {end} of the data, but the file has {data_len}: \
                 the file is cut off or its header lies"
            ));
        }
        if begin < end_of_last {
            return Err(format!(
                "tensor {name:?} begins at {begin}, inside the one before, which ends at {end_of_last}"
            ));
        }
        if begin > end_of_last {
            return Err(format!("bytes {end_of_last} to {begin} before tensor {name:?} belong to no tensor"));
        }
        if let Some(expected) = tensor.bytes()
            && expected != u128::from(end - begin)
        {
            return Err(format!(
                "tensor {name:?} of dtype {} and shape {:?} needs {expected} bytes, but has {}",
                tensor.dtype,
                tensor.shape,
                end - begin
            ));
        }
        end_of_last = end;
        if begin < end {
            lengths.push(end - begin);
        }
    }
    if end_of_last != data_len {
        return Err(format!("the last tensor ends at {end_of_last}, but {data_len} bytes of data follow the header"));
    }
    Ok(lengths)
}

#[derive(Deserialize)]
struct TensorInfo {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl TensorInfo {
    /// The bytes that dtype and shape ask for; `None` for a dtype this crate need not know, or an absurd shape.
    fn bytes(&self) -> Option<u128> {
        let bits: u128 = match self.dtype.as_str() {
            "F4" => 4,
            "F6_E2M3" | "F6_E3M2" => 6,
            "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" => 8,
            "U16" | "I16" | "F16" | "BF16" => 16,
            "U32" | "I32" | "F32" => 32,
            "U64" | "I64" | "F64" | "C64" => 64,
            _ => return None,
        };
        // An overflow cannot equal any real length: it is reported as the largest number there is.
        let count = self.shape.iter().try_fold(1u128, |count, dim| count.checked_mul(u128::from(*dim)));
        Some(count.and_then(|count| count.checked_mul(bits)).map_or(u128::MAX, |bits| bits.div_ceil(8)))
    }
}

/// The header's tensors, in the order written. A map type would swallow a name that is given twice.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Header;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut tensors = Vec::new();
                let mut seen = std::collections::HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format_args!("{name:?} is listed twice")));
                    }
                    if name == "__metadata__" {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    } else {
                        tensors.push((name, map.next_value()?));
                    }
                }
                Ok(Header(tensors))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(json: &str, data: usize) -> Vec<u8> {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        bytes.resize(bytes.len() + data, 7);
        bytes
    }

    fn reason(bytes: &[u8]) -> String {
        read(&mut &bytes[..], bytes.len() as u64).expect("memory does not fail").expect_err("the file lies")
    }

    #[test]
    fn tensors_are_found_in_file_order_whatever_the_headers_order() {
        let json = r#"{"__metadata__":{"format":"pt"},
            "b":{"dtype":"F32","shape":[2,2],"data_offsets":[6,22]},
            "none":{"dtype":"F32","shape":[0],"data_offsets":[6,6]},
            "a":{"dtype":"F16","shape":[3],"data_offsets":[0,6]}}  "#;
        let bytes = file(json, 22);
        let layout = read(&mut &bytes[..], bytes.len() as u64).expect("memory").expect("a good file");
        assert_eq!(layout.tensors, [6, 16]);
        assert_eq!(layout.head, &bytes[..8 + json.len()]);
    }

    #[test]
    fn every_lie_is_named() {
        let tensor = |offsets: &str| format!(r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":{offsets}}}}}"#);
        assert!(reason(&[0; 7]).contains("7 bytes, fewer than"));
        assert!(reason(&200_000_000u64.to_le_bytes()).contains("the format allows"));
        assert!(reason(&[9, 0, 0, 0, 0, 0, 0, 0, b'{']).contains("claims 9 bytes, but only 1 follow"));
        assert!(reason(&file("{not json", 0)).contains("not readable"));
        assert!(reason(&file(&tensor("[0,4]"), 3)).contains("is cut off or its header lies"));
        assert!(reason(&file(&tensor("[4,0]"), 4)).contains("before its beginning"));
        assert!(reason(&file(&tensor("[1,5]"), 5)).contains("belong to no tensor"));
        assert!(reason(&file(&tensor("[0,4]"), 5)).contains("but 5 bytes of data follow"));
        assert!(reason(&file(&tensor("[0,3]"), 3)).contains("needs 4 bytes, but has 3"));
        assert!(reason(&file(&tensor("[0,-1]"), 3)).contains("not readable"));
        let overlap = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
                          "b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
        assert!(reason(&file(overlap, 6)).contains("inside the one before"));
        let twice = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
                        "a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
        assert!(reason(&file(twice, 2)).contains("listed twice"));
        let huge = r#"{"a":{"dtype":"U8","shape":[18446744073709551615,18446744073709551615,9],
                       "data_offsets":[0,1]}}"#;
        assert!(reason(&file(huge, 1)).contains("needs"));
    }

    proptest! {
        #[test]
        fn junk_never_panics(junk: Vec<u8>, json in "[\\[\\]{}\":,a0-9]{0,40}") {
            let _ = read(&mut &junk[..], junk.len() as u64);
            let _ = check(json.as_bytes(), 10);
        }
    }
}
