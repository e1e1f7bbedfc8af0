//! A report for a terminal.

use super::Report;
use super::sections::{Cell, Section, sections, summary, visible};

/// A text column is not cut below this many characters.
const NARROWEST: usize = 8;
const GAP: &str = "  ";

pub(super) fn render(report: &Report, width: usize) -> String {
    let mut out = String::new();
    for line in summary(report) {
        wrap(&line, width, &mut out);
    }
    for section in sections(report) {
        out.push('\n');
        table(&section, width, &mut out);
    }
    out
}

fn table(section: &Section, width: usize, out: &mut String) {
    out.push_str(&section.title.to_uppercase());
    out.push('\n');
    wrap(section.note, width, out);
    let rows: Vec<Vec<String>> =
        section.rows.iter().map(|row| row.iter().map(|cell| visible(cell.content())).collect()).collect();
    let widths = widths(section, &rows, width);
    let numbers: Vec<bool> = section.rows.first().map_or_else(Vec::new, |row| row.iter().map(is_number).collect());
    let head: Vec<String> = section.head.iter().map(|&title| title.to_owned()).collect();
    for row in std::iter::once(&head).chain(&rows) {
        let cells: Vec<String> =
            row.iter().zip(&widths).zip(&numbers).map(|((cell, &width), &number)| fit(cell, width, number)).collect();
        out.push_str(cells.join(GAP).trim_end());
        out.push('\n');
    }
}

/// Breaks a sentence between words so that it keeps within `width`, as long as its words do.
fn wrap(sentence: &str, width: usize, out: &mut String) {
    let mut column = 0;
    for word in sentence.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            out.push('\n');
            column = 0;
        }
        if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
}

fn is_number(cell: &Cell) -> bool {
    matches!(cell, Cell::Number(_))
}

/// The widths the columns want, with the widest text columns cut back until the table fits or nothing may shrink further.
fn widths(section: &Section, rows: &[Vec<String>], width: usize) -> Vec<usize> {
    let mut widths: Vec<usize> = section.head.iter().map(|title| title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let shrinks: Vec<bool> =
        section.rows.first().map_or_else(Vec::new, |row| row.iter().map(|cell| !is_number(cell)).collect());
    loop {
        let total = widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1);
        let widest = (0..widths.len())
            .filter(|&index| shrinks[index] && widths[index] > NARROWEST)
            .max_by_key(|&index| widths[index]);
        match widest {
            Some(index) if total > width => widths[index] -= 1,
            _ => return widths,
        }
    }
}

fn fit(cell: &str, width: usize, number: bool) -> String {
    let length = cell.chars().count();
    if length > width {
        let kept: String = cell.chars().take(width.saturating_sub(1)).collect();
        return kept + "…";
    }
    let blanks = " ".repeat(width - length);
    if number { blanks + cell } else { cell.to_owned() + &blanks }
}
