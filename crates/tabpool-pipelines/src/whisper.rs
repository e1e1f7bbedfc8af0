//! What a Whisper model is told before it writes: the language, what to do, and whether to put down times.
//!
//! A model that knows one language only, as those whose names end in `.en`, is told nothing but the last.

use tabpool_content::Directory;

use crate::TextError;
use crate::config::read_options;
use crate::timestamps::TimestampRule;
use crate::tokenizer::Tokenizer;

/// A second, as OpenAI's own decoding has it.
const LATEST_FIRST: usize = 50;

/// What is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Task {
    /// What was said, in its language.
    #[default]
    Transcribe,
    /// What was said, in English.
    Translate,
}

/// Whether a model puts times between the segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Timestamps {
    /// One before and one after each.
    #[default]
    Written,
    /// None.
    Omitted,
}

/// The prompts of a Whisper model.
#[derive(Clone, Debug)]
pub struct WhisperPrompts {
    tokenizer: Tokenizer,
    multilingual: bool,
    /// How many steps of 20 ms after its beginning a window's first time may be.
    latest_first: usize,
}

impl WhisperPrompts {
    /// Reads the tokenizer under `base` (`""`, or a path that ends in `/`), and from `generation_config.json` whether the model knows
    /// several languages. Where that does not say, it knows several.
    ///
    /// # Errors
    /// [`TextError`] with the file at fault.
    pub fn read(folder: &Directory<'_>, base: &str) -> Result<Self, TextError> {
        let options = read_options(folder, &format!("{base}generation_config.json"))?;
        let multilingual = options.flag("is_multilingual", true)?;
        let latest_first = options.count("max_initial_timestamp_index", LATEST_FIRST, 1500)?;
        Ok(Self { tokenizer: Tokenizer::read(folder, base)?, multilingual, latest_first })
    }

    /// The tokenizer, which turns what the model writes into text.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Whether the model has to know the language, and can translate.
    #[must_use]
    pub fn multilingual(&self) -> bool {
        self.multilingual
    }

    /// The token of a language, which is named by its code, as in `en`.
    ///
    /// # Errors
    /// [`TextError::Prompt`] where the model knows no such language.
    pub fn language(&self, code: &str) -> Result<u32, TextError> {
        let unknown = |reason: String| TextError::Prompt { reason };
        if !self.multilingual && code != "en" {
            return Err(unknown(format!("the model knows English only, not {code:?}")));
        }
        let id = is_code(code).then(|| self.tokenizer.id(&format!("<|{code}|>"))).flatten();
        id.ok_or_else(|| {
            unknown(format!("the model knows no language {code:?}; languages are named by codes, as in en or de"))
        })
    }

    /// The language that a token stands for. A model that is told nothing writes this first.
    #[must_use]
    pub fn language_of(&self, id: u32) -> Option<String> {
        let token = self.tokenizer.token(id)?;
        let code = token.strip_prefix("<|")?.strip_suffix("|>")?;
        is_code(code).then(|| code.to_owned())
    }

    /// The rule of the times that the model writes; `end` is the token that ends its texts.
    ///
    /// # Errors
    /// [`TextError::Prompt`] where the tokenizer is not Whisper's.
    pub fn timestamp_rule(&self, end: i32) -> Result<TimestampRule, TextError> {
        let none = self.tokenizer.id("<|notimestamps|>").and_then(|id| i32::try_from(id).ok());
        let reason = || "the tokenizer has no <|notimestamps|>: it is not one of Whisper's".to_owned();
        let none = none.ok_or_else(|| TextError::Prompt { reason: reason() })?;
        Ok(TimestampRule { first: none + 1, end, none, latest_first: self.latest_first })
    }

    /// What follows the token that begins every text. `language` is ignored by models that know one only.
    ///
    /// # Errors
    /// [`TextError::Prompt`] where the model cannot do the task, or its tokenizer is not Whisper's.
    pub fn prompt(&self, language: Option<u32>, task: Task, timestamps: Timestamps) -> Result<Vec<u32>, TextError> {
        let token = |token: &str| {
            let reason = || format!("the tokenizer has no {token}: it is not one of Whisper's");
            self.tokenizer.id(token).ok_or_else(|| TextError::Prompt { reason: reason() })
        };
        let mut prompt = Vec::new();
        if self.multilingual {
            prompt.extend(language);
            prompt.push(token(match task {
                Task::Transcribe => "<|transcribe|>",
                Task::Translate => "<|translate|>",
            })?);
        } else if task == Task::Translate {
            return Err(TextError::Prompt { reason: "the model knows English only: it cannot translate".to_owned() });
        }
        if timestamps == Timestamps::Omitted {
            prompt.push(token("<|notimestamps|>")?);
        }
        Ok(prompt)
    }
}

/// Codes of languages have two or three letters; other special tokens are longer words.
fn is_code(code: &str) -> bool {
    matches!(code.len(), 2 | 3) && code.bytes().all(|b| b.is_ascii_lowercase())
}
