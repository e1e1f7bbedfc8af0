//! A model: what its folder says, its entry points, and the programs that follow from them.

use tabpool_content::{BlockStore, Cid, Directory};
use tabpool_graph::{Graph, Program, passes};
use tabpool_tensor::Tensor;

use crate::blocks::Build;
use crate::bucket::Ladder;
use crate::family::{self, Family, Source};
use crate::fields::Fields;
use crate::sentence::{Sentence, Step};
use crate::signature::{PIXEL_VALUES, Sizes};
use crate::weights::Weights;
use crate::{Bucket, Comparison, Dim, Generation, GenerationDefaults, ModelError, Prepared, RequestError, Signature};

/// The most sequences a program is built for, whatever the buckets say: an experiment may go beyond them.
pub(crate) const MAX_BATCH: usize = 1024;

/// A model, opened: its signature, and for every tensor the blocks that hold it. Holds no weights and no store.
#[derive(Debug)]
pub struct Model {
    name: String,
    base: String,
    pools_prompt: bool,
    defaults: GenerationDefaults,
    family: Box<dyn Family>,
    entries: Vec<Entry>,
    pub(crate) weights: Weights,
}

/// An entry point: a part of a model that can be run by itself.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) signature: Signature,
    pub(crate) ladder: Ladder,
}

/// One of a model's entry points: the model as a whole, a tower of it, its encoder.
#[derive(Clone, Copy, Debug)]
pub struct EntryPoint<'a> {
    pub(crate) model: &'a Model,
    pub(crate) entry: &'a Entry,
}

impl Model {
    /// Opens the model in the folder under `root`. Reads configurations and headers; the blocks of weights need not be in
    /// the store, but those that begin a weight file do.
    ///
    /// # Errors
    /// [`ModelError`], for everything that would keep a program of this model from being built: whatever bytes the folder
    /// holds, a model that opens gives programs for each of its buckets and outputs.
    pub fn open(store: &dyn BlockStore, root: &Cid) -> Result<Self, ModelError> {
        Self::read(&Directory::open(store, root)?)
    }

    /// The same for a folder that is open already.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn read(folder: &Directory<'_>) -> Result<Self, ModelError> {
        let sentence = Sentence::read(folder)?;
        let config = Fields::read(folder, &format!("{}config.json", sentence.base))?;
        let (known, name, task) = family::find(&config)?;
        refuse_unsupported(&config)?;
        let mut weights = Weights::open(folder, &sentence.base)?;
        for step in &sentence.steps {
            if let Step::Dense(dense) = step {
                weights.add(folder, &format!("{}model.safetensors", dense.folder), &dense.folder)?;
            }
        }
        let source = Source { folder, config: &config, weights: &weights, sentence: &sentence, task: task.as_deref() };
        let family = (known.read)(&source)?;
        let defaults = GenerationDefaults::read(folder, &sentence.base)?;
        Self::of(name, &sentence, family, weights, defaults)
    }

    fn of(
        name: String,
        sentence: &Sentence,
        family: Box<dyn Family>,
        weights: Weights,
        defaults: GenerationDefaults,
    ) -> Result<Self, ModelError> {
        let entries = family.entries();
        let (base, pools_prompt) = (sentence.base.clone(), sentence.pools_prompt);
        let model = Self { name, base, pools_prompt, defaults, family, entries, weights };
        model.check()?;
        Ok(model)
    }

    /// Every tensor is looked up while a graph is built, so building each part finds whatever is wrong with any.
    fn check(&self) -> Result<(), ModelError> {
        for entry in &self.entries {
            let point = EntryPoint { model: self, entry };
            let outputs: Vec<&str> = entry.signature.outputs.iter().map(|o| o.name).collect();
            let sequence = entry.ladder.sequences().first().copied().unwrap_or(1);
            point.program(Bucket { batch: 1, sequence }, &outputs)?;
        }
        match self.generation() {
            Some(generation) => generation.check(),
            None => Ok(()),
        }
    }

    /// The same model for pictures of another height and width, where it takes pictures: learned positions are resampled
    /// as transformers' `interpolate_pos_encoding` does.
    ///
    /// # Errors
    /// [`ModelError::Picture`] where it takes none, or none of that size.
    pub fn for_pictures(self, height: usize, width: usize) -> Result<Self, ModelError> {
        let got = [height, width];
        let family = self.family.resized(got)?;
        let family = family.ok_or_else(|| ModelError::Picture {
            got,
            reason: "but the model takes no pictures of other sizes".to_owned(),
        })?;
        let model = Self { entries: family.entries(), family, ..self };
        model.check()?;
        Ok(model)
    }

    /// What the model's configuration calls its architecture, as in `bert`.
    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.name
    }

    /// Where the network's own files are in the model's folder: `""`, or a path that ends in `/`.
    #[must_use]
    pub fn files(&self) -> &str {
        &self.base
    }

    /// Whether the tokens of a prompt put before a text count in its embedding. Where they do not, programs give wrong
    /// embeddings for prompted texts, so whoever prepares texts must refuse them.
    #[must_use]
    pub fn pools_prompt(&self) -> bool {
        self.pools_prompt
    }

    /// The names of the classes that its head tells apart, in the order of its logits; empty where it has no such head.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        self.family.labels()
    }

    /// How the embeddings of its two towers are compared; `None` where it has no two. `folder` is the one it was read from,
    /// and the blocks of those few numbers must be in the store.
    ///
    /// # Errors
    /// [`ModelError`] where they cannot be read.
    pub fn comparison(&self, folder: &Directory<'_>) -> Result<Option<Comparison>, ModelError> {
        self.family.learned().map(|learned| learned.read(folder, &self.weights)).transpose()
    }

    /// Every entry point, the one that stands for the model first.
    pub fn entries(&self) -> impl Iterator<Item = EntryPoint<'_>> {
        self.entries.iter().map(|entry| EntryPoint { model: self, entry })
    }

    /// The entry point of this name.
    ///
    /// # Errors
    /// [`ModelError::Entry`] with the names there are.
    pub fn entry(&self, name: &str) -> Result<EntryPoint<'_>, ModelError> {
        self.entries().find(|e| e.name() == name).ok_or_else(|| ModelError::Entry {
            got: name.to_owned(),
            available: self.entries.iter().map(|e| e.name).collect::<Vec<_>>().join(", "),
        })
    }

    /// The entry point that stands for the model; what methods of the model itself speak of.
    #[must_use]
    pub fn first(&self) -> EntryPoint<'_> {
        EntryPoint { model: self, entry: &self.entries[0] }
    }

    /// What the model's authors say of generating with it.
    #[must_use]
    pub fn generation_defaults(&self) -> &GenerationDefaults {
        &self.defaults
    }

    /// What the model generates with, one token after another; `None` where it does not.
    #[must_use]
    pub fn generation(&self) -> Option<Generation<'_>> {
        self.family.decoder().map(|decoder| Generation::new(self, decoder))
    }

    /// What goes in and what comes out.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        self.first().signature()
    }

    /// The longest sequence, in tokens or samples.
    #[must_use]
    pub fn max_sequence(&self) -> usize {
        self.first().max_sequence()
    }

    /// The most sequences that go into one run, whatever their length. A larger request is split by whoever has it.
    #[must_use]
    pub fn max_batch(&self) -> usize {
        self.first().max_batch()
    }

    /// The lengths of sequences there are buckets for, ascending.
    #[must_use]
    pub fn sequence_buckets(&self) -> Vec<usize> {
        self.first().sequence_buckets()
    }

    /// The numbers of sequences there are buckets for with sequences of this length, ascending: long sequences go in
    /// smaller batches.
    #[must_use]
    pub fn batch_buckets(&self, sequence: usize) -> Vec<usize> {
        self.first().batch_buckets(sequence)
    }

    /// The smallest bucket that holds this many sequences of this many tokens.
    ///
    /// # Errors
    /// [`RequestError::TooLong`], [`RequestError::TooMany`], [`RequestError::Empty`].
    pub fn bucket_for(&self, batch: usize, sequence: usize) -> Result<Bucket, RequestError> {
        self.first().bucket_for(batch, sequence)
    }

    /// As [`EntryPoint::prepare`] of the first entry point.
    ///
    /// # Errors
    /// [`RequestError`] with the input's name, and for a value outside of its range with its position.
    pub fn prepare(&self, inputs: &[(String, Tensor)], outputs: &[String]) -> Result<Prepared, RequestError> {
        self.first().prepare(inputs, outputs)
    }

    /// As [`EntryPoint::graph`] of the first entry point.
    ///
    /// # Errors
    /// As [`program`](Self::program).
    pub fn graph(&self, bucket: Bucket, outputs: &[&str]) -> Result<Graph, ModelError> {
        self.first().graph(bucket, outputs)
    }

    /// As [`EntryPoint::program`] of the first entry point.
    ///
    /// # Errors
    /// [`ModelError::Output`] for an output the model lacks, [`ModelError::Bucket`] for a bucket it cannot take, and
    /// [`ModelError::Graph`] where the bucket's values are too large for the IR.
    pub fn program(&self, bucket: Bucket, outputs: &[&str]) -> Result<Program, ModelError> {
        self.first().program(bucket, outputs)
    }

    /// The program of a graph of this model: optimised, its weights bound to blocks.
    pub(crate) fn bind(&self, graph: Graph) -> Result<Program, ModelError> {
        let mut graph = passes::optimise(graph)?;
        for (value, blocks) in graph.weights_mut() {
            *blocks = self.weights.blocks(&value.name)?;
        }
        Ok(Program::new(graph)?)
    }
}

impl<'a> EntryPoint<'a> {
    /// The name: `model` for the whole, otherwise that of the part, as in `text`, `vision`, `audio` or `encoder`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.entry.name
    }

    /// What goes in and what comes out.
    #[must_use]
    pub fn signature(&self) -> &'a Signature {
        &self.entry.signature
    }

    /// Whether a request with inputs of just these names is one for this entry point: it takes each, and none is missing that
    /// must be given.
    #[must_use]
    pub fn takes(&self, names: &[&str]) -> bool {
        let signature = self.signature();
        let given = |name: &str| names.contains(&name);
        names.iter().all(|name| signature.input(name).is_some())
            && signature.inputs.iter().all(|input| input.default.is_some() || given(input.name))
    }

    /// Height and width of a request's pictures, where they are not those that this model was made for: what
    /// [`Model::for_pictures`] is then to be told.
    #[must_use]
    pub fn other_pictures(&self, inputs: &[(String, Tensor)]) -> Option<[usize; 2]> {
        let (_, pictures) = inputs.iter().find(|(name, _)| name == PIXEL_VALUES)?;
        let spec = self.signature().input(PIXEL_VALUES)?;
        match (pictures.shape().dims(), &spec.dims[..]) {
            (&[_, _, height, width], &[_, _, Dim::Fixed(own_height), Dim::Fixed(own_width)])
                if [height, width] != [own_height, own_width] =>
            {
                Some([height, width])
            }
            _ => None,
        }
    }

    /// The longest sequence, in tokens or samples; 1 where it has none.
    #[must_use]
    pub fn max_sequence(&self) -> usize {
        self.entry.ladder.longest()
    }

    /// The most sequences that go into one run, whatever their length.
    #[must_use]
    pub fn max_batch(&self) -> usize {
        let shortest = self.sequence_buckets().first().copied().unwrap_or(1);
        self.batch_buckets(shortest).last().copied().unwrap_or(1)
    }

    /// The lengths of sequences there are buckets for, ascending.
    #[must_use]
    pub fn sequence_buckets(&self) -> Vec<usize> {
        self.entry.ladder.sequences()
    }

    /// The numbers of sequences there are buckets for with sequences of this length, ascending.
    #[must_use]
    pub fn batch_buckets(&self, sequence: usize) -> Vec<usize> {
        self.entry.ladder.batches(sequence).collect()
    }

    /// The smallest bucket that holds this many sequences of this many tokens.
    ///
    /// # Errors
    /// [`RequestError::TooLong`], [`RequestError::TooMany`], [`RequestError::Empty`].
    pub fn bucket_for(&self, batch: usize, sequence: usize) -> Result<Bucket, RequestError> {
        self.entry.ladder.smallest(batch, sequence)
    }

    /// Checks a request, narrows and pads its tensors to the smallest bucket that holds them. Inputs are named as in the
    /// [`Signature`], in any order; those with a default may be absent. `outputs` are the names the program will be asked
    /// for, in its order.
    ///
    /// # Errors
    /// [`RequestError`] with the input's name, and for a value outside of its range with its position.
    pub fn prepare(&self, inputs: &[(String, Tensor)], outputs: &[String]) -> Result<Prepared, RequestError> {
        self.entry.prepare(inputs, outputs)
    }

    /// The graph for one bucket as it is built, before any pass and without blocks: for comparing what passes make of it.
    ///
    /// # Errors
    /// As [`program`](Self::program).
    pub fn graph(&self, bucket: Bucket, outputs: &[&str]) -> Result<Graph, ModelError> {
        let refuse = |reason: String| Err(ModelError::Bucket { bucket, reason });
        if bucket.batch == 0 || bucket.batch > MAX_BATCH {
            return refuse(format!("a batch has 1 to {MAX_BATCH} sequences"));
        }
        if !self.entry.ladder.takes(bucket.sequence) {
            return refuse(format!("a sequence of this model has 1 to {} tokens", self.max_sequence()));
        }
        let mut b = Build::new(&self.model.weights, bucket);
        for spec in &self.entry.signature.inputs {
            b.declare(spec.name, spec.program, &self.entry.signature.sized(&spec.dims, &Sizes::of(bucket)))?;
        }
        self.model.family.build(self.entry.name, &mut b)?;
        b.finish(outputs, &self.entry.signature.output_names())
    }

    /// The program for one bucket that gives these outputs, in this order. Its inputs are those of the signature, in its
    /// order. Weights that the outputs do not need are not in it.
    ///
    /// # Errors
    /// [`ModelError::Output`] for an output the entry point lacks, [`ModelError::Bucket`] for a bucket it cannot take, and
    /// [`ModelError::Graph`] where the bucket's values are too large for the IR.
    pub fn program(&self, bucket: Bucket, outputs: &[&str]) -> Result<Program, ModelError> {
        self.model.bind(self.graph(bucket, outputs)?)
    }
}

/// Refuses what would change the numbers of any family and is built for none.
fn refuse_unsupported(config: &Fields) -> Result<(), ModelError> {
    use serde_json::Value;
    let holds_something = |key: &str| match config.get(key) {
        None | Some(Value::Bool(false)) => false,
        Some(Value::Object(map)) => !map.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(_) => true,
    };
    if holds_something("pruned_heads") {
        return Err(config.refuse("pruned_heads", "models with pruned heads are not supported"));
    }
    if holds_something("quantization_config") {
        return Err(config.refuse("quantization_config", "quantised weight files are not supported"));
    }
    let own_code = |map: &Value| map.as_object().is_some_and(|map| map.keys().any(|key| key.starts_with("AutoModel")));
    if config.get("auto_map").is_some_and(own_code) {
        return Err(config.refuse("auto_map", "models that bring their own code are not supported"));
    }
    Ok(())
}
