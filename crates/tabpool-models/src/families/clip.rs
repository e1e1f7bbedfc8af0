//! CLIP: a tower for texts and one for pictures, whose vectors are compared.

use tabpool_graph::{Binary, Op, Unary, ValueId};

use crate::ModelError;
use crate::blocks::{Build, Built, Layer, Names, Order, Patches};
use crate::bucket::Ladder;
use crate::comparison::Learned;
use crate::family::{Family, Source};
use crate::fields::Fields;
use crate::model::Entry;
use crate::signature::{ATTENTION_MASK, Dim, INPUT_IDS, InputSpec, OutputSpec, PIXEL_VALUES, Signature};

pub(crate) const LOGITS_PER_IMAGE: &str = "logits_per_image";
pub(crate) const LOGITS_PER_TEXT: &str = "logits_per_text";
pub(crate) const IMAGE_EMBEDS: &str = "image_embeds";
pub(crate) const TEXT_EMBEDS: &str = "text_embeds";
pub(crate) const TEXT_HIDDEN: &str = "text_last_hidden_state";
pub(crate) const TEXT_POOLED: &str = "text_pooler_output";
pub(crate) const VISION_HIDDEN: &str = "vision_last_hidden_state";
pub(crate) const VISION_POOLED: &str = "vision_pooler_output";

/// The names of a layer's parts in the towers of CLIP and of what was made after it.
const NAMES: Names = Names {
    query: "self_attn.q_proj",
    key: "self_attn.k_proj",
    value: "self_attn.v_proj",
    output: "self_attn.out_proj",
    attention_norm: "layer_norm1",
    up: "mlp.fc1",
    down: "mlp.fc2",
    norm: "layer_norm2",
};

/// What a tower is where its configuration says nothing.
pub(crate) struct Defaults {
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) intermediate: usize,
    pub(crate) activation: &'static str,
    pub(crate) epsilon: f64,
}

/// A stack of layers of a tower.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    pub(crate) layer: Layer,
    pub(crate) layers: usize,
}

impl Stack {
    pub(crate) fn read(config: &Fields, defaults: &Defaults) -> Result<Self, ModelError> {
        let hidden = config.size_or("hidden_size", 1..=1 << 16, defaults.hidden)?;
        let heads = config.size_or("num_attention_heads", 1..=1024, defaults.heads)?;
        if !hidden.is_multiple_of(heads) {
            return Err(config.refuse("num_attention_heads", &format!("which does not divide hidden_size = {hidden}")));
        }
        let layer = Layer {
            names: NAMES,
            order: Order::NormFirst,
            hidden,
            heads,
            intermediate: config.size_or("intermediate_size", 1..=1 << 20, defaults.intermediate)?,
            activation: config.activation("hidden_act", defaults.activation)?,
            epsilon: config.epsilon_or("layer_norm_eps", defaults.epsilon)?,
            biases: true,
            key_bias: true,
        };
        Ok(Self { layer, layers: config.size_or("num_hidden_layers", 1..=512, 12)? })
    }

    /// All layers.
    pub(crate) fn build(
        &self,
        b: &mut Build<'_>,
        base: &str,
        mut x: ValueId,
        biases: &[ValueId],
        start: Option<ValueId>,
    ) -> Built {
        for index in 0..self.layers {
            x = self.layer.build(b, &format!("{base}.layers.{index}"), x, biases, start)?;
        }
        Ok(x)
    }

    pub(crate) fn width(&self) -> usize {
        self.layer.hidden.max(self.layer.intermediate)
    }
}

/// The text tower.
#[derive(Clone, Debug)]
struct Text {
    stack: Stack,
    vocabulary: usize,
    positions: usize,
    /// The id at which a text is pooled, the first of its kind; `None` where it is the largest id.
    pooled_at: Option<i32>,
}

/// The vision tower.
#[derive(Clone, Debug)]
struct Vision {
    stack: Stack,
    patches: Patches,
}

/// A model of the family.
#[derive(Clone, Debug)]
struct Clip {
    text: Text,
    vision: Vision,
    projection: usize,
}

/// Reads CLIP.
pub(crate) fn read(source: &Source<'_>) -> Result<Box<dyn Family>, ModelError> {
    if source.task.is_some() {
        return Err(source.refuse_task("whole models, CLIPModel,"));
    }
    let text = tower(source.config, "text_config")?;
    let vision = tower(source.config, "vision_config")?;
    let activation = "quick_gelu";
    let stack = Stack::read(&text, &Defaults { hidden: 512, heads: 8, intermediate: 2048, activation, epsilon: 1e-5 })?;
    let vocabulary = text.size_or("vocab_size", 2..=1 << 26, 49408)?;
    let eos = text.ids("eos_token_id")?.first().copied().unwrap_or(49407);
    let text = Text {
        stack,
        vocabulary,
        positions: text.size_or("max_position_embeddings", 1..=1 << 20, 77)?,
        // Configurations of before transformers 4.31 say 2, whatever the tokenizer's id is.
        pooled_at: (eos != 2).then_some(eos),
    };
    let stack =
        Stack::read(&vision, &Defaults { hidden: 768, heads: 12, intermediate: 3072, activation, epsilon: 1e-5 })?;
    let vision = Vision { stack, patches: Patches::read(&vision, 224, 32)? };
    let projection = source.config.size_or("projection_dim", 1..=1 << 16, 512)?;
    Ok(Box::new(Clip { text, vision, projection }))
}

/// The configuration of a tower. Some files say the same twice and differently; the second one counts.
pub(crate) fn tower(config: &Fields, key: &str) -> Result<Fields, ModelError> {
    match config.nested_or_none(&format!("{key}_dict"))? {
        Some(newer) => Ok(config.nested(key)?.overlaid(newer)),
        None => config.nested(key),
    }
}

impl Text {
    fn padding(&self) -> i32 {
        // What is after a text's end is never seen, but must not be taken for the end.
        i32::from(self.pooled_at == Some(0))
    }

    fn build(&self, b: &mut Build<'_>, projection: usize) -> Result<ValueId, ModelError> {
        let hidden = self.stack.layer.hidden;
        let name = |part: &str| format!("text_model.{part}");
        let (ids, mask) = (b.input(INPUT_IDS)?, b.input(ATTENTION_MASK)?);
        let table = b.weight(&name("embeddings.token_embedding.weight"), &[self.vocabulary, hidden])?;
        let tokens = b.gather(&name("embeddings.token_embedding"), table, ids)?;
        let part = name("embeddings.position_embedding");
        let table = b.weight(&format!("{part}.weight"), &[self.positions, hidden])?;
        let positions = b.slice(&part, table, 0, 0, b.sequence)?;
        let x = b.add(&name("embeddings"), tokens, positions)?;
        let mask = b.float(ATTENTION_MASK, mask)?;
        let bias = b.mask_bias(mask)?;
        let start = b.integers("start", &[1], vec![0])?;
        let x = self.stack.build(b, &name("encoder"), x, &[bias], Some(start))?;
        let x = b.norm(&name("final_layer_norm"), x, self.stack.layer.epsilon)?;
        b.offer(TEXT_HIDDEN, x);
        let pooled = self.pool(b, ids, x)?;
        let features = b.linear("text_projection", pooled, [projection, hidden], false)?;
        b.offer(TEXT_POOLED, features);
        let embeds = b.node(TEXT_EMBEDS, Op::L2Normalize { epsilon: 1e-12 }, &[features])?;
        b.offer(TEXT_EMBEDS, embeds);
        Ok(embeds)
    }

    /// The vector at the end of each text.
    fn pool(&self, b: &mut Build<'_>, ids: ValueId, hidden: ValueId) -> Built {
        let (batch, sequence, width) = (b.batch, b.sequence, self.stack.layer.hidden);
        let ranked = match self.pooled_at {
            None => ids,
            Some(end) => {
                // 0 at the ends and less elsewhere, so that the first end is the first of the largest.
                let end = b.integers("end", &[1], vec![end])?;
                let one = b.integers("one", &[1], vec![1])?;
                let (above, below) = (b.binary("end", Binary::Sub, ids, end)?, b.binary("end", Binary::Sub, end, ids)?);
                let distance = b.binary("end", Binary::Max, above, below)?;
                let other = b.binary("end", Binary::Min, distance, one)?;
                b.binary("end", Binary::Sub, one, other)?
            }
        };
        let ends = b.node("end", Op::ArgMax, &[ranked])?;
        let first = (0..batch).map(|row| i32::try_from(row * sequence).unwrap_or(i32::MAX)).collect();
        let first = b.integers("first of each text", &[batch], first)?;
        let rows = b.add("end", ends, first)?;
        let all = b.reshape("end", hidden, &[batch * sequence, width])?;
        b.gather("text_model.pooled", all, rows)
    }
}

impl Vision {
    fn tokens(&self) -> usize {
        self.patches.tokens() + 1
    }

    fn build(&self, b: &mut Build<'_>, projection: usize) -> Result<ValueId, ModelError> {
        let Layer { hidden, epsilon, .. } = self.stack.layer;
        let name = |part: &str| format!("vision_model.{part}");
        let pixels = b.input(PIXEL_VALUES)?;
        let patches = self.patches.embed(b, &name("embeddings.patch_embedding"), pixels, hidden, false)?;
        let part = name("embeddings.class_embedding");
        let class = b.weight(&part, &[hidden])?;
        let class = b.for_each_sequence(&part, class)?;
        let x = b.concat(&name("embeddings.tokens"), 1, &[class, patches])?;
        let part = name("embeddings.position_embedding");
        let learned = self.patches.trained_tokens();
        let table = b.weight(&format!("{part}.weight"), &[learned + 1, hidden])?;
        let of_class = b.slice(&part, table, 0, 0, 1)?;
        let of_class = b.reshape(&part, of_class, &[1, 1, hidden])?;
        let of_patches = b.slice(&part, table, 0, 1, learned)?;
        let of_patches = self.patches.positions(b, &part, of_patches)?;
        let positions = b.concat(&part, 1, &[of_class, of_patches])?;
        let x = b.add(&name("embeddings"), x, positions)?;
        let x = b.norm(&name("pre_layrnorm"), x, epsilon)?;
        let x = self.stack.build(b, &name("encoder"), x, &[], None)?;
        b.offer(VISION_HIDDEN, x);
        let class = b.at(&name("class token"), x, 0)?;
        let pooled = b.norm(&name("post_layernorm"), class, epsilon)?;
        let features = b.linear("visual_projection", pooled, [projection, hidden], false)?;
        b.offer(VISION_POOLED, features);
        let embeds = b.node(IMAGE_EMBEDS, Op::L2Normalize { epsilon: 1e-12 }, &[features])?;
        b.offer(IMAGE_EMBEDS, embeds);
        Ok(embeds)
    }
}

/// The outputs of a tower: its vectors, the pooled one before and after it is scaled to length one.
pub(crate) fn outputs(
    names: [&'static str; 3],
    rows: Dim,
    tokens: Dim,
    hidden: usize,
    pooled: usize,
) -> Vec<OutputSpec> {
    vec![
        OutputSpec::new(names[0], &[rows, Dim::Fixed(pooled)]),
        OutputSpec::new(names[1], &[rows, tokens, Dim::Fixed(hidden)]),
        OutputSpec::new(names[2], &[rows, Dim::Fixed(pooled)]),
    ]
}

/// The input of a vision tower, for so many pictures.
pub(crate) fn pixels(patches: &Patches, rows: Dim) -> InputSpec {
    let [height, width] = patches.picture;
    InputSpec::floats(PIXEL_VALUES, &[rows, Dim::Fixed(patches.channels), Dim::Fixed(height), Dim::Fixed(width)])
}

impl Clip {
    fn text_entry(&self) -> Entry {
        let Text { stack, vocabulary, positions, .. } = &self.text;
        let inputs =
            vec![InputSpec::ids(INPUT_IDS, Dim::Sequence, *vocabulary, self.text.padding()), InputSpec::mask()];
        let names = [TEXT_EMBEDS, TEXT_HIDDEN, TEXT_POOLED];
        let outputs = outputs(names, Dim::Batch, Dim::Sequence, stack.layer.hidden, self.projection);
        let ladder = Ladder::tokens(*positions, stack.layer.heads, stack.width());
        Entry { name: "text", signature: Signature::new(inputs, outputs), ladder }
    }

    fn vision_entry(&self, rows: Dim) -> Entry {
        let Vision { stack, patches } = &self.vision;
        let tokens = self.vision.tokens();
        let names = [IMAGE_EMBEDS, VISION_HIDDEN, VISION_POOLED];
        let outputs = outputs(names, rows, Dim::Fixed(tokens), stack.layer.hidden, self.projection);
        let ladder = Ladder::fixed(1, tokens, stack.layer.heads, stack.width());
        Entry { name: "vision", signature: Signature::new(vec![pixels(patches, rows)], outputs), ladder }
    }
}

/// The entry point of a model of two towers, out of those of the towers.
pub(crate) fn both(text: &Entry, other: &Entry, logits: [&'static str; 2], positions: usize) -> Entry {
    let mut outputs = vec![
        OutputSpec::new(logits[0], &[Dim::Media, Dim::Batch]),
        OutputSpec::new(logits[1], &[Dim::Batch, Dim::Media]),
    ];
    outputs.extend(other.signature.outputs.iter().chain(&text.signature.outputs).cloned());
    let inputs = text.signature.inputs.iter().chain(&other.signature.inputs).cloned().collect();
    let mut ladder = text.ladder.clone().beside(positions);
    ladder.heads = ladder.heads.max(other.ladder.heads);
    ladder.width = ladder.width.max(other.ladder.width);
    Entry { name: "model", signature: Signature::new(inputs, outputs), ladder }
}

impl Family for Clip {
    fn entries(&self) -> Vec<Entry> {
        let logits = [LOGITS_PER_IMAGE, LOGITS_PER_TEXT];
        let text = self.text_entry();
        let whole = both(&text, &self.vision_entry(Dim::Media), logits, self.vision.tokens());
        vec![whole, text, self.vision_entry(Dim::Batch)]
    }

    fn build(&self, entry: &str, b: &mut Build<'_>) -> Result<(), ModelError> {
        let text = if entry == "vision" { None } else { Some(self.text.build(b, self.projection)?) };
        let image = if entry == "text" { None } else { Some(self.vision.build(b, self.projection)?) };
        if let (Some(text), Some(image)) = (text, image) {
            let scale = b.weight("logit_scale", &[])?;
            let scale = b.unary("logit_scale", Unary::Exp, scale)?;
            for (name, left, right) in [(LOGITS_PER_TEXT, text, image), (LOGITS_PER_IMAGE, image, text)] {
                let logits = b.node(name, Op::MatMul { transpose_b: true }, &[left, right])?;
                let logits = b.mul(name, logits, scale)?;
                b.offer(name, logits);
            }
        }
        Ok(())
    }

    fn learned(&self) -> Option<Learned> {
        Some(Learned { scale: "logit_scale", bias: None, exclusive: true })
    }

    fn resized(&self, picture: [usize; 2]) -> Result<Option<Box<dyn Family>>, ModelError> {
        let patches = self.vision.patches.resized(picture)?;
        Ok(Some(Box::new(Self { vision: Vision { patches, ..self.vision.clone() }, ..self.clone() })))
    }
}
