//! A sound's file as mono samples.
//!
//! WAV, FLAC, MP3 and Ogg Vorbis. Integers of any width are divided by their range, so that samples lie in [-1, 1), and
//! channels are averaged, as librosa does. What an encoder put before and behind the sound is cut off where the file
//! says how much that is. A damaged packet ends the decoding with an error: a sound with a hole would transcribe to
//! something else.

use std::io::Cursor;

use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;

use super::AudioError;
use super::resample::resampled;
use crate::guard::caught;

/// The largest file of a sound, in bytes.
pub const MAX_SOUND_BYTES: usize = 512 << 20;
/// The most samples of a sound, after its channels are mixed: a gigabyte of them, 93 minutes at 48 kHz, 279 at 16 kHz.
pub const MAX_SOUND_SAMPLES: usize = 1 << 28;

/// A sound: mono samples at a rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Sound {
    rate: u32,
    samples: Vec<f32>,
}

impl Sound {
    /// A sound of these samples, `rate_hz` of them a second.
    ///
    /// # Errors
    /// [`AudioError::Rate`], [`AudioError::TooLong`], [`AudioError::NotFinite`].
    pub fn from_samples(rate_hz: u32, samples: Vec<f32>) -> Result<Self, AudioError> {
        check_rate(rate_hz)?;
        check_length(samples.len() as u64)?;
        if let Some(at) = samples.iter().position(|s| !s.is_finite()) {
            return Err(AudioError::NotFinite { at, value: samples[at] });
        }
        Ok(Self { rate: rate_hz, samples })
    }

    /// Decodes a WAV, FLAC, MP3 or Ogg Vorbis file and mixes its channels. The format is told by its bytes.
    ///
    /// # Errors
    /// [`AudioError::FileTooLarge`], [`AudioError::Decode`], and as [`from_samples`](Self::from_samples).
    pub fn decode(bytes: &[u8]) -> Result<Self, AudioError> {
        if bytes.len() > MAX_SOUND_BYTES {
            return Err(AudioError::FileTooLarge { bytes: bytes.len(), limit: MAX_SOUND_BYTES });
        }
        caught(|| decoded(bytes))
            .unwrap_or_else(|panic| Err(AudioError::Decode { reason: format!("the decoder gave up: {panic}") }))
    }

    /// Samples a second, in Hz.
    #[must_use]
    pub fn rate_hz(&self) -> u32 {
        self.rate
    }

    /// The samples.
    #[must_use]
    pub fn samples(&self) -> &[f32] {
        &self.samples
    }

    /// The length in seconds.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "lengths are far below 2^52")]
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.rate)
    }

    /// The sound at another rate, `ceil(samples * rate_hz / rate)` samples long.
    ///
    /// # Errors
    /// [`AudioError::Rate`], [`AudioError::TooLong`].
    pub fn resampled(&self, rate_hz: u32) -> Result<Self, AudioError> {
        check_rate(rate_hz)?;
        let length = (self.samples.len() as u64 * u64::from(rate_hz)).div_ceil(u64::from(self.rate));
        check_length(length)?;
        #[expect(clippy::cast_possible_truncation, reason = "checked above")]
        let samples = resampled(&self.samples, self.rate, rate_hz, length as usize)?;
        Ok(Self { rate: rate_hz, samples })
    }
}

fn check_rate(rate: u32) -> Result<(), AudioError> {
    if (1000..=768_000).contains(&rate) { Ok(()) } else { Err(AudioError::Rate { rate }) }
}

fn check_length(samples: u64) -> Result<(), AudioError> {
    if samples > MAX_SOUND_SAMPLES as u64 {
        return Err(AudioError::TooLong { samples, limit: MAX_SOUND_SAMPLES });
    }
    Ok(())
}

fn decoded(bytes: &[u8]) -> Result<Sound, AudioError> {
    let failed = |reason: String| AudioError::Decode { reason };
    let stream = MediaSourceStream::new(Box::new(Cursor::new(bytes)), Default::default());
    let probe = symphonia::default::get_probe();
    let mut format = probe
        .probe(&Hint::new(), stream, FormatOptions::default(), MetadataOptions::default())
        .map_err(|e| failed(format!("it is no WAV, FLAC, MP3 or Ogg Vorbis file ({e})")))?;
    let track = format.default_track(TrackType::Audio).ok_or_else(|| failed("it holds no sound".to_owned()))?;
    let (id, claimed) = (track.id, track.num_frames);
    let parameters = track.codec_params.as_ref().and_then(|c| c.audio());
    let parameters = parameters.ok_or_else(|| failed("its kind of samples is not known".to_owned()))?;
    let mut decoder = symphonia::default::get_codecs()
        .make_audio_decoder(parameters, &AudioDecoderOptions::default())
        .map_err(|e| failed(e.to_string()))?;
    check_length(claimed.unwrap_or(0))?;
    let (mut rate, mut samples, mut interleaved) = (parameters.sample_rate, Vec::new(), Vec::<f32>::new());
    while let Some(packet) = format.next_packet().map_err(|e| failed(e.to_string()))? {
        if packet.track_id != id {
            continue;
        }
        let at = samples.len();
        let buffer = decoder.decode(&packet).map_err(|e| failed(format!("at sample {at}: {e}")))?;
        let spec = buffer.spec();
        if *rate.get_or_insert(spec.rate()) != spec.rate() {
            return Err(failed(format!("its sampling rate changes at sample {at}")));
        }
        let channels = buffer.num_planes();
        check_length((at + buffer.frames()) as u64)?;
        buffer.copy_to_vec_interleaved(&mut interleaved);
        mix(&interleaved, channels, &mut samples);
    }
    let rate = rate.ok_or_else(|| failed("it states no sampling rate".to_owned()))?;
    Sound::from_samples(rate, samples)
}

/// Appends the mean of the channels.
fn mix(interleaved: &[f32], channels: usize, samples: &mut Vec<f32>) {
    match channels {
        0 => {}
        1 => samples.extend_from_slice(interleaved),
        _ => {
            #[expect(clippy::cast_precision_loss, reason = "channels are few")]
            let count = channels as f32;
            samples.extend(interleaved.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() / count));
        }
    }
}
