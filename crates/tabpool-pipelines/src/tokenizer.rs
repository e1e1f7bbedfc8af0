//! The tokenizer of a model's folder: text to ids and back, with each token's place in the text.

use tabpool_content::Directory;
use tokenizers::{PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy};

use crate::TextError;
use crate::config::read_options;
use crate::guard::caught;
use crate::vocabulary;

/// The largest file of a tokenizer: those of the largest vocabularies have about 35 MB.
const MAX_TOKENIZER_BYTES: u64 = 128 << 20;
/// The largest text. Models take a few thousand tokens; what is cut off anyway need not be tokenized for minutes.
const MAX_TEXT_BYTES: usize = 4 << 20;

/// A text or a pair of texts as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenized {
    /// The ids.
    pub ids: Vec<u32>,
    /// For each token the segment it belongs to, as the tokenizer numbers them.
    pub type_ids: Vec<u32>,
    /// The tokens as the vocabulary spells them.
    pub tokens: Vec<String>,
    /// For each token its place in the text as given, `[start, end)` in Unicode scalar values; `(0, 0)` for the tokens
    /// that stand for none of it.
    pub offsets: Vec<(usize, usize)>,
    /// For each token which of the texts given it is from, 0 or 1; `None` for the tokens that stand for none of it.
    pub texts: Vec<Option<usize>>,
    /// Whether part of a text was cut off.
    pub truncated: bool,
}

/// A tokenizer as a model's folder describes it.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads `tokenizer.json` under `base` (`""`, or a path that ends in `/`); where there is none, `vocab.txt` with the
    /// options of `tokenizer_config.json`, for the tokenizers of BERT. Padding and truncation that a file asks for are
    /// left out: they belong to batches.
    ///
    /// # Errors
    /// [`TextError::NoTokenizer`], [`TextError::File`], [`TextError::Option`], [`TextError::Folder`].
    pub fn read(folder: &Directory<'_>, base: &str) -> Result<Self, TextError> {
        let (json, vocab) = (format!("{base}tokenizer.json"), format!("{base}vocab.txt"));
        let mut inner = if folder.contains(&json) {
            let bytes = folder.read(&json, MAX_TOKENIZER_BYTES)?;
            parse(&bytes).map_err(|reason| TextError::File { file: json, reason })?
        } else if folder.contains(&vocab) {
            let bytes = folder.read(&vocab, MAX_TOKENIZER_BYTES)?;
            let options = read_options(folder, &format!("{base}tokenizer_config.json"))?;
            vocabulary::wordpiece(&vocab, &bytes, &options)?
        } else {
            return Err(TextError::NoTokenizer { json, vocabulary: vocab });
        };
        inner.with_padding(None);
        // Taking truncation away cannot fail; setting it can.
        let _ = inner.with_truncation(None);
        Ok(Self { inner })
    }

    /// Turns a text into tokens, without cutting or padding; `special_tokens` puts around it what the model wants.
    ///
    /// # Errors
    /// [`TextError::TextTooLarge`], [`TextError::Tokenize`].
    pub fn tokenize(&self, text: &str, special_tokens: SpecialTokens) -> Result<Tokenized, TextError> {
        refuse_large(0, text)?;
        let add = special_tokens == SpecialTokens::Add;
        let encoding = guarded(|| self.inner.encode_char_offsets(text, add));
        encoding.map(|e| tokenized(&e)).map_err(|reason| TextError::Tokenize { position: 0, reason })
    }

    /// The same for two texts that the model is to see together.
    ///
    /// # Errors
    /// As [`tokenize`](Self::tokenize).
    pub fn tokenize_pair(
        &self,
        first: &str,
        second: &str,
        special_tokens: SpecialTokens,
    ) -> Result<Tokenized, TextError> {
        refuse_large(0, first)?;
        refuse_large(0, second)?;
        let add = special_tokens == SpecialTokens::Add;
        let encoding = guarded(|| self.inner.encode_char_offsets((first, second), add));
        encoding.map(|e| tokenized(&e)).map_err(|reason| TextError::Tokenize { position: 0, reason })
    }

    /// The text of these ids, without special tokens.
    ///
    /// # Errors
    /// [`TextError::Decode`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        guarded(|| self.inner.decode(ids, true)).map_err(|reason| TextError::Decode { reason })
    }

    /// The id of a token, as the vocabulary or the tokens added to it spell it.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether an id is that of a special token, which has no text.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        let token = self.inner.id_to_token(id);
        token.is_some_and(|token| self.inner.get_added_vocabulary().is_special_token(&token))
    }

    /// Cuts everything to `limit` tokens from now on, special ones included.
    pub(crate) fn limit(&mut self, limit: usize, direction: TruncationDirection) -> Result<(), TextError> {
        // The library subtracts without looking, so a limit without room for a token must not reach it.
        let special = self.inner.get_post_processor().map_or(0, |p| p.added_tokens(true).max(p.added_tokens(false)));
        if limit <= special {
            return Err(TextError::NoRoom { limit, special });
        }
        let params =
            TruncationParams { direction, max_length: limit, strategy: TruncationStrategy::LongestFirst, stride: 0 };
        let set = self.inner.with_truncation(Some(params));
        set.map(|_| ()).map_err(|_| TextError::NoRoom { limit, special })
    }

    /// The ids and segments of a text or a pair, and whether any of it was cut off.
    pub(crate) fn ids(&self, position: usize, text: &str, pair: Option<&str>) -> Result<Row, TextError> {
        refuse_large(position, text)?;
        let encoding = match pair {
            None => guarded(|| self.inner.encode_fast(text, true)),
            Some(pair) => {
                refuse_large(position, pair)?;
                guarded(|| self.inner.encode_fast((text, pair), true))
            }
        };
        let encoding = encoding.map_err(|reason| TextError::Tokenize { position, reason })?;
        Ok(Row {
            truncated: !encoding.get_overflowing().is_empty(),
            ids: encoding.get_ids().to_vec(),
            type_ids: encoding.get_type_ids().to_vec(),
        })
    }
}

/// Whether the tokens that a model wants around a text are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// They are, as a model needs them.
    Add,
    /// They are not: the text's own tokens alone.
    Omit,
}

/// One text of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) ids: Vec<u32>,
    pub(crate) type_ids: Vec<u32>,
    pub(crate) truncated: bool,
}

fn tokenized(encoding: &tokenizers::Encoding) -> Tokenized {
    Tokenized {
        ids: encoding.get_ids().to_vec(),
        type_ids: encoding.get_type_ids().to_vec(),
        tokens: encoding.get_tokens().to_vec(),
        offsets: encoding.get_offsets().to_vec(),
        texts: encoding.get_sequence_ids(),
        truncated: !encoding.get_overflowing().is_empty(),
    }
}

/// The tokenizer that a `tokenizer.json` describes.
pub(crate) fn parse(json: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    guarded(|| tokenizers::Tokenizer::from_bytes(json))
}

/// Calls the library, and turns its panics into errors as well: it panics on some files that contradict themselves, as
/// with a subword prefix that no token of the vocabulary has.
pub(crate) fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    // A tokenizer changes nothing but a cache of whole entries while it works, so a call cut short leaves it sound.
    match caught(call) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(panic) => Err(format!("the tokenizer contradicts itself: {panic}")),
    }
}

fn refuse_large(position: usize, text: &str) -> Result<(), TextError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(TextError::TextTooLarge { position, bytes: text.len(), limit: MAX_TEXT_BYTES });
    }
    Ok(())
}
