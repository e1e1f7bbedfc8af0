//! T5 and Flan-T5: an encoder and a decoder without biases, whose attention sees how far tokens are from each other.

use tabpool_graph::{Binary, Op, Unary, ValueId};

use super::bert::between_all;
use crate::blocks::{Build, Built, Context, Cross, Heads, distance_bias};
use crate::bucket::Ladder;
use crate::family::{Decoder, DecoderSizes, Encoder, Family, Source};
use crate::generation::cache_names;
use crate::model::Entry;
use crate::signature::{
    ATTENTION_MASK, DECODER_INPUT_IDS, Dim, ENCODER_LAST_HIDDEN_STATE, INPUT_IDS, InputSpec, LAST_HIDDEN_STATE, LOGITS,
    OutputSpec, Signature,
};
use crate::{ModelError, relative};

/// The most tokens of a text. Distances are all that positions come to, so there is no limit in the model.
const MOST_TOKENS: usize = 16384;

/// A model of the family.
#[derive(Debug)]
struct T5 {
    vocabulary: usize,
    hidden: usize,
    layers: usize,
    /// Layers of the decoder; 0 where the files hold none.
    decoder_layers: usize,
    heads: usize,
    head: usize,
    intermediate: usize,
    activation: Unary,
    gated: bool,
    epsilon: f32,
    buckets: usize,
    farthest: usize,
    padding_id: i32,
    begins: i32,
    ends: Vec<i32>,
    /// The table of tokens.
    shared: &'static str,
    /// The table of logits, where there is one, and what vectors are multiplied by before it.
    table: Option<&'static str>,
    scale: Option<f32>,
}

/// Reads T5.
pub(crate) fn read(source: &Source<'_>) -> Result<Box<dyn Family>, ModelError> {
    let config = source.config;
    let hidden = config.size_or("d_model", 1..=1 << 16, 512)?;
    let layers = config.size_or("num_layers", 1..=512, 6)?;
    let decoder_layers = config.size_or("num_decoder_layers", 1..=512, layers)?;
    let vocabulary = config.size_or("vocab_size", 1..=1 << 26, 32128)?;
    let (gated, activation) = network(source)?;
    let head = match source.task {
        None => false,
        Some("ConditionalGeneration") => true,
        Some(_) => return Err(source.refuse_task("T5Model, T5EncoderModel and T5ForConditionalGeneration")),
    };
    let scaled = match config.get("scale_decoder_outputs") {
        Some(_) => config.flag("scale_decoder_outputs")?,
        None => config.flag_or("tie_word_embeddings", true)?,
    };
    // A file keeps one of the names that a shared table has.
    let tables = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
    let shared = tables.into_iter().find(|name| source.weights.contains(name));
    let shared = shared.filter(|_| !source.weights.contains("shared.weight")).unwrap_or("shared.weight");
    let own = source.weights.contains("lm_head.weight");
    let buckets = config.size_or("relative_attention_num_buckets", 4..=1 << 12, 32)?;
    let farthest = config.size_or("relative_attention_max_distance", 1..=1 << 20, 128)?;
    if farthest <= buckets / 2 {
        let reason = format!("too near: half of the {buckets} buckets are for one distance each");
        return Err(config.refuse("relative_attention_max_distance", &reason));
    }
    let id = |key: &str, default: usize| {
        config
            .size_or(key, 0..=vocabulary - 1, default.min(vocabulary - 1))
            .map(|id| i32::try_from(id).unwrap_or(i32::MAX))
    };
    let padding_id = id("pad_token_id", 0)?;
    #[expect(clippy::cast_precision_loss, reason = "vectors have at most 2^16 elements")]
    let scale = 1.0 / (hidden as f32).sqrt();
    Ok(Box::new(T5 {
        vocabulary,
        hidden,
        layers,
        decoder_layers: if source.weights.contains("decoder.final_layer_norm.weight") || head {
            decoder_layers
        } else {
            0
        },
        heads: config.size_or("num_heads", 1..=1024, 8)?,
        head: config.size_or("d_kv", 1..=1 << 12, 64)?,
        intermediate: config.size_or("d_ff", 1..=1 << 20, 2048)?,
        activation,
        gated,
        epsilon: config.epsilon_or("layer_norm_epsilon", 1e-6)?,
        buckets,
        farthest,
        padding_id,
        begins: id("decoder_start_token_id", usize::try_from(padding_id).unwrap_or(0))?,
        ends: config.ids("eos_token_id")?,
        shared,
        table: head.then_some(if own { "lm_head.weight" } else { shared }),
        scale: scaled.then_some(scale),
    }))
}

/// Whether the network is gated, and its activation: `relu`, `gated-gelu` and so on.
fn network(source: &Source<'_>) -> Result<(bool, Unary), ModelError> {
    let config = source.config;
    let whole = config.text("feed_forward_proj")?.unwrap_or("relu");
    let (gated, name) = match whole.strip_prefix("gated-") {
        Some(name) => (true, name),
        None => (false, whole),
    };
    let activation = match (gated, name) {
        // The reference takes the approximation for this one.
        (true, "gelu") | (_, "gelu_new") => Unary::GeluTanh,
        (_, "relu") => Unary::Relu,
        (_, "gelu") => Unary::Gelu,
        (_, "silu" | "swish") => Unary::Silu,
        _ => {
            let known = "supported are relu, gelu, gelu_new and silu, each also with \"gated-\" before it";
            return Err(config.refuse("feed_forward_proj", known));
        }
    };
    Ok((gated, activation))
}

impl T5 {
    fn inner(&self) -> usize {
        self.heads * self.head
    }

    /// Attention without scaling.
    fn attention_heads(&self) -> Heads {
        Heads { queries: self.heads, keys: self.heads, scale: 1.0 }
    }

    fn embed(&self, b: &mut Build<'_>, name: &str, ids: ValueId) -> Built {
        let table = b.weight(self.shared, &[self.vocabulary, self.hidden])?;
        b.gather(&format!("{name}.embed_tokens"), table, ids)
    }

    fn project(&self, b: &mut Build<'_>, base: &str, part: &str, x: ValueId) -> Built {
        b.linear(&format!("{base}.{part}"), x, [self.inner(), self.hidden], false)
    }

    /// The residual network that ends a layer.
    fn network(&self, b: &mut Build<'_>, base: &str, x: ValueId) -> Built {
        let name = |part: &str| format!("{base}.DenseReluDense.{part}");
        let up = [self.intermediate, self.hidden];
        let normed = b.rms_norm(&format!("{base}.layer_norm"), x, self.epsilon)?;
        let first = b.linear(&name(if self.gated { "wi_0" } else { "wi" }), normed, up, false)?;
        let mut inner = b.unary(&name("act"), self.activation, first)?;
        if self.gated {
            let other = b.linear(&name("wi_1"), normed, up, false)?;
            inner = b.mul(&name("gated"), inner, other)?;
        }
        let down = b.linear(&name("wo"), inner, [self.hidden, self.intermediate], false)?;
        b.add(&format!("{base}.residual"), down, x)
    }

    fn table_of_distances(&self, b: &mut Build<'_>, stack: &str) -> Built {
        let name = format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        b.weight(&name, &[self.buckets, self.heads])
    }

    fn decoder_entry(&self) -> Entry {
        let inputs = vec![
            InputSpec::ids(INPUT_IDS, Dim::Sequence, self.vocabulary, self.padding_id),
            InputSpec::mask(),
            InputSpec::ids(DECODER_INPUT_IDS, Dim::Target, self.vocabulary, self.padding_id),
        ];
        let target = |name, width| OutputSpec::new(name, &[Dim::Batch, Dim::Target, Dim::Fixed(width)]);
        let mut outputs = Vec::new();
        if self.table.is_some() {
            outputs.push(target(LOGITS, self.vocabulary));
        }
        outputs.push(target(LAST_HIDDEN_STATE, self.hidden));
        outputs.push(self.encoder_output());
        let mut ladder = self.ladder();
        if self.table.is_some() {
            ladder.width = ladder.width.max(self.vocabulary);
        }
        Entry { name: "model", signature: Signature::new(inputs, outputs), ladder }
    }

    fn encoder_output(&self) -> OutputSpec {
        OutputSpec::new(ENCODER_LAST_HIDDEN_STATE, &[Dim::Batch, Dim::Sequence, Dim::Fixed(self.hidden)])
    }

    fn ladder(&self) -> Ladder {
        Ladder::tokens(MOST_TOKENS, self.heads, self.hidden.max(self.intermediate).max(self.inner()))
    }
}

impl Family for T5 {
    fn entries(&self) -> Vec<Entry> {
        let (signature, ladder) = self.inputs();
        let signature = Signature::new(signature.inputs, vec![self.encoder_output()]);
        let encoder = Entry { name: "encoder", signature, ladder };
        if self.decoder_layers == 0 { vec![encoder] } else { vec![self.decoder_entry(), encoder] }
    }

    fn build(&self, entry: &str, b: &mut Build<'_>) -> Result<(), ModelError> {
        let (encoded, bias) = self.encode(b)?;
        b.offer(ENCODER_LAST_HIDDEN_STATE, encoded);
        if entry == "encoder" {
            return Ok(());
        }
        let ids = b.input(DECODER_INPUT_IDS)?;
        let context = Context { cross: self.cross(b, encoded)?, cross_bias: bias, ..Context::whole(b, ids)? };
        let hidden = self.decode(b, &context)?;
        b.offer(LAST_HIDDEN_STATE, hidden);
        if self.table.is_some() {
            let logits = self.logits(b, hidden)?;
            b.offer(LOGITS, logits);
        }
        Ok(())
    }

    fn decoder(&self) -> Option<&dyn Decoder> {
        self.table.is_some().then_some(self)
    }
}

impl Encoder for T5 {
    fn inputs(&self) -> (Signature, Ladder) {
        let ids = InputSpec::ids(INPUT_IDS, Dim::Sequence, self.vocabulary, self.padding_id);
        (Signature::new(vec![ids, InputSpec::mask()], Vec::new()), self.ladder())
    }

    fn positions(&self, source: usize) -> usize {
        source
    }

    fn encode(&self, b: &mut Build<'_>) -> Result<(ValueId, Option<ValueId>), ModelError> {
        let (ids, mask) = (b.input(INPUT_IDS)?, b.input(ATTENTION_MASK)?);
        let mask = b.float(ATTENTION_MASK, mask)?;
        let bias = b.mask_bias(mask)?;
        let table = self.table_of_distances(b, "encoder")?;
        let distances = between_all(b, b.sequence)?;
        let buckets = relative::both_sides(b.sequence, self.buckets, self.farthest);
        let relative = distance_bias(b, "encoder.relative_attention_bias", table, buckets, distances)?;
        let mut x = self.embed(b, "encoder", ids)?;
        for layer in 0..self.layers {
            let base = format!("encoder.block.{layer}.layer");
            let attention = format!("{base}.0.SelfAttention");
            let normed = b.rms_norm(&format!("{base}.0.layer_norm"), x, self.epsilon)?;
            let query = self.project(b, &attention, "q", normed)?;
            let key = self.project(b, &attention, "k", normed)?;
            let value = self.project(b, &attention, "v", normed)?;
            let heads = self.attention_heads();
            let attended = heads.attend(b, &attention, [query, key, value], &[relative, bias], None)?;
            let attended = b.linear(&format!("{attention}.o"), attended, [self.hidden, self.inner()], false)?;
            x = b.add(&format!("{base}.0.residual"), attended, x)?;
            x = self.network(b, &format!("{base}.1"), x)?;
        }
        Ok((b.rms_norm("encoder.final_layer_norm", x, self.epsilon)?, Some(bias)))
    }

    fn cross(&self, b: &mut Build<'_>, hidden: ValueId) -> Result<Vec<Cross>, ModelError> {
        let of_layer = |layer: usize| {
            let base = format!("decoder.block.{layer}.layer.1.EncDecAttention");
            Ok(Cross { key: self.project(b, &base, "k", hidden)?, value: self.project(b, &base, "v", hidden)? })
        };
        (0..self.decoder_layers).map(of_layer).collect()
    }

    fn masks(&self) -> bool {
        true
    }
}

impl Decoder for T5 {
    fn sizes(&self) -> DecoderSizes {
        DecoderSizes {
            vocabulary: self.vocabulary,
            positions: MOST_TOKENS,
            layers: self.decoder_layers,
            width: self.inner(),
            heads: self.heads,
            ends: self.ends.clone(),
            begins: Some(self.begins),
        }
    }

    fn decode(&self, b: &mut Build<'_>, context: &Context) -> Built {
        let table = self.table_of_distances(b, "decoder")?;
        let [rows, keys] = context.rows(b)?;
        let zero = b.integers("no distance", &[1], vec![0])?;
        let distances = b.binary("distances", Binary::Sub, rows, keys)?;
        let distances = b.binary("distances", Binary::Max, distances, zero)?;
        let buckets = relative::one_side(context.keys, self.buckets, self.farthest);
        let relative = distance_bias(b, "decoder.relative_attention_bias", table, buckets, distances)?;
        let mut biases = context.biases();
        biases.push(relative);
        let output = [self.hidden, self.inner()];
        let mut x = self.embed(b, "decoder", context.ids)?;
        for layer in 0..self.decoder_layers {
            let base = format!("decoder.block.{layer}.layer");
            let attention = format!("{base}.0.SelfAttention");
            let normed = b.rms_norm(&format!("{base}.0.layer_norm"), x, self.epsilon)?;
            let query = self.project(b, &attention, "q", normed)?;
            let key = self.project(b, &attention, "k", normed)?;
            let value = self.project(b, &attention, "v", normed)?;
            let [keys, values] = cache_names(layer);
            let (key, value) = (context.remember(b, &keys, key)?, context.remember(b, &values, value)?);
            let heads = self.attention_heads();
            let attended = heads.attend(b, &attention, [query, key, value], &biases, Some(context.start))?;
            let attended = b.linear(&format!("{attention}.o"), attended, output, false)?;
            x = b.add(&format!("{base}.0.residual"), attended, x)?;

            let attention = format!("{base}.1.EncDecAttention");
            let normed = b.rms_norm(&format!("{base}.1.layer_norm"), x, self.epsilon)?;
            let query = self.project(b, &attention, "q", normed)?;
            let Cross { key, value } = context.cross_of(layer)?;
            let hidden: Vec<ValueId> = context.cross_bias.into_iter().collect();
            let attended = heads.attend(b, &attention, [query, key, value], &hidden, None)?;
            let attended = b.linear(&format!("{attention}.o"), attended, output, false)?;
            x = b.add(&format!("{base}.1.residual"), attended, x)?;
            x = self.network(b, &format!("{base}.2"), x)?;
        }
        b.rms_norm("decoder.final_layer_norm", x, self.epsilon)
    }

    fn logits(&self, b: &mut Build<'_>, hidden: ValueId) -> Built {
        let hidden = match self.scale {
            Some(scale) => b.scaled("decoder.scaled", hidden, scale)?,
            None => hidden,
        };
        let table = b.weight(self.table.unwrap_or(self.shared), &[self.vocabulary, self.hidden])?;
        b.node(LOGITS, Op::LINEAR, &[hidden, table])
    }

    fn encoder(&self) -> Option<&dyn Encoder> {
        Some(self)
    }
}
