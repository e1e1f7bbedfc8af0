//! wav2vec 2.0: convolutions over the samples of a sound, then a transformer whose positions are a convolution too.
//!
//! What lies beyond a sound in its bucket, and what its attention mask hides, takes part in nothing: norms over time are
//! taken over what is real, so a sound gives the same alone and among others. The reference does so only where it is given
//! each sound alone, which is how models with norms over time are meant to be used.

use tabpool_graph::{Binary, Reduction, Unary, ValueId};

use crate::ModelError;
use crate::blocks::{Build, Built, Layer, Names, Order, convolve, convolve_with};
use crate::bucket::Ladder;
use crate::family::{Family, Source};
use crate::fields::Fields;
use crate::model::Entry;
use crate::signature::{
    ATTENTION_MASK, Dim, INPUT_VALUES, InputSpec, LAST_HIDDEN_STATE, LOGITS, OutputSpec, Signature,
};

const NAMES: Names = Names {
    query: "attention.q_proj",
    key: "attention.k_proj",
    value: "attention.v_proj",
    output: "attention.out_proj",
    attention_norm: "layer_norm",
    up: "feed_forward.intermediate_dense",
    down: "feed_forward.output_dense",
    norm: "final_layer_norm",
};

/// The epsilon of the norms among the convolutions.
const EPSILON: f32 = 1e-5;

/// A convolution over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Convolution {
    channels: usize,
    kernel: usize,
    stride: usize,
}

/// What the convolutions are normalised over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Norm {
    /// After the first only, each channel over time.
    Time,
    /// After each, all channels of a moment.
    Channels,
}

/// A model of the family.
#[derive(Debug)]
struct Wav2Vec2 {
    prefix: &'static str,
    convolutions: Vec<Convolution>,
    bias: bool,
    norm: Norm,
    activation: Unary,
    layer: Layer,
    layers: usize,
    kernel: usize,
    groups: usize,
    /// The size of the head's alphabet, where there is one.
    vocabulary: Option<usize>,
}

/// Reads wav2vec 2.0.
pub(crate) fn read(source: &Source<'_>) -> Result<Box<dyn Family>, ModelError> {
    let config = source.config;
    config.refuse_flag("add_adapter", "adapters are not supported")?;
    if config.get("adapter_attn_dim").is_some() {
        return Err(config.refuse("adapter_attn_dim", "adapters of attention are not supported"));
    }
    let norm = match config.text("feat_extract_norm")?.unwrap_or("group") {
        "group" => Norm::Time,
        "layer" => Norm::Channels,
        _ => return Err(config.refuse("feat_extract_norm", "supported are group and layer")),
    };
    let layer = layer(config)?;
    let groups = config.size_or("num_conv_pos_embedding_groups", 1..=1 << 12, 16)?;
    if !layer.hidden.is_multiple_of(groups) {
        let reason = format!("which does not divide hidden_size = {}", layer.hidden);
        return Err(config.refuse("num_conv_pos_embedding_groups", &reason));
    }
    Ok(Box::new(Wav2Vec2 {
        prefix: source.prefix(&["wav2vec2.", ""], "feature_projection.projection.weight"),
        convolutions: convolutions(config)?,
        bias: config.flag("conv_bias")?,
        norm,
        activation: config.activation("feat_extract_activation", "gelu")?,
        layers: config.size_or("num_hidden_layers", 1..=512, 12)?,
        layer,
        kernel: config.size_or("num_conv_pos_embeddings", 1..=1 << 12, 128)?,
        groups,
        vocabulary: match source.task {
            None => None,
            Some("CTC") => Some(config.size_or("vocab_size", 1..=1 << 20, 32)?),
            Some(_) => return Err(source.refuse_task("Wav2Vec2Model and Wav2Vec2ForCTC")),
        },
    }))
}

fn layer(config: &Fields) -> Result<Layer, ModelError> {
    let hidden = config.size_or("hidden_size", 1..=1 << 16, 768)?;
    let heads = config.size_or("num_attention_heads", 1..=1024, 12)?;
    if !hidden.is_multiple_of(heads) {
        return Err(config.refuse("num_attention_heads", &format!("which does not divide hidden_size = {hidden}")));
    }
    Ok(Layer {
        names: NAMES,
        order: if config.flag("do_stable_layer_norm")? { Order::NormFirst } else { Order::NormLast },
        hidden,
        heads,
        intermediate: config.size_or("intermediate_size", 1..=1 << 20, 3072)?,
        activation: config.activation("hidden_act", "gelu")?,
        epsilon: config.epsilon_or("layer_norm_eps", 1e-5)?,
        biases: true,
        key_bias: true,
    })
}

fn convolutions(config: &Fields) -> Result<Vec<Convolution>, ModelError> {
    let channels = config.sizes_or("conv_dim", 1..=1 << 14, &[512; 7])?;
    let kernels = config.sizes_or("conv_kernel", 1..=1 << 10, &[10, 3, 3, 3, 3, 2, 2])?;
    let strides = config.sizes_or("conv_stride", 1..=1 << 10, &[5, 2, 2, 2, 2, 2, 2])?;
    if channels.len() != kernels.len() || channels.len() != strides.len() {
        return Err(config.refuse("conv_dim", "not as long as conv_kernel and conv_stride"));
    }
    let each = channels.into_iter().zip(kernels).zip(strides);
    let all: Vec<_> = each.map(|((channels, kernel), stride)| Convolution { channels, kernel, stride }).collect();
    // A frame must be shorter than the shortest bucket.
    let reached = all.iter().rev().try_fold(1usize, |reach, c| {
        let before = (reach - 1).checked_mul(c.stride)?.checked_add(c.kernel)?;
        (before <= 4_000).then_some(before)
    });
    match reached {
        Some(_) if all.iter().map(|c| c.stride).product::<usize>() <= 4_000 => Ok(all),
        _ => Err(config.refuse("conv_kernel", "frames of more than 4000 samples are not supported")),
    }
}

impl Wav2Vec2 {
    /// Samples from one frame to the next.
    fn stride(&self) -> usize {
        self.convolutions.iter().map(|c| c.stride).product()
    }

    /// Which frames after the first `count` convolutions are real, `f32 [batch, frames]`: those whose last sample is.
    fn real(&self, b: &mut Build<'_>, name: &str, mask: ValueId, count: usize) -> Built {
        let (mut frames, mut stride, mut reach) = (b.sequence, 1, 1);
        for c in &self.convolutions[..count] {
            frames = frames.saturating_sub(c.kernel) / c.stride + 1;
            reach += (c.kernel - 1) * stride;
            stride *= c.stride;
        }
        let last = (0..frames).map(|frame| i32::try_from(frame * stride + reach - 1).unwrap_or(i32::MAX)).collect();
        let last = b.integers(&format!("{name} ends"), &[frames], last)?;
        let by_sample = b.transpose(name, mask, &[1, 0])?;
        let by_frame = b.gather(name, by_sample, last)?;
        b.transpose(name, by_frame, &[1, 0])
    }

    /// The norm of each channel over the real part of time: `[batch, channels, 1, time]`.
    fn norm_over_time(&self, b: &mut Build<'_>, name: &str, x: ValueId, mask: ValueId) -> Built {
        let &[batch, channels, _, time] = &b.dims(x)[..] else {
            return Err(crate::blocks::malformed(name, "has no four dimensions"));
        };
        let real = self.real(b, name, mask, 1)?;
        let real = b.reshape(name, real, &[batch, 1, 1, time])?;
        let count = b.reduce(name, Reduction::Sum, real, 3, true)?;
        // Where nothing is real, nothing is divided by 0.
        let least = b.scalar("least frames", 1.0)?;
        let count = b.binary(name, Binary::Max, count, least)?;
        let mean_of = |b: &mut Build<'_>, x: ValueId| {
            let sum = b.reduce(name, Reduction::Sum, x, 3, true)?;
            b.binary(name, Binary::Div, sum, count)
        };
        let masked = b.mul(name, x, real)?;
        let mean = mean_of(b, masked)?;
        let centred = b.binary(name, Binary::Sub, x, mean)?;
        let masked = b.mul(name, centred, real)?;
        let squares = b.mul(name, masked, masked)?;
        let variance = mean_of(b, squares)?;
        let epsilon = b.scalar("epsilon", EPSILON)?;
        let variance = b.add(name, variance, epsilon)?;
        let deviation = b.unary(name, Unary::Sqrt, variance)?;
        let x = b.binary(name, Binary::Div, centred, deviation)?;
        let mut affine = |part: &str| {
            let weight = b.weight(&format!("{name}.{part}"), &[channels])?;
            b.reshape(name, weight, &[1, channels, 1, 1])
        };
        let (scale, shift) = (affine("weight")?, affine("bias")?);
        let x = b.mul(name, x, scale)?;
        b.add(name, x, shift)
    }

    /// The convolutions: `[batch, samples]` to `[batch, frames, channels]`.
    fn features(&self, b: &mut Build<'_>, mask: ValueId) -> Built {
        let samples = b.input(INPUT_VALUES)?;
        let mut x = b.reshape(INPUT_VALUES, samples, &[b.batch, 1, 1, b.sequence])?;
        for (index, c) in self.convolutions.iter().enumerate() {
            let base = format!("{}feature_extractor.conv_layers.{index}", self.prefix);
            x = convolve(b, &format!("{base}.conv"), x, [c.channels, c.kernel], c.stride, [0, 0], self.bias)?;
            let norm = format!("{base}.layer_norm");
            x = match self.norm {
                Norm::Time if index == 0 => self.norm_over_time(b, &norm, x, mask)?,
                Norm::Time => x,
                Norm::Channels => {
                    let turned = b.transpose(&norm, x, &[0, 2, 3, 1])?;
                    let normed = b.norm(&norm, turned, EPSILON)?;
                    b.transpose(&norm, normed, &[0, 3, 1, 2])?
                }
            };
            x = b.unary(&format!("{base}.activation"), self.activation, x)?;
        }
        let &[batch, channels, _, frames] = &b.dims(x)[..] else {
            return Err(crate::blocks::malformed("feature_extractor", "has no four dimensions"));
        };
        let x = b.reshape("feature_extractor", x, &[batch, channels, frames])?;
        b.transpose("feature_extractor", x, &[0, 2, 1])
    }

    /// The weight of the convolution that gives positions: directions of length one over all but the kernel's dimension,
    /// and their lengths. It depends on no run.
    fn position_weight(&self, b: &mut Build<'_>, name: &str) -> Built {
        let (hidden, kernel) = (self.layer.hidden, self.kernel);
        let inner = hidden / self.groups;
        let newer = format!("{name}.parametrizations.weight.original1");
        let (lengths, directions) = if b.has(&newer) {
            (format!("{name}.parametrizations.weight.original0"), newer)
        } else {
            (format!("{name}.weight_g"), format!("{name}.weight_v"))
        };
        let lengths = b.weight(&lengths, &[1, 1, kernel])?;
        let directions = b.weight(&directions, &[hidden, inner, kernel])?;
        let squares = b.mul(name, directions, directions)?;
        let squares = b.reshape(name, squares, &[hidden * inner, kernel])?;
        let squares = b.reduce(name, Reduction::Sum, squares, 0, true)?;
        let length = b.unary(name, Unary::Sqrt, squares)?;
        let length = b.reshape(name, length, &[1, 1, kernel])?;
        let factor = b.binary(name, Binary::Div, lengths, length)?;
        b.mul(name, directions, factor)
    }

    /// What is added to each frame for where it stands among the others.
    fn positions(&self, b: &mut Build<'_>, x: ValueId) -> Built {
        let name = format!("{}encoder.pos_conv_embed.conv", self.prefix);
        let (batch, frames, hidden) = (b.batch, b.dims(x)[1], self.layer.hidden);
        let weight = self.position_weight(b, &name)?;
        let bias = b.weight(&format!("{name}.bias"), &[hidden])?;
        let turned = b.transpose(&name, x, &[0, 2, 1])?;
        let turned = b.reshape(&name, turned, &[batch, hidden, 1, frames])?;
        let half = self.kernel / 2;
        // Of an even kernel the reference pads as much on either side, and drops the last frame.
        let padding = [half, self.kernel - 1 - half];
        let y = convolve_with(b, &name, [turned, weight], Some(bias), 1, padding, self.groups)?;
        let y = b.unary(&name, self.activation, y)?;
        let y = b.reshape(&name, y, &[batch, hidden, frames])?;
        b.transpose(&name, y, &[0, 2, 1])
    }
}

impl Family for Wav2Vec2 {
    fn entries(&self) -> Vec<Entry> {
        let samples = [Dim::Batch, Dim::Sequence];
        let vectors = |name, width| OutputSpec::new(name, &[Dim::Batch, Dim::Frames, Dim::Fixed(width)]);
        let mut outputs: Vec<_> = self.vocabulary.iter().map(|&size| vectors(LOGITS, size)).collect();
        outputs.push(vectors(LAST_HIDDEN_STATE, self.layer.hidden));
        let mut signature = Signature::new(vec![InputSpec::floats(INPUT_VALUES, &samples), InputSpec::mask()], outputs);
        signature.convolutions = self.convolutions.iter().map(|c| [c.kernel, c.stride]).collect();
        // The widest values are those of the first convolutions, counted for each frame of the last.
        let mut stride = 1;
        let mut widest = self.layer.hidden.max(self.layer.intermediate);
        for c in &self.convolutions {
            stride *= c.stride;
            widest = widest.max(c.channels * self.stride().div_ceil(stride));
        }
        let ladder = Ladder::samples(self.stride(), self.layer.heads, widest);
        vec![Entry { name: "model", signature, ladder }]
    }

    fn build(&self, _entry: &str, b: &mut Build<'_>) -> Result<(), ModelError> {
        let name = |part: &str| format!("{}{part}", self.prefix);
        let hidden = self.layer.hidden;
        let mask = b.input(ATTENTION_MASK)?;
        let mask = b.float(ATTENTION_MASK, mask)?;
        let features = self.features(b, mask)?;
        let features = b.norm(&name("feature_projection.layer_norm"), features, self.layer.epsilon)?;
        let channels = b.width(features);
        let x = b.linear(&name("feature_projection.projection"), features, [hidden, channels], true)?;
        let real = self.real(b, "frames", mask, self.convolutions.len())?;
        let bias = b.mask_bias(real)?;
        let frames = b.dims(x)[1];
        let real = b.reshape("frames", real, &[b.batch, frames, 1])?;
        let x = b.mul(&name("encoder.masked"), x, real)?;
        let positions = self.positions(b, x)?;
        let mut x = b.add(&name("encoder.positions"), x, positions)?;
        let norm = name("encoder.layer_norm");
        if self.layer.order == Order::NormLast {
            x = b.norm(&norm, x, self.layer.epsilon)?;
        }
        for layer in 0..self.layers {
            x = self.layer.build(b, &name(&format!("encoder.layers.{layer}")), x, &[bias], None)?;
        }
        if self.layer.order == Order::NormFirst {
            x = b.norm(&norm, x, self.layer.epsilon)?;
        }
        b.offer(LAST_HIDDEN_STATE, x);
        if let Some(vocabulary) = self.vocabulary {
            let logits = b.linear("lm_head", x, [vocabulary, hidden], true)?;
            b.offer(LOGITS, logits);
        }
        Ok(())
    }
}
