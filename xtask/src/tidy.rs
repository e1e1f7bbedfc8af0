//! `cargo xtask tidy`: rules of the house that neither the compiler nor clippy knows.
//!
//! Rules about one file are functions from its text to problems, rules about the tree see all files at once; both are pure,
//! so each is tested with good and bad input. Reading happens here, once. Who finds a rule in the way of a
//! better file changes the rule, in the same commit, and says why.

mod file_rules;
mod tree_rules;

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::workspace::{self, Workspace};

/// A text file of the repository.
pub(crate) struct Source {
    /// From the root, with `/` between the parts.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    /// The last part of the path.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// The folder, without a slash at the end; empty for files at the root.
    pub(crate) fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// What follows the last dot of the name.
    pub(crate) fn extension(&self) -> &str {
        self.name().rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    /// The name without its extension.
    pub(crate) fn stem(&self) -> &str {
        self.name().rsplit_once('.').map_or(self.name(), |(stem, _)| stem)
    }
}

/// Something that breaks a rule.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Problem {
    path: String,
    /// Counted from one; zero for the file as a whole.
    line: usize,
    text: String,
}

impl Problem {
    pub(crate) fn of_file(path: &str, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: 0, text: text.into() }
    }

    pub(crate) fn at(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(formatter, "{}: {}", self.path, self.text),
            line => write!(formatter, "{}:{line}: {}", self.path, self.text),
        }
    }
}

/// The verb.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    if !arguments.is_empty() {
        bail!("usage: cargo xtask tidy");
    }
    check(workspace)
}

/// Applies every rule to every file.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let (sources, paths) = read(&workspace.root)?;
    let mut problems = Vec::new();
    for source in &sources {
        file_rules::apply(source, &mut problems);
    }
    tree_rules::apply(&sources, &paths, &mut problems);
    if problems.is_empty() {
        println!("tidy: {} files", sources.len());
        return Ok(());
    }
    for problem in &problems {
        eprintln!("{problem}");
    }
    bail!("{} untidy place(s)", problems.len());
}

/// Reads the text files that people write, and lists the paths of all files.
///
/// Built and downloaded folders are passed over, as are fixtures' contents: those belong to who made them.
fn read(root: &Path) -> Result<(Vec<Source>, Vec<String>)> {
    const TEXTS: &[&str] = &["rs", "wgsl", "md", "toml", "js", "html", "css", "sql", "sh", "yml", "py"];
    const PASSED_OVER: &[&str] =
        &["target", ".git", ".tools", "node_modules", "dist", "dist.new", "dist-conformance", "dist-conformance.new"];
    let mut sources = Vec::new();
    let mut paths = Vec::new();
    for path in workspace::files_below_except(root, PASSED_OVER)? {
        let relative = path.strip_prefix(root)?;
        let name = relative.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/");
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let fixture = name.starts_with(tree_rules::FIXTURES) || name.contains("/fixtures/");
        if TEXTS.contains(&extension) && !fixture {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {name} as text"))?;
            sources.push(Source { path: name.clone(), text });
        }
        paths.push(name);
    }
    Ok((sources, paths))
}
