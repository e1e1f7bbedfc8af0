//! wav2vec 2.0's raw samples, after `Wav2Vec2FeatureExtractor` of transformers.
//!
//! Each sound is brought to zero mean and unit variance where the file says so, before padding. That is what the reference does
//! with a mask, and what its pipelines do without one: they process sounds one by one and pad with zeros. (A batch
//! given to the extractor itself without a mask would be normalised together with its padding, so that a sound's numbers
//! depended on its neighbours'.)

use crate::ConfigError;
use crate::config::Options;

#[derive(Clone, Debug)]
pub(super) struct Wav2Vec2 {
    pub(super) rate: u32,
    pub(super) padding: f32,
    pub(super) mask: bool,
    normalize: bool,
}

impl Wav2Vec2 {
    pub(super) fn of(options: &Options) -> Result<Self, ConfigError> {
        if options.count("feature_size", 1, usize::MAX)? != 1 {
            return Err(options.refuse("feature_size", "where samples are one number each"));
        }
        Ok(Self {
            rate: super::processor::rate(options, 16_000)?,
            padding: super::processor::padding(options)?,
            mask: options.flag("return_attention_mask", false)?,
            normalize: options.flag("do_normalize", true)?,
        })
    }

    /// The values of one sound.
    #[expect(clippy::cast_possible_truncation, reason = "samples are f32")]
    #[expect(clippy::cast_precision_loss, reason = "lengths are far below 2^52")]
    pub(super) fn values(&self, samples: &[f32]) -> Vec<f32> {
        if !self.normalize {
            return samples.to_vec();
        }
        let count = samples.len() as f64;
        let mean = samples.iter().map(|&s| f64::from(s)).sum::<f64>() / count;
        let variance = samples.iter().map(|&s| (f64::from(s) - mean).powi(2)).sum::<f64>() / count;
        let deviation = (variance + 1e-7).sqrt();
        samples.iter().map(|&s| ((f64::from(s) - mean) / deviation) as f32).collect()
    }
}
