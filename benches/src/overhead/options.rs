//! What is to be measured, as said on the command line.

use clap::Parser;

/// What the host itself costs, beside a bare WebSocket, on this machine, in this run.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask bench overhead")]
pub struct Options {
    /// A tenth of the requests.
    #[arg(long)]
    pub quick: bool,
    /// Rounds, in which the sides take turns.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Requests at a time, where there are many.
    #[arg(long, default_value_t = 64)]
    pub at_once: usize,
    /// Workers that answer at once.
    #[arg(long, default_value_t = 1)]
    pub workers: usize,
    /// Write the table into benches/README.md, which a run as it is by default does by itself.
    #[arg(long)]
    pub write: bool,
}

impl Options {
    /// Whether everything is measured as it is by default.
    #[must_use]
    pub fn whole(&self) -> bool {
        !self.quick && (self.rounds, self.at_once, self.workers) == (5, 64, 1)
    }

    /// Requests of a round, one at a time.
    pub(super) fn alone(&self) -> usize {
        if self.quick { 500 } else { 5000 }
    }

    /// Requests of a round, many at a time.
    pub(super) fn many(&self) -> usize {
        if self.quick { 5000 } else { 50_000 }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::Options;

    #[test]
    fn a_run_of_less_is_not_the_whole() {
        assert!(Options::parse_from(["overhead"]).whole());
        assert!(!Options::parse_from(["overhead", "--quick"]).whole());
        assert!(!Options::parse_from(["overhead", "--workers", "2"]).whole());
    }
}
