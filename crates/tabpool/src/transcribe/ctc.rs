//! Models whose frames are letters. A long sound is heard in windows that overlap, so that nothing is said at the edge of what
//! is heard; the likeliest letters of all frames are then one text.

use std::sync::Arc;

use tabpool_pipelines::audio::Sound;
use tabpool_pipelines::ctc::CtcDecoder;
use tabpool_pipelines::whisper::Task;
use tabpool_pool::Answer;

use super::{TranscribeOptions, Transcription, Word};
use crate::classify::LOGITS;
use crate::error::Error;
use crate::model::Model;
use crate::runs::aside;

/// The longest window, in seconds. Attention compares each frame of it with each.
const WINDOW_S: usize = 30;
/// What is heard on either side of what counts, in seconds.
const AROUND_S: usize = 3;

pub(super) async fn transcribe(
    model: &Model,
    sound: &Sound,
    options: &TranscribeOptions,
) -> Result<Transcription, Error> {
    if options.language.is_some() || options.task != Task::default() {
        let reason = "writes what it hears: it leaves no choice of language or task";
        return Err(model.unfit(reason, "models of the Whisper family do"));
    }
    let decoder = CtcDecoder::read(&model.folder()?, model.handle().model().files())?;
    let processor = model.audio_processor()?;
    let (rate_hz, whole) = (processor.rate_hz(), sound.clone());
    let sound = aside("resampling a sound", move || whole.resampled(rate_hz)).await?;
    let rate = rate_hz as usize;
    let windows = decoder.windows(sound.samples().len(), WINDOW_S * rate, AROUND_S * rate);
    if windows.is_empty() {
        return Ok(Transcription::default());
    }

    let handle = model.handle();
    // One window a run: without a mask, as most of these models are trained, a shorter one would hear its padding.
    let batch = |(index, samples): (usize, &[f32])| {
        let (processor, samples) = (Arc::clone(processor), samples.to_vec());
        async move {
            let prepare = move || processor.process(&[Sound::from_samples(rate_hz, samples)?]);
            let inputs = aside("preparing a sound", prepare).await?;
            Ok((vec![index], inputs.inputs(handle.signature())))
        }
    };
    let parts = windows.iter().map(|window| &sound.samples()[window.samples.clone()]);
    let batches = parts.enumerate().map(batch).collect();
    let read = |answer: &Answer| Ok(decoder.ids(model.output(answer, LOGITS)?, None)?);
    let heard = model.gather(handle, &[LOGITS], windows.len(), batches, read).await?;

    let mut ids = Vec::new();
    for (window, frames) in windows.iter().zip(&heard.values) {
        let counted = frames.get(window.frames.clone());
        ids.extend(counted.ok_or_else(|| model.unexpected(format!("{} frames for {window:?}", frames.len())))?);
    }
    let said = decoder.decode_ids(&ids)?;
    #[expect(clippy::cast_precision_loss, reason = "frames are far fewer than 2^52")]
    let at = |frame: usize| frame as f64 * decoder.frame_s(rate_hz);
    let transcript = decoder.transcript(&said, rate_hz);
    let words = said.words.into_iter();
    let words = words.map(|w| Word { text: w.text, start_s: at(w.start), end_s: at(w.end) }).collect();
    Ok(Transcription { transcript, words, language: None, runs: heard.runs })
}
