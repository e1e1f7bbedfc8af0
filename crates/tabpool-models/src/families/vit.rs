//! Vision transformers: ViT, and DeiT with its distillation token.
//!
//! A picture is cut into patches, a learned token or two stand before them, and the class is read off those tokens.

use tabpool_graph::{Binary, Unary, ValueId};

use crate::ModelError;
use crate::blocks::{Build, Built, Layer, Names, Order, Patches};
use crate::bucket::Ladder;
use crate::family::{Family, Source};
use crate::fields::Fields;
use crate::model::Entry;
use crate::signature::{Dim, InputSpec, LAST_HIDDEN_STATE, LOGITS, OutputSpec, PIXEL_VALUES, POOLER_OUTPUT, Signature};

const CLS_LOGITS: &str = "cls_logits";
const DISTILLATION_LOGITS: &str = "distillation_logits";

const NAMES: Names = Names {
    query: "attention.attention.query",
    key: "attention.attention.key",
    value: "attention.attention.value",
    output: "attention.output.dense",
    attention_norm: "layernorm_before",
    up: "intermediate.dense",
    down: "output.dense",
    norm: "layernorm_after",
};

/// What is trained on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    /// The class of the first token.
    Class,
    /// The mean of the classes of both tokens.
    Teacher,
}

/// What follows the first token's vector.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pooler {
    width: usize,
    activation: Unary,
}

/// A model of the family.
#[derive(Clone, Debug)]
struct Vit {
    patches: Patches,
    layer: Layer,
    layers: usize,
    distilled: bool,
    prefix: &'static str,
    pooler: Option<Pooler>,
    head: Option<Head>,
    labels: Vec<String>,
}

/// Reads ViT.
pub(crate) fn read(source: &Source<'_>) -> Result<Box<dyn Family>, ModelError> {
    open(source, "vit.", false)
}

/// Reads DeiT.
pub(crate) fn read_deit(source: &Source<'_>) -> Result<Box<dyn Family>, ModelError> {
    open(source, "deit.", true)
}

fn open(source: &Source<'_>, full: &'static str, distilled: bool) -> Result<Box<dyn Family>, ModelError> {
    let config = source.config;
    let layer = layer(config)?;
    let prefix = source.prefix(&[full, ""], "embeddings.cls_token");
    let head = match source.task {
        None => None,
        Some("ImageClassification") => Some(Head::Class),
        Some("ImageClassificationWithTeacher") if distilled => Some(Head::Teacher),
        Some(_) => {
            let supported = "models without a head, ForImageClassification and ForImageClassificationWithTeacher";
            return Err(source.refuse_task(supported));
        }
    };
    let pooler = if source.weights.contains(&format!("{prefix}pooler.dense.weight")) {
        let width = config.size_or("pooler_output_size", 1..=1 << 16, layer.hidden)?;
        Some(Pooler { width, activation: config.activation("pooler_act", "tanh")? })
    } else {
        None
    };
    let labels = if head.is_some() { source.labels()? } else { Vec::new() };
    let patches = Patches::read(config, 224, 16)?;
    let layers = config.size_or("num_hidden_layers", 1..=512, 12)?;
    Ok(Box::new(Vit { patches, layer, layers, distilled, prefix, pooler, head, labels }))
}

fn layer(config: &Fields) -> Result<Layer, ModelError> {
    let hidden = config.size_or("hidden_size", 1..=1 << 16, 768)?;
    let heads = config.size_or("num_attention_heads", 1..=1024, 12)?;
    if !hidden.is_multiple_of(heads) {
        return Err(config.refuse("num_attention_heads", &format!("which does not divide hidden_size = {hidden}")));
    }
    Ok(Layer {
        names: NAMES,
        order: Order::NormFirst,
        hidden,
        heads,
        intermediate: config.size_or("intermediate_size", 1..=1 << 20, 3072)?,
        activation: config.activation("hidden_act", "gelu")?,
        epsilon: config.epsilon_or("layer_norm_eps", 1e-12)?,
        biases: config.flag_or("qkv_bias", true)?,
        key_bias: true,
    })
}

impl Vit {
    /// Learned tokens before the patches.
    fn extra(&self) -> usize {
        1 + usize::from(self.distilled)
    }

    fn tokens(&self) -> usize {
        self.patches.tokens() + self.extra()
    }

    fn embeddings(&self, b: &mut Build<'_>) -> Built {
        let (hidden, extra) = (self.layer.hidden, self.extra());
        let name = |part: &str| format!("{}embeddings.{part}", self.prefix);
        let pixels = b.input(PIXEL_VALUES)?;
        let patches = self.patches.embed(b, &name("patch_embeddings.projection"), pixels, hidden, true)?;
        let mut tokens = Vec::with_capacity(extra + 1);
        for part in ["cls_token", "distillation_token"].into_iter().take(extra) {
            let token = b.weight(&name(part), &[1, 1, hidden])?;
            tokens.push(b.for_each_sequence(&name(part), token)?);
        }
        tokens.push(patches);
        let x = b.concat(&name("tokens"), 1, &tokens)?;
        let part = name("position_embeddings");
        let learned = self.patches.trained_tokens();
        let table = b.weight(&part, &[1, extra + learned, hidden])?;
        let before = b.slice(&part, table, 1, 0, extra)?;
        let of_patches = b.slice(&part, table, 1, extra, learned)?;
        let of_patches = self.patches.positions(b, &part, of_patches)?;
        let positions = b.concat(&part, 1, &[before, of_patches])?;
        b.add(&name("sum"), x, positions)
    }

    fn classes(&self, b: &mut Build<'_>, head: Head, hidden: ValueId) -> Result<(), ModelError> {
        let sizes = [self.labels.len(), self.layer.hidden];
        let first = b.at("class token", hidden, 0)?;
        match head {
            Head::Class => {
                let logits = b.linear("classifier", first, sizes, true)?;
                b.offer(LOGITS, logits);
            }
            Head::Teacher => {
                let second = b.at("distillation token", hidden, 1)?;
                let class = b.linear("cls_classifier", first, sizes, true)?;
                let distilled = b.linear("distillation_classifier", second, sizes, true)?;
                b.offer(CLS_LOGITS, class);
                b.offer(DISTILLATION_LOGITS, distilled);
                let sum = b.add(LOGITS, class, distilled)?;
                let two = b.scalar("two classifiers", 2.0)?;
                let mean = b.binary(LOGITS, Binary::Div, sum, two)?;
                b.offer(LOGITS, mean);
            }
        }
        Ok(())
    }
}

impl Family for Vit {
    fn entries(&self) -> Vec<Entry> {
        let [height, width] = self.patches.picture;
        let dims = [Dim::Batch, Dim::Fixed(self.patches.channels), Dim::Fixed(height), Dim::Fixed(width)];
        let (hidden, tokens) = (self.layer.hidden, self.tokens());
        let vectors = [Dim::Batch, Dim::Fixed(tokens), Dim::Fixed(hidden)];
        let mut outputs = vec![OutputSpec::new(LAST_HIDDEN_STATE, &vectors)];
        if let Some(pooler) = self.pooler {
            outputs.push(OutputSpec::new(POOLER_OUTPUT, &[Dim::Batch, Dim::Fixed(pooler.width)]));
        }
        let classes = [Dim::Batch, Dim::Fixed(self.labels.len())];
        if self.head.is_some() {
            outputs.push(OutputSpec::new(LOGITS, &classes));
        }
        if self.head == Some(Head::Teacher) {
            outputs.extend([CLS_LOGITS, DISTILLATION_LOGITS].map(|name| OutputSpec::new(name, &classes)));
        }
        let signature = Signature::new(vec![InputSpec::floats(PIXEL_VALUES, &dims)], outputs);
        let pixels = self.patches.channels * self.patches.patch[0] * self.patches.patch[1];
        let widest = hidden.max(self.layer.intermediate).max(pixels);
        vec![Entry { name: "model", signature, ladder: Ladder::fixed(1, tokens, self.layer.heads, widest) }]
    }

    fn build(&self, _entry: &str, b: &mut Build<'_>) -> Result<(), ModelError> {
        let mut x = self.embeddings(b)?;
        for index in 0..self.layers {
            x = self.layer.build(b, &format!("{}encoder.layer.{index}", self.prefix), x, &[], None)?;
        }
        let hidden = b.norm(&format!("{}layernorm", self.prefix), x, self.layer.epsilon)?;
        b.offer(LAST_HIDDEN_STATE, hidden);
        if let Some(pooler) = self.pooler {
            let first = b.at("class token", hidden, 0)?;
            let name = format!("{}pooler.dense", self.prefix);
            let pooled = b.linear(&name, first, [pooler.width, self.layer.hidden], true)?;
            let pooled = b.unary(&name, pooler.activation, pooled)?;
            b.offer(POOLER_OUTPUT, pooled);
        }
        match self.head {
            Some(head) => self.classes(b, head, hidden),
            None => Ok(()),
        }
    }

    fn labels(&self) -> &[String] {
        &self.labels
    }

    fn resized(&self, picture: [usize; 2]) -> Result<Option<Box<dyn Family>>, ModelError> {
        Ok(Some(Box::new(Self { patches: self.patches.resized(picture)?, ..self.clone() })))
    }
}
