//! `tabpool embed`: texts, pictures or sounds in, one vector each out, in their order.
//!
//! Texts come from the command line, or line by line from standard input; pictures and sounds from files. They are embedded
//! while they arrive, so memory does not grow with the input. A file that cannot be read is told of; the others are
//! embedded all the same.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tabpool::{Embeddings, Model, ModelKind, Picture, Sound};

use crate::arriving::{each_file, each_text, given, standard_input};
use crate::context::Context;
use crate::failure::Verdict;
use crate::media::{PICTURES, SOUNDS};
use crate::placing::{Placing, reads_texts, takes_pictures, takes_sounds};
use crate::terminal::{Terminal, shortened};

/// Numbers shown of an embedding where a person reads.
const SHOWN: usize = 4;

/// Arguments of `embed`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A model's name in the library, or its folder
    model: String,

    /// The texts, or - for one text a line on standard input
    #[arg(required_unless_present_any = ["image", "audio"], conflicts_with_all = ["image", "audio"], value_name = "TEXT")]
    texts: Vec<String>,

    /// Pictures instead of texts: PNG, JPEG, WebP, GIF or BMP
    #[arg(long, num_args = 1.., value_name = "FILE", conflicts_with = "audio")]
    image: Vec<PathBuf>,

    /// Sounds instead of texts: WAV, FLAC, MP3 or Ogg Vorbis
    #[arg(long, num_args = 1.., value_name = "FILE")]
    audio: Vec<PathBuf>,

    #[command(flatten)]
    placing: Placing,

    /// Print JSON, one object a line: {"text": …, "embedding": […]}, or "file" instead of "text"
    ///
    /// That is also what is printed when standard output is no terminal. On a terminal the first numbers of each
    /// embedding are shown.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<Verdict> {
    let Arguments { model: name, image, audio, placing, .. } = arguments;
    let json = arguments.json || !context.terminal.output;
    let mut printer = Printer { terminal: &context.terminal, json, dimension: None, cut: 0 };
    let show = |names: &[String], embeddings: Embeddings| printer.render("file", names, &embeddings);
    if !image.is_empty() {
        let work = async |model: &Model| {
            let work = |pictures: Vec<Picture>| async move { Ok(model.embed_images(&pictures).await?) };
            each_file(context, image, &PICTURES, work, show).await
        };
        placing.with_model(context, name, ModelKind::Vision, takes_pictures, work).await?;
    } else if !audio.is_empty() {
        let work = async |model: &Model| {
            let work = |sounds: Vec<Sound>| async move { Ok(model.embed_sounds(&sounds).await?) };
            each_file(context, audio, &SOUNDS, work, show).await
        };
        placing.with_model(context, name, ModelKind::Audio, takes_sounds, work).await?;
    } else {
        let lines = if arguments.texts == ["-"] { standard_input() } else { given(&arguments.texts) };
        let work = async |model: &Model| {
            let embed = |texts: Vec<String>| async move {
                let embeddings = model.embed(&texts).await?;
                Ok((texts, embeddings))
            };
            each_text(lines, embed, |(texts, embeddings)| {
                printer.cut += embeddings.truncated().len() as u64;
                context.terminal.print(&printer.render("text", &texts, &embeddings)?)
            })
            .await?;
            context.warn_of_cut(printer.cut, model)
        };
        placing.with_model(context, name, ModelKind::Text, reads_texts, work).await?;
    }
    Ok(Verdict::Fine)
}

/// Puts embeddings into words, and keeps count of what is to be said at the end.
struct Printer<'a> {
    terminal: &'a Terminal,
    json: bool,
    dimension: Option<usize>,
    cut: u64,
}

impl Printer<'_> {
    fn render(&mut self, what: &str, names: &[String], embeddings: &Embeddings) -> Result<String> {
        let mut out = String::new();
        if !self.json && self.dimension != Some(embeddings.dimension()) {
            self.dimension = Some(embeddings.dimension());
            let least = embeddings.runs().iter().map(|run| run.precision).max().unwrap_or_default();
            out.push_str(
                &self.terminal.dim(&format!("{} numbers a {what}, computed in {least}", embeddings.dimension())),
            );
            out.push('\n');
        }
        for (name, embedding) in names.iter().zip(embeddings.iter()) {
            if self.json {
                out.push_str(&serde_json::to_string(&json!({what: name, "embedding": embedding}))?);
            } else {
                let shown = embedding.iter().take(SHOWN).map(|number| format!("{number:>8.4}")).collect::<String>();
                let more = if embedding.len() > SHOWN { " …" } else { "" };
                let room = self.terminal.width.saturating_sub(SHOWN * 8 + 4);
                out.push_str(&format!("{shown}{more}  {}", shortened(name, room)));
            }
            out.push('\n');
        }
        Ok(out)
    }
}
