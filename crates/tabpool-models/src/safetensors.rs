//! The header of a safetensors file: which tensors it holds, and where. The format is eight bytes with the header's
//! length, little-endian, the header in JSON, then the tensors without holes.
//!
//! The folder may come from a stranger whose importer checked nothing, so the header is believed only where it agrees
//! with itself and with the file's length. No tensor's bytes are read.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use tabpool_content::Directory;

use crate::ModelError;

/// The longest header the reference implementation reads.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorInfo {
    pub(crate) name: String,
    /// As the file writes it.
    pub(crate) dtype: String,
    pub(crate) shape: Vec<u64>,
    /// Where its bytes begin in the file, the header counted.
    pub(crate) begin: u64,
    pub(crate) end: u64,
}

/// The tensors of a file, in the order of their bytes.
pub(crate) fn read_header(folder: &Directory<'_>, file: &str) -> Result<Vec<TensorInfo>, ModelError> {
    let invalid = |reason: String| ModelError::Safetensors { file: file.to_owned(), reason };
    let size = folder.size(file).ok_or_else(|| crate::fields::missing_file(folder, file))?;
    if size < 8 {
        return Err(invalid(format!("the file has {size} bytes, fewer than the 8 that give the header's length")));
    }
    let head = folder.read_range(file, 0, 8)?;
    let header_len = head.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    if header_len > MAX_HEADER_BYTES {
        return Err(invalid(format!("the header claims {header_len} bytes; the format allows {MAX_HEADER_BYTES}")));
    }
    if header_len > size - 8 {
        return Err(invalid(format!("the header claims {header_len} bytes, but only {} follow", size - 8)));
    }
    let json = folder.read_range(file, 8, header_len)?;
    parse(&json, 8 + header_len, size - 8 - header_len).map_err(invalid)
}

/// Checks a header against the `data_len` bytes that follow it, which begin at `data_begin` of the file.
fn parse(json: &[u8], data_begin: u64, data_len: u64) -> Result<Vec<TensorInfo>, String> {
    let Header(mut entries) =
        serde_json::from_slice(json).map_err(|error| format!("the header is not readable: {error}"))?;
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut end_of_last = 0;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, Entry { dtype, shape, data_offsets: (begin, end) }) in entries {
        if begin > end {
            return Err(format!("tensor {name:?} ends at {end}, before its beginning at {begin}"));
        }
        if end > data_len {
            return Err(format!(
                "tensor {name:?} should end at {end}, but {data_len} bytes of data follow the header: the file is cut off \
                 or its header lies"
            ));
        }
        if begin != end_of_last {
            return Err(format!("tensor {name:?} begins at {begin}, but the one before it ends at {end_of_last}"));
        }
        if let Some(bytes) = bytes_of(&dtype, &shape)
            && bytes != u128::from(end - begin)
        {
            let got = end - begin;
            return Err(format!("tensor {name:?} of {dtype} {shape:?} takes {bytes} bytes, but has {got}"));
        }
        end_of_last = end;
        // Both are within the file's size, which fits.
        tensors.push(TensorInfo { name, dtype, shape, begin: data_begin + begin, end: data_begin + end });
    }
    if end_of_last != data_len {
        return Err(format!("the last tensor ends at {end_of_last}, but {data_len} bytes of data follow the header"));
    }
    Ok(tensors)
}

/// The bytes that dtype and shape ask for; `None` for dtypes that no weight is read from, whatever they take.
fn bytes_of(dtype: &str, shape: &[u64]) -> Option<u128> {
    let size = match dtype {
        "BOOL" | "U8" | "I8" => 1,
        "U16" | "I16" | "F16" | "BF16" => 2,
        "U32" | "I32" | "F32" => 4,
        "U64" | "I64" | "F64" => 8,
        _ => return None,
    };
    // An overflow equals no real length: it is reported as the largest number there is.
    Some(shape.iter().try_fold(size, |bytes: u128, &dim| bytes.checked_mul(u128::from(dim))).unwrap_or(u128::MAX))
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header's entries. A map type would swallow a name that is given twice.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let (mut entries, mut seen) = (Vec::new(), HashSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format_args!("tensor {name:?} is listed twice")));
                    }
                    entries.push((name, map.next_value()?));
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::parse;

    #[test]
    fn offsets_count_from_the_beginning_of_the_file() {
        let json = br#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2],"data_offsets":[4,8]},
            "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
        let tensors = parse(json, 100, 8).expect("valid");
        assert_eq!(
            tensors.iter().map(|t| (&*t.name, t.begin, t.end)).collect::<Vec<_>>(),
            [("a", 100, 104), ("b", 104, 108)]
        );
    }

    #[test]
    fn every_lie_is_named() {
        let reason = |json: &str, len| parse(json.as_bytes(), 8, len).expect_err("the header lies");
        let tensor = |offsets: &str| format!(r#"{{"w":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}}}"#);
        assert!(reason("{", 0).contains("not readable"));
        assert!(reason("[]", 0).contains("not readable"));
        assert!(reason(&tensor("[0,8]"), 7).contains(r#"tensor "w" should end at 8, but 7 bytes"#));
        assert!(reason(&tensor("[8,0]"), 8).contains("before its beginning"));
        assert!(reason(&tensor("[0,4]"), 4).contains("of F32 [2] takes 8 bytes, but has 4"));
        assert!(reason(&tensor("[1,9]"), 9).contains("begins at 1, but the one before it ends at 0"));
        assert!(reason(&tensor("[0,8]"), 9).contains("the last tensor ends at 8"));
        let huge =
            r#"{"w":{"dtype":"F32","shape":[18446744073709551615,18446744073709551615,9],"data_offsets":[0,4]}}"#;
        assert!(reason(huge, 4).contains("takes"));
        let twice = r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
        assert!(reason(twice, 2).contains("listed twice"));
    }

    proptest! {
        #[test]
        fn junk_never_panics(json in "[\\[\\]{}\":,a-fA-F0-9_]{0,60}", len in any::<u64>()) {
            let _ = parse(json.as_bytes(), 8, len);
        }

        #[test]
        fn junk_offsets_never_panic(begin in any::<u64>(), end in any::<u64>(), dim in any::<u64>(), len in any::<u64>()) {
            let json = format!(r#"{{"w":{{"dtype":"F32","shape":[{dim},{dim}],"data_offsets":[{begin},{end}]}}}}"#);
            let _ = parse(json.as_bytes(), 8, len);
        }
    }
}
