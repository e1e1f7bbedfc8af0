//! A QR code made of half blocks: two rows of modules in a line of text, so that modules come out square.

use qrcode::{Color, EcLevel, QrCode};

use crate::terminal::Terminal;

/// Modules left light around the code, which readers need to find it.
const MARGIN: usize = 4;

/// A text as a QR code of so many columns at most, or nothing where it does not fit.
///
/// Readers expect dark modules on a light ground. Where the terminal takes colours both are said. Where it does not, its ground
/// is taken for dark, as most are: light modules are drawn and dark ones left out.
pub(crate) fn drawn(text: &str, terminal: &Terminal) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let (width, modules) = (code.width(), code.to_colors());
    let side = width + 2 * MARGIN;
    if side > terminal.width {
        return None;
    }
    let dark = |x: usize, y: usize| {
        let inside = |at: usize| at.checked_sub(MARGIN).filter(|at| *at < width);
        match (inside(x), inside(y)) {
            (Some(x), Some(y)) => modules[y * width + x] == Color::Dark,
            _ => false,
        }
    };
    let mut out = String::new();
    for y in (0..side).step_by(2) {
        if terminal.colour() {
            // Black on white out of the palette of 256, which themes leave alone.
            out.push_str("\x1b[38;5;16;48;5;231m");
        }
        for x in 0..side {
            // Below an odd last row is nothing, which is as good as light.
            let (upper, lower) = (dark(x, y), y + 1 < side && dark(x, y + 1));
            let drawn = if terminal.colour() { (upper, lower) } else { (!upper, !lower && y + 1 < side) };
            out.push(match drawn {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        out.push_str(if terminal.colour() { "\x1b[0m\n" } else { "\n" });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use qrcode::{Color, EcLevel, QrCode};

    use super::{MARGIN, drawn};
    use crate::terminal::Terminal;

    const URL: &str = "https://192.168.178.20:8600/#token=00112233445566778899aabbccddeeff";

    #[test]
    fn every_module_is_where_a_reader_looks_for_it() {
        let code = QrCode::with_error_correction_level(URL, EcLevel::L).expect("it fits");
        let (width, modules) = (code.width(), code.to_colors());
        let text = drawn(URL, &Terminal::plain(80)).expect("it fits");
        let lines: Vec<Vec<char>> = text.lines().map(|line| line.chars().collect()).collect();
        let side = width + 2 * MARGIN;
        assert_eq!(lines.len(), side.div_ceil(2));
        for y in 0..side {
            for x in 0..side {
                let lit = match lines[y / 2][x] {
                    '█' => true,
                    '▀' => y % 2 == 0,
                    '▄' => y % 2 == 1,
                    _ => false,
                };
                let margin = x < MARGIN || y < MARGIN || x >= MARGIN + width || y >= MARGIN + width;
                let light = margin || modules[(y - MARGIN) * width + x - MARGIN] == Color::Light;
                assert_eq!(lit, light, "{x}, {y}");
            }
        }
    }

    #[test]
    fn a_code_that_does_not_fit_is_not_drawn() {
        assert!(drawn(URL, &Terminal::plain(30)).is_none());
        assert!(drawn(&"x".repeat(10_000), &Terminal::plain(1000)).is_none());
    }
}
