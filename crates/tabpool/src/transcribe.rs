//! Sounds to text: by models whose frames are letters (wav2vec 2.0), and by models that listen and write (Whisper).

mod ctc;
mod whisper;

use tabpool_models::Dim;
use tabpool_pipelines::audio::Sound;
use tabpool_pipelines::transcript::Transcript;
use tabpool_pipelines::whisper::{Task, Timestamps};

use crate::classify::LOGITS;
use crate::error::Error;
use crate::model::Model;
use crate::runs::Run;

/// What is wanted of a transcription. Models whose frames are letters leave no choice: they write what they hear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TranscribeOptions {
    /// The language that is spoken, by its code, as in `en`; without it the model listens for it.
    pub language: Option<String>,
    /// What is written down.
    pub task: Task,
    /// Whether times are.
    pub timestamps: Timestamps,
}

/// A word, and when it was said.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// The word.
    pub text: String,
    /// When it begins, in seconds from the sound's beginning.
    pub start_s: f64,
    /// When it ends.
    pub end_s: f64,
}

/// What was said in a sound, and what it took to hear it.
#[derive(Clone, Debug, Default)]
pub struct Transcription {
    /// The segments.
    pub transcript: Transcript,
    /// The words, where the model tells when each was said.
    pub words: Vec<Word>,
    /// The language by its code, where it is known.
    pub language: Option<String>,
    /// The runs that heard it, in the order in which they ended; each item is a window of the sound.
    pub runs: Vec<Run>,
}

impl Model {
    /// Writes down what is said in a sound of any length. Long sounds are heard in windows of half a minute, several at a time.
    ///
    /// # Errors
    ///
    /// [`Error::Unfit`] where the model does not transcribe, or has no choice where one was made; [`Error::Text`] for a
    /// language that it does not know, [`Error::Audio`] for a sound without samples, [`Error::Pool`] for the first run that
    /// failed.
    pub async fn transcribe(&self, sound: &Sound, options: &TranscribeOptions) -> Result<Transcription, Error> {
        if sound.samples().is_empty() {
            return Err(tabpool_pipelines::audio::AudioError::Empty { position: 0 }.into());
        }
        let signature = self.handle().signature();
        let by_frames = signature.output(LOGITS).is_some_and(|output| output.dims.contains(&Dim::Frames));
        if by_frames {
            return ctc::transcribe(self, sound, options).await;
        }
        if signature.input("input_features").is_some() && self.handle().model().generation().is_some() {
            return whisper::transcribe(self, sound, options).await;
        }
        Err(self.unfit("does not transcribe", "wav2vec 2.0 with a head for letters does, and Whisper"))
    }
}
