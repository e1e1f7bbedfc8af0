//! Reading what test programs print: counts, and what was left out.

/// How a test announces what it could not run.
const LEFT_OUT: &str = "left out:";

/// The counts of one run, gathered line by line.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) passed: usize,
    pub(super) failed: usize,
    /// What was missing, one entry for each announcement.
    pub(super) left_out: Vec<String>,
    /// Inside the part that repeats the output of tests that passed.
    inside_successes: bool,
}

impl Outcome {
    /// Takes in one line; tells whether it is worth showing.
    pub(super) fn read(&mut self, line: &str) -> bool {
        if let Some(reason) = line.trim_start().strip_prefix(LEFT_OUT) {
            self.left_out.push(reason.trim().to_owned());
        }
        if line == "successes:" {
            self.inside_successes = true;
        }
        // The harness prints failures, or the result alone, after the successes.
        if line == "failures:" || line.starts_with("test result:") {
            self.inside_successes = false;
        }
        if !self.inside_successes
            && let (Some(passed), Some(failed)) = (number_before(line, " passed"), number_before(line, " failed"))
        {
            self.passed += passed;
            self.failed += failed;
        }
        !self.inside_successes
    }
}

/// The number right before a word, as in `test result: ok. 3 passed; 0 failed`.
fn number_before(line: &str, word: &str) -> Option<usize> {
    let (before, _) = line.split_once(word)?;
    let digits = before.rsplit(|letter: char| !letter.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "\
running 2 tests
test a ... ok
test b ... ok

successes:

---- a stdout ----
left out: WebNN: no browser here has it
3 passed and 4 failed are words of a test

successes:
    a
    b

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out
left out: edge not installed (5 cases)
real browsers: 7 passed, 1 failed, 5 left out
";

    #[test]
    fn counts_come_from_every_harness() {
        let mut outcome = Outcome::default();
        let shown: Vec<&str> = RUN.lines().filter(|line| outcome.read(line)).collect();
        assert_eq!((outcome.passed, outcome.failed), (9, 1));
        assert_eq!(outcome.left_out, ["WebNN: no browser here has it", "edge not installed (5 cases)"]);
        assert!(shown.contains(&"test a ... ok"));
        assert!(!shown.iter().any(|line| line.contains("---- a stdout")), "{shown:?}");
        assert_eq!(shown.last().copied(), Some("real browsers: 7 passed, 1 failed, 5 left out"));
    }

    #[test]
    fn output_of_failures_is_shown() {
        let mut outcome = Outcome::default();
        let lines = [
            "successes:",
            "---- a stdout ----",
            "failures:",
            "---- b stdout ----",
            "test result: FAILED. 1 passed; 1 failed",
        ];
        let shown: Vec<&str> = lines.into_iter().filter(|line| outcome.read(line)).collect();
        assert_eq!(shown, ["failures:", "---- b stdout ----", "test result: FAILED. 1 passed; 1 failed"]);
        assert_eq!(outcome.failed, 1);
    }
}
