//! `config.json`: which architecture, which sizes, and every option that would change what is computed.
//!
//! An option this crate does not implement is refused by name and value, because a model that runs and gives other
//! numbers is worse than one that does not run. Defaults are those of the transformers library, which leaves them out of
//! files in some versions.

use serde_json::Value;
use tabpool_graph::Unary;

use crate::ModelError;
use crate::fields::Fields;

/// What `model_type` may say.
const SUPPORTED: [(&str, Family); 6] = [
    ("bert", Family::Bert),
    ("camembert", Family::Roberta),
    ("distilbert", Family::DistilBert),
    ("mpnet", Family::Mpnet),
    ("roberta", Family::Roberta),
    ("xlm-roberta", Family::Roberta),
];

/// How class names in `architectures` begin, for the old files that have no `model_type`.
const CLASSES: [(&str, Family); 6] = [
    ("Bert", Family::Bert),
    ("Camembert", Family::Roberta),
    ("DistilBert", Family::DistilBert),
    ("MPNet", Family::Mpnet),
    ("Roberta", Family::Roberta),
    ("XLMRoberta", Family::Roberta),
];

/// Relative position buckets that MPNet computes, whatever its configuration says.
pub(crate) const MPNET_BUCKETS: usize = 32;
/// The padding id from which MPNet numbers positions, whatever its configuration says.
const MPNET_PADDING: usize = 1;

/// Architectures that share names of tensors and the way positions are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Bert,
    DistilBert,
    Mpnet,
    /// RoBERTa, XLM-RoBERTa and CamemBERT differ in their tokenizers only.
    Roberta,
}

impl Family {
    /// What published files put before the names of tensors, if anything.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Family::Bert => "bert.",
            Family::DistilBert => "distilbert.",
            Family::Mpnet => "mpnet.",
            Family::Roberta => "roberta.",
        }
    }
}

/// Everything about an encoder that decides its graph.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Encoder {
    /// `model_type`, or the class where that is absent.
    pub(crate) name: String,
    pub(crate) family: Family,
    pub(crate) vocabulary: usize,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) intermediate: usize,
    pub(crate) activation: Unary,
    /// Rows of the table of positions.
    pub(crate) positions: usize,
    /// Set where positions count only real tokens, from this id + 1 on.
    pub(crate) counted_from: Option<i32>,
    /// Rows of the table of token types; 0 where there is none.
    pub(crate) token_types: usize,
    /// Rows of the table of relative positions; 0 where there is none.
    pub(crate) relative_buckets: usize,
    pub(crate) epsilon: f32,
    pub(crate) padding_id: i32,
}

impl Encoder {
    pub(crate) fn read(config: &Fields) -> Result<Self, ModelError> {
        let (name, family) = family(config)?;
        refuse_unsupported(config)?;
        let keys = if family == Family::DistilBert { &DISTILBERT_KEYS } else { &BERT_KEYS };
        let hidden = config.size(keys.hidden, 1..=1 << 16)?;
        let heads = config.size(keys.heads, 1..=1024)?;
        if !hidden.is_multiple_of(heads) {
            return Err(config.refuse(keys.heads, &format!("which does not divide {} = {hidden}", keys.hidden)));
        }
        let positions = config.size("max_position_embeddings", 1..=1 << 20)?;
        let vocabulary = config.size("vocab_size", 1..=1 << 26)?;
        let default_padding = usize::from(matches!(family, Family::Roberta | Family::Mpnet));
        let padding = config.size_or("pad_token_id", 0..=vocabulary - 1, default_padding)?;
        let counted_from = match family {
            Family::Roberta => Some(padding),
            Family::Mpnet => Some(MPNET_PADDING),
            Family::Bert | Family::DistilBert => None,
        };
        if counted_from.is_some_and(|id| id + 1 >= positions) {
            return Err(
                config.refuse("max_position_embeddings", "too few: positions are counted from the padding id on")
            );
        }
        // DistilBERT has this epsilon fixed; elsewhere it is what transformers takes where a file has none.
        let epsilon = match family {
            Family::DistilBert => 1e-12,
            _ => config.number_or("layer_norm_eps", 1e-12)?,
        };
        Ok(Self {
            name,
            family,
            vocabulary,
            hidden,
            layers: config.size(keys.layers, 1..=512)?,
            heads,
            intermediate: config.size(keys.intermediate, 1..=1 << 20)?,
            activation: activation(config, keys.activation)?,
            positions,
            counted_from: counted_from.map(id),
            token_types: match family {
                Family::Bert | Family::Roberta => config.size_or("type_vocab_size", 1..=1024, 2)?,
                Family::DistilBert | Family::Mpnet => 0,
            },
            relative_buckets: match family {
                Family::Mpnet => {
                    config.size_or("relative_attention_num_buckets", MPNET_BUCKETS..=1 << 16, MPNET_BUCKETS)?
                }
                _ => 0,
            },
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the reference computes with this epsilon in f32 as well"
            )]
            epsilon: epsilon as f32,
            padding_id: id(padding),
        })
    }

    /// The longest sequence: positions that count from the padding id on leave the first rows of their table unused.
    pub(crate) fn longest_sequence(&self) -> usize {
        let unused = self.counted_from.and_then(|id| usize::try_from(id).ok()).map_or(0, |id| id + 1);
        self.positions.saturating_sub(unused)
    }
}

/// The names of options that families spell differently.
struct Keys {
    hidden: &'static str,
    heads: &'static str,
    layers: &'static str,
    intermediate: &'static str,
    activation: &'static str,
}

const BERT_KEYS: Keys = Keys {
    hidden: "hidden_size",
    heads: "num_attention_heads",
    layers: "num_hidden_layers",
    intermediate: "intermediate_size",
    activation: "hidden_act",
};

const DISTILBERT_KEYS: Keys =
    Keys { hidden: "dim", heads: "n_heads", layers: "n_layers", intermediate: "hidden_dim", activation: "activation" };

/// Ids are below `vocab_size`, which fits; an `i32` is what programs compute with.
fn id(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn family(config: &Fields) -> Result<(String, Family), ModelError> {
    let unsupported = |got: &str| ModelError::Architecture {
        file: config.file().to_owned(),
        got: got.to_owned(),
        supported: SUPPORTED.map(|(name, _)| name).join(", "),
    };
    if let Some(model_type) = config.text("model_type")? {
        let known = SUPPORTED.iter().find(|(name, _)| *name == model_type);
        return known.map(|(name, family)| ((*name).to_owned(), *family)).ok_or_else(|| unsupported(model_type));
    }
    let class = config.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str);
    let class = class
        .ok_or_else(|| ModelError::MissingOption { file: config.file().to_owned(), key: "model_type".to_owned() })?;
    // `BertModel`, `BertForMaskedLM` and so on: the task's part begins with "Model" or "For".
    let stem = class.split_once("For").map_or(class, |(stem, _)| stem);
    let stem = stem.strip_suffix("Model").unwrap_or(stem);
    let known = CLASSES.iter().find(|(name, _)| *name == stem);
    known.map(|(_, family)| (class.to_owned(), *family)).ok_or_else(|| unsupported(class))
}

/// Refuses what would change the numbers and is not built here.
fn refuse_unsupported(config: &Fields) -> Result<(), ModelError> {
    if config.text("position_embedding_type")?.is_some_and(|kind| kind != "absolute") {
        return Err(config.refuse("position_embedding_type", "only \"absolute\" is supported"));
    }
    for key in ["is_decoder", "add_cross_attention", "is_encoder_decoder"] {
        if config.flag(key)? {
            return Err(config.refuse(key, "only encoders are supported"));
        }
    }
    let holds_something = |key: &str| match config.get(key) {
        None | Some(Value::Bool(false)) => false,
        Some(Value::Object(map)) => !map.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(_) => true,
    };
    if holds_something("pruned_heads") {
        return Err(config.refuse("pruned_heads", "models with pruned heads are not supported"));
    }
    if holds_something("quantization_config") {
        return Err(config.refuse("quantization_config", "quantised weight files are not supported"));
    }
    if config.get("auto_map").is_some_and(|map| map.get("AutoModel").is_some()) {
        return Err(config.refuse("auto_map", "models that bring their own code are not supported"));
    }
    Ok(())
}

fn activation(config: &Fields, key: &str) -> Result<Unary, ModelError> {
    Ok(match config.text(key)?.unwrap_or("gelu") {
        "gelu" | "gelu_python" => Unary::Gelu,
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Unary::GeluTanh,
        "relu" => Unary::Relu,
        "silu" | "swish" => Unary::Silu,
        "tanh" => Unary::Tanh,
        "sigmoid" => Unary::Sigmoid,
        _ => {
            let known = "supported are gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu, silu, tanh and sigmoid";
            return Err(config.refuse(key, known));
        }
    })
}
