//! Reference outputs: reading them, and how far an answer is from them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use tabpool_models::{EntryPoint, Signature};
use tabpool_pool::{Answer, ModelHandle};
use tabpool_tensor::{DType, Tensor};

use crate::places::fixture;
use crate::{Fault, Outcome, require};

/// Named tensors.
pub type Named = Vec<(String, Tensor)>;

/// The fixtures that hold a whole model, as folders under `tests/fixtures`, in order.
///
/// # Errors
/// Where the folders cannot be listed, or a model has no golden beside it.
pub fn models() -> Result<Vec<String>, Fault> {
    let root = fixture("");
    let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        if !folder.join("config.json").is_file() {
            for entry in fs::read_dir(&folder)? {
                folders.extend(Some(entry?.path()).filter(|path| path.is_dir()));
            }
            continue;
        }
        let name = folder.strip_prefix(&root)?.components().map(|part| part.as_os_str().to_string_lossy());
        let name = name.collect::<Vec<_>>().join("/");
        require(folder.join("golden.safetensors").is_file(), || format!("{name} has no golden"))?;
        found.push(name);
    }
    found.sort();
    Ok(found)
}

/// One case of a fixture: what goes into its model, and what its reference implementation gives.
pub struct Golden {
    /// What goes in, of every entry point.
    pub inputs: Named,
    outputs: Named,
    /// Of each output, as in the fixture's `golden.json`: absolute and relative.
    tolerances: BTreeMap<String, [f32; 2]>,
}

impl Golden {
    /// Reads the only case of a fixture.
    ///
    /// # Errors
    /// As [`cases`](Self::cases), and where there are several.
    pub fn read(name: &str) -> Result<Self, Fault> {
        let mut cases = Self::cases(name)?;
        require(cases.len() == 1, || format!("{name} has {} cases", cases.len()))?;
        Ok(cases.remove(0).1)
    }

    /// Reads every case of a fixture with its name, which is empty where there is one only.
    ///
    /// # Errors
    /// Where the files are not what `generate.py` writes.
    pub fn cases(name: &str) -> Result<Vec<(String, Self)>, Fault> {
        let path = fixture(name).join("golden.safetensors");
        let all = tensors(&path, "")?;
        let case_of = |name: &str| {
            let (case, _) = name.split_once("input.").or_else(|| name.split_once("output."))?;
            Some(case.to_owned())
        };
        let prefixes: Option<BTreeSet<String>> = all.iter().map(|(name, _)| case_of(name)).collect();
        let prefixes =
            prefixes.ok_or_else(|| format!("{} holds what neither goes in nor comes out", path.display()))?;
        let text = fs::read_to_string(fixture(name).join("golden.json"))?;
        let golden: serde_json::Value = serde_json::from_str(&text)?;
        let one = |prefix: &String| {
            let (inputs, outputs) = (format!("{prefix}input."), format!("{prefix}output."));
            let side = |side: &str| -> Named {
                let named =
                    |(name, tensor): &(String, Tensor)| Some((name.strip_prefix(side)?.to_owned(), tensor.clone()));
                all.iter().filter_map(named).collect()
            };
            let (inputs, outputs, side_of_outputs) = (side(&inputs), side(&outputs), outputs);
            let tolerance = |(name, _): &(String, Tensor)| {
                let other = golden["other_tolerances"].get(format!("{side_of_outputs}{name}"));
                let tolerance = other.unwrap_or(&golden["tolerance"]);
                #[expect(clippy::cast_possible_truncation, reason = "a tolerance, not a measurement")]
                let part = |part: &str| tolerance[part].as_f64().map(|value| value as f32);
                Some((name.clone(), [part("absolute")?, part("relative")?]))
            };
            let tolerances: Option<_> = outputs.iter().map(tolerance).collect();
            let tolerances = tolerances.ok_or_else(|| format!("{name}: golden.json states no tolerance"))?;
            Ok((prefix.trim_end_matches('.').to_owned(), Self { inputs, outputs, tolerances }))
        };
        prefixes.iter().map(one).collect()
    }

    /// The names of what comes out.
    pub fn outputs(&self) -> impl Iterator<Item = &str> {
        self.outputs.iter().map(|(name, _)| name.as_str())
    }

    /// What of this goes into an entry point and comes out of it.
    #[must_use]
    pub fn part(&self, entry: EntryPoint<'_>) -> Self {
        let signature = entry.signature();
        let kept = |side: &Named, known: &dyn Fn(&str) -> bool| -> Named {
            side.iter().filter(|(name, _)| known(name)).cloned().collect()
        };
        Self {
            inputs: kept(&self.inputs, &|name| signature.input(name).is_some()),
            outputs: kept(&self.outputs, &|name| signature.output(name).is_some()),
            tolerances: self.tolerances.clone(),
        }
    }

    /// The largest `|got - want|` over all outputs, as a share of what the fixture allows there, padding left out: right is
    /// up to 1.
    ///
    /// # Errors
    /// Where an output is missing or of another shape.
    pub fn error_of(&self, answer: &Answer, signature: &Signature) -> Result<f32, Fault> {
        require(answer.outputs.len() == self.outputs.len(), || format!("{} outputs came", answer.outputs.len()))?;
        let mask = self.inputs.iter().find(|(name, _)| name == "attention_mask").map(|(_, mask)| mask);
        let mut worst = 0f32;
        for (name, want) in &self.outputs {
            let (_, got) = answer.outputs.iter().find(|(n, _)| n == name).ok_or_else(|| format!("no {name} came"))?;
            require(got.shape() == want.shape(), || format!("{name}: {} is not {}", got.shape(), want.shape()))?;
            let real = match (signature.output(name), mask) {
                (Some(output), Some(mask)) => signature.real_positions(output, mask)?,
                _ => None,
            };
            let real = real.as_ref().map(Tensor::to_i32).transpose()?;
            let (got, want) = (got.to_f32()?, want.to_f32()?);
            let each = real.as_ref().map_or(1, |real| want.len() / real.len().max(1));
            let counts = |i: usize| real.as_ref().is_none_or(|real| real[i / each] == 1);
            require((0..want.len()).any(counts), || format!("{name}: nothing of it counts"))?;
            worst = worst.max(share(&got, &want, self.tolerances[name], counts));
        }
        Ok(worst)
    }

    /// Runs a model's entry point on this; gives the error of the answer, and the answer. Pictures are of whatever size they
    /// are here.
    ///
    /// # Errors
    /// As the run does.
    pub async fn run(&self, model: &ModelHandle) -> Result<(f32, Answer), Fault> {
        let part = self.part(model.entry_point());
        let model = match model.entry_point().other_pictures(&part.inputs) {
            Some([height, width]) => model.for_pictures(height, width).await?,
            None => model.clone(),
        };
        let outputs: Vec<&str> = part.outputs().collect();
        let answer = model.run_for(part.inputs.clone(), &outputs).await?;
        Ok((part.error_of(&answer, model.signature())?, answer))
    }

    /// Runs a model and fails where its answer is not right.
    ///
    /// # Errors
    /// As the run does, and for a wrong answer.
    pub async fn check(&self, model: &ModelHandle) -> Outcome {
        let (worst, _) = self.run(model).await?;
        require(worst <= 1.0, || format!("{}: off by {worst} times the tolerance", model.name()))
    }
}

/// The largest share of `1e-4 + 1e-4 * |want|` that any value which counts is off by. What is not a number is infinitely
/// wrong.
#[must_use]
pub fn error(got: &[f32], want: &[f32], counts: impl Fn(usize) -> bool) -> f32 {
    share(got, want, [1e-4; 2], counts)
}

/// The same for another tolerance, absolute and relative.
fn share(got: &[f32], want: &[f32], [absolute, relative]: [f32; 2], counts: impl Fn(usize) -> bool) -> f32 {
    if got.len() != want.len() {
        return f32::INFINITY;
    }
    let shares = got.iter().zip(want).enumerate().filter(|(i, _)| counts(*i)).map(|(_, (g, w))| {
        let share = (g - w).abs() / (absolute + relative * w.abs());
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
    use super::{Golden, error, models, share};

    #[test]
    fn every_model_of_the_fixtures_is_found_with_its_cases_and_tolerances() {
        let models = models().expect("they can be listed");
        for name in ["bert", "heads/bert_answer", "rotary/yarn", "whisper"] {
            assert!(models.iter().any(|model| model == name), "{name} is not in {models:?}");
        }
        assert!(!models.iter().any(|model| model.contains("preprocessing") || model == "minilm"), "{models:?}");
        for name in models {
            for (case, golden) in Golden::cases(&name).expect(&name) {
                assert!(!golden.inputs.is_empty() && golden.outputs().next().is_some(), "{name} {case}");
                assert!(golden.tolerances.values().all(|tolerance| *tolerance == [1e-4; 2]), "{name}");
            }
        }
        let names: Vec<_> = Golden::cases("llama").expect("a fixture").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["case0", "case1"]);
    }

    #[test]
    fn the_tolerance_is_the_fixtures() {
        assert!((share(&[1.5], &[1.0], [0.5, 0.5], |_| true) - 0.5).abs() < 1e-6);
        assert_eq!(share(&[1.0], &[1.0], [0.0, 0.0], |_| true), f32::INFINITY);
    }

    #[test]
    fn what_is_no_number_or_no_match_is_never_right() {
        assert_eq!(error(&[1.0, 5.0], &[1.0, 2.0], |i| i == 0), 0.0);
        assert!((error(&[1.0002], &[1.0], |_| true) - 1.0).abs() < 0.01);
        assert_eq!(error(&[f32::NAN], &[1.0], |_| true), f32::INFINITY);
        assert_eq!(error(&[], &[1.0], |_| true), f32::INFINITY);
    }
}
