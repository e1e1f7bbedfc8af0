//! The program as a test runs it: on a data folder of its own, never on a person's.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What the program said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) output: String,
    pub(crate) error: String,
}

impl Said {
    /// The output as JSON, one value.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.output).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Fails unless the program ended with this code, showing what it said.
    #[track_caller]
    pub(crate) fn ended_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "output:\n{}\nerror:\n{}", self.output, self.error);
        self
    }

    /// Fails unless the error, and the hint where one is given, hold these texts; and nothing else was said.
    #[track_caller]
    pub(crate) fn refused_with(self, error: &str, hint: &str) {
        let said = self.ended_with(1);
        let mut lines = said.error.lines();
        let first = lines.next().unwrap_or_default();
        assert!(first.starts_with("error: ") && first.contains(error), "{error:?} is not in\n{}", said.error);
        let second = lines.next().unwrap_or_default();
        assert_eq!(second.starts_with("hint: "), !hint.is_empty(), "{}", said.error);
        assert!(second.contains(hint), "{hint:?} is not in\n{}", said.error);
        assert_eq!((lines.next(), said.output.as_str()), (None, ""), "{}", said.error);
    }
}

/// A data folder and the program on it.
pub(crate) struct Program {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Program {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder"), environment: Vec::new() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// A path inside the test's folder, beside the program's data.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tabpool"));
        command.args(arguments).env("TABPOOL_DATA_DIR", self.data()).stdin(Stdio::null());
        for name in ["RUST_LOG", "HF_ENDPOINT", "HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        said(self.command(arguments).output().expect("the program starts"))
    }

    /// Runs it with this on its standard input.
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Said {
        let mut child = self.start(arguments);
        let mut stdin = child.stdin.take().expect("piped");
        // A program that has ended early does not read to the end.
        let _ = stdin.write_all(input);
        drop(stdin);
        said(child.wait_with_output().expect("the program ends"))
    }

    /// Starts it with all three streams piped.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the program starts")
    }
}

fn said(output: Output) -> Said {
    let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
    Said { code: output.status.code(), output: text(output.stdout), error: text(output.stderr) }
}

/// A model, or the reference beside it.
pub(crate) fn fixture(path: &str) -> String {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    fixtures.join(path).canonicalize().expect("a fixture").to_string_lossy().into_owned()
}

/// Waits until a program has ended, for so long at most.
pub(crate) fn ended_within(child: &mut Child, limit: Duration) -> Option<i32> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("it is ours") {
            return status.code();
        }
        if Instant::now() > deadline {
            // It must not outlive the test.
            let _ = child.kill();
            let _ = child.wait();
            panic!("the program did not end within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
