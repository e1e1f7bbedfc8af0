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
mod arriving;
mod commands;
mod context;
mod failure;
mod interrupt;
mod media;
mod placing;
mod progress;
mod qr;
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
    quiet_vulkan();
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

/// Keeps a layer of Mesa's Vulkan drivers from writing to standard error that there is no desktop.
///
/// The layer asks the desktop which GPU it draws with, to list that one first. Without a desktop it finds nothing out and
/// its library complains, once for every adapter asked; so there it is switched off, by the variable made for that.
fn quiet_vulkan() {
    let desktop = ["XDG_RUNTIME_DIR", "WAYLAND_DISPLAY", "DISPLAY"];
    if cfg!(target_os = "linux") && desktop.iter().all(|name| std::env::var_os(name).is_none()) {
        // A library that is loaded later reads this variable and takes no other word for it.
        // SAFETY: this is the program's first act; there is no other thread yet that could read the environment.
        unsafe {
            std::env::set_var("NODEVICE_SELECT", "1");
        }
    }
}
