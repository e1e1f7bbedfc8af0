//! The table of errors by family and target that the repository keeps, in `tests/GOLDENS.md`.
//!
//! It says how much of a fixture's tolerance the worst value of a family used up, as a bound out of a short list. A run
//! changes it where it found out something: a family or a target more, a value beyond its bound, or one so far below it that
//! the bound says nothing any more. What differs from machine to machine and from run to run stays within that.
//!
//! It neither runs anything nor decides whether a run may be kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::Fault;

/// What the table begins after.
pub const BEGIN: &str = "<!-- goldens: begin -->";
/// What it ends before.
pub const END: &str = "<!-- goldens: end -->";
/// The targets it has columns for. Whoever has not all of them cannot write it.
pub const TARGETS: [&str; 7] = [
    "chromium:webgpu",
    "firefox:webgpu",
    "native:webgpu",
    "chromium:cpu",
    "firefox:cpu",
    "native:cpu",
    "webnn-shell:webnn",
];

/// The bounds that cells name.
const BOUNDS: [f32; 10] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];
/// A bound that a value stays below by more than this factor is too loose to be kept.
const LOOSE: f32 = 5.0;

/// Why a target does not take a program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The node it cannot take.
    pub node: String,
    /// That node's operator.
    pub op: String,
    /// What is lacking.
    pub reason: String,
}

impl Refusal {
    /// Finds the refusal in what a pool says of a failed request: `API cannot run this program: node "NODE" (OP) REASON`.
    /// `None` where the text is not one of this API, or names no node, no operator or no reason.
    #[must_use]
    pub fn read(text: &str, api: &str) -> Option<Self> {
        let (_, rest) = text.split_once(&format!("{api} cannot run this program: node \""))?;
        let (node, rest) = rest.split_once("\" (")?;
        let (op, reason) = rest.split_once(") ")?;
        let (node, op, reason) = (node.to_owned(), op.to_owned(), reason.trim().to_owned());
        (!node.is_empty() && !op.is_empty() && !reason.is_empty()).then_some(Self { node, op, reason })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {:?} ({}) {}", self.node, self.op, self.reason)
    }
}

/// What became of a fixture on a target.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// It ran; its worst value used up this share of the tolerance.
    Share(f32),
    /// It was refused.
    Refused(Refusal),
}

#[derive(Debug, Default)]
struct Row {
    fixtures: BTreeSet<String>,
    cells: BTreeMap<String, Cell>,
}

#[derive(Debug, Default)]
struct Cell {
    /// The worst of those that ran.
    share: Option<f32>,
    /// By fixture.
    refused: BTreeMap<String, Refusal>,
}

/// What a run found, by family.
#[derive(Debug, Default)]
pub struct ErrorTable {
    rows: BTreeMap<String, Row>,
}

impl ErrorTable {
    /// Adds what became of a fixture of a family on a target.
    pub fn put(&mut self, family: &str, fixture: &str, target: &str, found: &Found) {
        let row = self.rows.entry(family.to_owned()).or_default();
        row.fixtures.insert(fixture.to_owned());
        let cell = row.cells.entry(target.to_owned()).or_default();
        match found {
            Found::Share(share) => cell.share = Some(cell.share.map_or(*share, |worst| worst.max(*share))),
            Found::Refused(refusal) => {
                cell.refused.insert(fixture.to_owned(), refusal.clone());
            }
        }
    }

    /// The targets of the kept table for which some family has nothing.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let missing = |target: &&str| self.rows.values().any(|row| !row.cells.contains_key(*target));
        TARGETS.into_iter().filter(|target| self.rows.is_empty() || missing(target)).collect()
    }

    /// A document with this table in the place of the one it holds. Bounds that still say the truth are left as they are.
    ///
    /// # Errors
    /// Where the document has no place for the table.
    pub fn in_document(&self, document: &str) -> Result<String, Fault> {
        let (before, rest) = document.split_once(BEGIN).ok_or("the document has no mark where the table begins")?;
        let (kept, after) = rest.split_once(END).ok_or("the document has no mark where the table ends")?;
        let kept = bounds(kept);
        let mut text = format!("{before}{BEGIN}\n\n| family | fixtures |");
        TARGETS.iter().for_each(|target| text.push_str(&format!(" {target} |")));
        text.push_str(&format!("\n|---|---|{}\n", "---:|".repeat(TARGETS.len())));
        for (family, row) in &self.rows {
            let fixtures = row.fixtures.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            text.push_str(&format!("| {family} | {fixtures} |"));
            for target in TARGETS {
                let kept = kept.get(&(family.clone(), target.to_owned())).copied();
                let cell = row.cells.get(target).map_or_else(String::new, |cell| cell.text(kept));
                text.push_str(&format!(" {} |", cell.replace('|', "/")));
            }
            text.push('\n');
        }
        text.push_str(&format!("\n{END}{after}"));
        Ok(text)
    }
}

impl Cell {
    /// As the table writes it, where it had this bound before.
    fn text(&self, kept: Option<f32>) -> String {
        let bound = self.share.map(|share| bound(share, kept).to_string());
        let refused = self.refused.iter().map(|(fixture, refusal)| format!("{fixture} is refused: {refusal}"));
        bound.into_iter().chain(refused).collect::<Vec<_>>().join("; ")
    }
}

/// The bound that holds for a share: the one it had, if that still says something.
fn bound(share: f32, kept: Option<f32>) -> f32 {
    match kept {
        Some(kept) if share <= kept && share * LOOSE > kept => kept,
        _ => BOUNDS.into_iter().find(|bound| share <= *bound).unwrap_or(f32::INFINITY),
    }
}

/// The bounds of a table as it stands in a document, by family and target. What is not understood is as good as not there.
fn bounds(table: &str) -> BTreeMap<(String, String), f32> {
    let mut rows = table.lines().filter(|line| line.starts_with('|')).map(|line| {
        let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
        cells.collect::<Vec<_>>()
    });
    let targets = rows.next().unwrap_or_default();
    let mut bounds = BTreeMap::new();
    for row in rows {
        for (target, cell) in targets.iter().zip(&row).skip(2) {
            let bound = cell.split(';').next().unwrap_or_default().trim().parse();
            if let Ok(bound) = bound {
                bounds.insert((row[0].clone(), target.clone()), bound);
            }
        }
    }
    bounds
}

#[cfg(test)]
mod tests {
    use tabpool_engine::EngineError;

    use super::{BEGIN, BOUNDS, END, ErrorTable, Found, Refusal, TARGETS, bound};
    use crate::golden;
    use crate::places::repository;

    const EMPTY: &str = "Text.\n\n<!-- goldens: begin --><!-- goldens: end -->\n\nMore.\n";

    fn table(share: f32) -> ErrorTable {
        let mut table = ErrorTable::default();
        for target in TARGETS {
            table.put("bert", "bert", target, &Found::Share(share / 2.0));
            table.put("bert", "heads/bert_words", target, &Found::Share(share));
            table.put("gpt2", "gpt2", target, &Found::Share(0.5));
        }
        table
    }

    #[test]
    fn a_table_is_kept_between_the_marks_and_changes_where_there_is_something_to_say() {
        let first = table(0.011).in_document(EMPTY).expect("it has the marks");
        assert!(first.starts_with("Text.\n") && first.ends_with("\n\nMore.\n"), "{first}");
        assert!(first.contains("| bert | bert, heads/bert_words | 0.02 |"), "{first}");
        let again = |share: f32| table(share).in_document(&first).expect("it has the marks");
        for noise in [0.02, 0.009, 0.0041] {
            assert_eq!(again(noise), first, "{noise}");
        }
        assert!(again(0.0201).contains("heads/bert_words | 0.05 |"), "it is worse");
        assert!(again(0.0039).contains("heads/bert_words | 0.005 |"), "it is much better");
        let mut more = table(0.011);
        more.put("t5", "t5", TARGETS[0], &Found::Share(0.0));
        let more = more.in_document(&first).expect("it has the marks");
        assert!(more.contains("| t5 | t5 | 0.001 |  |") && more.contains("heads/bert_words | 0.02 |"), "{more}");
        assert!(table(1.0).in_document("no marks").is_err());
        assert!(table(1.0).in_document(BEGIN).is_err());
    }

    #[test]
    fn bounds_do_not_flicker() {
        for (position, one) in BOUNDS.into_iter().enumerate() {
            assert_eq!(bound(one, None), one);
            assert_eq!(bound(one * 1.001, Some(one)), BOUNDS.get(position + 1).copied().unwrap_or(f32::INFINITY));
            assert_eq!(bound(one / 4.0, Some(one)), one);
        }
    }

    #[test]
    fn a_target_that_nothing_ran_on_is_missed() {
        assert_eq!(ErrorTable::default().missing(), TARGETS);
        assert!(table(0.1).missing().is_empty());
        let mut one = table(0.1);
        one.put("t5", "t5", TARGETS[2], &Found::Share(0.1));
        assert_eq!(one.missing().len(), TARGETS.len() - 1);
    }

    #[test]
    fn refusals_name_node_operator_and_reason() {
        let reason = "needs pad, which this browser does not have".to_owned();
        let error = EngineError::Unsupported { api: "webnn", node: "encoder.0".to_owned(), op: "conv2d", reason };
        let text = format!("attempt 1: {error}");
        let refusal = Refusal::read(&text, "webnn").expect("it is one");
        assert_eq!(refusal.to_string(), "node \"encoder.0\" (conv2d) needs pad, which this browser does not have");
        for other in [
            "webnn failed",
            "webnn cannot run this program: node \"\" (x) y",
            "webnn cannot run this program: node \"a\" (x) ",
        ] {
            assert_eq!(Refusal::read(other, "webnn"), None, "{other}");
        }
        assert_eq!(Refusal::read(&text, "webgpu"), None, "it is another API's");
        let mut table = table(0.1);
        table.put("bert", "bert", TARGETS[6], &Found::Refused(refusal));
        let text = table.in_document(EMPTY).expect("it has the marks");
        assert!(text.contains("| 0.1; bert is refused: node \"encoder.0\" (conv2d) needs pad, "), "{text}");
        assert_eq!(table.in_document(&text).expect("it has the marks"), text);
    }

    #[test]
    fn the_kept_table_has_every_fixture_on_every_target() {
        let document = std::fs::read_to_string(repository().join("tests/GOLDENS.md")).expect("it is kept");
        let (_, rest) = document.split_once(BEGIN).expect("a beginning");
        let (kept, _) = rest.split_once(END).expect("an end");
        let rows: Vec<Vec<&str>> = kept
            .lines()
            .filter(|line| line.starts_with('|'))
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        let mut columns = vec!["", "family", "fixtures"];
        columns.extend(TARGETS);
        columns.push("");
        assert_eq!(rows.first(), Some(&columns));
        for name in golden::models().expect("they can be listed") {
            let row = rows.iter().find(|row| row.len() > 2 && row[2].split(", ").any(|fixture| fixture == name));
            let row = row
                .unwrap_or_else(|| panic!("{name} has no row; a run of `cargo xtask test` on all targets writes it"));
            assert!(
                row.len() == columns.len() && row[1..=columns.len() - 2].iter().all(|cell| !cell.is_empty()),
                "{row:?}"
            );
        }
    }
}
