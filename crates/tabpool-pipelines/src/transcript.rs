//! A transcript: what was said, and from when to when; and how Whisper's tokens become one.
//!
//! A model that was asked for time stamps puts one before and one after each segment, in steps of 20 ms from the window's
//! beginning. Windows are pushed in order and give one transcript, which is written as text, SRT, WebVTT or JSON.

use std::fmt::Write as _;

use serde_json::json;

use crate::TextError;
use crate::tokenizer::Tokenizer;

/// Seconds from one time stamp to the next.
const STEP_S: f64 = 0.02;
/// The token before the time stamps.
const NO_TIMESTAMPS: &str = "<|notimestamps|>";
/// The most segments of a transcript.
const MAX_SEGMENTS: usize = 1 << 20;

/// A part of a transcript.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// When it begins, in seconds from the sound's beginning.
    pub start_s: f64,
    /// When it ends.
    pub end_s: f64,
    /// What was said, with the space before it that the model gave.
    pub text: String,
}

/// What was said in a sound.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transcript {
    segments: Vec<Segment>,
}

impl Transcript {
    /// A transcript without segments.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the tokens of the window that lies from `start_s` to `end_s` of the sound. Text without a time stamp before or after it
    /// begins or ends where its neighbour or the window does; time stamps beyond the window's end mean its end.
    ///
    /// # Errors
    /// [`TextError::Decode`] where the tokenizer is not Whisper's, an id is none of its, or there are too many segments.
    pub fn push_window(
        &mut self,
        tokenizer: &Tokenizer,
        ids: &[u32],
        (start_s, end_s): (f64, f64),
    ) -> Result<(), TextError> {
        let last = tokenizer.id(NO_TIMESTAMPS).ok_or_else(|| TextError::Decode {
            reason: format!("the tokenizer has no {NO_TIMESTAMPS}: it is not one of Whisper's"),
        })?;
        let stamp = |id: u32| id.checked_sub(last + 1).map(|steps| (start_s + f64::from(steps) * STEP_S).min(end_s));
        let (mut begin, mut pending) = (start_s, Vec::new());
        let mut segments = Vec::new();
        let mut end = |begin: f64, end: f64, pending: &mut Vec<u32>| -> Result<(), TextError> {
            let text = tokenizer.decode(&std::mem::take(pending))?;
            if !text.trim().is_empty() {
                segments.push(Segment { start_s: begin, end_s: end.max(begin), text });
            }
            Ok(())
        };
        for &id in ids {
            match stamp(id) {
                // Special tokens come before the time stamps and have no text.
                None => pending.push(id),
                Some(at) => {
                    end(begin, at, &mut pending)?;
                    begin = at;
                }
            }
        }
        end(begin, end_s, &mut pending)?;
        if self.segments.len() + segments.len() > MAX_SEGMENTS {
            return Err(TextError::Decode { reason: format!("a transcript has at most {MAX_SEGMENTS} segments") });
        }
        self.segments.extend(segments);
        Ok(())
    }

    /// Adds a segment that is known already, after all others.
    pub fn push(&mut self, segment: Segment) {
        self.segments.push(segment);
    }

    /// The segments in order.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// All that was said.
    #[must_use]
    pub fn text(&self) -> String {
        self.segments.iter().map(|s| s.text.as_str()).collect::<String>().trim().to_owned()
    }

    /// As SubRip subtitles.
    #[must_use]
    pub fn srt(&self) -> String {
        let mut out = String::new();
        for (index, segment) in self.segments.iter().enumerate() {
            let (start, end) = (clock(segment.start_s, ','), clock(segment.end_s, ','));
            let _ = write!(out, "{}\n{start} --> {end}\n{}\n\n", index + 1, cue(&segment.text));
        }
        out
    }

    /// As WebVTT.
    #[must_use]
    pub fn vtt(&self) -> String {
        let mut out = "WEBVTT\n\n".to_owned();
        for segment in &self.segments {
            let (start, end) = (clock(segment.start_s, '.'), clock(segment.end_s, '.'));
            // In WebVTT two characters begin markup.
            let text = cue(&segment.text).replace('&', "&amp;").replace('<', "&lt;");
            let _ = write!(out, "{start} --> {end}\n{text}\n\n");
        }
        out
    }

    /// As a JSON object: `text`, and `segments` with `id`, `start`, `end` in seconds and `text`.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let milliseconds = |seconds: f64| (seconds * 1000.0).round() / 1000.0;
        let segment = |(id, s): (usize, &Segment)| json!({"id": id, "start": milliseconds(s.start_s), "end": milliseconds(s.end_s), "text": s.text});
        json!({"text": self.text(), "segments": self.segments.iter().enumerate().map(segment).collect::<Vec<_>>()})
    }
}

/// A segment's text as one line of a cue, in which an arrow would be read as times.
fn cue(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace("-->", "->")
}

/// Hours, minutes, seconds and milliseconds.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "times are finite and not negative")]
fn clock(seconds: f64, separator: char) -> String {
    let all = (seconds.max(0.0) * 1000.0).round() as u64;
    let (hours, minutes) = (all / 3_600_000, all / 60_000 % 60);
    format!("{hours:02}:{minutes:02}:{:02}{separator}{:03}", all / 1000 % 60, all % 1000)
}
