//! The reference: what PyTorch computes for a dozen sentences with the published all-MiniLM-L6-v2.

use anyhow::{Context as _, Result};
use serde::Deserialize;
use tabpool::Cid;
use tabpool_content::{BlockStore, Directory};

/// Where the numbers that results are held against come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The file here, which somebody else's implementation made.
    Published,
    /// The first worker that ran: for a model of which nothing is known here.
    Worker(String),
}

/// Sentences, and their embeddings by the published model.
#[derive(Debug, Deserialize)]
pub(super) struct Reference {
    /// The CID of the published `model.safetensors` as this program imports it: whoever has these weights gets these
    /// embeddings, whatever else is in the folder.
    weights: String,
    sentences: Vec<Sentence>,
}

#[derive(Debug, Deserialize)]
struct Sentence {
    text: String,
    embedding: Vec<f32>,
}

impl Reference {
    pub(super) fn load() -> Result<Self> {
        serde_json::from_str(include_str!("reference.json")).context("the reference embeddings are damaged")
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.sentences.iter().map(|sentence| sentence.text.as_str())
    }

    pub(super) fn embeddings(&self) -> Vec<Vec<f32>> {
        self.sentences.iter().map(|sentence| sentence.embedding.clone()).collect()
    }

    /// Whether the model in this folder is the one the reference was made with.
    pub(super) fn fits(&self, store: &dyn BlockStore, root: &Cid) -> Result<bool> {
        Ok(weights_of(store, root)?.is_some_and(|weights| weights == self.weights))
    }
}

/// The CID of a model's weights, where they are one file.
fn weights_of(store: &dyn BlockStore, root: &Cid) -> Result<Option<String>> {
    let files = Directory::open(store, root)?.list();
    Ok(files.into_iter().find(|file| file.path == "model.safetensors").map(|file| file.cid.to_string()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tabpool_content::{ImportOptions, MemoryStore, import_folder};

    use super::{Reference, weights_of};

    #[test]
    fn the_reference_is_the_fixture_of_the_test_suite() {
        let reference = Reference::load().expect("well formed");
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/minilm/golden.json");
        let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(golden).expect("there")).expect("JSON");
        let sentences = golden["sentences"].as_array().expect("a list");
        assert_eq!(reference.sentences.len(), sentences.len());
        for (ours, theirs) in reference.sentences.iter().zip(sentences) {
            assert_eq!(ours.text, theirs["text"].as_str().expect("text"));
            let numbers = theirs["embedding"].as_array().expect("a list").iter();
            let numbers: Vec<f64> = numbers.map(|number| number.as_f64().expect("a number")).collect();
            assert_eq!(numbers.len(), ours.embedding.len());
            assert!(ours.embedding.iter().zip(numbers).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-7));
        }
    }

    #[test]
    fn the_published_weights_are_recognised_and_others_are_not() {
        let reference = Reference::load().expect("well formed");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let weights = |folder: &Path| {
            let store = MemoryStore::new(256 << 20);
            let imported = import_folder(folder, &store, &ImportOptions::default(), &mut |_| {}).expect("a folder");
            weights_of(&store, &imported.root).expect("readable").expect("one file")
        };
        assert_ne!(weights(&root.join("tests/fixtures/bert")), reference.weights);
        let published = root.join(".tools/models/all-MiniLM-L6-v2");
        if published.is_dir() {
            assert_eq!(weights(&published), reference.weights);
        } else {
            eprintln!("left out: recognising the published weights: {} is not there", published.display());
        }
    }
}
