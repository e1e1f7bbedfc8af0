//! Reference outputs: reading them, and how far an answer is from them.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use tabpool_pool::{Answer, ModelHandle};
use tabpool_tensor::{DType, Tensor};

use crate::places::fixture;
use crate::{Fault, Outcome, require};

/// Named tensors.
pub type Named = Vec<(String, Tensor)>;

/// The families whose fixtures hold a whole model.
pub const FAMILIES: [&str; 5] = ["bert", "bert_odd", "distilbert", "roberta", "mpnet"];

/// A reference run of one fixture.
pub struct Golden {
    /// What goes in.
    pub inputs: Named,
    outputs: Named,
    mask: Vec<i32>,
}

impl Golden {
    /// Reads `golden.safetensors` of a fixture.
    ///
    /// # Errors
    /// Where the file is not what `generate.py` writes.
    pub fn read(name: &str) -> Result<Self, Fault> {
        let path = fixture(name).join("golden.safetensors");
        let inputs = tensors(&path, "input.")?;
        let mask = inputs.iter().find(|(n, _)| n == "attention_mask").ok_or("the golden has no mask")?;
        let mask = mask.1.to_i32()?.into_owned();
        Ok(Self { outputs: tensors(&path, "output.")?, inputs, mask })
    }

    /// The largest `|got - want| / (1e-4 + 1e-4 |want|)` over all outputs, padding left out: right is up to 1.
    ///
    /// # Errors
    /// Where an output is missing or of another shape.
    pub fn error_of(&self, answer: &Answer) -> Result<f32, Fault> {
        require(answer.outputs.len() == self.outputs.len(), || format!("{} outputs came", answer.outputs.len()))?;
        let mut worst = 0f32;
        for (name, want) in &self.outputs {
            let (_, got) = answer.outputs.iter().find(|(n, _)| n == name).ok_or_else(|| format!("no {name} came"))?;
            require(got.shape() == want.shape(), || format!("{name}: {} is not {}", got.shape(), want.shape()))?;
            let (got, want_values) = (got.to_f32()?, want.to_f32()?);
            // The pooled output belongs to a whole row, every other value to a token.
            let per_token = want_values.len() / self.mask.len();
            let pooled = want.shape().rank() == 2;
            let counts = |i: usize| pooled || self.mask[i / per_token] == 1;
            worst = worst.max(error(&got, &want_values, counts));
        }
        Ok(worst)
    }

    /// Runs a model on this reference's inputs; gives the error of the answer.
    ///
    /// # Errors
    /// As the run does.
    pub async fn run(&self, model: &ModelHandle) -> Result<f32, Fault> {
        self.error_of(&model.run(self.inputs.clone()).await?)
    }

    /// Runs a model and fails where its answer is not right.
    ///
    /// # Errors
    /// As the run does, and for a wrong answer.
    pub async fn check(&self, model: &ModelHandle) -> Outcome {
        let worst = self.run(model).await?;
        require(worst <= 1.0, || format!("{}: off by {worst} times the tolerance", model.name()))
    }
}

/// The largest share of the tolerance that any value which counts is off by. What is not a number is infinitely wrong.
#[must_use]
pub fn error(got: &[f32], want: &[f32], counts: impl Fn(usize) -> bool) -> f32 {
    if got.len() != want.len() {
        return f32::INFINITY;
    }
    let shares = got.iter().zip(want).enumerate().filter(|(i, _)| counts(*i)).map(|(_, (g, w))| {
        let share = (g - w).abs() / (1e-4 + 1e-4 * w.abs());
        if share.is_nan() { f32::INFINITY } else { share }
    });
    shares.fold(0.0, f32::max)
}

/// The tensors of a safetensors file whose names begin with `prefix`, without it.
///
/// # Errors
/// Where the file cannot be read.
pub fn tensors(path: &Path, prefix: &str) -> Result<Named, Fault> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let file = SafeTensors::deserialize(&bytes)?;
    let mut found = Vec::new();
    for (name, view) in file.tensors() {
        if let Some(name) = name.strip_prefix(prefix) {
            let dtype: DType = format!("{:?}", view.dtype()).parse()?;
            found.push((name.to_owned(), Tensor::new(dtype, view.shape().to_vec(), view.data().to_vec().into())?));
        }
    }
    Ok(found)
}

/// A sentence of the MiniLM golden.
#[derive(Clone, Debug)]
pub struct Sentence {
    /// The text.
    pub text: String,
    /// Its tokens.
    pub ids: Vec<i64>,
    /// Its embedding.
    pub embedding: Vec<f32>,
}

/// The sentences of `minilm/golden.json`.
///
/// # Errors
/// Where the file is not what `generate.py` writes.
pub fn sentences() -> Result<Vec<Sentence>, Fault> {
    let text = fs::read_to_string(fixture("minilm").join("golden.json"))?;
    let golden: serde_json::Value = serde_json::from_str(&text)?;
    let list = golden["sentences"].as_array().ok_or("no sentences")?;
    let sentence = |s: &serde_json::Value| {
        let ids = s["input_ids"].as_array()?.iter().map(serde_json::Value::as_i64).collect::<Option<_>>()?;
        #[expect(clippy::cast_possible_truncation, reason = "the golden was computed in f32")]
        let number = |v: &serde_json::Value| v.as_f64().map(|v| v as f32);
        let embedding = s["embedding"].as_array()?.iter().map(number).collect::<Option<_>>()?;
        Some(Sentence { text: s["text"].as_str()?.to_owned(), ids, embedding })
    };
    Ok(list.iter().map(sentence).collect::<Option<_>>().ok_or("a sentence is incomplete")?)
}

/// Tokens as the one input of a sentence encoder.
///
/// # Errors
/// Never, for ids that fit in memory.
pub fn ids(tokens: &[i64]) -> Result<Named, Fault> {
    Ok(vec![("input_ids".to_owned(), Tensor::from_i64([1, tokens.len()], tokens.to_vec())?)])
}

#[cfg(test)]
mod tests {
    use super::error;

    #[test]
    fn what_is_no_number_or_no_match_is_never_right() {
        assert_eq!(error(&[1.0, 5.0], &[1.0, 2.0], |i| i == 0), 0.0);
        assert!((error(&[1.0002], &[1.0], |_| true) - 1.0).abs() < 0.01);
        assert_eq!(error(&[f32::NAN], &[1.0], |_| true), f32::INFINITY);
        assert_eq!(error(&[], &[1.0], |_| true), f32::INFINITY);
    }
}
