//! `tabpool generate`, `translate` and `summarize`: a prompt in, text out while it is being written.
//!
//! Everything that can be wrong with the model is found before a browser is started. A person sees the text as it comes; a
//! program gets one JSON object when it is whole.

use std::io::Read as _;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Serialize;
use tabpool::chat::{ChatError, ChatRequest};
use tabpool::{
    Finish, GenerateOptions, GenerationFigures, Model, Precision, Sampling, Target, TextGeneration, TextPiece,
    TokenGeneration, WorkerView,
};

use crate::context::Context;
use crate::failure::{Hinted, Verdict};
use crate::quantity::{duration, milliseconds, rate};
use crate::session::{Measuring, builder, with_accelerator, worker_name, worker_view};

/// The most bytes of a prompt.
const PROMPT_BYTES: u64 = 16 << 20;

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A model's name in the library, or its folder
    model: String,

    /// The prompt, or - for all of standard input
    #[arg(required_unless_present = "prompt_ids")]
    prompt: Option<String>,

    /// The prompt as ids of tokens, separated by commas; ids come out
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with_all = ["prompt", "system", "raw", "stop"])]
    prompt_ids: Vec<i32>,

    /// What the model is told before the prompt, where it answers conversations
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,

    /// Go on from the prompt as it stands, also where the model answers conversations
    #[arg(long)]
    raw: bool,

    #[command(flatten)]
    how: How,
}

/// Arguments of `translate`.
#[derive(Debug, Args)]
pub(crate) struct Translate {
    /// A model's name in the library, or its folder
    model: String,

    /// The text, or - for all of standard input
    text: String,

    /// The language of the text, in English words
    #[arg(long, value_name = "LANGUAGE", default_value = "English")]
    from: String,

    /// The language to translate into, in English words
    #[arg(long, value_name = "LANGUAGE")]
    to: String,

    #[command(flatten)]
    how: How,
}

/// Arguments of `summarize`.
#[derive(Debug, Args)]
pub(crate) struct Summarize {
    /// A model's name in the library, or its folder
    model: String,

    /// The text, or - for all of standard input
    text: String,

    #[command(flatten)]
    how: How,
}

/// How to generate, and where.
#[derive(Debug, Args)]
struct How {
    /// The most tokens to write
    #[arg(long, value_name = "COUNT", default_value_t = 256)]
    max_tokens: usize,

    /// What logits are divided by before one is drawn; 0 takes the likeliest token always [default: what the model's authors
    /// suggest, or 0]
    #[arg(long, value_name = "NUMBER")]
    temperature: Option<f32>,

    /// Draw from so many of the likeliest tokens only; 0 for all
    #[arg(long, value_name = "COUNT")]
    top_k: Option<usize>,

    /// Draw from the likeliest tokens that together have this probability
    #[arg(long, value_name = "SHARE")]
    top_p: Option<f32>,

    /// Draw from tokens that have at least this share of the likeliest one's probability
    #[arg(long, value_name = "SHARE")]
    min_p: Option<f32>,

    /// Make tokens that are in the text already less likely: above 1
    #[arg(long, value_name = "NUMBER")]
    repetition_penalty: Option<f32>,

    /// Which of the possible texts to write; the same seed gives the same text
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,

    /// Go on where the model would end
    #[arg(long)]
    ignore_end: bool,

    /// End where this text comes up; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,

    /// Where to run it: a browser or native, an API, or both, as in chromium:webgpu, native:cpu, firefox
    #[arg(long, value_name = "TARGET")]
    on: Option<Target>,

    /// The least exact arithmetic that linear layers may be computed with: f32, f16 or int8
    ///
    /// Each worker takes what is fastest on its device among what is permitted, and says what that was.
    #[arg(long, value_name = "PRECISION", default_value_t = Precision::F32)]
    precision: Precision,

    /// Print JSON, one object when the text is whole
    #[arg(long)]
    json: bool,
}

impl How {
    /// What the authors suggest, and what was said otherwise.
    fn options(&self, suggested: GenerateOptions) -> GenerateOptions {
        let given = suggested.sampling;
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(given.temperature),
            top_k: self.top_k.unwrap_or(given.top_k),
            top_p: self.top_p.unwrap_or(given.top_p),
            min_p: self.min_p.unwrap_or(given.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(given.repetition_penalty),
            seed: self.seed,
        };
        GenerateOptions {
            max_new_tokens: self.max_tokens,
            sampling,
            ignore_ends: self.ignore_end,
            stops: self.stop.clone(),
            ..suggested
        }
    }
}

pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<Verdict> {
    let Some(prompt) = &arguments.prompt else {
        let ids = vec![arguments.prompt_ids.clone()];
        return write(&arguments.model, &arguments.how, context, |model, options| {
            Ok(Writing::Ids(Box::new(model.generate_tokens(model.token_prompt(ids.clone())?, options)?)))
        })
        .await;
    };
    let prompt = text(prompt)?;
    write(&arguments.model, &arguments.how, context, |model, options| {
        if arguments.raw {
            return Ok(Writing::Text(Box::new(model.generate(&prompt, options)?)));
        }
        match model.chat(&conversation(arguments.system.as_deref(), &prompt)?, options) {
            Err(tabpool::Error::Chat(ChatError::NoTemplate { .. })) if arguments.system.is_none() => {
                Ok(Writing::Text(Box::new(model.generate(&prompt, options)?)))
            }
            started => Ok(Writing::Text(Box::new(started?))),
        }
    })
    .await
}

pub(crate) async fn translate(arguments: &Translate, context: &Context) -> Result<Verdict> {
    let Translate { from, to, .. } = arguments;
    let source = text(&arguments.text)?;
    let task = format!("Translate the following text from {from} to {to}. Answer with the translation alone.");
    write(&arguments.model, &arguments.how, context, |model, options| {
        text_to_text(model, options, &format!("translate {from} to {to}: "), &task, &source)
            .map(|started| Writing::Text(Box::new(started)))
    })
    .await
}

pub(crate) async fn summarize(arguments: &Summarize, context: &Context) -> Result<Verdict> {
    let source = text(&arguments.text)?;
    let task = "Summarize the following text in a few sentences. Answer with the summary alone.";
    write(&arguments.model, &arguments.how, context, |model, options| {
        text_to_text(model, options, "summarize: ", task, &source).map(|started| Writing::Text(Box::new(started)))
    })
    .await
}

/// Has a model turn a text into another: one that reads texts with an encoder knows the task by what precedes them, as T5 does;
/// one that answers conversations is told.
fn text_to_text(
    model: &Model,
    options: &GenerateOptions,
    prefix: &str,
    task: &str,
    source: &str,
) -> Result<TextGeneration> {
    if model.handle().generation()?.source().is_some() {
        return Ok(model.generate(&format!("{prefix}{source}"), options)?);
    }
    let started = model.chat(&conversation(Some(task), source)?, options);
    match started {
        Err(tabpool::Error::Chat(ChatError::NoTemplate { .. })) => {
            let name = model.handle().name();
            let message = format!("{name} only goes on from texts: it has neither an encoder nor a chat template");
            Err(Hinted::new(message, "take a model such as t5-small, or one that answers conversations").into())
        }
        started => Ok(started?),
    }
}

fn conversation(system: Option<&str>, prompt: &str) -> Result<ChatRequest> {
    #[derive(Serialize)]
    struct Turn<'a> {
        role: &'a str,
        content: &'a str,
    }
    let system = system.map(|content| Turn { role: "system", content });
    let turns: Vec<Turn> = system.into_iter().chain([Turn { role: "user", content: prompt }]).collect();
    Ok(ChatRequest::new(&turns)?.with_generation_prompt().with_time(std::time::SystemTime::now()))
}

/// The text that was given, or all of standard input.
fn text(given: &str) -> Result<String> {
    if given != "-" {
        return Ok(given.to_owned());
    }
    let mut bytes = Vec::new();
    std::io::stdin().take(PROMPT_BYTES + 1).read_to_end(&mut bytes).context("cannot read standard input")?;
    if bytes.len() as u64 > PROMPT_BYTES {
        bail!("standard input is longer than {PROMPT_BYTES} bytes");
    }
    String::from_utf8(bytes).context("standard input is not UTF-8")
}

/// Starts workers, has the text written, and tells of it.
async fn write(
    name: &str,
    how: &How,
    context: &Context,
    start: impl Fn(&Model, &GenerateOptions) -> Result<Writing>,
) -> Result<Verdict> {
    let library = context.library()?;
    let _in_use = library.in_use()?;
    let resolved = context.resolve(&library, name).await?;
    let opened = library.open_model(&resolved.root)?;
    if opened.generation().is_none() {
        let message = format!("{} generates no text: it is a {}", resolved.name, opened.architecture());
        return Err(Hinted::new(message, "tabpool models ls says what each model is").into());
    }
    let options = how.options(GenerateOptions::suggested(opened.generation_defaults()));
    options.sampling.check()?;

    let targets: Vec<Target> = how.on.into_iter().collect();
    let (written, worker) = with_accelerator(
        context,
        Measuring::Wanted,
        || builder(context, &targets),
        async |accelerator| {
            let model = accelerator.accelerate_model(&resolved.name).root(resolved.root);
            let model = model.on(how.on.unwrap_or_default()).precision(how.precision).await?;
            let mut writing = start(&model, &options)?;
            let mut written = Written::default();
            while let Some(piece) = writing.next().await? {
                if !how.json {
                    context.bars.end();
                    context.terminal.print(&shown(&piece.text, context.terminal.output))?;
                }
                written.text.push_str(&piece.text);
                written.finish = piece.finish.or(written.finish);
            }
            writing.end(&mut written);
            if !how.json && !written.text.ends_with('\n') {
                context.terminal.print("\n")?;
            }
            let worker = written.figures.place.and_then(|(id, _)| worker_view(accelerator, id));
            Ok((written, worker))
        },
    )
    .await?;
    if how.json {
        context.terminal.print_json(&written.json(&resolved.name, worker.as_ref()))?;
    } else if context.terminal.error {
        eprintln!("{}", context.terminal.dim(&written.told(worker.as_ref())));
    }
    Ok(Verdict::Fine)
}

/// A text as a terminal may be given it: models say what they like, and terminals obey control characters.
fn shown(text: &str, person: bool) -> String {
    if !person {
        return text.to_owned();
    }
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// What is being written: text, or ids for those who have no tokenizer.
enum Writing {
    Text(Box<TextGeneration>),
    Ids(Box<TokenGeneration>),
}

impl Writing {
    async fn next(&mut self) -> Result<Option<TextPiece>, tabpool::Error> {
        match self {
            Self::Text(generation) => generation.next().await,
            Self::Ids(generation) => {
                let Some(tokens) = generation.next().await? else { return Ok(None) };
                let id = tokens.ids.first().copied().flatten();
                let finish = id.filter(|id| generation.is_end(*id)).map(|_| Finish::End);
                let text = id.map_or_else(String::new, |id| format!("{id} "));
                Ok(Some(TextPiece { prompt: 0, text, finish }))
            }
        }
    }

    fn end(&self, written: &mut Written) {
        let (ids, figures) = match self {
            Self::Text(generation) => (generation.ids(0), generation.figures()),
            Self::Ids(generation) => (generation.said(0), generation.figures()),
        };
        (written.ids, written.figures) = (ids.to_vec(), *figures);
    }
}

/// A text that was written.
#[derive(Default)]
struct Written {
    text: String,
    ids: Vec<i32>,
    finish: Option<Finish>,
    figures: GenerationFigures,
}

impl Written {
    /// Tokens a second after the first.
    fn pace(&self) -> f64 {
        let steps = u32::try_from(self.figures.steps.saturating_sub(1)).unwrap_or(u32::MAX);
        let seconds = self.figures.stepping.as_secs_f64();
        if seconds > 0.0 { f64::from(steps) / seconds } else { 0.0 }
    }

    fn finish(&self) -> &'static str {
        match &self.finish {
            Some(Finish::End) => "end",
            Some(Finish::Stop(_)) => "stop",
            _ => "length",
        }
    }

    fn told(&self, worker: Option<&WorkerView>) -> String {
        let figures = &self.figures;
        let place = figures.place.map_or_else(String::new, |(id, api)| {
            format!(" on {} {api}", worker.map_or_else(|| id.to_string(), worker_name))
        });
        let moved = match figures.moved {
            0 => String::new(),
            times => format!(", moved {times} times"),
        };
        format!(
            "{} tokens{place}, {} a second after {} for the first ({}){moved}",
            figures.steps,
            rate(self.pace()),
            duration(figures.first_token),
            self.finish(),
        )
    }

    fn json(&self, model: &str, worker: Option<&WorkerView>) -> serde_json::Value {
        serde_json::json!({
            "model": model,
            "text": self.text,
            "token_ids": self.ids,
            "finish": self.finish(),
            "tokens": self.figures.steps,
            "prompt_tokens": self.figures.read,
            "first_token_ms": milliseconds(self.figures.first_token),
            "tokens_per_second": self.pace(),
            "state_bytes": self.figures.state_bytes,
            "moved": self.figures.moved,
            "worker": worker.map(|worker| worker.kind.to_string()),
            "api": self.figures.place.map(|(_, api)| api.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_terminal_gets_no_control_characters() {
        assert_eq!(shown("a\u{1b}[2Jb\tc\n", true), "a[2Jb\tc\n");
        assert_eq!(shown("a\u{1b}[2J", false), "a\u{1b}[2J");
    }
}
