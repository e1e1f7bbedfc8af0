//! The options of a JSON file: typed reading, where every refusal names the file, the key and the value.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};
use tabpool_content::{Directory, DirectoryError};

use crate::ModelError;

/// The largest JSON file read here. Configurations with ten thousand label names stay well below.
const MAX_JSON_BYTES: u64 = 16 << 20;
/// How many files of a folder an error lists.
const LISTED_FILES: usize = 12;

/// A JSON object in a file of the model's folder. A key whose value is `null` counts as absent.
#[derive(Debug)]
pub(crate) struct Fields {
    file: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Reads a file that must hold an object.
    pub(crate) fn read(folder: &Directory<'_>, file: &str) -> Result<Self, ModelError> {
        match read_json(folder, file)? {
            Value::Object(map) => Ok(Self { file: file.to_owned(), map }),
            _ => Err(ModelError::Json { file: file.to_owned(), reason: "it holds no JSON object".to_owned() }),
        }
    }

    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// A size that must be there.
    pub(crate) fn size(&self, key: &str, allowed: RangeInclusive<usize>) -> Result<usize, ModelError> {
        match self.get(key) {
            None => Err(ModelError::MissingOption { file: self.file.clone(), key: key.to_owned() }),
            Some(_) => self.size_or(key, allowed, 0),
        }
    }

    pub(crate) fn size_or(
        &self,
        key: &str,
        allowed: RangeInclusive<usize>,
        default: usize,
    ) -> Result<usize, ModelError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let size = value.as_u64().and_then(|v| usize::try_from(v).ok()).filter(|v| allowed.contains(v));
        size.ok_or_else(|| {
            self.refuse(key, &format!("not a whole number from {} to {}", allowed.start(), allowed.end()))
        })
    }

    /// A number that is not negative.
    pub(crate) fn number_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().filter(|v| v.is_finite() && *v >= 0.0).ok_or_else(|| self.refuse(key, "not a number from 0 on"))
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.refuse(key, "not a text"))
    }

    pub(crate) fn flag(&self, key: &str) -> Result<bool, ModelError> {
        let Some(value) = self.get(key) else { return Ok(false) };
        value.as_bool().ok_or_else(|| self.refuse(key, "neither true nor false"))
    }

    /// The error for a value of a key: what the value should be, as a clause after "`key` is `value`,".
    pub(crate) fn refuse(&self, key: &str, reason: &str) -> ModelError {
        let value = self.map.get(key).unwrap_or(&Value::Null);
        option_error(&self.file, key, value, reason)
    }
}

pub(crate) fn option_error(file: &str, key: &str, value: &Value, reason: &str) -> ModelError {
    let mut value = value.to_string();
    // A value may be a whole dictionary; its beginning tells which one.
    if let Some((cut, _)) = value.char_indices().nth(80) {
        value.truncate(cut);
        value.push('…');
    }
    ModelError::Option { file: file.to_owned(), key: key.to_owned(), value, reason: reason.to_owned() }
}

/// A whole JSON file.
pub(crate) fn read_json(folder: &Directory<'_>, file: &str) -> Result<Value, ModelError> {
    let bytes = match folder.read(file, MAX_JSON_BYTES) {
        Ok(bytes) => bytes,
        Err(DirectoryError::NotFound { .. }) => return Err(missing_file(folder, file)),
        Err(e) => return Err(e.into()),
    };
    serde_json::from_slice(&bytes).map_err(|e| ModelError::Json { file: file.to_owned(), reason: e.to_string() })
}

/// The error for a file that is not there, with what is.
pub(crate) fn missing_file(folder: &Directory<'_>, file: &str) -> ModelError {
    let files = folder.list();
    let mut holds = files.iter().take(LISTED_FILES).map(|e| e.path.as_str()).collect::<Vec<_>>().join(", ");
    if files.is_empty() {
        holds.push_str("nothing");
    } else if files.len() > LISTED_FILES {
        holds.push_str(&format!(" and {} more", files.len() - LISTED_FILES));
    }
    ModelError::MissingFile { file: file.to_owned(), holds }
}
