//! What a family of models is to the rest of this crate, and which there are.

use std::fmt;

use serde_json::Value;
use tabpool_content::Directory;
use tabpool_graph::ValueId;

use crate::blocks::{Build, Built, Context, Cross};
use crate::bucket::Ladder;
use crate::comparison::Learned;
use crate::fields::Fields;
use crate::model::Entry;
use crate::sentence::Sentence;
use crate::signature::Signature;
use crate::weights::Weights;
use crate::{ModelError, families};

/// What a family reads a model from.
pub(crate) struct Source<'a> {
    pub(crate) folder: &'a Directory<'a>,
    pub(crate) config: &'a Fields,
    pub(crate) weights: &'a Weights,
    pub(crate) sentence: &'a Sentence,
    /// What the class in `architectures` is for, as in `MaskedLM`; `None` for a model without a head.
    pub(crate) task: Option<&'a str>,
}

impl Source<'_> {
    /// The first of these prefixes with which the files hold the tensor, or the last.
    pub(crate) fn prefix<'p>(&self, prefixes: &[&'p str], tensor: &str) -> &'p str {
        let held = prefixes.iter().find(|prefix| self.weights.contains(&format!("{prefix}{tensor}")));
        held.or(prefixes.last()).copied().unwrap_or("")
    }

    /// A further file of the model's folder, beside its configuration, if it is there.
    pub(crate) fn file(&self, name: &str) -> Result<Option<Fields>, ModelError> {
        let path = format!("{}{name}", self.sentence.base);
        if self.folder.contains(&path) { Fields::read(self.folder, &path).map(Some) } else { Ok(None) }
    }

    /// The error for a task that the family does not have.
    pub(crate) fn refuse_task(&self, supported: &str) -> ModelError {
        self.config.refuse("architectures", &format!("of this family only {supported} are supported"))
    }

    /// The names of the classes that a head tells apart, in order.
    pub(crate) fn labels(&self) -> Result<Vec<String>, ModelError> {
        let Some(value) = self.config.get("id2label") else {
            let count = self.config.size_or("num_labels", 1..=1 << 20, 2)?;
            return Ok((0..count).map(|i| format!("LABEL_{i}")).collect());
        };
        let map = value.as_object().filter(|map| !map.is_empty());
        let label = |i: usize| map?.get(&i.to_string())?.as_str().map(str::to_owned);
        let labels = (0..map.map_or(0, serde_json::Map::len)).map(label).collect::<Option<Vec<_>>>();
        labels
            .filter(|labels| !labels.is_empty())
            .ok_or_else(|| self.config.refuse("id2label", "not an object of names under the numbers from 0 on"))
    }
}

/// A model of some family: its entry points, and how each is built.
pub(crate) trait Family: fmt::Debug + Send + Sync {
    /// Its entry points, the one that stands for the model first.
    fn entries(&self) -> Vec<Entry>;

    /// Builds an entry point: offers every output that its signature has.
    fn build(&self, entry: &str, b: &mut Build<'_>) -> Result<(), ModelError>;

    /// The names of the classes that its head tells apart.
    fn labels(&self) -> &[String] {
        &[]
    }

    /// The same model for pictures of another height and width; `None` where it takes no pictures.
    fn resized(&self, _picture: [usize; 2]) -> Result<Option<Box<dyn Family>>, ModelError> {
        Ok(None)
    }

    /// How it compares the vectors of its two towers, where it has two.
    fn learned(&self) -> Option<Learned> {
        None
    }

    /// What it generates with, if it does.
    fn decoder(&self) -> Option<&dyn Decoder> {
        None
    }
}

/// The sizes of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DecoderSizes {
    pub(crate) vocabulary: usize,
    /// The most tokens of a sequence, the prompt's included.
    pub(crate) positions: usize,
    pub(crate) layers: usize,
    /// The width of a token's keys, and of its values, in a layer.
    pub(crate) width: usize,
    pub(crate) heads: usize,
    /// Ids that end a text.
    pub(crate) ends: Vec<i32>,
    /// The id that begins one, where the model has an encoder.
    pub(crate) begins: Option<i32>,
}

/// A model that says one token after another.
pub(crate) trait Decoder {
    fn sizes(&self) -> DecoderSizes;

    /// The vectors of a run's tokens, `[batch, tokens, hidden]`, after the last norm.
    fn decode(&self, b: &mut Build<'_>, context: &Context) -> Built;

    /// What each vector says of the token that follows: `[…, hidden]` to `[…, vocabulary]`.
    fn logits(&self, b: &mut Build<'_>, hidden: ValueId) -> Built;

    /// What it reads before it speaks, if it has an encoder.
    fn encoder(&self) -> Option<&dyn Encoder> {
        None
    }
}

/// The encoder of a decoder.
pub(crate) trait Encoder {
    /// Its inputs, and the lengths they may have.
    fn inputs(&self) -> (Signature, Ladder);

    /// How many vectors it gives for a source of so many tokens.
    fn positions(&self, source: usize) -> usize;

    /// Its vectors, `[batch, positions, hidden]`, and what is added to the scores of them, if anything.
    fn encode(&self, b: &mut Build<'_>) -> Result<(ValueId, Option<ValueId>), ModelError>;

    /// The keys and values that each layer of the decoder sees of them.
    fn cross(&self, b: &mut Build<'_>, hidden: ValueId) -> Result<Vec<Cross>, ModelError>;

    /// Whether [`encode`](Self::encode) gives something that is added to scores.
    fn masks(&self) -> bool;
}

/// A family as a configuration names it.
pub(crate) struct Known {
    /// What `model_type` says.
    pub(crate) model_type: &'static str,
    /// How class names in `architectures` begin, for old files that have no `model_type`.
    class: &'static str,
    pub(crate) read: fn(&Source<'_>) -> Result<Box<dyn Family>, ModelError>,
}

const fn known(
    model_type: &'static str,
    class: &'static str,
    read: fn(&Source<'_>) -> Result<Box<dyn Family>, ModelError>,
) -> Known {
    Known { model_type, class, read }
}

/// Every family, by the name that messages list.
const FAMILIES: &[Known] = &[
    known("bert", "Bert", families::bert::read),
    known("camembert", "Camembert", families::bert::read_roberta),
    known("clap", "Clap", families::clap::read),
    known("clip", "CLIP", families::clip::read),
    known("deit", "DeiT", families::vit::read_deit),
    known("distilbert", "DistilBert", families::bert::read_distilbert),
    known("gemma", "Gemma", families::llama::read_gemma),
    known("gpt2", "GPT2", families::gpt2::read),
    known("llama", "Llama", families::llama::read),
    known("mpnet", "MPNet", families::bert::read_mpnet),
    known("qwen2", "Qwen2", families::llama::read_qwen2),
    known("qwen3", "Qwen3", families::llama::read_qwen3),
    known("roberta", "Roberta", families::bert::read_roberta),
    known("siglip", "Siglip", families::siglip::read),
    known("t5", "T5", families::t5::read),
    known("vit", "ViT", families::vit::read),
    known("wav2vec2", "Wav2Vec2", families::wav2vec2::read),
    known("whisper", "Whisper", families::whisper::read),
    known("xlm-roberta", "XLMRoberta", families::bert::read_roberta),
];

/// The family that a configuration names, what it is called there, and what the model is for.
pub(crate) fn find(config: &Fields) -> Result<(&'static Known, String, Option<String>), ModelError> {
    let unsupported = |got: &str| ModelError::Architecture {
        file: config.file().to_owned(),
        got: got.to_owned(),
        supported: FAMILIES.iter().map(|f| f.model_type).collect::<Vec<_>>().join(", "),
    };
    let class = config.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str);
    let (stem, task) = class.map_or(("", None), split);
    let task = task.map(str::to_owned);
    if let Some(model_type) = config.text("model_type")? {
        let known = FAMILIES.iter().find(|f| f.model_type == model_type).ok_or_else(|| unsupported(model_type))?;
        return Ok((known, model_type.to_owned(), task));
    }
    let class = class.ok_or_else(|| config.missing("model_type"))?;
    let known = FAMILIES.iter().find(|f| f.class == stem).ok_or_else(|| unsupported(class))?;
    Ok((known, class.to_owned(), task))
}

/// `BertModel`, `BertForMaskedLM`, `GPT2LMHeadModel` and so on, divided in the family's and the task's part.
fn split(class: &str) -> (&str, Option<&str>) {
    if let Some((stem, task)) = class.split_once("For") {
        return (stem, Some(task));
    }
    if let Some(stem) = class.strip_suffix("LMHeadModel") {
        return (stem, Some("LMHeadModel"));
    }
    (class.strip_suffix("Model").unwrap_or(class), None)
}
