//! The options of a JSON file: typed reading, where every refusal names the file, the key and the value.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};
use tabpool_content::{Directory, DirectoryError};
use tabpool_graph::Unary;

use crate::ModelError;

/// The most ids of tokens in one option.
const MAX_IDS: usize = 1024;
/// The largest JSON file read here. Configurations with ten thousand label names stay well below.
const MAX_JSON_BYTES: u64 = 16 << 20;
/// How many files of a folder an error lists.
const LISTED_FILES: usize = 12;

/// A JSON object in a file of the model's folder. A key whose value is `null` counts as absent.
#[derive(Debug)]
pub(crate) struct Fields {
    file: String,
    /// What stands before its keys in messages: empty, or the keys of the objects around it.
    path: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Reads a file that must hold an object.
    pub(crate) fn read(folder: &Directory<'_>, file: &str) -> Result<Self, ModelError> {
        match read_json(folder, file)? {
            Value::Object(map) => Ok(Self { file: file.to_owned(), path: String::new(), map }),
            _ => Err(ModelError::Json { file: file.to_owned(), reason: "it holds no JSON object".to_owned() }),
        }
    }

    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// The error for a key without a default that is absent.
    pub(crate) fn missing(&self, key: &str) -> ModelError {
        ModelError::MissingOption { file: self.file.clone(), key: format!("{}{key}", self.path) }
    }

    /// The object under a key; an empty one where there is none, so that every option has its default.
    pub(crate) fn nested(&self, key: &str) -> Result<Self, ModelError> {
        Ok(self.nested_or_none(key)?.unwrap_or_else(|| Self {
            file: self.file.clone(),
            path: format!("{}{key}.", self.path),
            map: Map::new(),
        }))
    }

    /// The object under a key, if there is one.
    pub(crate) fn nested_or_none(&self, key: &str) -> Result<Option<Self>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Self { file: self.file.clone(), path: format!("{}{key}.", self.path), map: map.clone() }))
            }
            Some(_) => Err(self.refuse(key, "not an object")),
        }
    }

    /// The same options, those of `newer` before its own.
    pub(crate) fn overlaid(mut self, newer: Self) -> Self {
        self.map.extend(newer.map);
        self
    }

    /// A size that must be there.
    pub(crate) fn size(&self, key: &str, allowed: RangeInclusive<usize>) -> Result<usize, ModelError> {
        match self.get(key) {
            None => Err(self.missing(key)),
            Some(_) => self.size_or(key, allowed, 0),
        }
    }

    /// A list of 1 to 64 sizes.
    pub(crate) fn sizes_or(
        &self,
        key: &str,
        allowed: RangeInclusive<usize>,
        default: &[usize],
    ) -> Result<Vec<usize>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(default.to_vec()) };
        let size = |v: &Value| v.as_u64().and_then(|v| usize::try_from(v).ok()).filter(|v| allowed.contains(v));
        let list = value.as_array().filter(|list| (1..=64).contains(&list.len()));
        list.and_then(|list| list.iter().map(size).collect()).ok_or_else(|| {
            let reason = format!("not a list of 1 to 64 whole numbers from {} to {}", allowed.start(), allowed.end());
            self.refuse(key, &reason)
        })
    }

    /// One size for height and width, or both.
    pub(crate) fn pair_or(
        &self,
        key: &str,
        allowed: RangeInclusive<usize>,
        default: usize,
    ) -> Result<[usize; 2], ModelError> {
        if self.get(key).is_some_and(Value::is_array) {
            let sizes = self.sizes_or(key, allowed, &[])?;
            return <[usize; 2]>::try_from(sizes).map_err(|_| self.refuse(key, "not one size or two"));
        }
        self.size_or(key, allowed, default).map(|size| [size, size])
    }

    /// Ids of tokens: one, a list, or none.
    pub(crate) fn ids(&self, key: &str) -> Result<Vec<i32>, ModelError> {
        let id = |v: &Value| v.as_i64().and_then(|v| i32::try_from(v).ok()).filter(|v| *v >= 0);
        let ids = match self.get(key) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) if list.len() <= MAX_IDS => list.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.refuse(key, &format!("neither the id of a token nor a list of up to {MAX_IDS}")))
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

    /// A number above zero that must be there.
    pub(crate) fn positive(&self, key: &str) -> Result<f64, ModelError> {
        match self.get(key) {
            None => Err(self.missing(key)),
            Some(_) => self.positive_or(key, 1.0),
        }
    }

    /// A number above zero.
    pub(crate) fn positive_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        match self.number_or(key, default)? {
            value if value > 0.0 && value < 1e18 => Ok(value),
            _ => Err(self.refuse(key, "not a number above zero")),
        }
    }

    /// An epsilon, rounded as the reference rounds it.
    #[expect(clippy::cast_possible_truncation, reason = "the reference computes with this epsilon in f32 as well")]
    pub(crate) fn epsilon_or(&self, key: &str, default: f64) -> Result<f32, ModelError> {
        let value = self.number_or(key, default)? as f32;
        if value.is_finite() { Ok(value) } else { Err(self.refuse(key, "not a number of 32 bits")) }
    }

    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        if self.get(key).is_none() { Ok(default) } else { self.flag(key) }
    }

    /// Refuses an option that is set, because what it does is not built here.
    pub(crate) fn refuse_flag(&self, key: &str, reason: &str) -> Result<(), ModelError> {
        if self.flag(key)? { Err(self.refuse(key, reason)) } else { Ok(()) }
    }

    /// An activation under transformers' names.
    pub(crate) fn activation(&self, key: &str, default: &str) -> Result<Unary, ModelError> {
        Ok(match self.text(key)?.unwrap_or(default) {
            "gelu" | "gelu_python" => Unary::Gelu,
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_accurate" => Unary::GeluTanh,
            "quick_gelu" => Unary::QuickGelu,
            "relu" => Unary::Relu,
            "silu" | "swish" => Unary::Silu,
            "tanh" => Unary::Tanh,
            "sigmoid" => Unary::Sigmoid,
            _ => {
                let known = "supported are gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, quick_gelu, relu, silu, tanh and \
                             sigmoid";
                return Err(self.refuse(key, known));
            }
        })
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
        option_error(&self.file, &format!("{}{key}", self.path), value, reason)
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
