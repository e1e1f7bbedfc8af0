//! `tabpool embed`: texts in, one vector each out, in the order of the texts.
//!
//! Texts come from the command line, or line by line from standard input. Lines are embedded while they arrive: a few
//! groups of lines are under way at a time, and whoever writes is held up until those before have been printed, so
//! memory does not grow with the input.

use std::io::{BufRead, Read};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use futures::StreamExt;
use serde::Serialize;
use tabpool::{Embeddings, Model, Precision, Target};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::failure::Verdict;
use crate::quantity::count;
use crate::session::{Measuring, builder, with_accelerator};
use crate::terminal::{Terminal, shortened};

/// Lines that are embedded together at most, and their bytes.
const GROUP_LINES: usize = 256;
const GROUP_BYTES: usize = 1 << 20;
/// Groups under way at once: one computes while the next is read and the last is printed.
const GROUPS: usize = 2;
/// A longer line is no text for an encoder of sentences.
const LINE_BYTES: u64 = 1 << 20;
/// Numbers shown of an embedding where a person reads.
const SHOWN: usize = 4;

/// Arguments of `embed`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A model's name in the library, or its folder
    model: String,

    /// The texts, or - for one text a line on standard input
    #[arg(required = true, value_name = "TEXT")]
    texts: Vec<String>,

    /// Where to run it, as in chromium:webgpu or native:cpu; may be given several times [default: every browser found, or
    /// native where there is none]
    #[arg(long, value_name = "TARGET")]
    on: Vec<Target>,

    /// The least exact arithmetic that linear layers may be computed with: f32, f16 or int8
    ///
    /// Each worker takes what is fastest on its device among what is permitted, and says what that was.
    #[arg(long, value_name = "PRECISION", default_value_t = Precision::F32)]
    precision: Precision,

    /// Print JSON, one object a line: {"text": …, "embedding": […]}
    ///
    /// That is also what is printed when standard output is no terminal. On a terminal the first numbers of each
    /// embedding are shown.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<Verdict> {
    let library = context.library()?;
    let _in_use = library.in_use()?;
    let resolved = context.resolve(&library, &arguments.model).await?;
    // What keeps a model from embedding is found out before a browser is started.
    let model = library.open_model(&resolved.root)?;
    tabpool::TextEncoder::open(library.store(), &resolved.root, &model)?;

    let json = arguments.json || !context.terminal.output;
    with_accelerator(
        context,
        Measuring::Wanted,
        || builder(context, &arguments.on),
        async |accelerator| {
            let model = accelerator.accelerate_model(&resolved.name).root(resolved.root);
            let model = model.precision(arguments.precision);
            let model = match arguments.on[..] {
                [only] => model.on(only).await?,
                _ => model.await?,
            };
            let mut printer = Printer { terminal: &context.terminal, json, dimension: None, cut: 0 };
            if matches!(&arguments.texts[..], [dash] if dash == "-") {
                stream(&model, lines(std::io::stdin()), &mut printer).await?;
            } else {
                let embeddings = model.embed(&arguments.texts).await?;
                printer.print(&arguments.texts, &embeddings)?;
            }
            if printer.cut > 0 {
                let limit = model.text_encoder()?.max_tokens();
                let texts = count(printer.cut, "text");
                context
                    .terminal
                    .warn(&format!("{texts} had more than {limit} tokens; what came after them was left out"));
            }
            Ok(())
        },
    )
    .await?;
    Ok(Verdict::Fine)
}

/// Embeds lines while they come and prints them in their order.
async fn stream(model: &Model, lines: Lines, printer: &mut Printer<'_>) -> Result<()> {
    let groups = futures::stream::unfold(lines, |mut lines| async move { Some((lines.group().await?, lines)) });
    let embedded = groups.map(|group| async move {
        let group = group?;
        let embeddings = model.embed(&group).await?;
        Ok::<_, anyhow::Error>((group, embeddings))
    });
    let mut embedded = std::pin::pin!(embedded.buffered(GROUPS));
    while let Some(group) = embedded.next().await {
        let (texts, embeddings) = group?;
        printer.print(&texts, &embeddings)?;
    }
    Ok(())
}

/// Lines on their way from standard input.
struct Lines {
    arriving: mpsc::Receiver<Result<String>>,
    /// What ended the reading, until the lines before it have been handed out.
    failure: Option<anyhow::Error>,
}

impl Lines {
    /// The lines that are there, at least one; `None` at the end. An error comes after the lines before it.
    async fn group(&mut self) -> Option<Result<Vec<String>>> {
        if let Some(failure) = self.failure.take() {
            return Some(Err(failure));
        }
        let mut bytes = 0;
        let mut group = Vec::new();
        let mut next = Some(self.arriving.recv().await?);
        while let Some(line) = next {
            match line {
                Ok(line) => {
                    bytes += line.len();
                    group.push(line);
                }
                Err(failure) if group.is_empty() => return Some(Err(failure)),
                Err(failure) => {
                    self.failure = Some(failure);
                    break;
                }
            }
            let full = group.len() >= GROUP_LINES || bytes >= GROUP_BYTES;
            next = if full { None } else { self.arriving.try_recv().ok() };
        }
        Some(Ok(group))
    }
}

/// Reads lines on a thread of its own: standard input blocks, and a runtime's thread that blocks could not be ended.
fn lines(input: impl Read + Send + 'static) -> Lines {
    let (sender, arriving) = mpsc::channel(GROUP_LINES);
    // It ends with the input, or with its first line after the receiver is gone, or with the process.
    std::thread::spawn(move || {
        let mut input = std::io::BufReader::new(input);
        for number in 1u64.. {
            let line = match line(&mut input, number) {
                Ok(Some(line)) => Ok(line),
                Ok(None) => return,
                Err(error) => Err(error),
            };
            let last = line.is_err();
            if sender.blocking_send(line).is_err() || last {
                return;
            }
        }
    });
    Lines { arriving, failure: None }
}

fn line(input: &mut impl BufRead, number: u64) -> Result<Option<String>> {
    let mut line = Vec::new();
    // One byte more tells a line of just the limit from a longer one.
    let read = input.take(LINE_BYTES + 1).read_until(b'\n', &mut line).context("cannot read standard input")?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    } else if line.len() as u64 > LINE_BYTES {
        return Err(anyhow!("line {number} of standard input is longer than {LINE_BYTES} bytes"));
    }
    let text = String::from_utf8(line);
    Ok(Some(text.map_err(|_| anyhow!("line {number} of standard input is not UTF-8"))?))
}

/// Prints embeddings and keeps count of what is to be said at the end.
struct Printer<'a> {
    terminal: &'a Terminal,
    json: bool,
    dimension: Option<usize>,
    cut: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    text: &'a str,
    embedding: &'a [f32],
}

impl Printer<'_> {
    fn print(&mut self, texts: &[String], embeddings: &Embeddings) -> Result<()> {
        self.cut += embeddings.truncated().len() as u64;
        let text = self.render(texts, embeddings)?;
        self.terminal.print(&text)
    }

    fn render(&mut self, texts: &[String], embeddings: &Embeddings) -> Result<String> {
        let mut out = String::new();
        if !self.json && self.dimension != Some(embeddings.dimension()) {
            self.dimension = Some(embeddings.dimension());
            let least = embeddings.runs().iter().map(|run| run.precision).max().unwrap_or_default();
            out.push_str(
                &self.terminal.dim(&format!("{} numbers a text, computed in {least}", embeddings.dimension())),
            );
            out.push('\n');
        }
        for (text, embedding) in texts.iter().zip(embeddings.iter()) {
            if self.json {
                out.push_str(&serde_json::to_string(&Line { text, embedding })?);
            } else {
                let shown = embedding.iter().take(SHOWN).map(|number| format!("{number:>8.4}")).collect::<String>();
                let more = if embedding.len() > SHOWN { " …" } else { "" };
                let room = self.terminal.width.saturating_sub(SHOWN * 8 + 4);
                out.push_str(&format!("{shown}{more}  {}", shortened(text, room)));
            }
            out.push('\n');
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::{GROUP_LINES, LINE_BYTES, lines};

    async fn all(input: &'static [u8]) -> Vec<Result<Vec<String>, String>> {
        let mut lines = lines(input);
        let mut groups = Vec::new();
        while let Some(group) = lines.group().await {
            groups.push(group.map_err(|error| error.to_string()));
        }
        groups
    }

    #[tokio::test]
    async fn each_line_is_a_text_whatever_ends_it() {
        let groups = all(b"one\r\n\ntwo\xc3\xa9\nlast").await;
        let lines: Vec<String> = groups.into_iter().flat_map(|group| group.expect("text")).collect();
        assert_eq!(lines, ["one", "", "two\u{e9}", "last"]);
        assert!(all(b"").await.is_empty());
    }

    #[tokio::test]
    async fn a_line_that_is_no_text_ends_the_reading_after_those_before_it() {
        let groups = all(b"good\nbad\xff\nnever read\n").await;
        assert_eq!(groups.last(), Some(&Err("line 2 of standard input is not UTF-8".to_owned())));
        let before: Vec<_> = groups.iter().filter_map(|group| group.as_ref().ok()).flatten().collect();
        assert_eq!(before, ["good"]);
    }

    #[tokio::test]
    async fn groups_and_lines_are_bounded() {
        let many: &'static [u8] = Box::leak(b"x\n".repeat(3 * GROUP_LINES).into_boxed_slice());
        let groups = all(many).await;
        assert!(groups.iter().all(|group| group.as_ref().is_ok_and(|group| group.len() <= GROUP_LINES)));
        assert_eq!(groups.iter().flatten().map(Vec::len).sum::<usize>(), 3 * GROUP_LINES);
        let long: &'static [u8] = Box::leak(vec![b'x'; LINE_BYTES as usize + 1].into_boxed_slice());
        assert!(all(long).await[0].as_ref().is_err_and(|error| error.contains("line 1")));
        assert!(all(&long[1..]).await[0].is_ok(), "just the limit");
    }
}
