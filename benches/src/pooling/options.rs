//! What is to be measured, as said on the command line.

use clap::Parser;
use tabpool::ApiKind;

use crate::Fault;

/// A browser for each request, one worker, and the pool, with the same requests, on this machine, in this run.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask bench pooling")]
pub struct Options {
    /// Requests.
    #[arg(long, default_value_t = 200)]
    pub requests: usize,
    /// Of each model, the requests for which a browser is really started.
    #[arg(long, default_value_t = 10)]
    pub samples: usize,
    /// Rounds that count.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// The browser.
    #[arg(long, default_value = "chromium")]
    pub browser: String,
    /// The API: cpu (wasm in browsers), webgpu, webnn.
    #[arg(long, default_value = "cpu")]
    pub api: String,
    /// Write the table into benches/README.md, which a run as it is by default does by itself.
    #[arg(long)]
    pub write: bool,
}

impl Options {
    /// Whether everything is measured as it is by default.
    #[must_use]
    pub fn whole(&self) -> bool {
        (self.requests, self.samples, self.rounds) == (200, 10, 3) && self.browser == "chromium" && self.api == "cpu"
    }

    pub(super) fn api(&self) -> Result<ApiKind, Fault> {
        self.api.parse().map_err(|_| format!("{:?} is none of cpu, webgpu, webnn", self.api).into())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::Options;

    #[test]
    fn a_run_of_less_is_not_the_whole() {
        assert!(Options::parse_from(["pooling"]).whole());
        assert!(!Options::parse_from(["pooling", "--samples", "1"]).whole());
        assert!(Options::parse_from(["pooling", "--api", "cuda"]).api().is_err());
    }
}
