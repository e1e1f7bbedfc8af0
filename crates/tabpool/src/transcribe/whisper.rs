//! Models that listen to half a minute at a time and write what was said: everything around the writing.
//!
//! The windows of a sound follow each other without a gap; each is written down by itself, so that several workers can listen
//! at the same time. Where no language is given, the first window decides for all of them.

use std::future::Future;
use std::sync::Arc;

use futures::StreamExt;
use tabpool_pipelines::audio::{AudioError, AudioProcessor, Sound, SoundWindow};
use tabpool_pipelines::transcript::Transcript;
use tabpool_pipelines::whisper::{Timestamps, WhisperPrompts};
use tabpool_tensor::Tensor;

use super::{TranscribeOptions, Transcription};
use crate::error::Error;
use crate::generate::{GenerateOptions, TokenPrompt};
use crate::model::Model;
use crate::runs::{Run, aside};

/// Windows under way at once for each worker: one that is written down, one that is prepared.
const WINDOWS_A_WORKER: usize = 2;

/// What a model is to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// The language, one token.
    Language,
    /// What was said.
    Words,
}

/// How tokens are chosen for either.
struct Generate {
    language: GenerateOptions,
    words: GenerateOptions,
}

impl Generate {
    fn new(model: &Model, prompts: &WhisperPrompts, timestamps: Timestamps) -> Result<Self, Error> {
        let generation = model.handle().generation()?;
        // Of the tokens that there is room for, half are for what came before, which is not told here.
        let mut words = GenerateOptions { max_new_tokens: generation.max_tokens() / 2, ..model.generate_options() };
        if timestamps == Timestamps::Written
            && let Some(&end) = generation.ends().first()
        {
            words.rules.push(Arc::new(prompts.timestamp_rule(end)?));
        }
        let vocabulary = u32::try_from(generation.vocabulary()).unwrap_or(u32::MAX);
        let (languages, others): (Vec<_>, Vec<_>) = (0..vocabulary).partition(|id| prompts.language_of(*id).is_some());
        let others = others.into_iter().filter_map(|id| i32::try_from(id).ok()).collect();
        let suppressed = if languages.is_empty() { Vec::new() } else { others };
        let language = GenerateOptions { max_new_tokens: 1, suppressed, ..GenerateOptions::default() };
        Ok(Self { language, words })
    }

    fn options(&self, wanted: Wanted) -> GenerateOptions {
        match wanted {
            Wanted::Language => self.language.clone(),
            Wanted::Words => self.words.clone(),
        }
    }
}

/// What a window became: the tokens, and the run that wrote them.
type Written = (Vec<u32>, Option<Run>);

pub(super) async fn transcribe(
    model: &Model,
    sound: &Sound,
    options: &TranscribeOptions,
) -> Result<Transcription, Error> {
    let prompts = WhisperPrompts::read(&model.folder()?, model.handle().model().files())?;
    // Also refuses what the model cannot do before anything is heard.
    let language = options.language.as_deref().map(|code| prompts.language(code)).transpose()?;
    prompts.prompt(language, options.task, options.timestamps)?;
    let (processor, whole) = (Arc::clone(model.audio_processor()?), sound.clone());
    let windows = aside("cutting a sound", {
        let processor = Arc::clone(&processor);
        move || processor.windows(&whole)
    });
    let windows = windows.await?;
    let generate = Generate::new(model, &prompts, options.timestamps)?;
    let listening = Listening { prompts, options, at_once: WINDOWS_A_WORKER * model.workers() };
    let features = |window: SoundWindow| {
        let processor = Arc::clone(&processor);
        aside("preparing a sound", move || features(&processor, window.sound))
    };
    let write = |features, prompt, wanted| write(model, features, prompt, generate.options(wanted));
    listening.write(language, windows, features, write).await
}

/// What a model writes after a prompt about a window's features, `f32 [1, bands, frames]`: at most so many tokens. The token
/// that begins every text comes before the prompt and is not in it; neither is in what is given back, nor what ends the text.
async fn write(model: &Model, features: Tensor, prompt: Vec<u32>, how: GenerateOptions) -> Result<Written, Error> {
    let ids = prompt.into_iter().map(|id| i32::try_from(id).unwrap_or(i32::MAX)).collect();
    let prompt = TokenPrompt { ids: vec![ids], source: vec![("input_features".to_owned(), features)] };
    let mut generation = model.generate_tokens(prompt, &how)?;
    while generation.next().await?.is_some() {}
    let said = generation.said(0).iter().filter(|id| !generation.is_end(**id));
    let ids = said.filter_map(|id| u32::try_from(*id).ok()).collect();
    let figures = generation.figures();
    let run = figures.place.map(|(worker, api)| Run {
        items: Vec::new(),
        worker,
        api,
        precision: figures.precision,
        timing: figures.timing,
        attempts: figures.moved + 1,
    });
    Ok((ids, run))
}

fn features(processor: &AudioProcessor, sound: Sound) -> Result<Tensor, AudioError> {
    let inputs = processor.process(&[sound])?;
    // Whisper's processor gives nothing else.
    inputs.get("input_features").cloned().ok_or(AudioError::NoWindows)
}

/// A sound being written down.
struct Listening<'a> {
    prompts: WhisperPrompts,
    options: &'a TranscribeOptions,
    at_once: usize,
}

impl Listening<'_> {
    /// Writes windows down, with what gives their features and what writes.
    async fn write<F, W>(
        &self,
        language: Option<u32>,
        windows: Vec<SoundWindow>,
        features: impl Fn(SoundWindow) -> F,
        write: impl Fn(Tensor, Vec<u32>, Wanted) -> W,
    ) -> Result<Transcription, Error>
    where
        F: Future<Output = Result<Tensor, Error>>,
        W: Future<Output = Result<Written, Error>>,
    {
        let mut transcription = Transcription { language: self.options.language.clone(), ..Transcription::default() };
        let mut language = language;
        if language.is_none()
            && self.prompts.multilingual()
            && let Some(first) = windows.first()
        {
            // A model that is told nothing begins with the language.
            let (ids, run) = write(features(first.clone()).await?, Vec::new(), Wanted::Language).await?;
            transcription.runs.extend(run);
            language = ids.first().copied().filter(|id| self.prompts.language_of(*id).is_some());
            transcription.language = language.and_then(|id| self.prompts.language_of(id));
        }
        let prompt = self.prompts.prompt(language, self.options.task, self.options.timestamps)?;
        let (features, write) = (&features, &write);
        let spans: Vec<_> = windows.iter().map(|w| (w.start_s, w.start_s + w.sound.seconds())).collect();
        let written = windows.into_iter().enumerate().map(|(index, window)| {
            let prompt = prompt.clone();
            async move {
                let (ids, run) = write(features(window).await?, prompt, Wanted::Words).await?;
                Ok::<_, Error>((ids, run.map(|run| Run { items: vec![index], ..run })))
            }
        });
        let mut written = std::pin::pin!(futures::stream::iter(written).buffered(self.at_once));
        let mut transcript = Transcript::new();
        for span in spans {
            let Some(window) = written.next().await else { break };
            let (ids, run) = window?;
            transcript.push_window(self.prompts.tokenizer(), &ids, span)?;
            transcription.runs.extend(run);
        }
        transcription.transcript = transcript;
        Ok(transcription)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Mutex;

    use tabpool_content::{Directory, ImportOptions, MemoryStore, import_folder};
    use tabpool_pipelines::audio::{AudioProcessor, Sound};
    use tabpool_pipelines::whisper::{Task, Timestamps, WhisperPrompts};

    use super::{Listening, Wanted, features};
    use crate::error::Error;
    use crate::transcribe::{TranscribeOptions, Transcription};

    /// A sound of 2.5 s through everything but the model, whose window is one second: `said` is what it writes when it is
    /// told nothing, and then for each window.
    async fn heard(options: &TranscribeOptions, said: &[&[u32]]) -> (Transcription, Vec<Vec<u32>>) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/whisper");
        let store = MemoryStore::new(1 << 26);
        let root = import_folder(&folder, &store, &ImportOptions::default(), &mut |_| {}).expect("imports").root;
        let folder = Directory::open(&store, &root).expect("opens");
        let processor = AudioProcessor::read(&folder, "").expect("a processor");
        let prompts = WhisperPrompts::read(&folder, "").expect("prompts");
        let sound =
            Sound::from_samples(8_000, (0..20_000u16).map(|i| f32::from(i % 80) / 80.0).collect()).expect("good");
        let windows = processor.windows(&sound).expect("cuts");
        let language = options.language.as_deref().map(|code| prompts.language(code).expect("known"));
        let listening = Listening { prompts, options, at_once: 2 };
        let (told, said) = (Mutex::new(Vec::new()), Mutex::new(said.iter()));
        let result = listening.write(
            language,
            windows,
            |window| std::future::ready(features(&processor, window.sound).map_err(Error::from)),
            |features, prompt, wanted| {
                assert_eq!(features.shape().dims(), [1, 80, 100]);
                assert!(wanted == Wanted::Words || prompt.is_empty());
                told.lock().expect("one thread").push(prompt);
                let ids = said.lock().expect("one thread").next().expect("not more than that").to_vec();
                std::future::ready(Ok((ids, None)))
            },
        );
        let result = result.await.expect("is written down");
        (result, told.into_inner().expect("one thread"))
    }

    /// Of the fixture's tokenizer: 320 is 0 s, each id more 20 ms.
    #[tokio::test]
    async fn windows_are_told_the_language_that_was_heard_and_their_times_follow_each_other() {
        let said: [&[u32]; 4] = [&[313], &[320, 32, 345, 310], &[330, 33, 34, 310], &[35, 310]];
        let (result, told) = heard(&TranscribeOptions::default(), &said).await;
        assert_eq!(told, [vec![], vec![313, 315], vec![313, 315], vec![313, 315]]);
        assert_eq!(result.language.as_deref(), Some("fr"));
        let times: Vec<_> = result.transcript.segments().iter().map(|s| (s.start_s, s.end_s)).collect();
        assert_eq!(times, [(0.0, 0.5), (1.2, 2.0), (2.0, 2.5)]);
    }

    #[tokio::test]
    async fn what_is_asked_for_is_what_windows_are_told() {
        let (language, task, timestamps) = (Some("en".to_owned()), Task::Translate, Timestamps::Omitted);
        let options = TranscribeOptions { language, task, timestamps };
        let (result, told) = heard(&options, &[&[32], &[33], &[]]).await;
        assert_eq!(told, vec![vec![312, 314, 319]; 3], "nobody listens for a language that is known");
        assert_eq!(result.transcript.segments().len(), 2);
    }
}
