//! Llama and what was made after it: Qwen2, Qwen3 and Gemma. Decoders with rotary positions, norms by the root of the mean
//! square, grouped keys, and a gated network.

use tabpool_graph::{Op, Unary, ValueId};

use super::gpt2::{build_whole, whole};
use crate::ModelError;
use crate::blocks::{Build, Built, Context, Embedder, Heads, Rotary};
use crate::family::{Decoder, DecoderSizes, Family, Source};
use crate::fields::Fields;
use crate::generation::cache_names;
use crate::model::Entry;
use crate::signature::LOGITS;

/// In what the kinds differ beyond their sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Llama,
    Qwen2,
    Qwen3,
    Gemma,
}

/// A model of the family.
#[derive(Debug)]
struct Llama {
    kind: Kind,
    prefix: &'static str,
    vocabulary: usize,
    positions: usize,
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head: usize,
    intermediate: usize,
    activation: Unary,
    epsilon: f32,
    rotary: Rotary,
    /// Whether queries, keys and values have biases, and whether the product after attention has.
    biases: [bool; 2],
    network_biases: bool,
    ends: Vec<i32>,
    /// The table of logits, where there is one.
    table: Option<String>,
    embedder: Option<Embedder>,
}

/// Reads Llama.
pub(crate) fn read(source: &Source<'_>) -> Result<Box<dyn Family>, ModelError> {
    open(source, Kind::Llama)
}

/// Reads Qwen2.
pub(crate) fn read_qwen2(source: &Source<'_>) -> Result<Box<dyn Family>, ModelError> {
    open(source, Kind::Qwen2)
}

/// Reads Qwen3.
pub(crate) fn read_qwen3(source: &Source<'_>) -> Result<Box<dyn Family>, ModelError> {
    open(source, Kind::Qwen3)
}

/// Reads Gemma, the first of that name.
pub(crate) fn read_gemma(source: &Source<'_>) -> Result<Box<dyn Family>, ModelError> {
    open(source, Kind::Gemma)
}

/// What holds for a kind where a configuration says nothing.
struct Defaults {
    /// The size of a head; `None` where the heads divide the hidden size.
    head: Option<usize>,
    activation: &'static str,
    tied: bool,
    positions: usize,
}

impl Kind {
    fn defaults(self) -> Defaults {
        match self {
            Kind::Llama => Defaults { head: None, activation: "silu", tied: false, positions: 2048 },
            Kind::Qwen2 => Defaults { head: None, activation: "silu", tied: false, positions: 32768 },
            Kind::Qwen3 => Defaults { head: Some(128), activation: "silu", tied: false, positions: 32768 },
            Kind::Gemma => Defaults { head: Some(256), activation: "gelu_pytorch_tanh", tied: true, positions: 8192 },
        }
    }
}

fn open(source: &Source<'_>, kind: Kind) -> Result<Box<dyn Family>, ModelError> {
    let config = source.config;
    let defaults = kind.defaults();
    refuse_windows(config)?;
    let hidden = config.size("hidden_size", 1..=1 << 16)?;
    let heads = config.size("num_attention_heads", 1..=1024)?;
    let kv_heads = config.size_or("num_key_value_heads", 1..=1024, heads)?;
    if !heads.is_multiple_of(kv_heads) {
        let reason = format!("which does not divide num_attention_heads = {heads}");
        return Err(config.refuse("num_key_value_heads", &reason));
    }
    let head = config.size_or("head_dim", 1..=1 << 12, defaults.head.unwrap_or(hidden / heads))?;
    if defaults.head.is_none() && config.get("head_dim").is_none() && !hidden.is_multiple_of(heads) {
        return Err(config.refuse("num_attention_heads", &format!("which does not divide hidden_size = {hidden}")));
    }
    let positions = config.size_or("max_position_embeddings", 1..=1 << 20, defaults.positions)?;
    let prefix = source.prefix(&["model.", ""], "embed_tokens.weight");
    let attention_bias = config.flag("attention_bias")?;
    Ok(Box::new(Llama {
        kind,
        prefix,
        vocabulary: config.size("vocab_size", 1..=1 << 26)?,
        positions,
        hidden,
        layers: config.size("num_hidden_layers", 1..=512)?,
        heads,
        kv_heads,
        head,
        intermediate: config.size("intermediate_size", 1..=1 << 20)?,
        activation: activation(config, kind, defaults.activation)?,
        epsilon: config.epsilon_or("rms_norm_eps", 1e-6)?,
        rotary: Rotary::read(config, head, 10_000.0, positions)?,
        // Qwen2 has these biases whatever its configuration says.
        biases: if kind == Kind::Qwen2 { [true, false] } else { [attention_bias, attention_bias] },
        network_biases: kind == Kind::Llama && config.flag("mlp_bias")?,
        ends: config.ids("eos_token_id")?,
        embedder: Embedder::described(source, hidden)?,
        table: match source.task {
            None => None,
            Some("CausalLM") => {
                let tied = config.flag_or("tie_word_embeddings", defaults.tied)?;
                Some(if tied { format!("{prefix}embed_tokens.weight") } else { "lm_head.weight".to_owned() })
            }
            Some(_) => return Err(source.refuse_task("models without a head and ForCausalLM")),
        },
    }))
}

/// Gemma's files may have two names for the activation, of which the older one was ignored when the newer came.
fn activation(config: &Fields, kind: Kind, default: &str) -> Result<Unary, ModelError> {
    if kind != Kind::Gemma {
        return config.activation("hidden_act", default);
    }
    let newer = config.activation("hidden_activation", default)?;
    match config.text("hidden_act")? {
        // The first files say `gelu` and mean its approximation, as transformers does.
        None | Some("gelu") => Ok(newer),
        Some(_) => config.activation("hidden_act", default),
    }
}

/// Refuses attention to the last tokens only, where a configuration uses it.
fn refuse_windows(config: &Fields) -> Result<(), ModelError> {
    config.refuse_flag("use_sliding_window", "attention in sliding windows is not supported")?;
    let windowed = |kinds: &serde_json::Value| {
        kinds.as_array().is_some_and(|list| list.iter().any(|kind| kind.as_str() != Some("full_attention")))
    };
    if config.get("layer_types").is_some_and(windowed) {
        return Err(config.refuse("layer_types", "only \"full_attention\" is supported"));
    }
    if config.get("pretraining_tp").is_some_and(|value| value.as_u64() != Some(1)) {
        return Err(config.refuse("pretraining_tp", "only 1 is supported"));
    }
    Ok(())
}

impl Llama {
    fn norm(&self, b: &mut Build<'_>, name: &str, x: ValueId) -> Built {
        if self.kind != Kind::Gemma {
            return b.rms_norm(name, x, self.epsilon);
        }
        // Gemma stores what is to be added to a scale of 1.
        let scale = b.weight(&format!("{name}.weight"), &[b.width(x)])?;
        let one = b.scalar("one", 1.0)?;
        let scale = b.add(&format!("{name}.weight"), scale, one)?;
        b.node(name, Op::RmsNorm { epsilon: self.epsilon }, &[x, scale])
    }

    /// Queries or keys, normalised head by head where the kind does that, and turned.
    fn turned(
        &self,
        b: &mut Build<'_>,
        base: &str,
        part: &str,
        x: ValueId,
        heads: usize,
        cos_sin: [ValueId; 2],
    ) -> Built {
        let mut x = b.linear(&format!("{base}.{part}_proj"), x, [heads * self.head, self.hidden], self.biases[0])?;
        if self.kind == Kind::Qwen3 {
            let dims = b.dims(x);
            let name = format!("{base}.{part}_norm");
            let each = b.reshape(&name, x, &[dims[0], dims[1], heads, self.head])?;
            let each = b.rms_norm(&name, each, self.epsilon)?;
            x = b.reshape(&name, each, &dims)?;
        }
        let op = Op::Rope { heads, rotary: self.rotary.width() };
        b.node(&format!("{base}.{part}_rotary"), op, &[x, cos_sin[0], cos_sin[1]])
    }

    fn attention(
        &self,
        b: &mut Build<'_>,
        context: &Context,
        layer: usize,
        base: &str,
        x: ValueId,
        cos_sin: [ValueId; 2],
    ) -> Built {
        let query = self.turned(b, base, "q", x, self.heads, cos_sin)?;
        let key = self.turned(b, base, "k", x, self.kv_heads, cos_sin)?;
        let sizes = [self.kv_heads * self.head, self.hidden];
        let value = b.linear(&format!("{base}.v_proj"), x, sizes, self.biases[0])?;
        let [keys, values] = cache_names(layer);
        let (key, value) = (context.remember(b, &keys, key)?, context.remember(b, &values, value)?);
        let heads = Heads { keys: self.kv_heads, ..Heads::of(self.heads, self.heads * self.head) };
        let x = heads.attend(b, base, [query, key, value], &context.biases(), Some(context.start))?;
        b.linear(&format!("{base}.o_proj"), x, [self.hidden, self.heads * self.head], self.biases[1])
    }

    fn network(&self, b: &mut Build<'_>, base: &str, x: ValueId) -> Built {
        let (up, down) = ([self.intermediate, self.hidden], [self.hidden, self.intermediate]);
        let gate = b.linear(&format!("{base}.gate_proj"), x, up, self.network_biases)?;
        let gate = b.unary(&format!("{base}.act_fn"), self.activation, gate)?;
        let x = b.linear(&format!("{base}.up_proj"), x, up, self.network_biases)?;
        let x = b.mul(&format!("{base}.gated"), gate, x)?;
        b.linear(&format!("{base}.down_proj"), x, down, self.network_biases)
    }
}

impl Family for Llama {
    fn entries(&self) -> Vec<Entry> {
        let widest = self.hidden.max(self.intermediate).max(self.heads * self.head);
        vec![whole(&self.sizes(), self.hidden, widest, self.table.is_some(), self.embedder.as_ref())]
    }

    fn build(&self, _entry: &str, b: &mut Build<'_>) -> Result<(), ModelError> {
        build_whole(self, b, self.table.is_some(), self.embedder.as_ref())
    }

    fn decoder(&self) -> Option<&dyn Decoder> {
        self.table.is_some().then_some(self)
    }
}

impl Decoder for Llama {
    fn sizes(&self) -> DecoderSizes {
        DecoderSizes {
            vocabulary: self.vocabulary,
            positions: self.positions,
            layers: self.layers,
            width: self.kv_heads * self.head,
            heads: self.heads,
            ends: self.ends.clone(),
            begins: None,
        }
    }

    fn decode(&self, b: &mut Build<'_>, context: &Context) -> Built {
        let name = |part: &str| format!("{}{part}", self.prefix);
        let table = b.weight(&name("embed_tokens.weight"), &[self.vocabulary, self.hidden])?;
        let mut x = b.gather(&name("embed_tokens"), table, context.ids)?;
        if self.kind == Kind::Gemma {
            #[expect(clippy::cast_precision_loss, reason = "vectors have at most 2^16 elements")]
            let scale = (self.hidden as f32).sqrt();
            x = b.scaled(&name("embed_tokens"), x, scale)?;
        }
        let cos_sin = self.rotary.tables(b, context.positions, context.limit)?;
        for layer in 0..self.layers {
            let base = name(&format!("layers.{layer}"));
            let normed = self.norm(b, &format!("{base}.input_layernorm"), x)?;
            let attended = self.attention(b, context, layer, &format!("{base}.self_attn"), normed, cos_sin)?;
            x = b.add(&format!("{base}.self_attn.residual"), attended, x)?;
            let normed = self.norm(b, &format!("{base}.post_attention_layernorm"), x)?;
            let network = self.network(b, &format!("{base}.mlp"), normed)?;
            x = b.add(&format!("{base}.mlp.residual"), network, x)?;
        }
        self.norm(b, &name("norm"), x)
    }

    fn logits(&self, b: &mut Build<'_>, hidden: ValueId) -> Built {
        let table = self.table.as_deref().unwrap_or("lm_head.weight");
        let table = b.weight(table, &[self.vocabulary, self.hidden])?;
        b.node(LOGITS, Op::LINEAR, &[hidden, table])
    }
}
