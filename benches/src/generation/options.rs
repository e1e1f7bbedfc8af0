//! What is to be measured, as said on the command line.

use clap::Parser;

use crate::onnx::Gpt2Sizes;

/// Rounds that count, and with `--quick`.
const ROUNDS: [usize; 2] = [9, 3];

/// One token after another, beside onnxruntime-web, on this machine, in this run.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask bench generation")]
pub struct Options {
    /// Few rounds, one build of the peer, and only the shortest and the longest prompt.
    #[arg(long)]
    pub quick: bool,
    /// Only these browsers (`native` for none); several with commas.
    #[arg(long, value_delimiter = ',')]
    pub browser: Vec<String>,
    /// Only these APIs: cpu (wasm in browsers), webgpu, webnn.
    #[arg(long, value_delimiter = ',')]
    pub api: Vec<String>,
    /// Tokens of the prompts that steps follow; the first is the one whose reading is measured.
    #[arg(long, value_delimiter = ',')]
    pub context: Vec<usize>,
    /// Steps after a prompt, in each round.
    #[arg(long, default_value_t = 16)]
    pub steps: usize,
    /// Threads, where it is computed on the processor.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    pub threads: Vec<usize>,
    /// Rounds that count; 9 by default, 3 with --quick.
    #[arg(long)]
    pub rounds: Option<usize>,
    /// The model's layers.
    #[arg(long, default_value_t = 6)]
    pub layers: usize,
    /// Its numbers a token.
    #[arg(long, default_value_t = 384)]
    pub hidden: usize,
    /// Its attention heads.
    #[arg(long, default_value_t = 6)]
    pub heads: usize,
    /// Tokens there are.
    #[arg(long, default_value_t = 8192)]
    pub vocabulary: usize,
    /// Its longest text.
    #[arg(long, default_value_t = 1024)]
    pub positions: usize,
    /// One build of onnxruntime-web instead of the fastest: wasm, webgpu, jspi or all.
    #[arg(long, default_value = "")]
    pub onnxruntime_build: String,
    /// Write the tables into benches/README.md, which a run of everything does by itself.
    #[arg(long)]
    pub write: bool,
}

impl Options {
    /// Whether everything is measured as it is by default.
    #[must_use]
    pub fn whole(&self) -> bool {
        let lists = self.browser.is_empty() && self.api.is_empty() && self.context.is_empty();
        let Gpt2Sizes { layers, hidden, heads, vocabulary, positions } = self.sizes();
        let sizes = (layers, hidden, heads, vocabulary, positions) == (6, 384, 6, 8192, 1024);
        lists && sizes && self.threads == [1, 2] && self.onnxruntime_build.is_empty() && !self.quick
    }

    /// The model's.
    #[must_use]
    pub fn sizes(&self) -> Gpt2Sizes {
        let Self { layers, hidden, heads, vocabulary, positions, .. } = *self;
        Gpt2Sizes { layers, hidden, heads, vocabulary, positions }
    }

    /// Lengths of prompts. Two are a few tokens short of a power of two, so that the steps that follow pass it.
    pub(super) fn prompts(&self) -> Vec<usize> {
        match (&*self.context, self.quick) {
            ([], true) => vec![128, 1000],
            ([], false) => vec![128, 248, 504, 1000],
            (given, _) => given.to_vec(),
        }
    }

    pub(super) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(ROUNDS[usize::from(self.quick)])
    }

    pub(super) fn wants_browser(&self, name: &str) -> bool {
        self.browser.is_empty() || self.browser.iter().any(|b| b == name)
    }

    pub(super) fn wants_api(&self, name: &str) -> bool {
        self.api.is_empty() || self.api.iter().any(|a| a == name || (a == "wasm" && name == "cpu"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::Options;

    #[test]
    fn filters_name_what_is_left() {
        let options = Options::parse_from(["generation", "--quick", "--browser", "firefox", "--api", "wasm"]);
        assert!(!options.whole() && options.wants_api("cpu") && !options.wants_api("webgpu"));
        assert!(options.wants_browser("firefox") && !options.wants_browser("chromium"));
        assert_eq!((options.prompts(), options.rounds()), (vec![128, 1000], 3));
        assert!(Options::parse_from(["generation", "--rounds", "3"]).whole());
        assert!(!Options::parse_from(["generation", "--layers", "2"]).whole(), "another model is another table");
    }
}
