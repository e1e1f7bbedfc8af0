//! A model: what its folder says, and the programs that follow from it.

use tabpool_content::{BlockStore, Cid, Directory};
use tabpool_graph::{Graph, Program, passes};

use crate::architecture::Encoder;
use crate::bucket::Ladder;
use crate::encoder::{Parts, build};
use crate::fields::Fields;
use crate::sentence::{Sentence, Step};
use crate::weights::Weights;
use crate::{Bucket, ModelError, RequestError, Signature};

/// The most sequences a program is built for, whatever the buckets say: an experiment may go beyond them.
const MAX_BATCH: usize = 1024;

/// A model, opened: its signature, and for every tensor the blocks that hold it. Holds no weights and no store.
#[derive(Debug)]
pub struct Model {
    encoder: Encoder,
    sentence: Sentence,
    signature: Signature,
    weights: Weights,
    prefix: &'static str,
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
        let encoder = Encoder::read(&Fields::read(folder, &format!("{}config.json", sentence.base))?)?;
        let embedding = sentence.width(encoder.hidden)?;
        let mut weights = Weights::open(folder, &sentence.base)?;
        for step in &sentence.steps {
            if let Step::Dense(dense) = step {
                weights.add(folder, &format!("{}model.safetensors", dense.folder), &dense.folder)?;
            }
        }
        let full = encoder.family.prefix();
        let prefixed = weights.contains(&format!("{full}embeddings.word_embeddings.weight"));
        let prefix = if prefixed { full } else { "" };
        let has_pooler = weights.contains(&format!("{prefix}pooler.dense.weight"));
        let signature = Signature::of(&encoder, has_pooler, embedding);
        let model = Self { encoder, sentence, signature, weights, prefix };
        // Every tensor is looked up while a graph is built, so building one finds whatever is wrong with any.
        let outputs: Vec<&str> = model.signature.outputs.iter().map(|o| o.name).collect();
        let sequence = model.sequence_buckets().first().copied().unwrap_or(1);
        model.program(Bucket { batch: 1, sequence }, &outputs)?;
        Ok(model)
    }

    /// What the model's configuration calls its architecture, as in `bert`.
    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.encoder.name
    }

    /// Where the encoder's own files are in the model's folder: `""`, or a path that ends in `/`.
    #[must_use]
    pub fn files(&self) -> &str {
        &self.sentence.base
    }

    /// Whether the tokens of a prompt put before a text count in its embedding. Where they do not, programs give wrong
    /// embeddings for prompted texts, so whoever prepares texts must refuse them.
    #[must_use]
    pub fn pools_prompt(&self) -> bool {
        self.sentence.pools_prompt
    }

    /// What goes in and what comes out.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The longest sequence, in tokens.
    #[must_use]
    pub fn max_sequence(&self) -> usize {
        self.ladder().longest()
    }

    /// The most sequences that go into one run, whatever their length. A larger request is split by whoever has it.
    #[must_use]
    pub fn max_batch(&self) -> usize {
        self.batch_buckets(1).last().copied().unwrap_or(1)
    }

    /// The lengths of sequences there are buckets for, ascending.
    #[must_use]
    pub fn sequence_buckets(&self) -> Vec<usize> {
        self.ladder().sequences()
    }

    /// The numbers of sequences there are buckets for with sequences of this length, ascending: long sequences go in
    /// smaller batches.
    #[must_use]
    pub fn batch_buckets(&self, sequence: usize) -> Vec<usize> {
        self.ladder().batches(sequence).collect()
    }

    /// The smallest bucket that holds this many sequences of this many tokens.
    ///
    /// # Errors
    /// [`RequestError::TooLong`], [`RequestError::TooMany`], [`RequestError::Empty`].
    pub fn bucket_for(&self, batch: usize, sequence: usize) -> Result<Bucket, RequestError> {
        self.ladder().smallest(batch, sequence)
    }

    fn ladder(&self) -> Ladder {
        let e = &self.encoder;
        Ladder { positions: e.longest_sequence(), heads: e.heads, width: e.hidden.max(e.intermediate) }
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
        if bucket.sequence == 0 || bucket.sequence > self.max_sequence() {
            return refuse(format!("a sequence of this model has 1 to {} tokens", self.max_sequence()));
        }
        let parts = Parts {
            encoder: &self.encoder,
            sentence: &self.sentence,
            signature: &self.signature,
            weights: &self.weights,
            prefix: self.prefix,
        };
        build(&parts, bucket, outputs)
    }

    /// The program for one bucket that gives these outputs, in this order. Its inputs are those of the signature, in its
    /// order, each `i32 [batch, sequence]`. Weights that the outputs do not need are not in it.
    ///
    /// # Errors
    /// [`ModelError::Output`] for an output the model lacks, [`ModelError::Bucket`] for a bucket it cannot take, and
    /// [`ModelError::Graph`] where the bucket's values are too large for the IR.
    pub fn program(&self, bucket: Bucket, outputs: &[&str]) -> Result<Program, ModelError> {
        let mut graph = passes::optimise(self.graph(bucket, outputs)?)?;
        for (value, blocks) in graph.weights_mut() {
            *blocks = self.weights.blocks(&value.name)?;
        }
        Ok(Program::new(graph)?)
    }
}
