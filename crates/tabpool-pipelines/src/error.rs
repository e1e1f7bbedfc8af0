//! What can be wrong with a tokenizer's files, with texts, and with embeddings to be compared.

use tabpool_content::DirectoryError;
use tabpool_tensor::TensorError;

use crate::ConfigError;

/// Why texts cannot be turned into a model's inputs. Files are named by their path inside the model's folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The folder's tree could not be read.
    #[error(transparent)]
    Folder(#[from] DirectoryError),
    /// The folder holds no tokenizer that can be read here.
    #[error("the model's folder holds neither {json} nor {vocabulary}")]
    NoTokenizer {
        /// The first file looked for.
        json: String,
        /// The file looked for where that is absent.
        vocabulary: String,
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
    /// The model's sequences are too short for the tokens that go around every text.
    #[error("the model takes {limit} tokens, of which the tokenizer needs {special} for itself")]
    NoRoom {
        /// The longest sequence.
        limit: usize,
        /// Tokens added to every pair of texts.
        special: usize,
    },
    /// There is no text.
    #[error("there are no texts to encode")]
    NoTexts,
    /// A text is larger than any that makes sense.
    #[error("text {position} has {bytes} bytes, more than the {limit} allowed")]
    TextTooLarge {
        /// Which text.
        position: usize,
        /// Its size.
        bytes: usize,
        /// The largest size.
        limit: usize,
    },
    /// The tokenizer failed on a text.
    #[error("text {position} cannot be tokenized: {reason}")]
    Tokenize {
        /// Which text.
        position: usize,
        /// What the tokenizer says.
        reason: String,
    },
    /// Ids cannot be turned back into text.
    #[error("ids cannot be decoded: {reason}")]
    Decode {
        /// What the tokenizer says.
        reason: String,
    },
    /// A model cannot be told what it should be told.
    #[error("{reason}")]
    Prompt {
        /// Why not.
        reason: String,
    },
    /// Sequences that end a text are not as they should be.
    #[error("stop sequences are refused: {reason}")]
    Stops {
        /// What is wrong with them.
        reason: String,
    },
    /// A tensor contradicts itself.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl From<ConfigError> for TextError {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Folder(error) => Self::Folder(error),
            ConfigError::Absent { file } => {
                let reason = "the model's folder holds no such file".to_owned();
                Self::File { file, reason }
            }
            ConfigError::File { file, reason } => Self::File { file, reason },
            ConfigError::Option { file, key, value, reason } => Self::Option { file, key, value, reason },
        }
    }
}

impl TextError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoTokenizer { .. } => Some(
                "save the model's fast tokenizer beside it (tokenizer.json), or run it on tensors instead of texts"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// Why embeddings cannot be compared.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SimilarityError {
    /// The two have different numbers of elements.
    #[error("embeddings of {a} and {b} elements cannot be compared")]
    Length {
        /// Elements of the first.
        a: usize,
        /// Elements of the second.
        b: usize,
    },
    /// A tensor is not a list of embeddings.
    #[error("a tensor of shape {got:?} is no list of embeddings: [texts, elements] is wanted")]
    Shape {
        /// The tensor's shape.
        got: Vec<usize>,
    },
    /// A tensor does not hold numbers, or contradicts itself.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}
