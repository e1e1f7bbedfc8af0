//! Bars and spinners, on a terminal's standard error and nowhere else.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::terminal::{Terminal, shortened};

/// All bars of the program: one terminal has one cursor, so whatever moves on it has to be drawn by one hand.
#[derive(Clone)]
pub(crate) struct Bars {
    bars: MultiProgress,
    wide: bool,
}

/// A bar, or nothing where nobody would see it. Removes itself.
pub(crate) struct Bar(ProgressBar);

impl Bars {
    pub(crate) fn new(terminal: &Terminal) -> Self {
        let target = if terminal.error { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target), wide: terminal.width >= 90 }
    }

    /// A bar of bytes.
    pub(crate) fn bytes(&self, verb: &str) -> Bar {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        Bar(self.bars.add(bar.with_style(byte_style(self.wide)).with_prefix(verb.to_owned())))
    }

    /// A spinner that says what is being waited for.
    pub(crate) fn spinner(&self, message: impl Into<String>) -> Bar {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let bar = self.bars.add(bar.with_style(ProgressStyle::default_spinner()).with_message(message.into()));
        bar.enable_steady_tick(Duration::from_millis(120));
        Bar(bar)
    }

    /// Takes all bars away for good: text is about to be written that ends in no line.
    pub(crate) fn end(&self) {
        self.bars.set_draw_target(ProgressDrawTarget::hidden());
    }

    /// Runs what prints, with the bars out of the way.
    pub(crate) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bars.suspend(print)
    }
}

impl Bar {
    /// Moves it.
    pub(crate) fn at(&self, done: u64, total: u64, label: &str) {
        // Comparing first keeps a finished bar from being drawn once more for every report.
        if self.0.length() != Some(total) {
            self.0.set_length(total);
        }
        self.0.set_position(done);
        // Cut by the bar to the room there is; here only made harmless.
        self.0.set_message(shortened(label, label.len()));
    }

    /// Says that its bytes are now of something else.
    pub(crate) fn turn_to(&self, verb: &str) {
        if self.0.prefix() != verb {
            self.0.set_prefix(verb.to_owned());
        }
    }

    /// Says something else.
    pub(crate) fn say(&self, message: impl Into<String>) {
        self.0.set_message(message.into());
    }

    /// Takes it away.
    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The template of a bar of bytes.
fn byte_template(wide: bool) -> String {
    let bar = if wide { "{bar:28}" } else { "{bar:16}" };
    format!(
        "{{prefix:>11}} {bar} {{decimal_bytes:>9}} of {{decimal_total_bytes:9}} {{decimal_bytes_per_sec:>11}} {{wide_msg}}"
    )
}

fn byte_style(wide: bool) -> ProgressStyle {
    // The template is ours and fixed; should it ever be wrong, the plain bar will do.
    let style = ProgressStyle::with_template(&byte_template(wide)).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("━━ ")
}

#[cfg(test)]
mod tests {
    use super::{Bars, byte_template};
    use crate::terminal::Terminal;

    #[test]
    fn bars_may_be_moved_where_nobody_sees_them() {
        let bars = Bars::new(&Terminal::plain(80));
        for bar in [bars.bytes("storing"), bars.bytes("loading"), bars.spinner("x")] {
            bar.at(5, 10, "a file");
            bar.turn_to("other");
            bar.say("something");
            bar.clear();
        }
        assert_eq!(bars.aside(|| 7), 7);
    }

    #[test]
    fn the_templates_are_understood() {
        // One that is not would silently become the plain bar.
        for wide in [false, true] {
            indicatif::ProgressStyle::with_template(&byte_template(wide)).expect("valid");
        }
    }
}
