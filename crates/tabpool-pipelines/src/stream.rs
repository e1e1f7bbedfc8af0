//! Ids to text while they are being generated, with stop sequences.
//!
//! Text comes out as soon as it cannot change any more: whole UTF-8 sequences only, with the spaces that the decoder puts
//! between these tokens. The method is that of `DecodeStream` in the tokenizers library: a few tokens are decoded
//! with and without the newest one, and the difference is the new text. Special tokens give none.

use crate::TextError;
use crate::tokenizer::Tokenizer;

/// The most stop sequences, and the most bytes of one.
const MAX_STOPS: usize = 64;
const MAX_STOP_BYTES: usize = 4096;
/// The most tokens that are kept because they give no whole text yet. No character takes as many; what is damaged beyond that
/// comes out with replacement characters.
const MAX_PENDING: usize = 256;

/// Turns ids into text one by one.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    stops: Vec<String>,
    /// The tokens that `prefix` is the text of, and those after it whose text is not whole yet.
    ids: Vec<u32>,
    /// How many of `ids` belong to `prefix`.
    prefix_len: usize,
    prefix: String,
    /// Text that may be the beginning of a stop sequence.
    held: String,
    stopped: Option<usize>,
}

/// What one more token gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamedText {
    /// Text that is new and final; often empty.
    pub text: String,
    /// Which of the stop sequences the text has reached. It is not part of the text, and nothing comes after it.
    pub stop: Option<usize>,
}

impl TextStream {
    /// A stream that ends where the text has one of these sequences, however tokens cut it.
    ///
    /// # Errors
    /// [`TextError::Stops`] for more than 64, for an empty one, and for one of more than 4096 bytes.
    pub fn new(stops: &[&str]) -> Result<Self, TextError> {
        if stops.len() > MAX_STOPS {
            let reason = format!("there are {}, more than the {MAX_STOPS} allowed", stops.len());
            return Err(TextError::Stops { reason });
        }
        if let Some(at) = stops.iter().position(|s| s.is_empty() || s.len() > MAX_STOP_BYTES) {
            let reason = format!("number {at} has {} bytes; 1 to {MAX_STOP_BYTES} are allowed", stops[at].len());
            return Err(TextError::Stops { reason });
        }
        Ok(Self { stops: stops.iter().map(|s| (*s).to_owned()).collect(), ..Self::default() })
    }

    /// Adds a token. After a stop nothing comes out any more.
    ///
    /// # Errors
    /// [`TextError::Decode`] where the decoder fails, or changes text that has come out.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<StreamedText, TextError> {
        if self.stopped.is_some() || tokenizer.is_special(id) {
            return Ok(StreamedText { text: String::new(), stop: self.stopped });
        }
        if self.prefix.is_empty() && !self.ids.is_empty() {
            let prefix = tokenizer.decode(&self.ids)?;
            if !prefix.ends_with(char::REPLACEMENT_CHARACTER) {
                self.prefix = prefix;
                self.prefix_len = self.ids.len();
            }
        }
        self.ids.push(id);
        let whole = tokenizer.decode(&self.ids)?;
        let waits = whole.len() <= self.prefix.len() || whole.ends_with(char::REPLACEMENT_CHARACTER);
        let full = self.ids.len() - self.prefix_len >= MAX_PENDING;
        if waits && !full {
            return Ok(StreamedText::default());
        }
        let text = if whole.len() <= self.prefix.len() { String::new() } else { self.added(&whole)? };
        if full {
            self.ids.clear();
        } else {
            self.ids.drain(..self.prefix_len);
        }
        self.prefix_len = self.ids.len();
        self.prefix = tokenizer.decode(&self.ids)?;
        Ok(self.matched(&text))
    }

    /// What a decoded text has more than what has come out.
    fn added(&self, whole: &str) -> Result<String, TextError> {
        let text = whole.strip_prefix(&self.prefix).map(str::to_owned);
        text.ok_or_else(|| TextError::Decode {
            reason: format!("a token changes the text before it from {:?} to {whole:?}", self.prefix),
        })
    }

    /// Ends the stream: what was held back, and what is left of damaged UTF-8 as replacement characters.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(mut self, tokenizer: &Tokenizer) -> Result<StreamedText, TextError> {
        if self.stopped.is_some() {
            return Ok(StreamedText { text: String::new(), stop: self.stopped });
        }
        let whole = tokenizer.decode(&self.ids)?;
        let rest = self.added(&whole)?;
        let mut last = self.matched(&rest);
        if last.stop.is_none() {
            last.text.push_str(&self.held);
        }
        Ok(last)
    }

    /// What of the text so far can come out.
    fn matched(&mut self, text: &str) -> StreamedText {
        self.held.push_str(text);
        let found =
            self.stops.iter().enumerate().filter_map(|(i, stop)| self.held.find(stop.as_str()).map(|at| (at, i)));
        // The earliest; of those that begin together the one named first.
        if let Some((at, stop)) = found.min() {
            self.held.truncate(at);
            self.stopped = Some(stop);
            return StreamedText { text: std::mem::take(&mut self.held), stop: self.stopped };
        }
        let keep = self.stops.iter().map(|stop| begun(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        StreamedText { text: std::mem::replace(&mut self.held, rest), stop: None }
    }
}

/// How many bytes at the end of the text may be the beginning of a stop sequence.
fn begun(text: &str, stop: &str) -> usize {
    let lengths = stop.char_indices().map(|(at, _)| at).skip(1);
    lengths.filter(|&length| text.ends_with(&stop[..length])).max().unwrap_or(0)
}
