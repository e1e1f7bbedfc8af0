//! `config.json` of the BERT family: which sizes, and every option that would change what is computed.
//!
//! An option this crate does not implement is refused by name and value, because a model that runs and gives other
//! numbers is worse than one that does not run. Defaults are those of the transformers library, which leaves them out of
//! files in some versions.

use tabpool_graph::Unary;

use crate::ModelError;
use crate::fields::Fields;

/// Relative position buckets that MPNet computes, whatever its configuration says.
pub(crate) const MPNET_BUCKETS: usize = 32;
/// The distance from which on all pairs share a bucket.
pub(crate) const MPNET_FARTHEST: usize = 128;
/// The padding id from which MPNet numbers positions, whatever its configuration says.
const MPNET_PADDING: usize = 1;

/// Architectures that share names of tensors and the way positions are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bert,
    DistilBert,
    Mpnet,
    Roberta,
}

impl Kind {
    /// What published files put before the names of tensors, if anything.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Kind::Bert => "bert.",
            Kind::DistilBert => "distilbert.",
            Kind::Mpnet => "mpnet.",
            Kind::Roberta => "roberta.",
        }
    }
}

/// Everything about an encoder that decides its graph.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Encoder {
    pub(crate) kind: Kind,
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
    pub(crate) fn read(config: &Fields, kind: Kind) -> Result<Self, ModelError> {
        refuse_unsupported(config)?;
        let keys = if kind == Kind::DistilBert { &DISTILBERT_KEYS } else { &BERT_KEYS };
        let hidden = config.size(keys.hidden, 1..=1 << 16)?;
        let heads = config.size(keys.heads, 1..=1024)?;
        if !hidden.is_multiple_of(heads) {
            return Err(config.refuse(keys.heads, &format!("which does not divide {} = {hidden}", keys.hidden)));
        }
        let positions = config.size("max_position_embeddings", 1..=1 << 20)?;
        let vocabulary = config.size("vocab_size", 1..=1 << 26)?;
        let default_padding = usize::from(matches!(kind, Kind::Roberta | Kind::Mpnet));
        let padding = config.size_or("pad_token_id", 0..=vocabulary - 1, default_padding)?;
        let counted_from = match kind {
            Kind::Roberta => Some(padding),
            Kind::Mpnet => Some(MPNET_PADDING),
            Kind::Bert | Kind::DistilBert => None,
        };
        if counted_from.is_some_and(|id| id + 1 >= positions) {
            return Err(
                config.refuse("max_position_embeddings", "too few: positions are counted from the padding id on")
            );
        }
        // DistilBERT has this epsilon fixed; elsewhere it is what transformers takes where a file has none.
        let epsilon = match kind {
            Kind::DistilBert => 1e-12,
            _ => config.epsilon_or("layer_norm_eps", 1e-12)?,
        };
        Ok(Self {
            kind,
            vocabulary,
            hidden,
            layers: config.size(keys.layers, 1..=512)?,
            heads,
            intermediate: config.size(keys.intermediate, 1..=1 << 20)?,
            activation: config.activation(keys.activation, "gelu")?,
            positions,
            counted_from: counted_from.map(id),
            token_types: match kind {
                Kind::Bert | Kind::Roberta => config.size_or("type_vocab_size", 1..=1024, 2)?,
                Kind::DistilBert | Kind::Mpnet => 0,
            },
            relative_buckets: match kind {
                Kind::Mpnet => {
                    config.size_or("relative_attention_num_buckets", MPNET_BUCKETS..=1 << 16, MPNET_BUCKETS)?
                }
                _ => 0,
            },
            epsilon,
            padding_id: id(padding),
        })
    }

    /// The longest sequence: positions that count from the padding id on leave the first rows of their table unused.
    pub(crate) fn longest_sequence(&self) -> usize {
        let unused = self.counted_from.and_then(|id| usize::try_from(id).ok()).map_or(0, |id| id + 1);
        self.positions.saturating_sub(unused)
    }
}

/// The names of options that kinds spell differently.
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

/// Refuses what would change the numbers and is not built here.
fn refuse_unsupported(config: &Fields) -> Result<(), ModelError> {
    if config.text("position_embedding_type")?.is_some_and(|kind| kind != "absolute") {
        return Err(config.refuse("position_embedding_type", "only \"absolute\" is supported"));
    }
    for key in ["is_decoder", "add_cross_attention", "is_encoder_decoder"] {
        config.refuse_flag(key, "only encoders are supported")?;
    }
    Ok(())
}
