//! Text from the frames of a model trained with connectionist temporal classification, as wav2vec 2.0 is.
//!
//! Decoding is greedy, as `Wav2Vec2CTCTokenizer` of transformers does it: the likeliest token of each frame, runs of one
//! token as one, blanks (the padding token) left out, word delimiters as spaces. Words carry the frames they were heard
//! in. There is no language model here.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;
use tabpool_content::Directory;
use tabpool_tensor::Tensor;

use crate::TextError;
use crate::config::{ConfigError, Options, read_options};
use crate::transcript::{Segment, Transcript};

/// The most tokens of a vocabulary.
const MAX_TOKENS: usize = 1 << 20;

/// A vocabulary and how frames relate to samples.
#[derive(Clone, Debug, PartialEq)]
pub struct CtcDecoder {
    /// Each id's token; ids that the file leaves out have none.
    tokens: Vec<Option<String>>,
    blank: String,
    delimiter: String,
    space: String,
    lower_case: bool,
    /// Kernel and stride of each convolution over samples.
    convolutions: Vec<(usize, usize)>,
}

/// A word and the frames it was heard in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CtcWord {
    /// The word.
    pub text: String,
    /// Its first frame.
    pub start: usize,
    /// The frame after its last.
    pub end: usize,
}

/// What was heard in one sound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CtcText {
    /// The text.
    pub text: String,
    /// Its words in order.
    pub words: Vec<CtcWord>,
}

impl CtcDecoder {
    /// Reads `vocab.json` under `base` (`""`, or a path that ends in `/`), with the options of `tokenizer_config.json` and the
    /// convolutions of `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] with the file and the key at fault.
    pub fn read(folder: &Directory<'_>, base: &str) -> Result<Self, ConfigError> {
        let file = format!("{base}vocab.json");
        if !folder.contains(&file) {
            return Err(ConfigError::Absent { file });
        }
        let options = read_options(folder, &format!("{base}tokenizer_config.json"))?;
        let vocabulary = vocabulary(read_options(folder, &file)?, &options)?;
        let text = |key: &str, default: &str| Ok::<_, ConfigError>(options.token(key)?.unwrap_or(default).to_owned());
        let decoder = Self {
            tokens: tokens(&vocabulary)?,
            blank: text("pad_token", "<pad>")?,
            delimiter: text("word_delimiter_token", "|")?,
            space: text("replace_word_delimiter_char", " ")?,
            lower_case: options.flag("do_lower_case", false)?,
            convolutions: convolutions(&read_options(folder, &format!("{base}config.json"))?)?,
        };
        if !decoder.tokens.iter().any(|t| t.as_ref() == Some(&decoder.blank)) {
            let reason = format!("it lacks the pad_token {:?}, which stands for the blank", decoder.blank);
            return Err(ConfigError::File { file: vocabulary.file, reason });
        }
        Ok(decoder)
    }

    /// How many frames this many samples make.
    #[must_use]
    pub fn frames(&self, samples: usize) -> usize {
        let shrink = |length: usize, &(kernel, stride): &(usize, usize)| {
            length.checked_sub(kernel).map_or(0, |l| l / stride + 1)
        };
        self.convolutions.iter().fold(samples, shrink)
    }

    /// Seconds from one frame to the next, at this sampling rate.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "strides are small")]
    pub fn frame_s(&self, rate_hz: u32) -> f64 {
        self.stride() as f64 / f64::from(rate_hz)
    }

    /// Samples from one frame to the next.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.convolutions.iter().map(|c| c.1).product()
    }

    /// The text of a model's `logits`, `f32 [sounds, frames, tokens]`. Of each sound only its first `frames` count, where they
    /// are given.
    ///
    /// # Errors
    /// [`TextError::Decode`] where the tensor does not have that shape or `frames` does not have its length, and as
    /// [`decode_ids`](Self::decode_ids); [`TextError::Tensor`] where it holds no numbers.
    pub fn decode(&self, logits: &Tensor, frames: Option<&[usize]>) -> Result<Vec<CtcText>, TextError> {
        self.ids(logits, frames)?.iter().map(|ids| self.decode_ids(ids)).collect()
    }

    /// The likeliest token of each frame, for each sound; of long sounds these can be put together before they are
    /// [decoded](Self::decode_ids).
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn ids(&self, logits: &Tensor, frames: Option<&[usize]>) -> Result<Vec<Vec<u32>>, TextError> {
        let &[sounds, length, width] = logits.shape().dims() else {
            let reason = format!("logits of shape {:?} are not [sounds, frames, tokens]", logits.shape().dims());
            return Err(TextError::Decode { reason });
        };
        if let Some(frames) = frames
            && (frames.len() != sounds || frames.iter().any(|&f| f > length))
        {
            let reason = format!("{frames:?} are no counts of frames for {sounds} sounds of {length}");
            return Err(TextError::Decode { reason });
        }
        let values = logits.to_f32()?;
        let ids = |sound: usize| {
            let count = frames.map_or(length, |frames| frames[sound]);
            values[sound * length * width..].chunks_exact(width.max(1)).take(count).map(likeliest).collect()
        };
        Ok((0..sounds).map(ids).collect())
    }

    /// The text of the likeliest token of each frame.
    ///
    /// # Errors
    /// [`TextError::Decode`] for an id that the vocabulary does not have.
    pub fn decode_ids(&self, ids: &[u32]) -> Result<CtcText, TextError> {
        let (mut all, mut words) = (String::new(), Vec::new());
        let mut word: Option<CtcWord> = None;
        let mut start = 0;
        for run in ids.chunk_by(|a, b| a == b) {
            let end = start + run.len();
            let token = self.tokens.get(run[0] as usize).and_then(Option::as_ref);
            let token = token.ok_or_else(|| TextError::Decode {
                reason: format!("frame {start} has token {}, which the vocabulary lacks", run[0]),
            })?;
            if *token == self.delimiter {
                all.push_str(&self.space);
                words.extend(word.take());
            } else if *token != self.blank {
                all.push_str(token);
                let word = word.get_or_insert_with(|| CtcWord { text: String::new(), start, end });
                word.text.push_str(token);
                word.end = end;
            }
            start = end;
        }
        words.extend(word);
        let text = all.trim();
        Ok(CtcText { text: if self.lower_case { text.to_lowercase() } else { text.to_owned() }, words })
    }
}

/// A pause that ends a segment, in seconds.
const PAUSE_S: f64 = 0.8;
/// The longest segment: what is read in one piece.
const MAX_SEGMENT_S: f64 = 6.0;

impl CtcDecoder {
    /// What was said as segments, each ended by a pause of 0.8 s or before it would last longer than 6 s. `rate_hz` is the rate of
    /// the samples that the frames were made of.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "frames are far fewer than 2^52")]
    pub fn transcript(&self, said: &CtcText, rate_hz: u32) -> Transcript {
        let frame_s = self.frame_s(rate_hz);
        let mut transcript = Transcript::new();
        let mut open: Option<Segment> = None;
        for word in &said.words {
            let (start_s, end_s) = (word.start as f64 * frame_s, word.end as f64 * frame_s);
            let text = if self.lower_case { word.text.to_lowercase() } else { word.text.clone() };
            match &mut open {
                Some(segment) if start_s - segment.end_s < PAUSE_S && end_s - segment.start_s <= MAX_SEGMENT_S => {
                    segment.text.push(' ');
                    segment.text.push_str(&text);
                    segment.end_s = end_s;
                }
                _ => {
                    let segment = Segment { start_s, end_s, text: format!(" {text}") };
                    open.replace(segment).into_iter().for_each(|done| transcript.push(done));
                }
            }
        }
        open.into_iter().for_each(|done| transcript.push(done));
        transcript
    }
}

/// A part of a long sound, and those of its frames that count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CtcWindow {
    /// Its samples.
    pub samples: Range<usize>,
    /// Which of its own frames count: the others belong to its neighbours, and are there for what is heard around.
    pub frames: Range<usize>,
}

impl CtcDecoder {
    /// Cuts a sound of so many samples into windows of at most `window`, which overlap so that each frame that counts has
    /// about `around` samples of its window on either side. The frames that count, one window's after the other's, are the
    /// frames of the whole sound. Where a window or the sound is too short for a frame there are none.
    #[must_use]
    pub fn windows(&self, samples: usize, window: usize, around: usize) -> Vec<CtcWindow> {
        let stride = self.stride().max(1);
        let (total, each) = (self.frames(samples), self.frames(window.min(samples)));
        let around = (around / stride).min(each.saturating_sub(1) / 2);
        let mut windows: Vec<CtcWindow> = Vec::new();
        let mut next = 0;
        while each > 0 && next < total {
            let first = next.saturating_sub(around).min(total - each);
            let counted = if first + each == total { total } else { first + each - around };
            let end = (first * stride + window).min(samples);
            windows.push(CtcWindow { samples: first * stride..end, frames: next - first..counted - first });
            next = counted;
        }
        windows
    }
}

/// The first of the largest.
fn likeliest(row: &[f32]) -> u32 {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    u32::try_from(best).unwrap_or(u32::MAX)
}

/// The vocabulary, of several that of the language which the options name.
fn vocabulary(file: Options, options: &Options) -> Result<Options, ConfigError> {
    let nested = file.keys().next().is_some_and(|key| file.get(key).is_some_and(Value::is_object));
    match (nested, options.text("target_lang")?) {
        (false, _) => Ok(file),
        (true, Some(language)) => {
            file.inner(language)?.ok_or_else(|| options.refuse("target_lang", "for which vocab.json has no vocabulary"))
        }
        (true, None) => Err(options.refuse("target_lang", "but vocab.json holds several vocabularies")),
    }
}

fn tokens(vocabulary: &Options) -> Result<Vec<Option<String>>, ConfigError> {
    let mut ids = BTreeMap::new();
    for token in vocabulary.keys() {
        let id = vocabulary.get(token).and_then(Value::as_u64).filter(|id| *id < MAX_TOKENS as u64);
        let id = id.ok_or_else(|| vocabulary.refuse(token, "not an id from 0 to 1048575"))?;
        if ids.insert(id, token).is_some() {
            return Err(vocabulary.refuse(token, "an id that another token has"));
        }
    }
    let count = ids.last_key_value().map_or(0, |(id, _)| *id + 1);
    Ok((0..count).map(|id| ids.get(&id).map(|t| (*t).to_owned())).collect())
}

/// The convolutions of `config.json`; those of the published models where it does not say.
fn convolutions(config: &Options) -> Result<Vec<(usize, usize)>, ConfigError> {
    let list = |key: &str, default: &[usize]| match config.get(key) {
        None => Ok(default.to_vec()),
        Some(Value::Array(list)) if list.len() <= 64 => list.iter().map(|v| config.counted(key, v, 1 << 20)).collect(),
        Some(_) => Err(config.refuse(key, "not a list of at most 64 numbers")),
    };
    let (kernels, strides) =
        (list("conv_kernel", &[10, 3, 3, 3, 3, 2, 2])?, list("conv_stride", &[5, 2, 2, 2, 2, 2, 2])?);
    if kernels.len() != strides.len() {
        return Err(config.refuse("conv_stride", "not as many as conv_kernel"));
    }
    Ok(kernels.into_iter().zip(strides).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::{CtcDecoder, CtcText, CtcWord};

    #[test]
    fn words_become_segments_that_pauses_and_six_seconds_end() {
        let word = |text: &str, start, end| CtcWord { text: text.to_owned(), start, end };
        let words = vec![word("ONE", 0, 10), word("TWO", 20, 30), word("THREE", 75, 80), word("FOUR", 100, 400)];
        let said = CtcText { text: String::new(), words };
        // A frame is 20 ms.
        let transcript = decoder(&PUBLISHED).transcript(&said, 16_000);
        let segments: Vec<_> = transcript.segments().iter().map(|s| (s.text.as_str(), s.start_s, s.end_s)).collect();
        assert_eq!(segments, [(" ONE TWO", 0.0, 0.6), (" THREE", 1.5, 1.6), (" FOUR", 2.0, 8.0)]);
        assert_eq!(transcript.text(), "ONE TWO THREE FOUR");
    }

    fn decoder(convolutions: &[(usize, usize)]) -> CtcDecoder {
        CtcDecoder {
            tokens: Vec::new(),
            blank: String::new(),
            delimiter: String::new(),
            space: String::new(),
            lower_case: false,
            convolutions: convolutions.to_vec(),
        }
    }

    /// wav2vec 2.0's own: a frame is 400 samples, the next begins 320 later.
    const PUBLISHED: [(usize, usize); 7] = [(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)];

    #[test]
    fn a_minute_is_cut_into_windows_with_three_seconds_around() {
        let windows = decoder(&PUBLISHED).windows(960_000, 480_000, 48_000);
        let told: Vec<_> = windows.iter().map(|w| (w.samples.clone(), w.frames.clone())).collect();
        assert_eq!(told[0], (0..480_000, 0..1349));
        assert_eq!(told[1], (1199 * 320..1199 * 320 + 480_000, 150..1349));
        assert_eq!(told[2].0.end, 960_000);
        assert_eq!(told.len(), 3);
        assert_eq!(decoder(&PUBLISHED).windows(16_000, 480_000, 48_000).len(), 1);
        assert!(decoder(&PUBLISHED).windows(399, 480_000, 48_000).is_empty());
        assert!(decoder(&PUBLISHED).windows(16_000, 399, 0).is_empty());
    }

    proptest! {
        #[test]
        fn the_frames_that_count_are_those_of_the_sound(samples in 0usize..20_000, window in 400usize..3000, around in 0usize..2000) {
            let decoder = decoder(&PUBLISHED);
            let mut next = 0;
            for one in decoder.windows(samples, window, around) {
                assert!(one.samples.len() <= window && one.samples.end <= samples);
                assert!(one.frames.end <= decoder.frames(one.samples.len()));
                assert_eq!(one.samples.start / 320 + one.frames.start, next);
                assert!(!one.frames.is_empty());
                next += one.frames.len();
            }
            assert_eq!(next, decoder.frames(samples));
        }
    }
}
