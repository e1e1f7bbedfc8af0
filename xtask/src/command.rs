//! Running other programs, and saying what ran when one fails.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Runs a program that speaks to the terminal itself.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs a program whose output only matters when it fails: the last lines then go into the error.
pub(crate) fn run_quietly(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a program and returns what it wrote to its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    const SHOWN_LINES: usize = 12;
    let result = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{}`", shown(command)))?;
    let text = String::from_utf8_lossy(&result.stdout).into_owned();
    if result.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&result.stderr);
    let lines: Vec<&str> = text.lines().chain(errors.lines()).collect();
    let tail = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    bail!("`{}` failed ({})\n{}", shown(command), result.status, tail.join("\n"));
}

/// The full path of a program that the search path holds.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| is_program(candidate))
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(path: &Path) -> bool {
    path.is_file()
}

/// Times a step and prints a line before and after it.
pub(crate) fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    println!("── {name}");
    let start = Instant::now();
    let value = work().with_context(|| format!("step `{name}`"))?;
    let took = start.elapsed();
    println!("   {name}: {:.1} s", took.as_secs_f64());
    Ok((value, took))
}

/// A command as a person would type it.
fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        if argument.is_empty() || argument.contains([' ', '"', '\'', '$', '(']) {
            // Writing to a string cannot fail.
            let _ = write!(text, " '{argument}'");
        } else {
            let _ = write!(text, " {argument}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_shows_what_it_wrote() {
        let error = output(Command::new("sh").args(["-c", "echo broken >&2; exit 3"])).expect_err("it exits with 3");
        let text = format!("{error:#}");
        assert!(text.contains("sh -c 'echo broken >&2; exit 3'"), "{text}");
        assert!(text.contains("broken\n") || text.ends_with("broken"), "{text}");
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = run(&mut Command::new("no-such-program-here")).expect_err("it does not exist");
        assert!(format!("{error:#}").contains("no-such-program-here"));
    }

    #[test]
    fn the_search_path_is_searched() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-here").is_none());
    }
}
