//! Rules about one file at a time.

use super::{Problem, Source};

/// Past this, a file has more than one subject.
const LINE_LIMIT: usize = 800;
/// Names that say nothing about what a file holds.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "misc", "helpers", "helper"];
/// Words for work left undone. Written apart, for this file is checked as well.
const UNDONE: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME")];

/// Applies every rule of this file.
pub(super) fn apply(source: &Source, problems: &mut Vec<Problem>) {
    let code = matches!(source.extension(), "rs" | "wgsl");
    if source.extension() == "rs" {
        head(source, problems);
        ignored_tests(source, problems);
    }
    if code {
        length(source, problems);
        name(source, problems);
    }
    undone(source, problems);
    whitespace(source, problems);
}

fn head(source: &Source, problems: &mut Vec<Problem>) {
    if !source.text.lines().take(3).any(|line| line.starts_with("//!")) {
        problems.push(Problem::of_file(&source.path, "does not open with a `//!` comment that says what it is"));
    }
}

fn length(source: &Source, problems: &mut Vec<Problem>) {
    let lines = source.text.lines().count();
    if lines > LINE_LIMIT {
        problems.push(Problem::of_file(&source.path, format!("{lines} lines, over {LINE_LIMIT}: split it by subject")));
    }
}

fn name(source: &Source, problems: &mut Vec<Problem>) {
    if source.name() == "mod.rs" {
        problems.push(Problem::of_file(&source.path, "should be `foo.rs` beside the folder `foo`"));
    }
    if EMPTY_NAMES.contains(&source.stem()) {
        problems.push(Problem::of_file(&source.path, "is named after nothing: name it after what it holds"));
    }
}

fn ignored_tests(source: &Source, problems: &mut Vec<Problem>) {
    for (number, line) in numbered(source) {
        if line.trim_start().starts_with("#[ignore") {
            problems.push(Problem::at(
                &source.path,
                number,
                "an ignored test: let it say what the machine lacks, and be counted",
            ));
        }
    }
}

fn undone(source: &Source, problems: &mut Vec<Problem>) {
    for (number, line) in numbered(source) {
        let mut words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        if let Some(word) = words.find(|word| UNDONE.contains(word)) {
            problems.push(Problem::at(
                &source.path,
                number,
                format!("{word}: do it, or file an issue and say here what holds now"),
            ));
        }
    }
}

fn whitespace(source: &Source, problems: &mut Vec<Problem>) {
    for (number, line) in numbered(source) {
        if line.ends_with([' ', '\t', '\r']) {
            problems.push(Problem::at(&source.path, number, "whitespace at the end of the line"));
        }
        if line.contains('\t') {
            problems.push(Problem::at(&source.path, number, "a tab"));
        }
    }
    if !source.text.is_empty() && !source.text.ends_with('\n') {
        problems.push(Problem::of_file(&source.path, "does not end with a line break"));
    }
}

fn numbered(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    // Not `lines()`, which would hide a carriage return.
    source.text.split('\n').enumerate().map(|(number, line)| (number + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> String {
        let mut problems = Vec::new();
        apply(&Source { path: path.into(), text: text.into() }, &mut problems);
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_tidy_file_passes() {
        assert_eq!(found("crates/a/src/lib.rs", "//! What it is.\n\nfn f() {}\n"), "");
        assert_eq!(found("crates/a/src/lib.rs", "#![no_std]\n//! What it is.\n"), "");
        assert_eq!(found("README.md", "# Title\n"), "");
    }

    #[test]
    fn a_file_without_a_head_fails() {
        assert!(found("a.rs", "fn f() {}\n").contains("does not open with"));
        assert!(found("a.rs", "\n\n\n//! Too late.\n").contains("does not open with"));
    }

    #[test]
    fn a_long_file_fails() {
        let long = format!("//! Long.\n{}", "\n".repeat(LINE_LIMIT));
        assert!(found("a.rs", &long).contains("801 lines"));
        let edge = format!("//! Long.\n{}", "\n".repeat(LINE_LIMIT - 1));
        assert_eq!(found("a.rs", &edge), "");
    }

    #[test]
    fn names_that_say_nothing_fail() {
        assert!(found("a/mod.rs", "//! A.\n").contains("beside the folder"));
        assert!(found("a/utils.rs", "//! A.\n").contains("named after nothing"));
        assert!(found("a/helpers.wgsl", "// A.\n").contains("named after nothing"));
        assert_eq!(found("a/model.rs", "//! A.\n"), "");
    }

    #[test]
    fn undone_work_fails_as_a_word_only() {
        let word = UNDONE[0];
        assert!(found("a.rs", &format!("//! A.\n// {word}: later\n")).contains("a.rs:2"));
        assert!(found("a.md", &format!("({}).\n", UNDONE[1])).contains("a.md:1"));
        assert_eq!(found("a.md", &format!("MY{word}S and {}_x\n", UNDONE[1])), "");
    }

    #[test]
    fn ignored_tests_fail() {
        let attribute = concat!("#[ign", "ore = \"slow\"]");
        assert!(found("a.rs", &format!("//! A.\n    {attribute}\n")).contains("an ignored test"));
    }

    #[test]
    fn stray_whitespace_fails() {
        assert!(found("a.rs", "//! A. \n").contains("a.rs:1: whitespace"));
        assert!(found("a.rs", "//! A.\r\n").contains("whitespace"));
        assert!(found("a.rs", "//! A.\n\tx\n").contains("a.rs:2: a tab"));
        assert!(found("a.rs", "//! A.").contains("line break"));
    }
}
