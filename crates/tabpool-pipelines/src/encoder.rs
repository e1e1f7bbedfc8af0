//! Texts to the tensors of one batch, the way sentence-transformers prepares them.

use tabpool_content::{BlockStore, Cid, Directory};
use tabpool_models::{EntryPoint, Model, Signature};
use tabpool_tensor::Tensor;
use tokenizers::TruncationDirection;

use crate::TextError;
use crate::config::{ConfigError, Options, read_options};
use crate::tokenizer::{Row, SpecialTokens, Tokenized, Tokenizer};

/// Turns texts into a model's inputs.
#[derive(Clone, Debug)]
pub struct TextEncoder {
    tokenizer: Tokenizer,
    max_tokens: usize,
    padding: i32,
    lower_case: bool,
    prompt: String,
    mask: Option<u32>,
    /// For each length of sequences there are buckets for, the most sequences that go together.
    pub(crate) buckets: Vec<(usize, usize)>,
}

/// Texts as tensors: `i32 [texts, tokens]`, padded at the end to the longest text.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The tokens' ids, then the padding's.
    pub input_ids: Tensor,
    /// 1 for tokens, 0 for padding.
    pub attention_mask: Tensor,
    /// The segment of each token.
    pub token_type_ids: Tensor,
    /// How many tokens each text has, special ones included.
    pub tokens: Vec<usize>,
    /// Whether part of each text was cut off.
    pub truncated: Vec<bool>,
}

impl Encoded {
    /// Those of the tensors that a model takes, named as it names them.
    #[must_use]
    pub fn inputs(&self, signature: &Signature) -> Vec<(String, Tensor)> {
        let all = [
            ("input_ids", &self.input_ids),
            ("attention_mask", &self.attention_mask),
            ("token_type_ids", &self.token_type_ids),
        ];
        let taken = all.into_iter().filter(|(name, _)| signature.input(name).is_some());
        taken.map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect()
    }

    fn of(rows: &[&Row], padding: i32) -> Result<Self, TextError> {
        let longest = rows.iter().map(|r| r.ids.len()).max().unwrap_or(0);
        let shape = [rows.len(), longest];
        let padded = |values: &dyn Fn(&Row) -> Vec<i32>, padding: i32| {
            let mut all = Vec::with_capacity(rows.len() * longest);
            for (i, row) in rows.iter().enumerate() {
                all.extend(values(row));
                all.resize((i + 1) * longest, padding);
            }
            Tensor::from_i32(shape, all)
        };
        // Ids of a vocabulary fit; one that does not is refused with every other id outside of the model's table.
        let narrow = |ids: &[u32]| ids.iter().map(|&id| i32::try_from(id).unwrap_or(i32::MAX)).collect();
        Ok(Self {
            input_ids: padded(&|row| narrow(&row.ids), padding)?,
            attention_mask: padded(&|row| vec![1; row.ids.len()], 0)?,
            token_type_ids: padded(&|row| narrow(&row.type_ids), 0)?,
            tokens: rows.iter().map(|r| r.ids.len()).collect(),
            truncated: rows.iter().map(|r| r.truncated).collect(),
        })
    }
}

impl TextEncoder {
    /// Reads the tokenizer of the model in the folder under `root`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn open(store: &dyn BlockStore, root: &Cid, model: &Model) -> Result<Self, TextError> {
        Self::read(&Directory::open(store, root)?, model)
    }

    /// Reads the tokenizer of a model's folder. Texts are cut to `max_seq_length` of `sentence_bert_config.json`, where that
    /// is absent to `model_max_length` of `tokenizer_config.json`, and never longer than the model's positions allow. Of a model
    /// with a tower for texts, that one counts.
    ///
    /// # Errors
    /// [`TextError`] with the file at fault.
    pub fn read(folder: &Directory<'_>, model: &Model) -> Result<Self, TextError> {
        let (base, entry) = (model.files(), text_entry(model));
        let mut tokenizer = Tokenizer::read(folder, base)?;
        let config = read_options(folder, &format!("{base}tokenizer_config.json"))?;
        let sentence = read_options(folder, &format!("{base}sentence_bert_config.json"))?;
        let stated = match length(&sentence, "max_seq_length")? {
            Some(stated) => Some(stated),
            None => length(&config, "model_max_length")?,
        };
        let max_tokens = stated.unwrap_or(usize::MAX).min(entry.max_sequence());
        let direction = match config.text("truncation_side")? {
            None | Some("right") => TruncationDirection::Right,
            Some("left") => TruncationDirection::Left,
            Some(_) => return Err(config.refuse("truncation_side", "neither \"left\" nor \"right\"").into()),
        };
        tokenizer.limit(max_tokens, direction)?;
        let mask = match config.token("mask_token")? {
            Some(token) => tokenizer.id(token),
            None => tokenizer.id("[MASK]").or_else(|| tokenizer.id("<mask>")),
        };
        Ok(Self {
            tokenizer,
            mask,
            max_tokens,
            padding: entry.signature().input("input_ids").map_or(0, |i| i.padding),
            lower_case: sentence.flag("do_lower_case", false)?,
            prompt: default_prompt(folder, model)?,
            buckets: entry.sequence_buckets().into_iter().map(|s| (s, most(entry, s))).collect(),
        })
    }

    /// The most tokens that a text is cut to, special ones included.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The tokenizer, which cuts to that.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The token that stands for a word to be found, where there is one.
    #[must_use]
    pub fn mask_id(&self) -> Option<u32> {
        self.mask
    }

    /// Encodes texts as one batch.
    ///
    /// # Errors
    /// [`TextError::NoTexts`], or what is wrong with a text, with its position.
    pub fn encode(&self, texts: &[&str]) -> Result<Encoded, TextError> {
        self.encoded(&self.rows(texts)?)
    }

    /// Encodes pairs of texts, each of which the model sees together, as one batch. Pairs get no prompt.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_pairs(&self, pairs: &[(&str, &str)]) -> Result<Encoded, TextError> {
        self.encoded(&self.pair_rows(pairs)?)
    }

    /// A text or a pair of texts as the model reads it, cut to its length, with each token's place in the text as given.
    /// Nothing is trimmed and no prompt is added, so that places stay what they are.
    ///
    /// # Errors
    /// As [`Tokenizer::tokenize`].
    pub fn tokenize(&self, text: &str, pair: Option<&str>) -> Result<Tokenized, TextError> {
        match pair {
            None => self.tokenizer.tokenize(text, SpecialTokens::Add),
            Some(pair) => self.tokenizer.tokenize_pair(text, pair, SpecialTokens::Add),
        }
    }

    /// The tensors of what [`tokenize`](Self::tokenize) gave, as a batch of one.
    ///
    /// # Errors
    /// [`TextError::Tensor`].
    pub fn encode_tokenized(&self, tokenized: &Tokenized) -> Result<Encoded, TextError> {
        let (ids, type_ids) = (tokenized.ids.clone(), tokenized.type_ids.clone());
        self.encoded(&[Row { ids, type_ids, truncated: tokenized.truncated }])
    }

    pub(crate) fn pair_rows(&self, pairs: &[(&str, &str)]) -> Result<Vec<Row>, TextError> {
        let row = |(i, (a, b)): (usize, &(&str, &str))| {
            self.tokenizer.ids(i, &self.prepared(a, ""), Some(&self.prepared(b, "")))
        };
        pairs.iter().enumerate().map(row).collect()
    }

    pub(crate) fn rows(&self, texts: &[&str]) -> Result<Vec<Row>, TextError> {
        let row = |(i, text): (usize, &&str)| self.tokenizer.ids(i, &self.prepared(text, &self.prompt), None);
        texts.iter().enumerate().map(row).collect()
    }

    fn encoded(&self, rows: &[Row]) -> Result<Encoded, TextError> {
        self.padded(&rows.iter().collect::<Vec<_>>())
    }

    pub(crate) fn padded(&self, rows: &[&Row]) -> Result<Encoded, TextError> {
        if rows.is_empty() {
            return Err(TextError::NoTexts);
        }
        Encoded::of(rows, self.padding)
    }

    /// A text as sentence-transformers hands it to the tokenizer: prompted, trimmed, in lower case where the folder says so.
    fn prepared(&self, text: &str, prompt: &str) -> String {
        let text = format!("{prompt}{text}");
        let text = text.trim();
        if self.lower_case { text.to_lowercase() } else { text.to_owned() }
    }
}

/// The entry point that reads texts: the tower for them, where a model has one.
fn text_entry(model: &Model) -> EntryPoint<'_> {
    model.entry("text").unwrap_or_else(|_| model.first())
}

/// The most sequences of this length that go into one run.
fn most(entry: EntryPoint<'_>, sequence: usize) -> usize {
    entry.batch_buckets(sequence).last().copied().unwrap_or(1)
}

/// A length in tokens. What fits no integer, or is absurd, means that there is no limit: transformers writes 1e30.
fn length(options: &Options, key: &str) -> Result<Option<usize>, ConfigError> {
    let Some(value) = options.get(key) else { return Ok(None) };
    match (value.as_u64(), value.as_f64()) {
        (Some(n), _) if n > 0 => Ok(usize::try_from(n).ok()),
        (None, Some(n)) if n > 1e9 => Ok(None),
        _ => Err(options.refuse(key, "not a number of tokens")),
    }
}

/// The prompt that sentence-transformers puts before every text unless told otherwise.
fn default_prompt(folder: &Directory<'_>, model: &Model) -> Result<String, TextError> {
    let options = read_options(folder, "config_sentence_transformers.json")?;
    let Some(name) = options.text("default_prompt_name")? else { return Ok(String::new()) };
    let prompt = options.get("prompts").and_then(|p| p.get(name)).and_then(serde_json::Value::as_str);
    let prompt = prompt.ok_or_else(|| options.refuse("default_prompt_name", "which is none of the prompts"))?;
    if !prompt.is_empty() && !model.pools_prompt() {
        let reason = "and the pooling leaves prompts out (include_prompt), which is not supported";
        return Err(options.refuse("default_prompt_name", reason).into());
    }
    Ok(prompt.to_owned())
}
