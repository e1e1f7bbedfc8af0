//! The `tabpool` program.
//!
//! The one place that reads the environment, names concrete stores and speaks to a person. Each command is a file that
//! owns its arguments, their help and its tests; what they share is here: where data lies, what the terminal can show,
//! how a pool is started and ended, and what an exit code means.
//!
//! | code | means |
//! |---|---|
//! | 0 | done |
//! | 1 | failed; `error:` and, where there is one, `hint:` say why on standard error |
//! | 2 | the arguments make no sense |
//! | 130, 143 | interrupted by Ctrl-C, or by SIGTERM |
//! | 141 | whoever read the output went away |

mod arguments;
mod commands;
mod context;
mod failure;
mod interrupt;
mod progress;
mod quantity;
mod session;
mod table;
mod tensors;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use arguments::Arguments;
use context::Context;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    arguments.start_tracing();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::report(&anyhow::Error::new(error).context("cannot start threads")),
    };
    let code = runtime.block_on(async {
        match Context::new(&arguments) {
            Ok(context) => match commands::run(arguments.command, &context).await {
                Ok(verdict) => verdict.into(),
                Err(error) => failure::report(&error),
            },
            Err(error) => failure::report(&error),
        }
    });
    // A thread that waits for standard input, or hashes a model nobody wants any more, must not hold the program up.
    runtime.shutdown_background();
    code
}
