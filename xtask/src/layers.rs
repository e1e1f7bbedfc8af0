//! `cargo xtask layers`: dependencies point strictly downwards, as the table in `ARCHITECTURE.md` says.
//!
//! The table is the only place that states the layers; this file knows its form and no crate's name. It is the first
//! Markdown table with these columns, in any order, further ones allowed:
//!
//! | layer | crate | wasm | may depend on |
//! |---|---|---|---|
//! | L1 | `tabpool-graph` | W | `tabpool-tensor` |
//!
//! `layer` is `L` and a number. `crate` is one package's name in backticks. `wasm` is `W` for a crate that also builds for
//! `wasm32-unknown-unknown`. `may depend on` lists packages in backticks, or says `all below` or `–` for none. Development
//! dependencies need not be listed, but they point downwards as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace::Workspace;

/// The document that holds the table.
const DOCUMENT: &str = "ARCHITECTURE.md";

/// One row of the table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Row {
    pub(crate) layer: u32,
    pub(crate) package: String,
    /// Whether it also builds for the browser.
    pub(crate) wasm: bool,
    pub(crate) allowed: Allowed,
}

/// What a package may depend on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Allowed {
    /// Every package of a lower layer.
    AllBelow,
    /// These.
    Only(BTreeSet<String>),
}

/// One edge between two packages of the workspace.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Edge {
    from: String,
    to: String,
    /// Only tests, examples and benchmarks use it.
    development: bool,
}

/// The verb.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    if !arguments.is_empty() {
        bail!("usage: cargo xtask layers");
    }
    check(workspace)
}

/// Compares the table with what cargo knows.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let rows = read_table(workspace)?;
    let (packages, edges) = packages_and_edges(&workspace.metadata()?)?;
    let problems = problems(&rows, &packages, &edges);
    if problems.is_empty() {
        println!("layers: {} packages, {} dependencies among them, all downwards", packages.len(), edges.len());
        return Ok(());
    }
    for problem in &problems {
        eprintln!("layers: {problem}");
    }
    bail!("{} problem(s) with the layers: change the code, or the table in {DOCUMENT} and say why", problems.len());
}

/// The rows of the table in the document.
pub(crate) fn read_table(workspace: &Workspace) -> Result<Vec<Row>> {
    let path = workspace.root.join(DOCUMENT);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    parse_table(&text).with_context(|| format!("the table of layers in {DOCUMENT}"))
}

/// Reads the table out of Markdown.
fn parse_table(text: &str) -> Result<Vec<Row>> {
    let lines: Vec<&str> = text.lines().collect();
    let Some((header, columns)) =
        lines.iter().enumerate().find_map(|(number, line)| Columns::find(line).map(|columns| (number, columns)))
    else {
        bail!("no table has the columns `layer`, `crate`, `wasm` and `may depend on`");
    };
    let mut rows = Vec::new();
    // The line below the header only draws the rule.
    for (number, line) in lines.iter().enumerate().skip(header + 2) {
        let Some(cells) = cells(line) else { break };
        rows.push(columns.row(&cells).with_context(|| format!("line {}", number + 1))?);
    }
    if rows.is_empty() {
        bail!("the table has no rows");
    }
    Ok(rows)
}

/// Where in a row the four columns stand.
struct Columns {
    layer: usize,
    package: usize,
    wasm: usize,
    allowed: usize,
}

impl Columns {
    fn find(line: &str) -> Option<Self> {
        let names: Vec<String> = cells(line)?.iter().map(|cell| cell.to_lowercase()).collect();
        let place = |name: &str| names.iter().position(|cell| cell == name);
        Some(Self {
            layer: place("layer")?,
            package: place("crate")?,
            wasm: place("wasm")?,
            allowed: place("may depend on")?,
        })
    }

    fn row(&self, cells: &[&str]) -> Result<Row> {
        let cell = |place: usize| cells.get(place).copied().context("the row has too few cells");
        let layer = cell(self.layer)?;
        let number = layer.strip_prefix('L').and_then(|digits| digits.parse().ok());
        let packages = names_in_backticks(cell(self.package)?)?;
        let [package] = packages.as_slice() else {
            bail!("`{}` should be one package in backticks", cell(self.package)?);
        };
        let wasm = match cell(self.wasm)? {
            "W" => true,
            "" | "–" | "-" => false,
            other => bail!("`{other}` in the column wasm should be `W` or empty"),
        };
        let allowed = match cell(self.allowed)? {
            "all below" => Allowed::AllBelow,
            "" | "–" | "-" => Allowed::Only(BTreeSet::new()),
            list => Allowed::Only(names_in_backticks(list)?.into_iter().collect()),
        };
        Ok(Row {
            layer: number.with_context(|| format!("`{layer}` should be L and a number"))?,
            package: package.clone(),
            wasm,
            allowed,
        })
    }
}

/// The trimmed cells of a table's line, or nothing where the line is none.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

/// The names of a list such as `` `a`, `b` ``. Anything else between them is refused: it would not be checked.
fn names_in_backticks(text: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (number, part) in text.split('`').enumerate() {
        if number % 2 == 1 {
            names.push(part.to_owned());
        } else if part.chars().any(|letter| letter != ',' && !letter.is_whitespace()) {
            bail!("`{}` in `{text}` is no package in backticks", part.trim());
        }
    }
    Ok(names)
}

/// The workspace's packages and the dependencies among them.
fn packages_and_edges(metadata: &Value) -> Result<(Vec<String>, Vec<Edge>)> {
    let list = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let name = |package: &Value| package["name"].as_str().map(str::to_owned).context("a package without a name");
    let packages: Vec<String> = list.iter().map(name).collect::<Result<_>>()?;
    let mut edges = Vec::new();
    for package in list {
        let from = name(package)?;
        let dependencies = package["dependencies"].as_array().context("a package without dependencies")?;
        for dependency in dependencies {
            let to = name(dependency)?;
            if packages.contains(&to) {
                let development = dependency["kind"].as_str() == Some("dev");
                edges.push(Edge { from: from.clone(), to, development });
            }
        }
    }
    Ok((packages, edges))
}

/// Everything that is wrong, one sentence each.
fn problems(rows: &[Row], packages: &[String], edges: &[Edge]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut by_name: BTreeMap<&str, &Row> = BTreeMap::new();
    for row in rows {
        if by_name.insert(&row.package, row).is_some() {
            problems.push(format!("{} is listed twice", row.package));
        }
        if !packages.contains(&row.package) {
            problems.push(format!("{} is listed and is no package of the workspace", row.package));
        }
    }
    for package in packages {
        if !by_name.contains_key(package.as_str()) {
            problems.push(format!("{package} is missing from the table"));
        }
    }
    for row in rows {
        let Allowed::Only(allowed) = &row.allowed else { continue };
        for name in allowed {
            match by_name.get(name.as_str()) {
                None => problems.push(format!("{} may depend on {name}, which is not in the table", row.package)),
                Some(below) if below.layer >= row.layer => {
                    problems.push(format!(
                        "{} (L{}) may depend on {name} (L{}), which is not below it",
                        row.package, row.layer, below.layer
                    ));
                }
                Some(_) => {}
            }
        }
    }
    for edge in edges {
        let (Some(from), Some(to)) = (by_name.get(edge.from.as_str()), by_name.get(edge.to.as_str())) else { continue };
        let what = if edge.development { "depends in its tests on" } else { "depends on" };
        if edge.from == edge.to {
            // A package may name itself in its tests, to switch on its own features.
            continue;
        }
        if to.layer >= from.layer {
            problems.push(format!(
                "{} (L{}) {what} {} (L{}), which is not below it",
                from.package, from.layer, to.package, to.layer
            ));
        }
        if edge.development {
            continue;
        }
        if let Allowed::Only(allowed) = &from.allowed
            && !allowed.contains(&to.package)
        {
            problems.push(format!("{} depends on {}, which the table does not allow", from.package, to.package));
        }
        if from.wasm && !to.wasm {
            problems
                .push(format!("{} builds for the browser and depends on {}, which does not", from.package, to.package));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
# Code map

| word | meaning |
|---|---|
| CID | name of a block |

| layer | crate | wasm | may depend on | holds |
|---|---|:-:|---|---|
| L0 | `tensor` | W | – | numbers |
| L0 | `browser` | | | processes |
| L1 | `graph` | W | `tensor` | operators |
| L2 | `pool` | – | all below | everything |

After it.
";

    fn table(text: &str) -> Vec<Row> {
        parse_table(text).expect("a good table")
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn edge(from: &str, to: &str) -> Edge {
        Edge { from: from.into(), to: to.into(), development: false }
    }

    fn found(edges: &[Edge]) -> String {
        problems(&table(TABLE), &names(&["tensor", "browser", "graph", "pool"]), edges).join("\n")
    }

    #[test]
    fn the_table_is_found_among_others() {
        let rows = table(TABLE);
        assert_eq!(rows.len(), 4);
        assert_eq!(
            rows[2],
            Row { layer: 1, package: "graph".into(), wasm: true, allowed: Allowed::Only(["tensor".to_owned()].into()) }
        );
        assert_eq!(rows[1].allowed, Allowed::Only(BTreeSet::new()));
        assert_eq!(rows[3].allowed, Allowed::AllBelow);
        assert!(!rows[1].wasm && !rows[3].wasm);
    }

    #[test]
    fn bad_tables_are_refused_with_their_line() {
        let error = |text: &str| format!("{:#}", parse_table(text).expect_err("a bad table"));
        assert!(error("nothing").contains("no table has the columns"));
        let header = "| layer | crate | wasm | may depend on |\n|---|---|---|---|\n";
        assert!(error(header).contains("no rows"));
        assert!(error(&format!("{header}| 1 | `a` | | |")).contains("line 3"));
        assert!(error(&format!("{header}| L1 | a | | |")).contains("no package in backticks"));
        assert!(error(&format!("{header}| L1 | `a`, `b` | | |")).contains("one package"));
        assert!(error(&format!("{header}| L1 | `a` | yes | |")).contains("column wasm"));
        assert!(error(&format!("{header}| L1 | `a` | | `b` and c |")).contains("no package in backticks"));
        assert!(error(&format!("{header}| L1 | `a` |")).contains("too few cells"));
    }

    #[test]
    fn downward_dependencies_pass() {
        assert_eq!(found(&[edge("graph", "tensor"), edge("pool", "graph"), edge("pool", "browser")]), "");
    }

    #[test]
    fn upward_sideways_and_unlisted_dependencies_fail() {
        assert!(found(&[edge("tensor", "graph")]).contains("tensor (L0) depends on graph (L1), which is not below it"));
        assert!(found(&[edge("tensor", "browser")]).contains("not below"));
        assert!(found(&[edge("graph", "browser")]).contains("which the table does not allow"));
        assert!(found(&[edge("graph", "browser")]).contains("builds for the browser"));
    }

    #[test]
    fn tests_may_use_what_is_not_listed_but_nothing_above() {
        let development = |from: &str, to: &str| Edge { development: true, ..edge(from, to) };
        assert_eq!(found(&[development("graph", "browser")]), "");
        assert!(found(&[development("tensor", "pool")]).contains("depends in its tests on pool"));
        assert_eq!(found(&[development("graph", "graph")]), "");
    }

    #[test]
    fn table_and_workspace_hold_the_same_packages() {
        let rows = table(TABLE);
        let list = problems(&rows, &names(&["tensor", "browser", "graph", "extra"]), &[]).join("\n");
        assert!(list.contains("extra is missing from the table"));
        assert!(list.contains("pool is listed and is no package"));
        let twice = [rows.clone(), rows].concat();
        assert!(problems(&twice, &names(&["tensor", "browser", "graph", "pool"]), &[])[0].contains("listed twice"));
    }

    #[test]
    fn a_table_that_allows_what_lies_above_is_refused() {
        let text = TABLE.replace("| L0 | `tensor` | W | – |", "| L0 | `tensor` | W | `pool`, `ghost` |");
        let list = problems(&table(&text), &names(&["tensor", "browser", "graph", "pool"]), &[]).join("\n");
        assert!(list.contains("tensor (L0) may depend on pool (L2), which is not below it"), "{list}");
        assert!(list.contains("ghost, which is not in the table"), "{list}");
    }

    #[test]
    fn edges_are_read_from_cargo() {
        let metadata = serde_json::json!({"packages": [
            {"name": "graph", "dependencies": [
                {"name": "tensor", "kind": null}, {"name": "serde", "kind": null}, {"name": "pool", "kind": "dev"}]},
            {"name": "tensor", "dependencies": []},
            {"name": "pool", "dependencies": []},
        ]});
        let (packages, edges) = packages_and_edges(&metadata).expect("well formed");
        assert_eq!(packages, names(&["graph", "tensor", "pool"]));
        assert_eq!(edges, vec![edge("graph", "tensor"), Edge { development: true, ..edge("graph", "pool") }]);
        assert!(packages_and_edges(&serde_json::json!({})).is_err());
    }
}
