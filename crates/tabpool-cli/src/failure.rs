//! How a command ends: verdicts and exit codes, errors and their hints.
//!
//! An error says what went wrong; a hint says what to do about it. The libraries give both; here the hint is looked for
//! along the error's causes, and both go to standard error, one line each.

use std::io::Write;
use std::process::ExitCode;

use tabpool::{ChoiceError, HubError, LibraryError, PoolError};
use tabpool_metrics::OpenError;
use tabpool_models::ModelError;
use tabpool_pipelines::TextError;

use crate::interrupt::Interrupted;
use crate::terminal::{OutputClosed, Terminal};

/// How a command that ran to its end judges what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All is well.
    Fine,
    /// The command worked, what it looked at does not hold: numbers out of tolerance, no usable browser.
    Bad,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Fine => ExitCode::SUCCESS,
            Verdict::Bad => ExitCode::FAILURE,
        }
    }
}

/// An error of the program's own, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Hinted {
    message: String,
    hint: String,
}

impl Hinted {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

/// Says what went wrong, and the exit code that follows.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(interrupted) = error.chain().find_map(|cause| cause.downcast_ref::<Interrupted>()) {
        return ExitCode::from(interrupted.exit_code());
    }
    if error.chain().any(|cause| cause.is::<OutputClosed>()) {
        return ExitCode::from(141);
    }
    let colour = Terminal::look().colour_on_stderr();
    let label =
        |name: &str, code: &str| if colour { format!("\x1b[{code}m{name}:\x1b[0m") } else { format!("{name}:") };
    let mut text = format!("{} {}\n", label("error", "1;31"), sentence(error));
    if let Some(hint) = hint(error) {
        text.push_str(&format!("{} {hint}\n", label("hint", "1;36")));
    }
    // With standard error gone too there is nobody left to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::FAILURE
}

/// The error with its causes on one line; a cause that the error above repeats already is not said twice.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(own) = cause.downcast_ref::<Hinted>() {
            return Some(own.hint.clone());
        }
        let libraries: [Option<String>; 8] = [
            cause.downcast_ref::<tabpool::Error>().and_then(tabpool::Error::hint),
            cause.downcast_ref::<LibraryError>().and_then(LibraryError::hint),
            cause.downcast_ref::<PoolError>().and_then(PoolError::hint),
            cause.downcast_ref::<ChoiceError>().and_then(ChoiceError::hint),
            cause.downcast_ref::<HubError>().and_then(HubError::hint),
            cause.downcast_ref::<OpenError>().and_then(OpenError::hint).map(str::to_owned),
            cause.downcast_ref::<ModelError>().and_then(ModelError::hint),
            cause.downcast_ref::<TextError>().and_then(TextError::hint),
        ];
        libraries.into_iter().flatten().next()
    })
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use tabpool::Library;

    use super::{Hinted, hint, sentence};

    #[test]
    fn causes_are_joined_and_not_repeated() {
        let error = anyhow!("no such file").context("cannot open x: no such file").context("cannot add x");
        assert_eq!(sentence(&error), "cannot add x: cannot open x: no such file");
    }

    #[test]
    fn hints_are_found_under_contexts() {
        let error = anyhow::Error::new(Hinted::new("it is broken", "mend it")).context("cannot go on");
        assert_eq!(hint(&error).as_deref(), Some("mend it"));
        let data = tempfile::tempdir().expect("a temporary folder");
        let unknown = Library::open(data.path()).expect("opens").resolve("nothing", &mut |_| {}).expect_err("unknown");
        let error = anyhow::Error::new(tabpool::Error::from(unknown)).context("cannot run it");
        assert!(hint(&error).is_some_and(|hint| hint.contains("models add")));
        assert_eq!(hint(&anyhow!("plain")), None);
    }
}
