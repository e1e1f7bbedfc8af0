//! How token vectors become one vector a text, as sentence-transformers describes it: `modules.json` lists the steps,
//! each step's folder has a `config.json`. A folder without that file gets what sentence-transformers gives it: the mean
//! over tokens, not normalised.

use serde_json::Value;
use tabpool_content::Directory;
use tabpool_graph::Unary;

use crate::ModelError;
use crate::fields::{Fields, option_error, read_json};

const MODULES: &str = "modules.json";
/// How many steps a folder may list.
const MAX_MODULES: usize = 16;

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// The first token's vector.
    First,
    /// The last real token's.
    Last,
    /// The mean over real tokens.
    Mean,
    /// The sum over real tokens, divided by the square root of their number.
    MeanSqrt,
    /// The mean over real tokens, each weighted with its place, counted from 1.
    WeightedMean,
    /// The largest value over real tokens, for each element.
    Max,
}

/// What follows the pooling.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Scaling to length one.
    Normalize,
    /// A linear layer with weights of its own.
    Dense(Dense),
}

/// A linear layer after the pooling.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dense {
    /// The folder its weights are in, with a `/` at its end.
    pub(crate) folder: String,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) bias: bool,
    pub(crate) activation: Option<Unary>,
}

/// The whole description.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sentence {
    /// The folder of the encoder's own files: empty, or with a `/` at its end.
    pub(crate) base: String,
    /// Whether the folder describes it.
    pub(crate) described: bool,
    pub(crate) pooling: Pooling,
    pub(crate) steps: Vec<Step>,
    /// Whether a prompt's tokens are pooled with the text's.
    pub(crate) pools_prompt: bool,
    /// What the pooling's configuration says of the width of the encoder's vectors.
    stated_width: Option<(String, usize)>,
}

impl Sentence {
    pub(crate) fn read(folder: &Directory<'_>) -> Result<Self, ModelError> {
        let mut sentence = Self {
            base: String::new(),
            described: folder.contains(MODULES),
            pooling: Pooling::Mean,
            steps: Vec::new(),
            pools_prompt: true,
            stated_width: None,
        };
        if !sentence.described {
            return Ok(sentence);
        }
        let json = read_json(folder, MODULES)?;
        let modules = json.as_array().filter(|m| !m.is_empty() && m.len() <= MAX_MODULES).ok_or_else(|| {
            let reason = format!("it is not a list of 1 to {MAX_MODULES} modules");
            ModelError::Json { file: MODULES.to_owned(), reason }
        })?;
        for (position, module) in modules.iter().enumerate() {
            let text = |key: &str| {
                module.get(key).and_then(Value::as_str).ok_or_else(|| ModelError::MissingOption {
                    file: MODULES.to_owned(),
                    key: format!("{key} of module {position}"),
                })
            };
            let (kind, path) = (text("type")?, text("path")?.trim_end_matches('/'));
            let path = if path.is_empty() { String::new() } else { format!("{path}/") };
            sentence.module(folder, position, kind, path)?;
        }
        Ok(sentence)
    }

    /// One entry of the list. The first two are the encoder and the pooling; then the order is free.
    fn module(&mut self, folder: &Directory<'_>, position: usize, kind: &str, path: String) -> Result<(), ModelError> {
        let refuse = |reason: &str| {
            Err(option_error(MODULES, &format!("type of module {position}"), &Value::from(kind), reason))
        };
        // Modules from elsewhere may have the same last name and do something else.
        let class = match kind.strip_prefix("sentence_transformers.") {
            Some(inside) => inside.rsplit('.').next().unwrap_or(inside),
            None => return refuse("only modules of sentence-transformers itself are supported"),
        };
        match (class, position) {
            ("Transformer", 0) => self.base = path,
            ("Pooling", 1) => {
                let config = Fields::read(folder, &format!("{path}config.json"))?;
                self.pooling = pooling(&config)?;
                self.pools_prompt = config.get("include_prompt").is_none() || config.flag("include_prompt")?;
                let key = if config.get("embedding_dimension").is_some() {
                    "embedding_dimension"
                } else {
                    "word_embedding_dimension"
                };
                let width = config.size_or(key, 1..=1 << 16, 0)?;
                self.stated_width = (width > 0).then(|| (config.file().to_owned(), width));
            }
            ("Normalize", 2..) => self.steps.push(Step::Normalize),
            ("Dense", 2..) => self.steps.push(Step::Dense(dense(folder, path)?)),
            // Dropout does nothing but in training.
            ("Dropout", 2..) => {}
            ("Transformer" | "Pooling" | "Normalize" | "Dense" | "Dropout", _) => {
                return refuse("supported is a Transformer, then a Pooling, then any of Dense and Normalize");
            }
            _ => return refuse("supported are Transformer, Pooling, Dense, Dropout and Normalize"),
        }
        Ok(())
    }

    /// The width of the embedding, once every step's width fits the one before.
    pub(crate) fn width(&self, hidden: usize) -> Result<usize, ModelError> {
        if let Some((file, stated)) = &self.stated_width
            && *stated != hidden
        {
            let value = Value::from(*stated);
            let reason = format!("but the encoder's vectors have {hidden} elements");
            return Err(option_error(file, "word_embedding_dimension", &value, &reason));
        }
        let mut width = hidden;
        for step in &self.steps {
            let Step::Dense(dense) = step else { continue };
            if dense.inputs != width {
                let file = format!("{}config.json", dense.folder);
                let reason = format!("but the vectors before it have {width} elements");
                return Err(option_error(&file, "in_features", &Value::from(dense.inputs), &reason));
            }
            width = dense.outputs;
        }
        Ok(width)
    }
}

/// Reads either spelling: a flag for each mode, or the modes by name.
fn pooling(config: &Fields) -> Result<Pooling, ModelError> {
    const MODES: [(&str, &str, Pooling); 6] = [
        ("pooling_mode_cls_token", "cls", Pooling::First),
        ("pooling_mode_mean_tokens", "mean", Pooling::Mean),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Pooling::MeanSqrt),
        ("pooling_mode_max_tokens", "max", Pooling::Max),
        ("pooling_mode_weightedmean_tokens", "weightedmean", Pooling::WeightedMean),
        ("pooling_mode_lasttoken", "lasttoken", Pooling::Last),
    ];
    let supported = "supported are cls, mean, max, mean_sqrt_len_tokens, weightedmean and lasttoken, one at a time";
    if config.get("pooling_mode").is_some() {
        let mode = match config.get("pooling_mode") {
            Some(Value::Array(list)) if list.len() == 1 => list[0].as_str(),
            Some(value) => value.as_str(),
            None => None,
        };
        let known = mode.and_then(|mode| MODES.iter().find(|(_, name, _)| *name == mode));
        return known.map(|known| known.2).ok_or_else(|| config.refuse("pooling_mode", supported));
    }
    let mut chosen = None;
    for (key, _, pooling) in MODES {
        if config.flag(key)? {
            if chosen.is_some() {
                return Err(config.refuse(key, supported));
            }
            chosen = Some(pooling);
        }
    }
    chosen.ok_or_else(|| ModelError::MissingOption { file: config.file().to_owned(), key: "pooling_mode".to_owned() })
}

fn dense(folder: &Directory<'_>, path: String) -> Result<Dense, ModelError> {
    let config = Fields::read(folder, &format!("{path}config.json"))?;
    for key in ["module_input_name", "module_output_name"] {
        if config.text(key)?.is_some_and(|name| name != "sentence_embedding") {
            return Err(config.refuse(key, "only \"sentence_embedding\" is supported"));
        }
    }
    let function = config.text("activation_function")?.unwrap_or("torch.nn.modules.activation.Tanh");
    let activation = match function.rsplit('.').next().unwrap_or(function) {
        "Identity" => None,
        "Tanh" => Some(Unary::Tanh),
        "ReLU" => Some(Unary::Relu),
        "GELU" => Some(Unary::Gelu),
        "SiLU" => Some(Unary::Silu),
        "Sigmoid" => Some(Unary::Sigmoid),
        _ => {
            let supported = "supported are Identity, Tanh, ReLU, GELU, SiLU and Sigmoid";
            return Err(config.refuse("activation_function", supported));
        }
    };
    Ok(Dense {
        inputs: config.size("in_features", 1..=1 << 20)?,
        outputs: config.size("out_features", 1..=1 << 20)?,
        bias: config.get("bias").is_none() || config.flag("bias")?,
        activation,
        folder: path,
    })
}
