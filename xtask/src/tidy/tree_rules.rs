//! Rules that need to see more than one file.

use std::collections::BTreeSet;

use super::{Problem, Source};

/// Where reference data lies that somebody else's implementation made.
pub(super) const FIXTURES: &str = "tests/fixtures/";
/// Without these the repository is incomplete, whatever else it holds.
const REQUIRED: &[&str] = &[
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "deny.toml",
    "tests/fixtures/README.md",
    "tests/fixtures/generate.py",
];

/// Applies every rule of this file.
pub(super) fn apply(sources: &[Source], paths: &[String], problems: &mut Vec<Problem>) {
    let paths: BTreeSet<&str> = paths.iter().map(String::as_str).collect();
    for path in REQUIRED {
        if !paths.contains(path) {
            problems.push(Problem::of_file(path, "is missing"));
        }
    }
    for source in sources {
        if source.name() == "Cargo.toml" && !source.folder().is_empty() {
            manifest(source, problems);
        }
        if source.extension() == "wgsl" {
            shader(source, sources, problems);
        }
        if source.extension() == "md" {
            links(source, &paths, problems);
        }
    }
}

/// A package takes the workspace's lints and bears its folder's name; packages at the top level carry the project's name in front.
fn manifest(source: &Source, problems: &mut Vec<Problem>) {
    let folder = source.folder().rsplit('/').next().unwrap_or_default();
    if value_in(&source.text, "[lints]", "workspace") != Some("true") {
        problems.push(Problem::of_file(&source.path, "does not say `[lints] workspace = true`"));
    }
    let name = value_in(&source.text, "[package]", "name").unwrap_or_default();
    let inside_crates = source.folder().starts_with("crates/");
    if name != folder && (inside_crates || name != format!("tabpool-{folder}")) {
        problems.push(Problem::of_file(&source.path, format!("the package `{name}` lies in the folder `{folder}`")));
    }
}

/// The value of a key in a section, quotes removed. Enough for the two lines that are asked for, which are written the same
/// way in every manifest.
fn value_in<'a>(text: &'a str, section: &str, key: &str) -> Option<&'a str> {
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == section;
        } else if inside
            && let Some((left, right)) = line.split_once('=')
            && left.trim() == key
        {
            return Some(right.trim().trim_matches('"'));
        }
    }
    None
}

/// A shader stands beside the Rust file that launches it, or Rust of the same package names it.
fn shader(shader: &Source, sources: &[Source], problems: &mut Vec<Problem>) {
    let package = package_of(&shader.path);
    let belongs = sources.iter().filter(|source| source.extension() == "rs").any(|source| {
        let beside = source.folder() == shader.folder() && source.stem() == shader.stem();
        beside || (package_of(&source.path) == package && source.text.contains(shader.name()))
    });
    if !belongs {
        problems.push(Problem::of_file(
            &shader.path,
            "no Rust file of its name stands beside it, and none of its package names it",
        ));
    }
}

/// The folder of the package that a path lies in.
fn package_of(path: &str) -> &str {
    let parts = if path.starts_with("crates/") { 2 } else { 1 };
    let end = path.match_indices('/').nth(parts - 1).map_or(path.len(), |(place, _)| place);
    &path[..end]
}

/// Relative links in Markdown lead somewhere.
fn links(source: &Source, paths: &BTreeSet<&str>, problems: &mut Vec<Problem>) {
    for (number, line) in source.text.lines().enumerate() {
        for part in line.split("](").skip(1) {
            let Some((target, _)) = part.split_once(')') else { continue };
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let target = resolve(source.folder(), target);
            let folder = format!("{target}/");
            if !paths.contains(target.as_str()) && !paths.iter().any(|path| path.starts_with(&folder)) {
                problems.push(Problem::at(&source.path, number + 1, format!("the link to `{target}` leads nowhere")));
            }
        }
    }
}

/// A relative path as one from the root.
fn resolve(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    fn found(files: &[(&str, &str)]) -> String {
        let sources: Vec<Source> = files.iter().map(|(path, text)| source(path, text)).collect();
        let paths: Vec<String> = REQUIRED
            .iter()
            .map(|path| (*path).to_owned())
            .chain(files.iter().map(|(path, _)| (*path).to_owned()))
            .collect();
        let mut problems = Vec::new();
        apply(&sources, &paths, &mut problems);
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    const MANIFEST: &str = "[package]\nname = \"tabpool-graph\"\n\n[lints]\nworkspace = true\n";

    #[test]
    fn required_files_are_missed() {
        let mut problems = Vec::new();
        apply(&[], &["README.md".to_owned()], &mut problems);
        assert_eq!(problems.len(), REQUIRED.len() - 1);
        assert!(problems.iter().any(|problem| problem.to_string() == "LICENSE-MIT: is missing"));
    }

    #[test]
    fn manifests_take_the_lints_and_their_folders_name() {
        assert_eq!(found(&[("crates/tabpool-graph/Cargo.toml", MANIFEST)]), "");
        assert!(found(&[("crates/graph/Cargo.toml", MANIFEST)]).contains("lies in the folder `graph`"));
        assert_eq!(found(&[("graph/Cargo.toml", MANIFEST)]), "");
        assert!(found(&[("other/Cargo.toml", MANIFEST)]).contains("lies in the folder `other`"));
        let bare = "[package]\nname = \"xtask\"\n[dependencies]\nworkspace = true\n";
        assert!(found(&[("xtask/Cargo.toml", bare)]).contains("[lints]"));
        assert_eq!(found(&[("Cargo.toml", "[workspace]\n")]), "");
    }

    #[test]
    fn shaders_have_an_owner() {
        let shader = ("crates/g/src/kernels/softmax.wgsl", "// Softmax.\n");
        assert!(found(&[shader]).contains("no Rust file"));
        assert_eq!(found(&[shader, ("crates/g/src/kernels/softmax.rs", "//! It.\n")]), "");
        assert_eq!(found(&[shader, ("crates/g/src/all.rs", "include_str!(\"kernels/softmax.wgsl\")")]), "");
        assert!(
            found(&[shader, ("crates/h/src/all.rs", "include_str!(\"kernels/softmax.wgsl\")")])
                .contains("no Rust file")
        );
    }

    #[test]
    fn links_lead_somewhere() {
        let text = "[a](ARCHITECTURE.md#layers) [b](https://example.org/x) [c](#here) [d](tests/fixtures)\n";
        assert_eq!(found(&[("README.md", text)]), "");
        assert!(found(&[("README.md", "x\n[a](docs/none.md)\n")]).contains("README.md:2: the link to `docs/none.md`"));
        assert_eq!(found(&[("crates/g/README.md", "[up](../../LICENSE-MIT)\n")]), "");
    }
}
