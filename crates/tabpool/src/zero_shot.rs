//! Classes that a caller names: their texts are embedded once, then pictures or sounds are compared with them.
//!
//! Two-tower models put texts and pictures, or texts and sounds, into one space; cosines become scores by the numbers that
//! the model learned for that, under a softmax (CLIP, CLAP) or a sigmoid for each label (SigLIP). Models of entailment read a
//! text together with each label, and the softmax is over what they say of "entailment".

use tabpool_models::Comparison;
use tabpool_pipelines::audio::Sound;
use tabpool_pipelines::image::Picture;
use tabpool_pipelines::labels::{Labels, ScoredLabel, Scores};
use tabpool_pool::Answer;
use tabpool_tensor::Tensor;

use crate::classify::LOGITS;
use crate::embeddings::Embeddings;
use crate::error::Error;
use crate::model::Model;
use crate::runs::Answers;

/// What stands for the label in a template.
const PLACE: &str = "{}";

/// Labels of a caller's own, ready to be compared.
#[derive(Clone, Debug)]
pub struct ZeroShot {
    model: Model,
    labels: Labels,
    by: By,
}

#[derive(Clone, Debug)]
enum By {
    /// The labels' embeddings, and what becomes of cosines with them.
    Embeddings(Embeddings, Comparison),
    /// The labels as hypotheses, and which of the model's classes says that one follows.
    Entailment(Vec<String>, usize),
}

impl Model {
    /// Prepares labels for classification without training. Each is put for `{}` into the template, which is by default
    /// `This is a photo of {}.`, `This is a sound of {}.` or `This example is {}.`, after what the model takes.
    ///
    /// # Errors
    ///
    /// [`Error::Unfit`] where the model can compare labels with nothing, or the template has no place for a label;
    /// as [`embed`](Self::embed).
    pub async fn zero_shot<T: AsRef<str>>(&self, labels: &[T], template: Option<&str>) -> Result<ZeroShot, Error> {
        let comparison = self.handle().model().comparison(&self.folder()?).map_err(|source| {
            let name = self.handle().name().to_owned();
            Error::Pool(tabpool_pool::PoolError::Model { name, source: Box::new(source) })
        })?;
        let names: Vec<String> = labels.iter().map(|label| label.as_ref().to_owned()).collect();
        let own = self.handle().model().labels();
        let entails = own.iter().position(|label| label.to_lowercase().starts_with("entail"));
        let default = match (comparison, entails) {
            (Some(_), _) if self.handle().entry("audio").is_ok() => "This is a sound of {}.",
            (Some(_), _) => "This is a photo of {}.",
            (None, Some(_)) => "This example is {}.",
            (None, None) => {
                let hint = "models of two towers do, as CLIP, SigLIP or CLAP, and models of entailment";
                return Err(self.unfit("compares nothing with labels of a caller's own", hint));
            }
        };
        let template = template.unwrap_or(default);
        if !template.contains(PLACE) {
            return Err(self.unfit(format!("cannot use the template {template:?}"), "put {} where the label belongs"));
        }
        let texts: Vec<String> = names.iter().map(|name| template.replace(PLACE, name)).collect();
        let (by, scores) = match (comparison, entails) {
            (Some(comparison), _) => {
                let scores = if comparison.exclusive { Scores::Softmax } else { Scores::Sigmoid };
                (By::Embeddings(self.embed(&texts).await?, comparison), scores)
            }
            (None, entails) => (By::Entailment(texts, entails.unwrap_or_default()), Scores::Softmax),
        };
        Ok(ZeroShot { model: self.clone(), labels: Labels::new(names, scores), by })
    }
}

impl ZeroShot {
    /// The labels.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        self.labels.names()
    }

    /// The `top` labels of each picture, the likeliest first.
    ///
    /// # Errors
    ///
    /// As [`Model::embed_images`].
    pub async fn classify_images(&self, pictures: &[Picture], top: usize) -> Result<Answers<Vec<ScoredLabel>>, Error> {
        self.compare(self.model.embed_images(pictures).await?, top)
    }

    /// The `top` labels of each sound, the likeliest first.
    ///
    /// # Errors
    ///
    /// As [`Model::embed_sounds`].
    pub async fn classify_sounds(&self, sounds: &[Sound], top: usize) -> Result<Answers<Vec<ScoredLabel>>, Error> {
        self.compare(self.model.embed_sounds(sounds).await?, top)
    }

    /// The `top` labels of each text, the likeliest first.
    ///
    /// # Errors
    ///
    /// [`Error::Unfit`] where the model is none of entailment, [`Error::Text`], [`Error::Pool`].
    pub async fn classify_texts<T: AsRef<str>>(
        &self,
        texts: &[T],
        top: usize,
    ) -> Result<Answers<Vec<ScoredLabel>>, Error> {
        let By::Entailment(hypotheses, class) = &self.by else {
            return Err(self.model.unfit("compares labels with what is no text", "give files instead of texts"));
        };
        let handle = self.model.texts_in()?;
        self.model.classes(&handle, "texts")?;
        let pair = |text| hypotheses.iter().map(move |hypothesis| (text, hypothesis.as_str()));
        let pairs: Vec<(&str, &str)> = texts.iter().map(AsRef::as_ref).flat_map(pair).collect();
        let together = self.model.together(&handle, pairs.len());
        let batches = self.model.text_encoder()?.pair_batches(&pairs, together)?;
        let read = |answer: &Answer| {
            let logits = self.model.output(answer, LOGITS)?;
            let width = logits.shape().dims().last().copied().unwrap_or(0);
            let values = logits.to_f32()?;
            if *class >= width {
                return Err(self.model.unexpected(format!("logits of shape {}", logits.shape())));
            }
            Ok(values.chunks_exact(width).map(|row| row[*class]).collect())
        };
        let said = self.model.gather_texts(&handle, &[LOGITS], batches, read).await?;
        let each = hypotheses.len().max(1);
        let mut runs = said.runs;
        for run in &mut runs {
            run.items.iter_mut().for_each(|item| *item /= each);
            run.items.dedup();
        }
        let mut truncated: Vec<_> = said.truncated.into_iter().map(|item| item / each).collect();
        truncated.dedup();
        let logits = Tensor::from_f32([texts.len(), hypotheses.len()], said.values)?;
        Ok(Answers { values: self.labels.top(&logits, top, self.labels.scores())?, runs, truncated })
    }

    /// Scores out of cosines.
    #[expect(clippy::cast_possible_truncation, reason = "scores are f32")]
    fn compare(&self, embeddings: Embeddings, top: usize) -> Result<Answers<Vec<ScoredLabel>>, Error> {
        let By::Embeddings(labels, comparison) = &self.by else {
            return Err(self.model.unfit("compares labels with texts only", ""));
        };
        let (scale, bias) = (f64::from(comparison.scale), f64::from(comparison.bias));
        // Both have length one, so their product is the cosine.
        let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let score = |one: &[f32], label: &[f32]| (scale * cosine(one, label) + bias) as f32;
        let logits = embeddings.iter().flat_map(|one| labels.iter().map(move |label| score(one, label))).collect();
        let logits = Tensor::from_f32([embeddings.len(), labels.len()], logits)?;
        let values = self.labels.top(&logits, top, self.labels.scores())?;
        Ok(Answers { values, runs: embeddings.runs, truncated: Vec::new() })
    }
}
