//! What a classification model's numbers mean: names and probabilities.

use serde_json::Value;
use tabpool_content::Directory;
use tabpool_tensor::Tensor;

use crate::TextError;
use crate::config::{ConfigError, Options, read_options};

/// The most labels of a model.
const MAX_LABELS: usize = 1 << 20;

/// How logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// Probabilities that sum to one: just one label is right.
    Softmax,
    /// A probability for each label: any number of them may be right.
    Sigmoid,
    /// The numbers themselves: the model measures something.
    Raw,
}

/// A label with its score.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredLabel {
    /// The label's place among the model's outputs.
    pub index: usize,
    /// Its name.
    pub label: String,
    /// Its score.
    pub score: f32,
}

/// The labels of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    names: Vec<String>,
    scores: Scores,
}

impl Labels {
    /// Reads `id2label` and `problem_type` of `config.json` under `base` (`""`, or a path that ends in `/`). Labels without a
    /// name are called `LABEL_0` and so on, as many as `num_labels` says.
    ///
    /// # Errors
    /// [`ConfigError`] with the key at fault.
    pub fn read(folder: &Directory<'_>, base: &str) -> Result<Self, ConfigError> {
        Self::of(&read_options(folder, &format!("{base}config.json"))?)
    }

    fn of(config: &Options) -> Result<Self, ConfigError> {
        let names = match config.get("id2label") {
            // The count that transformers assumes where a file says nothing.
            None => (0..config.count("num_labels", 2, MAX_LABELS)?).map(|i| format!("LABEL_{i}")).collect(),
            Some(Value::Object(map)) => {
                let refuse = |what: &str| config.refuse("id2label", what);
                let mut names = vec![None; map.len()];
                for (id, name) in map {
                    let slot = id.parse::<usize>().ok().and_then(|id| names.get_mut(id));
                    let slot = slot.ok_or_else(|| refuse("whose keys are not the numbers from 0 on"))?;
                    *slot = Some(name.as_str().ok_or_else(|| refuse("whose values are not names"))?.to_owned());
                }
                names.into_iter().collect::<Option<Vec<_>>>().ok_or_else(|| refuse("which leaves a number out"))?
            }
            Some(_) => return Err(config.refuse("id2label", "no object")),
        };
        let scores = match config.text("problem_type")? {
            Some("single_label_classification") => Scores::Softmax,
            Some("multi_label_classification") => Scores::Sigmoid,
            Some("regression") => Scores::Raw,
            Some(_) => return Err(config.refuse("problem_type", "a kind of classification that is not known")),
            None if names.len() == 1 && cross_encoder_is_raw(config)? => Scores::Raw,
            None if names.len() == 1 => Scores::Sigmoid,
            None => Scores::Softmax,
        };
        Ok(Self { names, scores })
    }

    /// Labels of a caller's own.
    #[must_use]
    pub fn new(names: Vec<String>, scores: Scores) -> Self {
        Self { names, scores }
    }

    /// The labels' names in the order of the model's outputs.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How the model's logits become scores, unless the caller knows better.
    #[must_use]
    pub fn scores(&self) -> Scores {
        self.scores
    }

    /// The `count` highest scores of each row of a model's `logits`, `f32 [rows, labels]`, highest first. Equal ones come in
    /// the model's order.
    ///
    /// # Errors
    /// [`TextError::Decode`] where the tensor does not have that shape or holds what is not a number; [`TextError::Tensor`].
    pub fn top(&self, logits: &Tensor, count: usize, scores: Scores) -> Result<Vec<Vec<ScoredLabel>>, TextError> {
        let &[rows, width] = logits.shape().dims() else {
            let reason = format!("logits of shape {:?} are not [rows, labels]", logits.shape().dims());
            return Err(TextError::Decode { reason });
        };
        if width != self.names.len() {
            let reason = format!("logits for {width} labels do not fit the model's {}", self.names.len());
            return Err(TextError::Decode { reason });
        }
        let values = logits.to_f32()?;
        let row = |index: usize| {
            let row = &values[index * width..][..width];
            if row.iter().any(|v| v.is_nan()) {
                return Err(TextError::Decode { reason: format!("row {index} holds what is not a number") });
            }
            let scored = scored(row, scores);
            let mut order: Vec<usize> = (0..width).collect();
            order.sort_by(|&a, &b| scored[b].total_cmp(&scored[a]).then(a.cmp(&b)));
            order.truncate(count);
            let label = |index: usize| ScoredLabel { index, label: self.names[index].clone(), score: scored[index] };
            Ok(order.into_iter().map(label).collect())
        };
        (0..rows).map(row).collect()
    }
}

/// Whether sentence-transformers, which writes down what it does with a cross-encoder's one number, leaves it as it is.
fn cross_encoder_is_raw(config: &Options) -> Result<bool, ConfigError> {
    let newer = config.inner("sentence_transformers")?;
    let newer = newer.as_ref().map(|options| options.text("activation_fn")).transpose()?.flatten();
    let name = newer.or(config.text("sbert_ce_default_activation_function")?);
    Ok(name.is_some_and(|name| name.ends_with(".Identity")))
}

#[expect(clippy::cast_possible_truncation, reason = "scores are f32")]
fn scored(row: &[f32], scores: Scores) -> Vec<f32> {
    match scores {
        Scores::Raw => row.to_vec(),
        Scores::Sigmoid => row.iter().map(|&v| (1.0 / (1.0 + (-f64::from(v)).exp())) as f32).collect(),
        Scores::Softmax => {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            // Where a logit is infinite the difference is not a number; such a label takes all there is.
            let power = |v: f32| if v == largest { 1.0 } else { (f64::from(v) - f64::from(largest)).exp() };
            let powers: Vec<f64> = row.iter().map(|&v| power(v)).collect();
            let sum: f64 = powers.iter().sum();
            powers.into_iter().map(|p| (p / sum) as f32).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use tabpool_tensor::Tensor;

    use super::{Labels, Scores};
    use crate::config::Options;

    fn labels(json: &str) -> Result<Labels, String> {
        let options = Options::parse("config.json", json.as_bytes()).expect("JSON");
        Labels::of(&options).map_err(|e| e.to_string())
    }

    #[test]
    fn names_and_kinds_come_from_the_configuration() {
        let labels_of = |json| labels(json).expect("good");
        let named = labels_of(r#"{"id2label": {"1": "dog", "0": "cat"}}"#);
        assert_eq!((named.names().join(" ").as_str(), named.scores()), ("cat dog", Scores::Softmax));
        assert_eq!(labels_of(r#"{"num_labels": 3}"#).names()[2], "LABEL_2");
        assert_eq!(labels_of(r#"{"id2label": {"0": "good"}}"#).scores(), Scores::Sigmoid);
        let raw =
            r#"{"num_labels": 1, "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}"#;
        assert_eq!(
            (labels_of(raw).scores(), labels_of(r#"{"num_labels": 1}"#).scores()),
            (Scores::Raw, Scores::Sigmoid)
        );
        assert_eq!(labels_of(r#"{"problem_type": "multi_label_classification"}"#).scores(), Scores::Sigmoid);
        for (json, want) in [
            (r#"{"id2label": {"1": "dog"}}"#, "whose keys are not the numbers from 0 on"),
            (r#"{"id2label": {"0": "dog", "00": "cat"}}"#, "which leaves a number out"),
            (r#"{"id2label": {"0": 7}}"#, "whose values are not names"),
            (r#"{"id2label": []}"#, "no object"),
            (r#"{"problem_type": "guess"}"#, "a kind of classification that is not known"),
        ] {
            let err = labels(json).expect_err(json);
            assert!(err.ends_with(want), "{json}: {err}");
        }
    }

    /// `torch.softmax(torch.tensor([1., 3., 2.]), 0)` is 0.0900, 0.6652, 0.2447; `torch.sigmoid` of it 0.7311, 0.9526, 0.8808.
    #[test]
    fn scores_are_those_of_the_definitions() {
        let labels = labels(r#"{"num_labels": 3}"#).expect("good");
        let logits = Tensor::from_f32([2, 3], vec![1.0, 3.0, 2.0, 500.0, f32::INFINITY, -500.0]).expect("fits");
        let top = |count, scores| labels.top(&logits, count, scores).expect("fits");
        let round = |score: f32| (score * 10_000.0).round() / 10_000.0;
        let softmax = top(2, Scores::Softmax);
        let first: Vec<_> = softmax[0].iter().map(|s| (s.index, s.label.as_str(), round(s.score))).collect();
        assert_eq!(first, [(1, "LABEL_1", 0.6652), (2, "LABEL_2", 0.2447)]);
        assert_eq!((softmax[1][0].index, softmax[1][0].score), (1, 1.0));
        let sigmoid: Vec<f32> = top(9, Scores::Sigmoid)[0].iter().map(|s| round(s.score)).collect();
        assert_eq!(sigmoid, [0.9526, 0.8808, 0.7311]);
        assert_eq!(top(1, Scores::Raw)[0][0].score, 3.0);
        let flat = Tensor::from_f32([3], vec![0.0; 3]).expect("fits");
        assert!(labels.top(&flat, 1, Scores::Raw).is_err());
        let nan = Tensor::from_f32([1, 3], vec![0.0, f32::NAN, 0.0]).expect("fits");
        assert!(labels.top(&nan, 1, Scores::Softmax).is_err());
    }
}
