//! The program as a person runs it, on real browsers: numbers, streams, exit codes, interruptions.
//!
//! What needs no browser is tested beside the program itself.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tabpool_tests::golden::{Sentence, error, sentences};
use tabpool_tests::places::{fixture, fixture_name};
use tabpool_tests::processes::{Signal, naming, none_left, send};
use tabpool_tests::{Fault, Outcome, browsers, places, require, scene};
use tempfile::TempDir;

/// The program on a data folder of its own.
struct Program {
    path: PathBuf,
    folder: TempDir,
}

impl Program {
    /// `None` where the program is not built: the case is left out.
    fn find(case: &str) -> Result<Option<Self>, Fault> {
        let Some(path) = places::program(case) else { return Ok(None) };
        Ok(Some(Self { path, folder: tempfile::tempdir()? }))
    }

    fn data(&self) -> &Path {
        self.folder.path()
    }

    fn start(&self, arguments: &[&str]) -> Result<Child, Fault> {
        let mut command = Command::new(&self.path);
        command.args(arguments).env("TABPOOL_DATA_DIR", self.data()).env_remove("RUST_LOG");
        // So that a signal to the program's group reaches nobody else.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    /// Runs it to its end with these lines on its standard input.
    async fn run(&self, arguments: &[&str], input: &str) -> Result<Output, Fault> {
        let mut child = self.start(arguments)?;
        let mut stdin = child.stdin.take().ok_or("no stdin")?;
        let input = input.to_owned();
        let output = tokio::task::spawn_blocking(move || {
            // A program that refuses its arguments does not read.
            let _ = stdin.write_all(input.as_bytes());
            drop(stdin);
            child.wait_with_output()
        });
        Ok(output.await??)
    }

    /// As [`run`](Self::run), expecting this exit code; gives standard output and standard error.
    async fn ended_with(&self, code: i32, arguments: &[&str], input: &str) -> Result<(String, String), Fault> {
        let Output { status, stdout, stderr } = self.run(arguments, input).await?;
        let (stdout, stderr) = (String::from_utf8(stdout)?, String::from_utf8(stderr)?);
        require(status.code() == Some(code), || format!("{arguments:?}: {status}\n{stdout}\n{stderr}"))?;
        Ok((stdout, stderr))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_compares_with_a_reference_on_every_browser() -> Outcome {
    let _alone = scene::machine().await;
    let Some(program) = Program::find("tabpool run")? else { return Ok(()) };
    let golden = fixture("bert").join("golden.safetensors").display().to_string();
    let out = program.data().join("out.safetensors").display().to_string();
    for kind in browsers::kinds("tabpool run") {
        let target = format!("{kind}:webgpu");
        let model = fixture_name("bert");
        let run =
            ["run", &model, "--input", &golden, "--output", &out, "--on", &target, "--compare", &golden, "--json"];
        let (said, noise) = program.ended_with(0, &run, "").await?;
        let said: Value = serde_json::from_str(&said)?;
        let right =
            said["within_tolerance"] == true && said["api"] == "webgpu" && said["worker"]["kind"] == kind.name();
        require(right, || format!("{target}: {said}"))?;
        require(noise.is_empty(), || format!("{target}: noise when piped: {noise}"))?;
        let written = tabpool_tests::golden::tensors(Path::new(&out), "")?;
        require(written.len() == 2, || format!("{} tensors were written", written.len()))?;
        let strict = [&run[..], &["--tolerance", "0"]].concat();
        let (said, _) = program.ended_with(1, &strict, "").await?;
        require(serde_json::from_str::<Value>(&said)?["within_tolerance"] == false, || said)?;
    }
    none_left(program.data(), Duration::from_secs(1)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embed_answers_piped_lines_in_their_order_on_all_browsers_together() -> Outcome {
    let _alone = scene::machine().await;
    let case = "tabpool embed";
    let Some(program) = Program::find(case)? else { return Ok(()) };
    let Some(model) = places::minilm(case) else { return Ok(()) };
    let targets: Vec<String> = browsers::kinds(case).iter().map(|kind| format!("{kind}:cpu")).collect();
    if targets.is_empty() {
        return Ok(());
    }
    let mut arguments = vec!["embed", &model, "-"];
    arguments.extend(targets.iter().flat_map(|target| ["--on", target.as_str()]));
    let wanted = sentences()?;
    let lines: String = wanted.iter().map(|sentence| format!("{}\n", sentence.text)).collect();
    let (said, noise) = program.ended_with(0, &arguments, &lines).await?;
    require(noise.is_empty(), || format!("noise when piped: {noise}"))?;
    let got: Vec<&str> = said.lines().collect();
    require(got.len() == wanted.len(), || format!("{} answers to {} lines", got.len(), wanted.len()))?;
    for (line, sentence) in got.into_iter().zip(&wanted) {
        embedded(line, sentence)?;
    }
    let (report, _) = program.ended_with(0, &["report", "--format", "json"], "").await?;
    let report: Value = serde_json::from_str(&report)?;
    require(report["totals"]["ok"].as_u64().is_some_and(|ok| ok > 0), || format!("the report says {report}"))
}

fn embedded(line: &str, sentence: &Sentence) -> Outcome {
    let said: Value = serde_json::from_str(line)?;
    require(said["text"] == *sentence.text, || format!("{} where {:?} was wanted", said["text"], sentence.text))?;
    #[expect(clippy::cast_possible_truncation, reason = "written as an f32")]
    let number = |v: &Value| v.as_f64().map(|v| v as f32);
    let numbers = said["embedding"].as_array().and_then(|list| list.iter().map(number).collect::<Option<Vec<_>>>());
    let worst = error(&numbers.ok_or("no embedding")?, &sentence.embedding, |_| true);
    require(worst <= 1.0, || format!("{:?}: off by {worst} times the tolerance", sentence.text))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_names_every_browser_that_is_here() -> Outcome {
    let _alone = scene::machine().await;
    let Some(program) = Program::find("tabpool doctor")? else { return Ok(()) };
    let here = browsers::each("tabpool doctor");
    let output = program.run(&["doctor", "--json", "--no-launch"], "").await?;
    let said: Value = serde_json::from_slice(&output.stdout)?;
    for installed in &here {
        let found = said["browsers"].as_array().is_some_and(|list| {
            list.iter().any(|b| b["kind"] == installed.kind.name() && b["version"] == *installed.version)
        });
        require(found, || format!("{} {} is not in {said}", installed.kind, installed.version))?;
    }
    let code = i32::from(here.is_empty());
    require(output.status.code() == Some(code), || format!("{} for {said}", output.status))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_ends_with_1_and_what_makes_no_sense_with_2() -> Outcome {
    let _alone = scene::machine().await;
    let Some(program) = Program::find("exit codes")? else { return Ok(()) };
    let (said, told) = program.ended_with(1, &["embed", "no-such-model", "text"], "").await?;
    require(said.is_empty() && told.starts_with("error: there is no model \"no-such-model\""), || told)?;
    let (said, told) = program.ended_with(2, &["embed", "m", "text", "--on", "netscape:webgpu"], "").await?;
    require(said.is_empty() && told.contains("netscape"), || told)
}

/// The same promise as for any host, for the program: it handles the signal, closes in order, and says by its exit code
/// what ended it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_it_leaves_no_browser_behind() -> Outcome {
    let _alone = scene::machine().await;
    let case = "an interrupted tabpool embed";
    let Some(program) = Program::find(case)? else { return Ok(()) };
    for kind in browsers::kinds(case) {
        for (signal, code) in [(Signal::Interrupt, 130), (Signal::Terminate, 143)] {
            let ended = interrupted(&program, &format!("{kind}:cpu"), signal).await?;
            require(ended == Some(code), || format!("{kind}: {signal:?} ended it with {ended:?}"))?;
        }
    }
    Ok(())
}

async fn interrupted(program: &Program, target: &str, signal: Signal) -> Result<Option<i32>, Fault> {
    let mut child = program.start(&["embed", &fixture_name("bert"), "-", "--on", target])?;
    let (mut stdin, stdout) = (child.stdin.take().ok_or("no stdin")?, child.stdout.take().ok_or("no stdout")?);
    writeln!(stdin, "A man is eating food.")?;
    let first = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).map(|_| line)
    });
    let first = first.await??;
    let profiles = program.data().join("profiles");
    let running = naming(&profiles, None).len();
    let pid = i64::from(child.id());
    // As a terminal does: to the whole group.
    let sent = send(signal, if signal == Signal::Interrupt { -pid } else { pid });
    let ended = scene::eventually("the program's end", Duration::from_secs(20), || child.try_wait().transpose()).await;
    if ended.is_err() {
        // It must not outlive the case.
        child.kill()?;
        child.wait()?;
    }
    sent?;
    let status = ended??;
    require(first.contains("embedding") && running > 0, || format!("{running} processes, first said {first:?}"))?;
    none_left(program.data(), Duration::from_secs(2)).await?;
    Ok(status.code())
}
