//! GPT-2: a decoder with learned positions, whose linear weights are stored `[in, out]`.

use tabpool_graph::{Op, Unary, ValueId};

use crate::ModelError;
use crate::blocks::{Build, Built, Context, Embedder, Heads};
use crate::bucket::Ladder;
use crate::family::{Decoder, DecoderSizes, Family, Source};
use crate::generation::cache_names;
use crate::model::Entry;
use crate::signature::{
    ATTENTION_MASK, Absent, Dim, INPUT_IDS, InputSpec, LAST_HIDDEN_STATE, LOGITS, OutputSpec, POSITION_IDS, Signature,
};

/// A model of the family.
#[derive(Debug)]
struct Gpt2 {
    prefix: &'static str,
    vocabulary: usize,
    positions: usize,
    hidden: usize,
    layers: usize,
    heads: usize,
    intermediate: usize,
    activation: Unary,
    epsilon: f32,
    /// Whether scores are divided by the root of a head's size, and besides by the number of the layer.
    scaled: bool,
    scaled_by_layer: bool,
    ends: Vec<i32>,
    /// The table of logits, where there is one.
    head: Option<String>,
    embedder: Option<Embedder>,
}

/// Reads GPT-2.
pub(crate) fn read(source: &Source<'_>) -> Result<Box<dyn Family>, ModelError> {
    let config = source.config;
    config.refuse_flag("add_cross_attention", "only decoders of their own are supported")?;
    let hidden = config.size_or("n_embd", 1..=1 << 16, 768)?;
    let heads = config.size_or("n_head", 1..=1024, 12)?;
    if !hidden.is_multiple_of(heads) {
        return Err(config.refuse("n_head", &format!("which does not divide n_embd = {hidden}")));
    }
    let prefix = source.prefix(&["transformer.", ""], "wte.weight");
    Ok(Box::new(Gpt2 {
        prefix,
        vocabulary: config.size_or("vocab_size", 1..=1 << 26, 50257)?,
        positions: config.size_or("n_positions", 1..=1 << 20, 1024)?,
        hidden,
        layers: config.size_or("n_layer", 1..=512, 12)?,
        heads,
        intermediate: config.size_or("n_inner", 1..=1 << 20, 4 * hidden)?,
        activation: config.activation("activation_function", "gelu_new")?,
        epsilon: config.epsilon_or("layer_norm_epsilon", 1e-5)?,
        scaled: config.flag_or("scale_attn_weights", true)?,
        scaled_by_layer: config.flag("scale_attn_by_inverse_layer_idx")?,
        ends: config.ids("eos_token_id")?,
        embedder: Embedder::described(source, hidden)?,
        head: match source.task {
            None => None,
            Some("LMHeadModel" | "CausalLM") => {
                let tied = config.flag_or("tie_word_embeddings", true)?;
                let own = !tied || source.weights.contains("lm_head.weight");
                Some(if own { "lm_head.weight".to_owned() } else { format!("{prefix}wte.weight") })
            }
            Some(_) => return Err(source.refuse_task("models without a head and GPT2LMHeadModel")),
        },
    }))
}

/// The entry point of a decoder that reads a whole text at once.
pub(crate) fn whole(
    sizes: &DecoderSizes,
    hidden: usize,
    widest: usize,
    head: bool,
    embedder: Option<&Embedder>,
) -> Entry {
    let ids = [Dim::Batch, Dim::Sequence];
    let inputs = vec![
        InputSpec::ids(INPUT_IDS, Dim::Sequence, sizes.vocabulary, 0),
        InputSpec::mask(),
        InputSpec::integers(POSITION_IDS, &ids, sizes.positions, 0, Some(Absent::Place)),
    ];
    let vector = |name, width| OutputSpec::new(name, &[Dim::Batch, Dim::Sequence, Dim::Fixed(width)]);
    let mut outputs = Vec::new();
    if head {
        outputs.push(vector(LOGITS, sizes.vocabulary));
    }
    outputs.push(vector(LAST_HIDDEN_STATE, hidden));
    outputs.extend(embedder.map(Embedder::output));
    let widest = if head { widest.max(sizes.vocabulary) } else { widest };
    let ladder = Ladder::tokens(sizes.positions, sizes.heads, widest);
    Entry { name: "model", signature: Signature::new(inputs, outputs), ladder }
}

/// Builds that entry point.
pub(crate) fn build_whole(
    decoder: &dyn Decoder,
    b: &mut Build<'_>,
    head: bool,
    embedder: Option<&Embedder>,
) -> Result<(), ModelError> {
    let (ids, mask, positions) = (b.input(INPUT_IDS)?, b.input(ATTENTION_MASK)?, b.input(POSITION_IDS)?);
    let mask = b.float(ATTENTION_MASK, mask)?;
    let bias = b.mask_bias(mask)?;
    let limit = decoder.sizes().positions;
    let context = Context { positions, limit, bias: Some(bias), ..Context::whole(b, ids)? };
    let hidden = decoder.decode(b, &context)?;
    b.offer(LAST_HIDDEN_STATE, hidden);
    if let Some(embedder) = embedder {
        embedder.offer(b, hidden, mask)?;
    }
    if head {
        let logits = decoder.logits(b, hidden)?;
        b.offer(LOGITS, logits);
    }
    Ok(())
}

impl Gpt2 {
    /// A linear layer whose weight is stored `[in, out]`; turning it depends on no run.
    fn linear(&self, b: &mut Build<'_>, name: &str, x: ValueId, [outputs, inputs]: [usize; 2]) -> Built {
        let weight = b.weight(&format!("{name}.weight"), &[inputs, outputs])?;
        let weight = b.transpose(&format!("{name}.weight"), weight, &[1, 0])?;
        let bias = b.weight(&format!("{name}.bias"), &[outputs])?;
        b.node(name, Op::LINEAR, &[x, weight, bias])
    }

    fn attention(&self, b: &mut Build<'_>, context: &Context, layer: usize, name: &str, x: ValueId) -> Built {
        let hidden = self.hidden;
        let qkv = self.linear(b, &format!("{name}.c_attn"), x, [3 * hidden, hidden])?;
        let mut part = |index: usize| b.slice(&format!("{name}.c_attn"), qkv, 2, index * hidden, hidden);
        let (query, key, value) = (part(0)?, part(1)?, part(2)?);
        let [keys, values] = cache_names(layer);
        let (key, value) = (context.remember(b, &keys, key)?, context.remember(b, &values, value)?);
        let mut heads = Heads::of(self.heads, hidden);
        if !self.scaled {
            heads.scale = 1.0;
        }
        if self.scaled_by_layer {
            #[expect(clippy::cast_precision_loss, reason = "there are at most 512 layers")]
            let number = (layer + 1) as f32;
            heads.scale /= number;
        }
        let x = heads.attend(b, name, [query, key, value], &context.biases(), Some(context.start))?;
        self.linear(b, &format!("{name}.c_proj"), x, [hidden, hidden])
    }
}

impl Family for Gpt2 {
    fn entries(&self) -> Vec<Entry> {
        let widest = (3 * self.hidden).max(self.intermediate);
        vec![whole(&self.sizes(), self.hidden, widest, self.head.is_some(), self.embedder.as_ref())]
    }

    fn build(&self, _entry: &str, b: &mut Build<'_>) -> Result<(), ModelError> {
        build_whole(self, b, self.head.is_some(), self.embedder.as_ref())
    }

    fn decoder(&self) -> Option<&dyn Decoder> {
        self.head.is_some().then_some(self)
    }
}

impl Decoder for Gpt2 {
    fn sizes(&self) -> DecoderSizes {
        DecoderSizes {
            vocabulary: self.vocabulary,
            positions: self.positions,
            layers: self.layers,
            width: self.hidden,
            heads: self.heads,
            ends: self.ends.clone(),
            begins: None,
        }
    }

    fn decode(&self, b: &mut Build<'_>, context: &Context) -> Built {
        let name = |part: &str| format!("{}{part}", self.prefix);
        let hidden = self.hidden;
        let table = b.weight(&name("wte.weight"), &[self.vocabulary, hidden])?;
        let tokens = b.gather(&name("wte"), table, context.ids)?;
        let table = b.weight(&name("wpe.weight"), &[self.positions, hidden])?;
        let positions = b.gather(&name("wpe"), table, context.positions)?;
        let mut x = b.add(&name("embeddings"), tokens, positions)?;
        for layer in 0..self.layers {
            let base = name(&format!("h.{layer}"));
            let normed = b.norm(&format!("{base}.ln_1"), x, self.epsilon)?;
            let attended = self.attention(b, context, layer, &format!("{base}.attn"), normed)?;
            x = b.add(&format!("{base}.attn.residual"), attended, x)?;
            let normed = b.norm(&format!("{base}.ln_2"), x, self.epsilon)?;
            let up = self.linear(b, &format!("{base}.mlp.c_fc"), normed, [self.intermediate, hidden])?;
            let up = b.unary(&format!("{base}.mlp.act"), self.activation, up)?;
            let down = self.linear(b, &format!("{base}.mlp.c_proj"), up, [hidden, self.intermediate])?;
            x = b.add(&format!("{base}.mlp.residual"), down, x)?;
        }
        b.norm(&name("ln_f"), x, self.epsilon)
    }

    fn logits(&self, b: &mut Build<'_>, hidden: ValueId) -> Built {
        let table = self.head.as_deref().unwrap_or("lm_head.weight");
        let table = b.weight(table, &[self.vocabulary, self.hidden])?;
        b.node(LOGITS, Op::LINEAR, &[hidden, table])
    }
}
