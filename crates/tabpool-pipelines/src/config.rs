//! The small JSON files beside a model's weights, read with the same care for texts, pictures and sounds.
//!
//! Every value that is used is checked when it is read; the error names the file, the key and what was allowed. A file
//! that is absent counts as one without keys, because most of what these files say has a default.

use serde_json::{Map, Value};
use tabpool_content::{Directory, DirectoryError};

/// The largest of these files.
const MAX_JSON_BYTES: u64 = 4 << 20;

/// What can be wrong with a JSON file of a model's folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The folder's tree could not be read.
    #[error(transparent)]
    Folder(#[from] DirectoryError),
    /// A file that is needed is not there.
    #[error("the model's folder holds no {file}")]
    Absent {
        /// The file.
        file: String,
    },
    /// A file is not what it should be.
    #[error("{file} is not readable: {reason}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An option has a value that is wrong or not supported.
    #[error("{file}: {key} is {value}, {reason}")]
    Option {
        /// The file.
        file: String,
        /// The option.
        key: String,
        /// Its value as JSON.
        value: String,
        /// What is allowed, as a clause.
        reason: String,
    },
}

/// A JSON object of the folder; an empty one where the file is absent.
pub(crate) fn read_options(folder: &Directory<'_>, file: &str) -> Result<Options, ConfigError> {
    if !folder.contains(file) {
        return Ok(Options { file: file.to_owned(), map: Map::new() });
    }
    Options::parse(file, &folder.read(file, MAX_JSON_BYTES)?)
}

/// What is done to a model's pictures or sounds: `preprocessor_config.json` under `base`, or else what stands under `inner` in
/// `processor_config.json`; and the `model_type` of `config.json`, which decides where that names no processor, as the oldest
/// ones do not.
pub(crate) fn read_processor<T>(
    folder: &Directory<'_>,
    base: &str,
    inner: &str,
    read: impl FnOnce(&Options, Option<&str>) -> Result<T, ConfigError>,
) -> Result<T, ConfigError> {
    let file = format!("{base}preprocessor_config.json");
    let options = if folder.contains(&file) {
        read_options(folder, &file)?
    } else {
        let bundle = read_options(folder, &format!("{base}processor_config.json"))?;
        bundle.inner(inner)?.ok_or(ConfigError::Absent { file })?
    };
    let config = read_options(folder, &format!("{base}config.json"))?;
    read(&options, config.text("model_type")?)
}

/// The options of a JSON file. A key whose value is `null` counts as absent.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) file: String,
    map: Map<String, Value>,
}

impl Options {
    /// The options in a file's bytes.
    pub(crate) fn parse(file: &str, bytes: &[u8]) -> Result<Self, ConfigError> {
        let unreadable = |reason: String| ConfigError::File { file: file.to_owned(), reason };
        let json = serde_json::from_slice(bytes).map_err(|e| unreadable(e.to_string()))?;
        let Value::Object(map) = json else { return Err(unreadable("it holds no JSON object".to_owned())) };
        Ok(Self { file: file.to_owned(), map })
    }

    /// An object inside of this one, as options of its own.
    pub(crate) fn inner(&self, key: &str) -> Result<Option<Self>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { file: self.file.clone(), map: map.clone() })),
            Some(_) => Err(self.refuse(key, "no JSON object")),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.refuse(key, "neither true nor false"))
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.refuse(key, "not a text"))
    }

    /// A special token: a text, or an object with the text in `content`.
    pub(crate) fn token(&self, key: &str) -> Result<Option<&str>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = value.as_str().or_else(|| value.get("content").and_then(Value::as_str));
        text.map(Some).ok_or_else(|| self.refuse(key, "neither a token nor an object with its content"))
    }

    /// A whole number from 1 to `most`.
    pub(crate) fn count(&self, key: &str, default: usize, most: usize) -> Result<usize, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        self.counted(key, value, most)
    }

    /// The same for a value that was found at `key` or inside of what is there.
    pub(crate) fn counted(&self, key: &str, value: &Value, most: usize) -> Result<usize, ConfigError> {
        // Some files were written by programs that know no integers.
        let whole = value.as_f64().filter(|n| n.fract() == 0.0 && *n >= 1.0 && *n <= 1e15);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number of this range")]
        let count = value.as_u64().or(whole.map(|n| n as u64)).and_then(|n| usize::try_from(n).ok());
        let fits = count.filter(|n| (1..=most).contains(n));
        fits.ok_or_else(|| self.refuse(key, &format!("not a whole number from 1 to {most}")))
    }

    /// A finite number.
    pub(crate) fn number(&self, key: &str, default: f64) -> Result<f64, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().filter(|n| n.is_finite()).ok_or_else(|| self.refuse(key, "not a finite number"))
    }

    /// The error for a value: what it should be, as a clause after "`key` is `value`,".
    pub(crate) fn refuse(&self, key: &str, reason: &str) -> ConfigError {
        let value = self.map.get(key).unwrap_or(&Value::Null).to_string();
        let value = value.chars().take(80).collect();
        ConfigError::Option { file: self.file.clone(), key: key.to_owned(), value, reason: reason.to_owned() }
    }
}
