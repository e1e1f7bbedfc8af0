//! What a model's authors say of generating with it: `generation_config.json`.

use serde_json::Value;
use tabpool_content::Directory;

use crate::ModelError;
use crate::fields::Fields;

/// The most languages and tasks that are read.
const MAX_NAMED: usize = 1024;

/// What `generation_config.json` says, and nothing where it says nothing or is not there.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct GenerationDefaults {
    /// Ids that end a text; where there are none, those of `config.json` do.
    pub ends: Vec<i32>,
    /// Whether tokens are drawn, not the likeliest one taken.
    pub sample: bool,
    /// What logits are divided by.
    pub temperature: Option<f32>,
    /// Of how many of the likeliest tokens one is drawn.
    pub top_k: Option<usize>,
    /// The probability that the likeliest tokens have together, of which one is drawn.
    pub top_p: Option<f32>,
    /// The least share of the likeliest token's probability.
    pub min_p: Option<f32>,
    /// How much less likely tokens are that were said already.
    pub repetition_penalty: Option<f32>,
    /// Ids that are never said.
    pub suppressed: Vec<i32>,
    /// Ids that are not said first.
    pub suppressed_first: Vec<i32>,
    /// Of speech: the ids that name a language, by their tokens, as in `<|en|>`.
    pub languages: Vec<(String, i32)>,
    /// Of speech: the ids that name a task, `transcribe` or `translate`.
    pub tasks: Vec<(String, i32)>,
    /// Of speech: the id that wants no times.
    pub no_timestamps: Option<i32>,
}

impl GenerationDefaults {
    /// Reads the file under `base`, if it is there.
    pub(crate) fn read(folder: &Directory<'_>, base: &str) -> Result<Self, ModelError> {
        let file = format!("{base}generation_config.json");
        if !folder.contains(&file) {
            return Ok(Self::default());
        }
        let config = Fields::read(folder, &file)?;
        #[expect(clippy::cast_possible_truncation, reason = "settings have few digits")]
        let number = |key: &str| match config.get(key) {
            None => Ok(None),
            Some(_) => config.number_or(key, 0.0).map(|number| Some(number as f32)),
        };
        let id = |key: &str| config.ids(key).map(|ids| ids.first().copied());
        Ok(Self {
            ends: config.ids("eos_token_id")?,
            sample: config.flag_or("do_sample", false)?,
            temperature: number("temperature")?,
            top_k: match config.get("top_k") {
                None => None,
                Some(_) => Some(config.size_or("top_k", 0..=usize::MAX, 0)?),
            },
            top_p: number("top_p")?,
            min_p: number("min_p")?,
            repetition_penalty: number("repetition_penalty")?,
            suppressed: config.ids("suppress_tokens")?,
            suppressed_first: config.ids("begin_suppress_tokens")?,
            languages: named(&config, "lang_to_id")?,
            tasks: named(&config, "task_to_id")?,
            no_timestamps: id("no_timestamps_token_id")?,
        })
    }
}

/// Ids by their names, in the order of their ids.
fn named(config: &Fields, key: &str) -> Result<Vec<(String, i32)>, ModelError> {
    let Some(value) = config.get(key) else { return Ok(Vec::new()) };
    let id = |v: &Value| v.as_i64().and_then(|v| i32::try_from(v).ok()).filter(|v| *v >= 0);
    let map = value.as_object().filter(|map| map.len() <= MAX_NAMED);
    let pairs =
        map.and_then(|map| map.iter().map(|(name, v)| Some((name.clone(), id(v)?))).collect::<Option<Vec<_>>>());
    let mut pairs = pairs.ok_or_else(|| config.refuse(key, "no object of names with the ids of tokens"))?;
    pairs.sort_unstable_by_key(|(_, id)| *id);
    Ok(pairs)
}
