//! Whisper: an encoder of thirty seconds of sound, given as a spectrogram, and a decoder that writes down what is said.

use tabpool_graph::{Op, Unary, ValueId};

use crate::ModelError;
use crate::blocks::{Build, Built, Context, Cross, Heads, Layer, Names, Order, convolve};
use crate::bucket::Ladder;
use crate::family::{Decoder, DecoderSizes, Encoder, Family, Source};
use crate::generation::cache_names;
use crate::model::Entry;
use crate::signature::{
    DECODER_INPUT_IDS, Dim, ENCODER_LAST_HIDDEN_STATE, INPUT_FEATURES, InputSpec, LAST_HIDDEN_STATE, LOGITS,
    OutputSpec, Signature,
};

const NAMES: Names = Names {
    query: "self_attn.q_proj",
    key: "self_attn.k_proj",
    value: "self_attn.v_proj",
    output: "self_attn.out_proj",
    attention_norm: "self_attn_layer_norm",
    up: "fc1",
    down: "fc2",
    norm: "final_layer_norm",
};

/// Not written into configurations.
const EPSILON: f32 = 1e-5;

/// A model of the family.
#[derive(Debug)]
struct Whisper {
    prefix: &'static str,
    vocabulary: usize,
    hidden: usize,
    mels: usize,
    /// Vectors of the encoder, half as many as a spectrogram has frames.
    source: usize,
    target: usize,
    /// What layers of either stack are.
    encoder: Layer,
    encoder_layers: usize,
    decoder: Layer,
    decoder_layers: usize,
    /// What the vectors of tokens are multiplied by.
    scale: Option<f32>,
    begins: i32,
    ends: Vec<i32>,
    /// The table of logits, where there is one.
    table: Option<String>,
}

/// Reads Whisper.
pub(crate) fn read(source: &Source<'_>) -> Result<Box<dyn Family>, ModelError> {
    let config = source.config;
    let hidden = config.size_or("d_model", 1..=1 << 16, 384)?;
    let activation = config.activation("activation_function", "gelu")?;
    let stack = |heads: &str, intermediate: &str| {
        let count = config.size_or(heads, 1..=1024, 6)?;
        if !hidden.is_multiple_of(count) {
            return Err(config.refuse(heads, &format!("which does not divide d_model = {hidden}")));
        }
        let intermediate = config.size_or(intermediate, 1..=1 << 20, 1536)?;
        Ok(Layer {
            names: NAMES,
            order: Order::NormFirst,
            hidden,
            heads: count,
            intermediate,
            activation,
            epsilon: EPSILON,
            biases: true,
            key_bias: false,
        })
    };
    let vocabulary = config.size_or("vocab_size", 1..=1 << 26, 51865)?;
    let prefix = source.prefix(&["model.", ""], "decoder.embed_tokens.weight");
    #[expect(clippy::cast_precision_loss, reason = "vectors have at most 2^16 elements")]
    let scale = config.flag("scale_embedding")?.then_some((hidden as f32).sqrt());
    Ok(Box::new(Whisper {
        prefix,
        vocabulary,
        hidden,
        mels: config.size_or("num_mel_bins", 1..=1024, 80)?,
        source: config.size_or("max_source_positions", 1..=1 << 16, 1500)?,
        target: config.size_or("max_target_positions", 1..=1 << 16, 448)?,
        encoder: stack("encoder_attention_heads", "encoder_ffn_dim")?,
        encoder_layers: config.size_or("encoder_layers", 1..=512, 4)?,
        decoder: stack("decoder_attention_heads", "decoder_ffn_dim")?,
        decoder_layers: config.size_or("decoder_layers", 1..=512, 4)?,
        scale,
        begins: i32::try_from(config.size_or(
            "decoder_start_token_id",
            0..=vocabulary - 1,
            50257.min(vocabulary - 1),
        )?)
        .unwrap_or(i32::MAX),
        ends: config.ids("eos_token_id")?,
        table: match source.task {
            None => None,
            Some("ConditionalGeneration") => {
                let own = source.weights.contains("proj_out.weight");
                Some(if own { "proj_out.weight".to_owned() } else { format!("{prefix}decoder.embed_tokens.weight") })
            }
            Some(_) => return Err(source.refuse_task("WhisperModel and WhisperForConditionalGeneration")),
        },
    }))
}

impl Whisper {
    fn name(&self, part: &str) -> String {
        format!("{}{part}", self.prefix)
    }

    fn encoder_output(&self) -> OutputSpec {
        OutputSpec::new(ENCODER_LAST_HIDDEN_STATE, &[Dim::Batch, Dim::Fixed(self.source), Dim::Fixed(self.hidden)])
    }

    /// Attention to a decoder's own tokens, or to the encoder's vectors.
    fn attend(
        &self,
        b: &mut Build<'_>,
        base: &str,
        x: ValueId,
        [key, value]: [ValueId; 2],
        biases: &[ValueId],
        start: Option<ValueId>,
    ) -> Built {
        let sizes = [self.hidden, self.hidden];
        let query = b.linear(&format!("{base}.q_proj"), x, sizes, true)?;
        let heads = Heads::of(self.decoder.heads, self.hidden);
        let attended = heads.attend(b, base, [query, key, value], biases, start)?;
        b.linear(&format!("{base}.out_proj"), attended, sizes, true)
    }

    fn keys_and_values(&self, b: &mut Build<'_>, base: &str, x: ValueId) -> Result<[ValueId; 2], ModelError> {
        let sizes = [self.hidden, self.hidden];
        Ok([
            b.linear(&format!("{base}.k_proj"), x, sizes, false)?,
            b.linear(&format!("{base}.v_proj"), x, sizes, true)?,
        ])
    }
}

impl Family for Whisper {
    fn entries(&self) -> Vec<Entry> {
        let (inputs, ladder) = self.inputs();
        let mut outputs = Vec::new();
        let target = |name, width| OutputSpec::new(name, &[Dim::Batch, Dim::Sequence, Dim::Fixed(width)]);
        let mut widest = self.hidden.max(self.decoder.intermediate);
        if self.table.is_some() {
            outputs.push(target(LOGITS, self.vocabulary));
            widest = widest.max(self.vocabulary);
        }
        outputs.push(target(LAST_HIDDEN_STATE, self.hidden));
        outputs.push(self.encoder_output());
        let mut all = inputs.inputs.clone();
        all.push(InputSpec::ids(DECODER_INPUT_IDS, Dim::Sequence, self.vocabulary, 0));
        let heads = self.encoder.heads.max(self.decoder.heads);
        let whole = Ladder::tokens(self.target, heads, widest.max(ladder.width)).beside(self.source);
        let encoder = Signature::new(inputs.inputs, vec![self.encoder_output()]);
        vec![
            Entry { name: "model", signature: Signature::new(all, outputs), ladder: whole },
            Entry { name: "encoder", signature: encoder, ladder },
        ]
    }

    fn build(&self, entry: &str, b: &mut Build<'_>) -> Result<(), ModelError> {
        let (encoded, _) = self.encode(b)?;
        b.offer(ENCODER_LAST_HIDDEN_STATE, encoded);
        if entry == "encoder" {
            return Ok(());
        }
        let ids = b.input(DECODER_INPUT_IDS)?;
        let context = Context { cross: self.cross(b, encoded)?, ..Context::whole(b, ids)? };
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

impl Encoder for Whisper {
    fn inputs(&self) -> (Signature, Ladder) {
        let dims = [Dim::Batch, Dim::Fixed(self.mels), Dim::Fixed(2 * self.source)];
        // The first convolution has twice as many frames as there are vectors.
        let widest = (2 * self.hidden).max(self.encoder.intermediate).max(2 * self.mels);
        let ladder = Ladder::fixed(1, self.source, self.encoder.heads, widest);
        (Signature::new(vec![InputSpec::floats(INPUT_FEATURES, &dims)], Vec::new()), ladder)
    }

    fn positions(&self, _source: usize) -> usize {
        self.source
    }

    fn encode(&self, b: &mut Build<'_>) -> Result<(ValueId, Option<ValueId>), ModelError> {
        let name = |part: &str| self.name(&format!("encoder.{part}"));
        let features = b.input(INPUT_FEATURES)?;
        let x = b.reshape(INPUT_FEATURES, features, &[b.batch, self.mels, 1, 2 * self.source])?;
        let x = convolve(b, &name("conv1"), x, [self.hidden, 3], 1, [1, 1], true)?;
        let x = b.unary(&name("conv1"), Unary::Gelu, x)?;
        let x = convolve(b, &name("conv2"), x, [self.hidden, 3], 2, [1, 1], true)?;
        let x = b.unary(&name("conv2"), Unary::Gelu, x)?;
        let x = b.reshape(&name("conv2"), x, &[b.batch, self.hidden, self.source])?;
        let x = b.transpose(&name("conv2"), x, &[0, 2, 1])?;
        let positions = b.weight(&name("embed_positions.weight"), &[self.source, self.hidden])?;
        let mut x = b.add(&name("embed_positions"), x, positions)?;
        for layer in 0..self.encoder_layers {
            x = self.encoder.build(b, &name(&format!("layers.{layer}")), x, &[], None)?;
        }
        Ok((b.norm(&name("layer_norm"), x, EPSILON)?, None))
    }

    fn cross(&self, b: &mut Build<'_>, hidden: ValueId) -> Result<Vec<Cross>, ModelError> {
        let of_layer = |layer: usize| {
            let base = self.name(&format!("decoder.layers.{layer}.encoder_attn"));
            let [key, value] = self.keys_and_values(b, &base, hidden)?;
            Ok(Cross { key, value })
        };
        (0..self.decoder_layers).map(of_layer).collect()
    }

    fn masks(&self) -> bool {
        false
    }
}

impl Decoder for Whisper {
    fn sizes(&self) -> DecoderSizes {
        DecoderSizes {
            vocabulary: self.vocabulary,
            positions: self.target,
            layers: self.decoder_layers,
            width: self.hidden,
            heads: self.decoder.heads,
            ends: self.ends.clone(),
            begins: Some(self.begins),
        }
    }

    fn decode(&self, b: &mut Build<'_>, context: &Context) -> Built {
        let name = |part: &str| self.name(&format!("decoder.{part}"));
        let table = b.weight(&name("embed_tokens.weight"), &[self.vocabulary, self.hidden])?;
        let mut tokens = b.gather(&name("embed_tokens"), table, context.ids)?;
        if let Some(scale) = self.scale {
            tokens = b.scaled(&name("embed_tokens"), tokens, scale)?;
        }
        let table = b.weight(&name("embed_positions.weight"), &[self.target, self.hidden])?;
        let positions = b.gather(&name("embed_positions"), table, context.positions)?;
        let mut x = b.add(&name("embeddings"), tokens, positions)?;
        for layer in 0..self.decoder_layers {
            let base = name(&format!("layers.{layer}"));
            let own = format!("{base}.self_attn");
            let normed = b.norm(&format!("{own}_layer_norm"), x, EPSILON)?;
            let [key, value] = self.keys_and_values(b, &own, normed)?;
            let [keys, values] = cache_names(layer);
            let both = [context.remember(b, &keys, key)?, context.remember(b, &values, value)?];
            let attended = self.attend(b, &own, normed, both, &context.biases(), Some(context.start))?;
            x = b.add(&format!("{own}.residual"), attended, x)?;

            let cross = format!("{base}.encoder_attn");
            let normed = b.norm(&format!("{cross}_layer_norm"), x, EPSILON)?;
            let Cross { key, value } = context.cross_of(layer)?;
            let attended = self.attend(b, &cross, normed, [key, value], &[], None)?;
            x = b.add(&format!("{cross}.residual"), attended, x)?;

            let normed = b.norm(&format!("{base}.final_layer_norm"), x, EPSILON)?;
            let network = self.decoder.network(b, &base, normed)?;
            x = b.add(&format!("{base}.residual"), network, x)?;
        }
        b.norm(&name("layer_norm"), x, EPSILON)
    }

    fn logits(&self, b: &mut Build<'_>, hidden: ValueId) -> Built {
        let table = self.table.as_deref().unwrap_or("proj_out.weight");
        let table = b.weight(table, &[self.vocabulary, self.hidden])?;
        b.node(LOGITS, Op::LINEAR, &[hidden, table])
    }

    fn encoder(&self) -> Option<&dyn Encoder> {
        Some(self)
    }
}
