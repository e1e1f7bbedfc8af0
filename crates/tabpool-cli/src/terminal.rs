//! What standard output and standard error can show, and writing to the former.

use std::io::{ErrorKind, IsTerminal, Write};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Widths that lines are laid out for where the terminal does not tell, and at least.
const WIDTH: usize = 100;
const LEAST_WIDTH: usize = 60;

/// Whoever read standard output has gone away, as `head` does when it has seen enough.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub(crate) struct OutputClosed;

/// What the two standard streams are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    /// Whether a person reads standard output.
    pub(crate) output: bool,
    /// Whether a person reads standard error.
    pub(crate) error: bool,
    /// Columns of the terminal.
    pub(crate) width: usize,
    styles: bool,
}

impl Terminal {
    /// Looks at the streams and at `NO_COLOR`, `TERM` and `COLUMNS`.
    pub(crate) fn look() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let output = std::io::stdout().is_terminal();
        let told = set("COLUMNS").and_then(|columns| columns.parse().ok());
        // The table crate knows how to ask a terminal, and asks only where there is one.
        let asked = || comfy_table::Table::new().width().map(usize::from);
        let width = if output { told.or_else(asked).unwrap_or(WIDTH) } else { told.unwrap_or(WIDTH) };
        Self {
            output,
            error: std::io::stderr().is_terminal(),
            width: width.max(LEAST_WIDTH),
            styles: set("NO_COLOR").is_none() && set("TERM").as_deref() != Some("dumb"),
        }
    }

    /// Whether to colour standard output.
    pub(crate) fn colour(&self) -> bool {
        self.output && self.styles
    }

    /// Whether to colour standard error.
    pub(crate) fn colour_on_stderr(&self) -> bool {
        self.error && self.styles
    }

    /// Text for a heading, where a person reads it.
    pub(crate) fn bold(&self, text: &str) -> String {
        self.styled(text, "1")
    }

    /// Text of lesser importance.
    pub(crate) fn dim(&self, text: &str) -> String {
        self.styled(text, "2")
    }

    /// Text with a colour or attribute of the terminal's own, by its number.
    pub(crate) fn styled(&self, text: &str, code: &str) -> String {
        if self.colour() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Writes to standard output, at once.
    ///
    /// # Errors
    ///
    /// [`OutputClosed`] where nobody reads it any more.
    #[expect(clippy::unused_self, reason = "whoever writes has looked at the terminal")]
    pub(crate) fn print(&self, text: &str) -> anyhow::Result<()> {
        let mut output = std::io::stdout().lock();
        match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(OutputClosed.into()),
            Err(error) => Err(anyhow::Error::new(error).context("cannot write to standard output")),
        }
    }

    /// Writes a value as JSON: indented for a person, on one line for a program.
    pub(crate) fn print_json(&self, value: &impl serde::Serialize) -> anyhow::Result<()> {
        let text = if self.output { serde_json::to_string_pretty(value)? } else { serde_json::to_string(value)? };
        self.print(&(text + "\n"))
    }

    /// Tells a person of something that happened, on standard error.
    #[expect(clippy::unused_self, reason = "whoever tells has looked at the terminal")]
    pub(crate) fn tell(&self, message: &str) {
        // With standard error gone there is nobody to tell.
        let _ = std::io::stderr().write_all(format!("{message}\n").as_bytes());
    }

    /// Tells a person of something that is not as it should be, without ending.
    pub(crate) fn warn(&self, message: &str) {
        let label = if self.colour_on_stderr() { "\x1b[1;33mwarning:\x1b[0m" } else { "warning:" };
        // With standard error gone there is nobody to tell.
        let _ = std::io::stderr().write_all(format!("{label} {message}\n").as_bytes());
    }

    #[cfg(test)]
    pub(crate) fn plain(width: usize) -> Self {
        Self { output: false, error: false, width, styles: false }
    }
}

/// A text cut to a number of columns, with a mark where something is missing, and without control characters: names
/// and texts come from outside, and a terminal obeys some of them.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.width() <= most {
        return clean;
    }
    let mut short = String::new();
    let mut columns = 0;
    for c in clean.chars() {
        // Characters of the far east take two columns, accents of their own none.
        columns += c.width().unwrap_or(0);
        if columns >= most {
            break;
        }
        short.push(c);
    }
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::shortened;

    #[test]
    fn texts_are_cut_at_characters_and_made_harmless() {
        assert_eq!(shortened("plain", 5), "plain");
        assert_eq!(shortened("plainly", 5), "plai…");
        assert_eq!(shortened("größer", 4), "grö…");
        assert_eq!(shortened("a\u{1b}[31mb\n", 20), "a [31mb ");
        assert_eq!(shortened("", 3), "");
        assert_eq!(
            (shortened("東京 is", 7), shortened("東京 is", 5), shortened("東京 is", 4)),
            ("東京 is".into(), "東京…".into(), "東…".into())
        );
    }
}
