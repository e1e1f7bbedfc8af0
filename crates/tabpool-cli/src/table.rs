//! Tables without lines: a heading, aligned columns, and cells that may be coloured.

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement};

use crate::terminal::Terminal;

/// Which side a column's cells stand at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// A table in the making.
pub(crate) struct Table {
    table: comfy_table::Table,
    sides: Vec<Side>,
    gap: u16,
    colour: bool,
}

/// How a cell is set off from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mark {
    #[default]
    None,
    Good,
    Bad,
    Faint,
    /// A background between cold and hot, in percent.
    Heat(u8),
}

impl Table {
    /// Columns with their headings and sides.
    pub(crate) fn new(terminal: &Terminal, columns: &[(&str, Side)]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        let colour = terminal.colour();
        if colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let sides: Vec<Side> = columns.iter().map(|(_, side)| *side).collect();
        table.set_header(columns.iter().map(|(name, side)| {
            let cell = Cell::new(name).set_alignment(alignment(*side));
            if colour { cell.add_attribute(Attribute::Bold) } else { cell }
        }));
        Self { table, sides, gap: 2, colour }
    }

    /// Columns between one column and the next; two unless told otherwise.
    pub(crate) fn gap(mut self, gap: u16) -> Self {
        self.gap = gap;
        self
    }

    /// Adds a row of cells with their marks.
    pub(crate) fn row(&mut self, cells: Vec<(String, Mark)>) {
        let colour = self.colour;
        let sides = self.sides.iter().copied().chain(std::iter::repeat(Side::Left));
        self.table.add_row(cells.into_iter().zip(sides).map(|((text, mark), side)| {
            let cell = Cell::new(text).set_alignment(alignment(side));
            if colour { styled(cell, mark) } else { cell }
        }));
    }

    /// The table as lines, each ended by a line feed and none with spaces at its end.
    pub(crate) fn render(mut self) -> String {
        let last = self.table.column_count().saturating_sub(1);
        for (index, column) in self.table.column_iter_mut().enumerate() {
            column.set_padding((0, if index == last { 0 } else { self.gap }));
        }
        let mut text = String::new();
        for line in self.table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn alignment(side: Side) -> CellAlignment {
    match side {
        Side::Left => CellAlignment::Left,
        Side::Right => CellAlignment::Right,
    }
}

fn styled(cell: Cell, mark: Mark) -> Cell {
    match mark {
        Mark::None => cell,
        Mark::Good => cell.fg(Color::Green),
        Mark::Bad => cell.fg(Color::Red).add_attribute(Attribute::Bold),
        Mark::Faint => cell.add_attribute(Attribute::Dim),
        Mark::Heat(percent) => {
            let (background, dark) = heat(percent);
            cell.bg(background).fg(if dark { Color::White } else { Color::Black })
        }
    }
}

/// A background from dark blue to yellow, from the palette of 256 colours that every terminal of today has, and whether
/// it needs light text.
fn heat(percent: u8) -> (Color, bool) {
    const SCALE: [u8; 8] = [17, 18, 24, 30, 36, 72, 149, 226];
    let step = usize::from(percent.min(100)) * (SCALE.len() - 1) / 100;
    (Color::AnsiValue(SCALE[step]), step < 4)
}

#[cfg(test)]
mod tests {
    use super::{Mark, Side, Table, heat};
    use crate::terminal::Terminal;

    #[test]
    fn columns_stand_under_their_headings_without_trailing_spaces() {
        let mut table = Table::new(&Terminal::plain(80), &[("NAME", Side::Left), ("SIZE", Side::Right)]);
        table.row(vec![("bert".into(), Mark::None), ("1 B".into(), Mark::None)]);
        table.row(vec![("größer".into(), Mark::Heat(50)), ("100 kB".into(), Mark::Bad)]);
        assert_eq!(table.render(), "NAME      SIZE\nbert       1 B\ngrößer  100 kB\n");
    }

    #[test]
    fn heat_reaches_both_ends() {
        assert!(heat(0).1 && !heat(100).1 && heat(0) != heat(100));
        assert_eq!(heat(255), heat(100));
    }
}
