//! Launches `gather.wgsl`, once for each part of the table; four elements at once where rows are multiples of four long.

use super::{GRID, Groups, Kernel, Launch, QUAD, Variant, WORD, word};

const GATHER: &str = include_str!("gather.wgsl");

static KERNEL: Kernel = Kernel { name: "gather", parts: &[GRID, WORD, GATHER], reads: 2 };
static VEC4: Kernel = Kernel { name: "gather_vec4", parts: &[GRID, QUAD, GATHER], reads: 2 };

/// A part of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) first: usize,
    pub(crate) rows: usize,
}

/// `count` elements of rows `row` long from a table of `table_rows`.
pub(crate) fn launch(count: usize, row: usize, table_rows: usize, part: Part) -> Launch {
    let (kernel, each) = if row.is_multiple_of(4) { (&VEC4, 4) } else { (&KERNEL, 1) };
    let (count, row) = (count / each, row / each);
    let params = vec![word(count), word(row), word(table_rows), word(part.first), word(part.rows), 0, 0, 0];
    Launch { variant: Variant::new(kernel, &[]), params, groups: Groups::of_64(count) }
}

/// Cuts a table into parts of at most `limit` bytes that begin at multiples of `alignment` bytes (a power of two). `None`
/// where not even the fewest rows that keep the alignment fit.
pub(crate) fn parts(table_rows: usize, row: usize, limit: u64, alignment: u64) -> Option<Vec<Part>> {
    let row_bytes = row as u64 * 4;
    if table_rows as u64 * row_bytes <= limit {
        return Some(vec![Part { first: 0, rows: table_rows }]);
    }
    // So many rows are a multiple of the alignment whatever their length, since a row is whole words.
    let unit = (alignment / 4).max(1);
    let rows = usize::try_from(limit / row_bytes / unit * unit).ok().filter(|&n| n > 0)?;
    let part = |first| Part { first, rows: rows.min(table_rows - first) };
    Some((0..table_rows).step_by(rows).map(part).collect())
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    vec![Variant::new(&KERNEL, &[]), Variant::new(&VEC4, &[])]
}

#[cfg(test)]
mod parts_tests {
    use super::{Part, parts};

    #[test]
    fn a_large_table_is_cut_at_aligned_rows() {
        assert_eq!(parts(10, 3, 120, 256), Some(vec![Part { first: 0, rows: 10 }]));
        let cut = parts(1000, 3, 4096, 256).expect("4096 bytes hold 64 rows of 12");
        assert!(cut.iter().all(|p| p.first * 12 % 256 == 0 && p.rows * 12 <= 4096));
        assert_eq!(cut.iter().map(|p| p.rows).sum::<usize>(), 1000);
        assert_eq!(parts(1000, 300, 4096, 256), None, "64 rows of 1200 bytes do not fit");
    }
}
