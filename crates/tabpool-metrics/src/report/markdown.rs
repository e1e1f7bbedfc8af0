//! A report as GitHub-flavoured Markdown.

use super::Report;
use super::sections::{Cell, sections, summary, visible};

pub(super) fn render(report: &Report) -> String {
    let mut out = String::from("# tabpool report\n\n");
    for line in summary(report) {
        out.push_str(&line);
        out.push('\n');
    }
    for section in sections(report) {
        out.push_str(&format!("\n## {}\n\n{}\n\n| {} |\n|", section.title, section.note, section.head.join(" | ")));
        for cell in section.rows.first().into_iter().flatten() {
            out.push_str(if matches!(cell, Cell::Number(_)) { " ---: |" } else { " --- |" });
        }
        out.push('\n');
        for row in &section.rows {
            out.push('|');
            for cell in row {
                out.push_str(&format!(" {} |", escape(cell.content())));
            }
            out.push('\n');
        }
    }
    out
}

/// Every character with a meaning in Markdown or HTML loses it; `@` too, so that a name cannot mention anybody.
fn escape(content: &str) -> String {
    let mut out = String::with_capacity(content.len());
    for letter in visible(content).chars() {
        match letter {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '@' => out.push_str("&#64;"),
            ':' => out.push_str("&#58;"),
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '#' | '|' | '~' | '!' | '$' => {
                out.push('\\');
                out.push(letter);
            }
            _ => out.push(letter),
        }
    }
    out
}
