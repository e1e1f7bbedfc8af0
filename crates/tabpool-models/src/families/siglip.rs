//! SigLIP: a tower for texts and one for pictures, compared pair by pair.
//!
//! Texts are read at one length, the longest that positions allow, padding included: that is how the model was trained, and
//! its last position is the one that is pooled. A shorter text is filled up with `pad_token_id`; where a tokenizer has
//! another padding, texts must be given at their full length.

use tabpool_graph::{Op, Unary, ValueId};

use super::clip::{
    Defaults, IMAGE_EMBEDS, LOGITS_PER_IMAGE, LOGITS_PER_TEXT, Stack, TEXT_EMBEDS, TEXT_HIDDEN, TEXT_POOLED,
    VISION_HIDDEN, VISION_POOLED, both, outputs, pixels, tower,
};
use crate::ModelError;
use crate::blocks::{Build, Built, Heads, Layer, Patches};
use crate::bucket::Ladder;
use crate::comparison::Learned;
use crate::family::{Family, Source};
use crate::model::Entry;
use crate::signature::{Dim, INPUT_IDS, InputSpec, PIXEL_VALUES, Signature};

const DEFAULTS: Defaults =
    Defaults { hidden: 768, heads: 12, intermediate: 3072, activation: "gelu_pytorch_tanh", epsilon: 1e-6 };

/// A model of the family.
#[derive(Clone, Debug)]
struct Siglip {
    text: Stack,
    vocabulary: usize,
    positions: usize,
    padding: i32,
    projection: usize,
    vision: Stack,
    patches: Patches,
}

/// Reads SigLIP.
pub(crate) fn read(source: &Source<'_>) -> Result<Box<dyn Family>, ModelError> {
    if source.task.is_some() {
        return Err(source.refuse_task("whole models, SiglipModel,"));
    }
    let (text, vision) = (tower(source.config, "text_config")?, tower(source.config, "vision_config")?);
    if !vision.flag_or("vision_use_head", true)? {
        return Err(vision.refuse("vision_use_head", "models without pooling of pictures are not supported"));
    }
    let text_stack = Stack::read(&text, &DEFAULTS)?;
    let vision_stack = Stack::read(&vision, &DEFAULTS)?;
    let vocabulary = text.size_or("vocab_size", 2..=1 << 26, 32000)?;
    let projection = text.size_or("projection_size", 1..=1 << 16, text_stack.layer.hidden)?;
    if projection != vision_stack.layer.hidden {
        let reason = format!("but vectors of pictures have {} elements", vision_stack.layer.hidden);
        return Err(text.refuse("projection_size", &reason));
    }
    Ok(Box::new(Siglip {
        vocabulary,
        positions: text.size_or("max_position_embeddings", 1..=1 << 14, 64)?,
        padding: i32::try_from(text.size_or("pad_token_id", 0..=vocabulary - 1, 1)?).unwrap_or(i32::MAX),
        projection,
        text: text_stack,
        vision: vision_stack,
        patches: Patches::read(&vision, 224, 16)?,
    }))
}

impl Siglip {
    fn text_entry(&self) -> Entry {
        let inputs = vec![InputSpec::ids(INPUT_IDS, Dim::Sequence, self.vocabulary, self.padding)];
        let names = [TEXT_EMBEDS, TEXT_HIDDEN, TEXT_POOLED];
        let outputs = outputs(names, Dim::Batch, Dim::Sequence, self.text.layer.hidden, self.projection);
        let ladder = Ladder::fixed(self.positions, self.positions, self.text.layer.heads, self.text.width());
        Entry { name: "text", signature: Signature::new(inputs, outputs), ladder }
    }

    fn vision_entry(&self, rows: Dim) -> Entry {
        let tokens = self.patches.tokens();
        let names = [IMAGE_EMBEDS, VISION_HIDDEN, VISION_POOLED];
        let hidden = self.vision.layer.hidden;
        let outputs = outputs(names, rows, Dim::Fixed(tokens), hidden, hidden);
        let ladder = Ladder::fixed(1, tokens, self.vision.layer.heads, self.vision.width());
        Entry { name: "vision", signature: Signature::new(vec![pixels(&self.patches, rows)], outputs), ladder }
    }

    fn read_text(&self, b: &mut Build<'_>) -> Built {
        let Layer { hidden, epsilon, .. } = self.text.layer;
        let name = |part: &str| format!("text_model.{part}");
        let ids = b.input(INPUT_IDS)?;
        let table = b.weight(&name("embeddings.token_embedding.weight"), &[self.vocabulary, hidden])?;
        let tokens = b.gather(&name("embeddings.token_embedding"), table, ids)?;
        let positions = b.weight(&name("embeddings.position_embedding.weight"), &[self.positions, hidden])?;
        let x = b.add(&name("embeddings"), tokens, positions)?;
        let x = self.text.build(b, &name("encoder"), x, &[], None)?;
        let x = b.norm(&name("final_layer_norm"), x, epsilon)?;
        b.offer(TEXT_HIDDEN, x);
        let last = b.at(&name("last token"), x, self.positions - 1)?;
        let pooled = b.linear(&name("head"), last, [self.projection, hidden], true)?;
        b.offer(TEXT_POOLED, pooled);
        let embeds = b.node(TEXT_EMBEDS, Op::L2Normalize { epsilon: 1e-12 }, &[pooled])?;
        b.offer(TEXT_EMBEDS, embeds);
        Ok(embeds)
    }

    fn see(&self, b: &mut Build<'_>) -> Built {
        let Layer { hidden, epsilon, .. } = self.vision.layer;
        let name = |part: &str| format!("vision_model.{part}");
        let seen = b.input(PIXEL_VALUES)?;
        let patches = self.patches.embed(b, &name("embeddings.patch_embedding"), seen, hidden, true)?;
        let part = name("embeddings.position_embedding");
        let table = b.weight(&format!("{part}.weight"), &[self.patches.trained_tokens(), hidden])?;
        let positions = self.patches.positions(b, &part, table)?;
        let x = b.add(&name("embeddings"), patches, positions)?;
        let x = self.vision.build(b, &name("encoder"), x, &[], None)?;
        let x = b.norm(&name("post_layernorm"), x, epsilon)?;
        b.offer(VISION_HIDDEN, x);
        let pooled = self.pool(b, &name("head"), x)?;
        b.offer(VISION_POOLED, pooled);
        let embeds = b.node(IMAGE_EMBEDS, Op::L2Normalize { epsilon: 1e-12 }, &[pooled])?;
        b.offer(IMAGE_EMBEDS, embeds);
        Ok(embeds)
    }

    /// One learned query over all vectors of a picture. Its projections lie in one matrix, as PyTorch's own attention has
    /// them.
    fn pool(&self, b: &mut Build<'_>, base: &str, x: ValueId) -> Built {
        let Layer { hidden, heads, epsilon, .. } = self.vision.layer;
        let name = |part: &str| format!("{base}.{part}");
        let probe = b.weight(&name("probe"), &[1, 1, hidden])?;
        let probe = b.for_each_sequence(&name("probe"), probe)?;
        let weight = b.weight(&name("attention.in_proj_weight"), &[3 * hidden, hidden])?;
        let bias = b.weight(&name("attention.in_proj_bias"), &[3 * hidden])?;
        let mut projected = |index: usize, x: ValueId| {
            let part = name("attention.in_proj");
            let weight = b.slice(&part, weight, 0, index * hidden, hidden)?;
            let bias = b.slice(&part, bias, 0, index * hidden, hidden)?;
            b.node(&part, Op::LINEAR, &[x, weight, bias])
        };
        let (query, key, value) = (projected(0, probe)?, projected(1, x)?, projected(2, x)?);
        let attended = Heads::of(heads, hidden).attend(b, &name("attention"), [query, key, value], &[], None)?;
        let attended = b.linear(&name("attention.out_proj"), attended, [hidden, hidden], true)?;
        let normed = b.norm(&name("layernorm"), attended, epsilon)?;
        let network = self.vision.layer.network(b, base, normed)?;
        let sum = b.add(&name("residual"), network, attended)?;
        b.at(base, sum, 0)
    }
}

impl Family for Siglip {
    fn entries(&self) -> Vec<Entry> {
        let logits = [LOGITS_PER_IMAGE, LOGITS_PER_TEXT];
        let text = self.text_entry();
        let whole = both(&text, &self.vision_entry(Dim::Media), logits, self.patches.tokens());
        vec![whole, text, self.vision_entry(Dim::Batch)]
    }

    fn build(&self, entry: &str, b: &mut Build<'_>) -> Result<(), ModelError> {
        let text = if entry == "vision" { None } else { Some(self.read_text(b)?) };
        let image = if entry == "text" { None } else { Some(self.see(b)?) };
        if let (Some(text), Some(image)) = (text, image) {
            let scale = b.weight("logit_scale", &[1])?;
            let scale = b.unary("logit_scale", Unary::Exp, scale)?;
            let bias = b.weight("logit_bias", &[1])?;
            for (name, left, right) in [(LOGITS_PER_TEXT, text, image), (LOGITS_PER_IMAGE, image, text)] {
                let logits = b.node(name, Op::MatMul { transpose_b: true }, &[left, right])?;
                let logits = b.mul(name, logits, scale)?;
                let logits = b.add(name, logits, bias)?;
                b.offer(name, logits);
            }
        }
        Ok(())
    }

    fn learned(&self) -> Option<Learned> {
        Some(Learned { scale: "logit_scale", bias: Some("logit_bias"), exclusive: false })
    }

    fn resized(&self, picture: [usize; 2]) -> Result<Option<Box<dyn Family>>, ModelError> {
        Ok(Some(Box::new(Self { patches: self.patches.resized(picture)?, ..self.clone() })))
    }
}
