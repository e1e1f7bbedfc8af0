//! Conversations as the text that a chat model was trained on: the folder's chat template, rendered.
//!
//! Templates are Jinja, written for the environment that transformers gives them, and so is this one: blocks are trimmed,
//! strings have Python's methods, values print as Python prints them, and `raise_exception`, `strftime_now` and a `tojson`
//! that writes as `json.dumps` are there. A template comes with the model and is not trusted: the steps it may take, the text
//! it may give and what goes into it are bounded, and it reaches no file and no clock.
//!
//! What is not bounded: the memory of values in between. A template that doubles one text again and again takes few steps
//! and much memory; the library counts steps only. Who renders templates of strangers limits the process.

mod calendar;
mod python;
mod template;

pub use template::{ChatRequest, ChatTemplate};

use crate::ConfigError;

/// Why a conversation cannot be rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The template's files are missing or unreadable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The folder has no chat template.
    #[error("the model's folder holds no chat template, neither in {jinja} nor in {config}")]
    NoTemplate {
        /// The file for a template alone.
        jinja: String,
        /// The file with the tokenizer's options.
        config: String,
    },
    /// There is no template of this name.
    #[error("there is no chat template {name:?}: there are {known:?}")]
    UnknownTemplate {
        /// The name asked for.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// Something is too large.
    #[error("{what} has {bytes} bytes, more than the {limit} allowed")]
    TooLarge {
        /// What is.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The largest size.
        limit: usize,
    },
    /// Messages, tools or variables are not what a template can be given.
    #[error("{what} cannot be given to a chat template: {reason}")]
    Request {
        /// Which of them.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The template is not valid.
    #[error("chat template {name:?} is not readable: {reason}")]
    Syntax {
        /// The template.
        name: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// The template refuses the conversation, by `raise_exception`.
    #[error("the chat template refuses the conversation: {reason}")]
    Refused {
        /// What it says.
        reason: String,
    },
    /// The template failed.
    #[error("the chat template fails: {reason}")]
    Render {
        /// What is wrong, and where.
        reason: String,
    },
}
