//! What every command takes, and the list of commands.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgAction, Parser};
use tracing_subscriber::EnvFilter;

use crate::commands::Command;

/// AI models on a pool of web browsers.
#[derive(Debug, Parser)]
#[command(name = "tabpool", version, about, max_term_width = 100, propagate_version = true)]
pub(crate) struct Arguments {
    /// Where models, browser profiles and measurements are kept [default: the platform's data folder]
    #[arg(long, global = true, env = "TABPOOL_DATA_DIR", value_name = "FOLDER", hide_env_values = true)]
    pub(crate) data_dir: Option<PathBuf>,

    /// Threads of each worker on the processor [default: one for each core]
    #[arg(long, global = true, env = "TABPOOL_THREADS", value_name = "COUNT", hide_env_values = true)]
    pub(crate) threads: Option<NonZeroUsize>,

    /// Say what happens, on standard error; twice for details
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,

    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// Sends the program's traces to standard error, where they were asked for by `-v` or by `RUST_LOG`.
    pub(crate) fn start_tracing(&self) {
        let ours = match self.verbose {
            0 => None,
            1 => Some("info"),
            2 => Some(
                "info,tabpool=debug,tabpool_pool=debug,tabpool_browser=debug,tabpool_bridge=debug,tabpool_worker=debug",
            ),
            _ => Some("debug,wgpu_core=info,wgpu_hal=info,naga=info,hyper=info"),
        };
        let filter = match (std::env::var("RUST_LOG"), ours) {
            (Ok(filter), _) if !filter.is_empty() => EnvFilter::new(filter),
            (_, Some(filter)) => EnvFilter::new(filter),
            (_, None) => return,
        };
        let colour = crate::terminal::Terminal::look().colour_on_stderr();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).init();
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::Arguments;

    #[test]
    fn the_arguments_are_consistent_and_every_one_is_explained() {
        Arguments::command().debug_assert();
        let mut open = vec![Arguments::command()];
        while let Some(command) = open.pop() {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments().filter(|one| !matches!(one.get_id().as_str(), "help" | "version")) {
                assert!(argument.get_help().is_some(), "{} of {}", argument.get_id(), command.get_name());
            }
            open.extend(command.get_subcommands().filter(|one| one.get_name() != "help").cloned());
        }
    }

    #[test]
    fn global_arguments_stand_before_and_after_the_command() {
        for line in [["tabpool", "--data-dir", "/x", "models", "ls"], ["tabpool", "models", "ls", "--data-dir", "/x"]] {
            let arguments = Arguments::try_parse_from(line).expect("fits");
            assert_eq!(arguments.data_dir.as_deref(), Some(std::path::Path::new("/x")));
        }
        assert_eq!(Arguments::try_parse_from(["tabpool", "-vv", "doctor"]).expect("fits").verbose, 2);
    }
}
