//! Bars and spinners, on a terminal's standard error and nowhere else.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::terminal::{Terminal, shortened};

/// Characters of a file's or worker's name beside a bar.
const LABEL: usize = 28;

/// A bar, or nothing where nobody would see it. Removes itself.
#[derive(Clone)]
pub(crate) struct Bar(ProgressBar);

/// Several bars under one another.
pub(crate) struct Bars {
    bars: MultiProgress,
}

impl Bar {
    /// A bar of bytes, shown from its first report on.
    pub(crate) fn bytes(terminal: &Terminal, verb: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), target(terminal));
        bar.set_style(byte_style(terminal));
        bar.set_prefix(verb.to_owned());
        Self(bar)
    }

    /// A spinner that says what is being waited for.
    pub(crate) fn spinner(terminal: &Terminal, message: impl Into<String>) -> Self {
        let bar = ProgressBar::with_draw_target(None, target(terminal));
        bar.set_message(message.into());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(bar)
    }

    /// Moves it.
    pub(crate) fn at(&self, done: u64, total: u64, label: &str) {
        // Comparing first keeps a finished bar from being drawn once more for every report.
        if self.0.length() != Some(total) {
            self.0.set_length(total);
        }
        self.0.set_position(done);
        self.0.set_message(shortened(label, LABEL));
    }

    /// Says something else.
    pub(crate) fn say(&self, message: impl Into<String>) {
        self.0.set_message(message.into());
    }

    /// Runs what prints, with the bar out of the way.
    pub(crate) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
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

impl Bars {
    pub(crate) fn new(terminal: &Terminal) -> Self {
        Self { bars: MultiProgress::with_draw_target(target(terminal)) }
    }

    /// One more bar of bytes.
    pub(crate) fn bytes(&self, terminal: &Terminal, verb: &str) -> Bar {
        let bar = self.bars.add(ProgressBar::new(0));
        bar.set_style(byte_style(terminal));
        bar.set_prefix(verb.to_owned());
        Bar(bar)
    }

    /// Runs what prints, with the bars out of the way.
    pub(crate) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bars.suspend(print)
    }
}

fn target(terminal: &Terminal) -> ProgressDrawTarget {
    if terminal.error { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

fn byte_style(terminal: &Terminal) -> ProgressStyle {
    let bar = if terminal.width >= 90 { "{bar:28}" } else { "{bar:16}" };
    let template = format!("{{prefix:>11}} {bar} {{bytes:>10}}/{{total_bytes:10}} {{bytes_per_sec:>12}} {{msg}}");
    // The template is ours and fixed; should it ever be wrong, the plain bar will do.
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("━━ ")
}

#[cfg(test)]
mod tests {
    use super::{Bar, Bars, byte_style};
    use crate::terminal::Terminal;

    #[test]
    fn bars_may_be_moved_where_nobody_sees_them() {
        let terminal = Terminal::plain(80);
        let bars = Bars::new(&terminal);
        for bar in [Bar::bytes(&terminal, "storing"), bars.bytes(&terminal, "loading"), Bar::spinner(&terminal, "x")] {
            bar.at(5, 10, "a file");
            bar.say("something");
            bar.clear();
        }
        assert_eq!(bars.aside(|| 7), 7);
    }

    #[test]
    fn the_template_is_understood() {
        // A template that is not understood would silently become the plain bar.
        let bar = indicatif::ProgressBar::hidden();
        bar.set_style(byte_style(&Terminal::plain(80)));
        for width in ["{bar:28}", "{bar:16}"] {
            let template =
                format!("{{prefix:>11}} {width} {{bytes:>10}}/{{total_bytes:10}} {{bytes_per_sec:>12}} {{msg}}");
            indicatif::ProgressStyle::with_template(&template).expect("valid");
        }
    }
}
