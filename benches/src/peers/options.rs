//! What is to be measured, as said on the command line.

use clap::{Parser, ValueEnum};

/// tabpool beside onnxruntime-web, transformers.js and onnxruntime, on this machine, in this run.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask bench peers")]
pub struct Options {
    /// Few rounds, and only 128 tokens.
    #[arg(long)]
    pub quick: bool,
    /// Only these browsers (`native` for none); several with commas.
    #[arg(long, value_delimiter = ',')]
    pub browser: Vec<String>,
    /// Only these APIs: cpu (wasm in browsers), webgpu, webnn.
    #[arg(long, value_delimiter = ',')]
    pub api: Vec<String>,
    /// Sequences a run.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8])]
    pub batch: Vec<usize>,
    /// Tokens a sequence.
    #[arg(long, value_delimiter = ',')]
    pub seq: Vec<usize>,
    /// Threads, where it is computed on the processor.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    pub threads: Vec<usize>,
    /// Models: minilm and the fixtures bert, bert_odd.
    #[arg(long, value_delimiter = ',')]
    pub model: Vec<String>,
    /// Rounds that count; 15 by default, 5 with --quick.
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Only these parts; all by default.
    #[arg(long, value_delimiter = ',')]
    pub part: Vec<Part>,
    /// Another build of onnxruntime-web than the one taken for the API: wasm, webgpu, jspi or all.
    #[arg(long, default_value = "")]
    pub onnxruntime_build: String,
    /// Write the table into benches/README.md, which a run of everything does by itself.
    #[arg(long)]
    pub write: bool,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Runs of the model, interleaved.
    Runs,
    /// First runs after a load.
    First,
    /// From opening a page to the first result.
    Start,
    /// From text to embeddings.
    Pipeline,
    /// What the browser's arithmetic and memory could do at best.
    Peaks,
}

impl Options {
    /// Whether everything is measured as it is by default.
    #[must_use]
    pub fn whole(&self) -> bool {
        let filters = [&self.browser, &self.api, &self.model];
        let shapes = (&*self.batch, &*self.threads) == (&[1, 8], &[1, 2]) && self.seq.is_empty();
        let all = filters.iter().all(|f| f.is_empty()) && self.part.is_empty() && self.onnxruntime_build.is_empty();
        all && shapes && !self.quick
    }

    /// Whether a part is wanted.
    #[must_use]
    pub fn wants(&self, part: Part) -> bool {
        self.part.is_empty() || self.part.contains(&part)
    }

    pub(super) fn sequences(&self) -> Vec<usize> {
        match (&*self.seq, self.quick) {
            ([], true) => vec![128],
            ([], false) => vec![16, 128, 512],
            (given, _) => given.to_vec(),
        }
    }

    pub(super) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 5 } else { 15 })
    }

    pub(super) fn wants_browser(&self, name: &str) -> bool {
        self.browser.is_empty() || self.browser.iter().any(|b| b == name)
    }

    pub(super) fn wants_api(&self, name: &str) -> bool {
        self.api.is_empty() || self.api.iter().any(|a| a == name || (a == "wasm" && name == "cpu"))
    }

    pub(super) fn wants_model(&self, name: &str) -> bool {
        if self.model.is_empty() { true } else { self.model.iter().any(|m| m == name) }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{Options, Part};

    #[test]
    fn filters_name_what_is_left() {
        let line = ["peers", "--quick", "--browser", "firefox", "--api", "wasm", "--batch", "1", "--part", "runs"];
        let options = Options::parse_from(line);
        assert!(!options.whole() && options.wants(Part::Runs) && !options.wants(Part::Start));
        assert!(options.wants_browser("firefox") && !options.wants_browser("chromium"));
        assert!(options.wants_api("cpu") && !options.wants_api("webgpu"));
        assert_eq!((options.sequences(), options.rounds(), options.batch), (vec![128], 5, vec![1]));
        assert!(Options::parse_from(["peers"]).whole());
        assert!(!Options::parse_from(["peers", "--batch", "1"]).whole(), "a part is no table of everything");
    }
}
