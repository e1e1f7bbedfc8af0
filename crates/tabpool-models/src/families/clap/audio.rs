//! CLAP's tower for sounds: a spectrogram folded into a square picture, and a Swin transformer over it, whose layers
//! attend within windows that are shifted in every second one.

use tabpool_graph::{Binary, Op, Reduction, Unary, ValueId};

use crate::ModelError;
use crate::blocks::{Build, Built, Ends, Heads, malformed, stretched};
use crate::bucket::Ladder;
use crate::fields::Fields;

/// The epsilon of PyTorch's norms where nothing else is said.
const EPSILON: f32 = 1e-5;
/// What is added to scores between parts of a picture that only a shift has made neighbours.
const APART: f32 = -100.0;
const PREFIX: &str = "audio_model.audio_encoder.";

/// The tower.
#[derive(Debug)]
pub(super) struct Audio {
    /// Frames and mel bins of a spectrogram.
    pub(super) frames: usize,
    pub(super) mels: usize,
    /// Height and width of the picture it becomes.
    side: usize,
    patch: usize,
    stride: usize,
    width: usize,
    depths: Vec<usize>,
    heads: Vec<usize>,
    window: usize,
    /// By how much networks inside are wider.
    ratio: f64,
    activation: Unary,
    epsilon: f32,
    bias: bool,
    patch_norm: bool,
}

/// Where a stage's layers stand.
#[derive(Clone, Copy)]
struct Stage {
    /// Vectors down, as many across.
    side: usize,
    width: usize,
    heads: usize,
    window: usize,
}

impl Audio {
    pub(super) fn read(config: &Fields, frames: usize) -> Result<Self, ModelError> {
        config.refuse_flag("enable_fusion", "fusing parts of long sounds is not supported")?;
        if !config.flag_or("flatten_patch_embeds", true)? {
            return Err(config.refuse("flatten_patch_embeds", "only true is supported"));
        }
        if config.size_or("patch_embed_input_channels", 1..=64, 1)? != 1 {
            return Err(config.refuse("patch_embed_input_channels", "only 1 is supported"));
        }
        let strides = config.pair_or("patch_stride", 1..=256, 4)?;
        if strides[0] != strides[1] {
            return Err(config.refuse("patch_stride", "only equal strides are supported"));
        }
        let audio = Self {
            frames,
            mels: config.size_or("num_mel_bins", 1..=1024, 64)?,
            side: config.size_or("spec_size", 1..=1 << 12, 256)?,
            patch: config.size_or("patch_size", 1..=256, 4)?,
            stride: strides[0],
            width: config.size_or("patch_embeds_hidden_size", 1..=1 << 12, 96)?,
            depths: config.sizes_or("depths", 1..=64, &[2, 2, 6, 2])?,
            heads: config.sizes_or("num_attention_heads", 1..=256, &[4, 8, 16, 32])?,
            window: config.size_or("window_size", 1..=16, 8)?,
            ratio: config.positive_or("mlp_ratio", 4.0)?,
            activation: config.activation("hidden_act", "gelu")?,
            epsilon: config.epsilon_or("layer_norm_eps", 1e-5)?,
            bias: config.flag_or("qkv_bias", true)?,
            patch_norm: config.flag_or("enable_patch_layer_norm", true)?,
        };
        audio.check(config)?;
        Ok(audio)
    }

    /// Refuses sizes that do not divide each other as the reference needs it.
    fn check(&self, config: &Fields) -> Result<(), ModelError> {
        if !self.side.is_multiple_of(self.mels) || !self.side.is_multiple_of(self.folds()) {
            return Err(config.refuse("num_mel_bins", &format!("which does not divide spec_size = {}", self.side)));
        }
        if self.frames > self.side * self.folds() {
            let reason = format!("too small for the {} frames of the longest sound", self.frames);
            return Err(config.refuse("spec_size", &reason));
        }
        if self.patch < self.stride || !(self.patch - self.stride).is_multiple_of(2) {
            return Err(config.refuse("patch_size", &format!("not patch_stride = {} and an even number", self.stride)));
        }
        if self.heads.len() != self.depths.len() || self.depths.len() > 8 {
            return Err(config.refuse("depths", "not up to 8 numbers, as many as num_attention_heads has"));
        }
        #[expect(clippy::cast_precision_loss, reason = "at most 2^19")]
        let widest = self.ratio * self.last_width() as f64;
        if widest > 1e6 {
            return Err(config.refuse("mlp_ratio", "too large"));
        }
        for index in 0..self.depths.len() {
            let Stage { side, width, heads, window } = self.stage(index);
            if side == 0 || (side << index) * self.stride != self.side {
                return Err(
                    config.refuse("spec_size", "not divided by patch_stride and by 2 for each stage but the last")
                );
            }
            if window == 0 || self.window > side || !side.is_multiple_of(window) {
                let reason = format!("which does not divide the {side} vectors across of stage {index}");
                return Err(config.refuse("window_size", &reason));
            }
            if !width.is_multiple_of(heads) {
                let reason = format!("of which {heads} does not divide the width {width} of stage {index}");
                return Err(config.refuse("num_attention_heads", &reason));
            }
        }
        if !self.bands().is_multiple_of(self.folds()) || self.bands() < self.folds() {
            return Err(config.refuse("num_mel_bins", "too few for the number of stages"));
        }
        Ok(())
    }

    /// Into how many parts time is folded.
    fn folds(&self) -> usize {
        (self.side / self.mels.max(1)).max(1)
    }

    fn stage(&self, index: usize) -> Stage {
        let side = (self.side / self.stride) >> index;
        let (width, heads) = (self.width << index, self.heads.get(index).copied().unwrap_or(1));
        Stage { side, width, heads, window: self.window.min(side) }
    }

    fn last_width(&self) -> usize {
        self.width << (self.depths.len() - 1)
    }

    /// Vectors down and across after the last stage.
    fn bands(&self) -> usize {
        self.stage(self.depths.len() - 1).side
    }

    fn inner(&self, width: usize) -> usize {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the product was checked to be at most 10^6 and is not negative"
        )]
        let inner = (self.ratio * width as f64) as usize;
        inner.max(1)
    }

    /// Channels, groups of frequencies, and times of its vectors.
    pub(super) fn output(&self) -> [usize; 3] {
        let groups = self.bands() / self.folds();
        [self.last_width(), groups, self.folds() * self.bands()]
    }

    /// How many vectors the first stage has.
    pub(super) fn positions(&self) -> usize {
        self.stage(0).side * self.stage(0).side
    }

    pub(super) fn ladder(&self) -> Ladder {
        let pixels = (self.side * self.side).div_ceil(self.positions());
        // Attention within windows has fewer scores than attention to everything would have.
        Ladder::fixed(1, self.positions(), 1, self.inner(self.width).max(3 * self.last_width()).max(pixels))
    }

    /// The vectors of each sound, and their mean: `[batch, channels, groups, times]` and `[batch, channels]`.
    pub(super) fn build(&self, b: &mut Build<'_>) -> Result<(ValueId, ValueId), ModelError> {
        let name = |part: &str| format!("{PREFIX}{part}");
        let picture = self.picture(b)?;
        let mut x = self.patches(b, picture)?;
        for (index, &depth) in self.depths.iter().enumerate() {
            let stage = self.stage(index);
            for layer in 0..depth {
                let base = name(&format!("layers.{index}.blocks.{layer}"));
                x = self.layer(b, &base, stage, layer % 2 == 1, x)?;
            }
            if index + 1 < self.depths.len() {
                x = self.merged(b, &name(&format!("layers.{index}.downsample")), stage, x)?;
            }
        }
        let x = b.norm(&name("norm"), x, EPSILON)?;
        let (batch, bands, folds) = (b.batch, self.bands(), self.folds());
        let [channels, groups, times] = self.output();
        let x = b.transpose(&name("norm"), x, &[0, 2, 1])?;
        let pooled = b.reduce(&name("pooled"), Reduction::Mean, x, 2, false)?;
        let x = b.reshape(&name("folded"), x, &[batch, channels, folds, groups, bands])?;
        let x = b.transpose(&name("folded"), x, &[0, 1, 3, 2, 4])?;
        Ok((b.reshape(&name("folded"), x, &[batch, channels, groups, times])?, pooled))
    }

    /// The spectrogram, each mel bin normalised by stored statistics, stretched to the whole picture and folded.
    fn picture(&self, b: &mut Build<'_>) -> Built {
        let name = format!("{PREFIX}batch_norm");
        let features = b.input(crate::signature::INPUT_FEATURES)?;
        let mut statistic = |part: &str| b.weight(&format!("{name}.{part}"), &[self.mels]);
        let (mean, variance) = (statistic("running_mean")?, statistic("running_var")?);
        let (weight, bias) = (statistic("weight")?, statistic("bias")?);
        let epsilon = b.scalar("epsilon", EPSILON)?;
        let variance = b.add(&name, variance, epsilon)?;
        let deviation = b.unary(&name, Unary::Sqrt, variance)?;
        let scale = b.binary(&name, Binary::Div, weight, deviation)?;
        let shift = b.mul(&name, mean, scale)?;
        let shift = b.binary(&name, Binary::Sub, bias, shift)?;
        let x = b.mul(&name, features, scale)?;
        let mut x = b.add(&name, x, shift)?;
        let (folds, side) = (self.folds(), self.side);
        let times = side * folds;
        if self.frames < times {
            // Time goes to the front, is stretched there, and comes back.
            let turned = b.reshape("stretch", x, &[b.batch, self.frames, self.mels])?;
            let turned = b.transpose("stretch", turned, &[1, 0, 2])?;
            let long = stretched(b, "stretch", turned, times, Ends::Corners)?;
            x = b.transpose("stretch", long, &[1, 0, 2])?;
        }
        let x = b.reshape("fold", x, &[b.batch, folds, side, self.mels])?;
        let x = b.transpose("fold", x, &[0, 1, 3, 2])?;
        b.reshape("fold", x, &[b.batch, 1, side, side])
    }

    fn patches(&self, b: &mut Build<'_>, picture: ValueId) -> Built {
        let name = format!("{PREFIX}patch_embed.proj");
        let weight = b.weight(&format!("{name}.weight"), &[self.width, 1, self.patch, self.patch])?;
        let bias = b.weight(&format!("{name}.bias"), &[self.width])?;
        let padding = [(self.patch - self.stride) / 2; 4];
        let op = Op::Conv2d { stride: [self.stride; 2], padding, dilation: [1; 2], groups: 1, activation: None };
        let x = b.node(&name, op, &[picture, weight, bias])?;
        let x = b.reshape(&name, x, &[b.batch, self.width, self.positions()])?;
        let x = b.transpose(&name, x, &[0, 2, 1])?;
        if self.patch_norm { b.norm(&format!("{PREFIX}patch_embed.norm"), x, EPSILON) } else { Ok(x) }
    }

    fn layer(&self, b: &mut Build<'_>, base: &str, stage: Stage, odd: bool, x: ValueId) -> Built {
        let name = |part: &str| format!("{base}.{part}");
        let Stage { side, width, window, .. } = stage;
        let normed = b.norm(&name("layernorm_before"), x, self.epsilon)?;
        // Where there is one window only, there is nothing to shift.
        let shift = if odd && side > window { window / 2 } else { 0 };
        let attended = self.attention(b, &name("attention"), stage, shift, normed)?;
        let x = b.add(&name("attention.residual"), attended, x)?;
        let normed = b.norm(&name("layernorm_after"), x, self.epsilon)?;
        let inner = self.inner(width);
        let up = b.linear(&name("intermediate.dense"), normed, [inner, width], true)?;
        let up = b.unary(&name("intermediate.activation"), self.activation, up)?;
        let down = b.linear(&name("output.dense"), up, [width, inner], true)?;
        b.add(&name("residual"), down, x)
    }

    /// Attention within windows. Windows are heads of their own, `[batch, window^2, windows * width]`: what is added to
    /// scores then differs between windows and heads, and not between sounds.
    fn attention(&self, b: &mut Build<'_>, base: &str, stage: Stage, shift: usize, x: ValueId) -> Built {
        let Stage { side, width, heads, window } = stage;
        let (batch, across) = (b.batch, side / window);
        let (windows, size) = (across * across, window * window);
        let sizes = [width, width];
        let divided = |part: &str, b: &mut Build<'_>| {
            let name = format!("{base}.self.{part}");
            let y = b.linear(&name, x, sizes, self.bias)?;
            let y = b.reshape(&name, y, &[batch, side, side, width])?;
            let y = rolled(b, &name, y, shift)?;
            let y = b.reshape(&name, y, &[batch, across, window, across, window, width])?;
            let y = b.transpose(&name, y, &[0, 2, 4, 1, 3, 5])?;
            b.reshape(&name, y, &[batch, size, windows * width])
        };
        let (query, key, value) = (divided("query", b)?, divided("key", b)?, divided("value", b)?);
        let bias = self.bias(b, base, stage, shift)?;
        let all = Heads { queries: windows * heads, keys: windows * heads, ..Heads::of(heads, width) };
        let y = all.attend(b, base, [query, key, value], &[bias], None)?;
        let y = b.reshape(base, y, &[batch, window, window, across, across, width])?;
        let y = b.transpose(base, y, &[0, 3, 1, 4, 2, 5])?;
        let y = b.reshape(base, y, &[batch, side, side, width])?;
        let y = rolled(b, base, y, (side - shift) % side)?;
        let y = b.reshape(base, y, &[batch, side * side, width])?;
        b.linear(&format!("{base}.output.dense"), y, sizes, true)
    }

    /// What is added to scores, `[1, windows * heads, size, size]`: by how far positions are from each other, and where
    /// windows are shifted, whether they are neighbours in the picture. It depends on no run.
    fn bias(&self, b: &mut Build<'_>, base: &str, stage: Stage, shift: usize) -> Built {
        let Stage { side, heads, window, .. } = stage;
        let (windows, size, reach) = ((side / window) * (side / window), window * window, 2 * window - 1);
        let name = format!("{base}.self.relative_position_bias");
        let table = b.weight(&format!("{name}_table"), &[reach * reach, heads])?;
        let row = |from: usize, to: usize| {
            let down = from / window + window - 1 - to / window;
            let across = from % window + window - 1 - to % window;
            i32::try_from(down * reach + across).unwrap_or(i32::MAX)
        };
        let rows = (0..size).flat_map(|from| (0..size).map(move |to| row(from, to))).collect();
        let rows = b.integers(&format!("{name}_index"), &[size, size], rows)?;
        let bias = b.gather(&name, table, rows)?;
        let bias = b.transpose(&name, bias, &[2, 0, 1])?;
        let bias = b.reshape(&name, bias, &[1, heads, size, size])?;
        // The region of each position: 1 apart or more where a shift has joined what is not together.
        let region =
            |at: usize| usize::from(shift > 0 && at >= side - window) + usize::from(shift > 0 && at >= side - shift);
        let across = side / window;
        let of_position = |w: usize, p: usize| {
            let (down, right) = (w / across * window + p / window, w % across * window + p % window);
            #[expect(clippy::cast_precision_loss, reason = "at most 8")]
            let region = (region(down) * 3 + region(right)) as f32;
            region
        };
        let regions: Vec<f32> = (0..windows).flat_map(|w| (0..size).map(move |p| of_position(w, p))).collect();
        let columns = b.floats("regions", &[windows, 1, 1, size], regions.clone())?;
        let rows = b.floats("regions", &[windows, 1, size, 1], regions)?;
        let apart = b.binary("regions apart", Binary::Sub, rows, columns)?;
        let apart = b.unary("regions apart", Unary::Abs, apart)?;
        let one = b.scalar("one", 1.0)?;
        let apart = b.binary("regions apart", Binary::Min, apart, one)?;
        let apart = b.scaled("regions apart", apart, APART)?;
        let bias = b.add(&name, apart, bias)?;
        b.reshape(&name, bias, &[1, windows * heads, size, size])
    }

    /// Four neighbours become one vector of twice the width.
    fn merged(&self, b: &mut Build<'_>, base: &str, Stage { side, width, .. }: Stage, x: ValueId) -> Built {
        let (batch, half) = (b.batch, side / 2);
        let x = b.reshape(base, x, &[batch, half, 2, half, 2, width])?;
        // The reference takes the upper left, the lower left, the upper right and the lower right one, in this order.
        let x = b.transpose(base, x, &[0, 1, 3, 4, 2, 5])?;
        let x = b.reshape(base, x, &[batch, half * half, 4 * width])?;
        let x = b.norm(&format!("{base}.norm"), x, EPSILON)?;
        b.linear(&format!("{base}.reduction"), x, [2 * width, 4 * width], false)
    }
}

/// A picture `[batch, side, side, width]` moved up and to the left, what falls out coming in again on the other side.
fn rolled(b: &mut Build<'_>, name: &str, mut x: ValueId, by: usize) -> Built {
    if by == 0 {
        return Ok(x);
    }
    for axis in [1, 2] {
        let side = *b.dims(x).get(axis).ok_or_else(|| malformed(name, "is no picture"))?;
        let first = b.slice(name, x, axis, by, side - by)?;
        let second = b.slice(name, x, axis, 0, by)?;
        x = b.concat(name, axis, &[first, second])?;
    }
    Ok(x)
}
