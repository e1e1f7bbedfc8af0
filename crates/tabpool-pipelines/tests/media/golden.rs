//! Fixtures: files, JSON, and tensors of `.safetensors` files.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// A path among the fixtures.
pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(path)
}

/// A fixture's bytes.
pub(crate) fn bytes(path: &str) -> Vec<u8> {
    std::fs::read(fixture(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// A fixture's JSON file.
pub(crate) fn json(path: &str) -> Value {
    serde_json::from_slice(&bytes(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// A tensor as its shape and values.
#[derive(Clone, Debug)]
pub(crate) struct Golden {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

/// All tensors of a file: f32, u8, i32 and i64 ones, in the order of their names.
pub(crate) fn tensors(path: &str) -> Vec<Golden> {
    let bytes = bytes(path);
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut names = file.names();
    names.sort_unstable();
    let golden = |name: &str| {
        let view = file.tensor(name).expect("a name of the file");
        #[expect(clippy::cast_precision_loss, reason = "masks are small")]
        let values = match view.dtype() {
            Dtype::U8 => view.data().iter().map(|&v| f32::from(v)).collect(),
            Dtype::F32 => {
                view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()
            }
            Dtype::I32 => {
                view.data().chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().expect("4 bytes")) as f32).collect()
            }
            Dtype::I64 => {
                view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")) as f32).collect()
            }
            other => panic!("{path}: {name} is {other:?}"),
        };
        Golden { name: name.to_owned(), shape: view.shape().to_vec(), values }
    };
    names.into_iter().map(golden).collect()
}

/// The tensor of this name.
pub(crate) fn tensor(path: &str, name: &str) -> Golden {
    tensors(path).into_iter().find(|t| t.name == name).unwrap_or_else(|| panic!("{path} has no {name}"))
}

/// The largest difference between two lists of one length.
pub(crate) fn distance(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len(), "as many values");
    got.iter()
        .zip(want)
        .map(|(a, b)| if a.is_nan() || b.is_nan() { f32::INFINITY } else { (a - b).abs() })
        .fold(0.0, f32::max)
}
