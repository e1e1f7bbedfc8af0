//! `tabpool models`: what the library holds, what goes in and what goes out.

use std::path::Path;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;
use tabpool::{AddProgress, Added, Freed, HubClient, HubModel, Listed, Stage};

use crate::context::Context;
use crate::failure::Verdict;
use crate::quantity::{bytes, count};
use crate::table::{Mark, Side, Table};
use crate::terminal::{Terminal, shortened};

/// What to do with the library.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add a model from a folder or a hub
    Add(Add),
    /// List the models
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Remove models and free the blocks that no other model needs
    #[command(visible_alias = "remove")]
    Rm(Rm),
    /// Free blocks that no model needs, such as those of folders that were run without being added
    Gc(Gc),
}

/// Arguments of `models add`.
#[derive(Debug, Args)]
pub(crate) struct Add {
    /// A model's folder (config.json, *.safetensors), or hf:org/name[@revision]
    ///
    /// From a hub, HF_ENDPOINT says where it is, HF_TOKEN who asks, and the usual proxy variables how to get there. A
    /// download that is cut off goes on where it stopped when the same is typed again; each file is held against the
    /// hash that the hub gives.
    source: String,

    /// What to call it [default: the name of the folder or repository]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `models ls`.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `models rm`.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// The models' names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `models gc`.
#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(command: Command, context: &Context) -> Result<Verdict> {
    match command {
        Command::Add(arguments) => add(arguments, context).await,
        Command::Ls(arguments) => list(&arguments, context).await,
        Command::Rm(arguments) => remove(arguments, context).await,
        Command::Gc(arguments) => {
            let freed = collect(context).await?;
            let said = format!("{}\n", describe(freed));
            print(context, arguments.json, &Freeing { removed: &[], freed: freed.into() }, &said)
        }
    }
}

async fn add(arguments: Add, context: &Context) -> Result<Verdict> {
    let library = context.library()?;
    let bar = context.bars.bytes("storing");
    let progress = move |at: AddProgress<'_>| {
        bar.turn_to(match at.stage {
            Stage::Downloading => "downloading",
            Stage::Storing => "storing",
        });
        bar.at(at.done, at.total, at.file);
    };
    let json = arguments.json;
    let added = context
        .interrupt
        .guard(async move {
            let Add { source, name, .. } = arguments;
            let mut progress = progress;
            if source.starts_with("hf:") {
                let (client, model) = (HubClient::from_env()?, source.parse::<HubModel>()?);
                return Ok(library.add_hub(&client, &model, name.as_deref(), &mut progress).await?);
            }
            let added = tokio::task::spawn_blocking(move || {
                library.add_folder(Path::new(&source), name.as_deref(), &mut progress)
            });
            Ok(added.await??)
        })
        .await?;
    let said = added_text(&added, &context.terminal);
    print(context, json, &AddedJson::from(&added), &said)
}

fn added_text(added: &Added, terminal: &Terminal) -> String {
    let Added { name, architecture, .. } = added;
    let known = if added.bytes_new == 0 { ", all known already".to_owned() } else { String::new() };
    let files = count(added.files, "file");
    let mut text =
        format!("added {} ({architecture}, {} in {files}{known})\n", terminal.bold(name), bytes(added.bytes));
    text.push_str(&format!("  {}\n", terminal.dim(&added.root.to_string())));
    if let Some(before) = &added.replaced {
        text.push_str(&format!("  replaces {before}\n"));
    }
    text
}

async fn list(arguments: &Ls, context: &Context) -> Result<Verdict> {
    let library = context.library()?;
    let listed =
        context.interrupt.guard(async { Ok(tokio::task::spawn_blocking(move || library.list()).await??) }).await?;
    if arguments.json {
        let all: Vec<ListedJson<'_>> = listed.iter().map(ListedJson::from).collect();
        context.terminal.print_json(&all)?;
        return Ok(Verdict::Fine);
    }
    if listed.is_empty() {
        if context.terminal.output {
            let example = "tabpool models add hf:sentence-transformers/all-MiniLM-L6-v2";
            context.terminal.print(&format!("no models yet; add one from a folder or a hub:\n  {example}\n"))?;
        }
        return Ok(Verdict::Fine);
    }
    context.terminal.print(&list_text(&listed, &context.terminal))?;
    Ok(Verdict::Fine)
}

fn list_text(listed: &[Listed], terminal: &Terminal) -> String {
    // Everything but the name and the CID is short; a CID that would not fit is no use cut, so it is left out.
    const SHORT_COLUMNS: usize = 38;
    const CID: usize = 59;
    let longest = listed.iter().map(|one| one.name.chars().count()).max().unwrap_or(0);
    let room = terminal.width.saturating_sub(SHORT_COLUMNS);
    let with_cid = !terminal.output || room >= longest + CID;
    let name_width =
        if terminal.output { room.saturating_sub(if with_cid { CID } else { 0 }).max(12) } else { usize::MAX };
    let mut columns = vec![("NAME", Side::Left), ("KIND", Side::Left), ("SIZE", Side::Right), ("TOKENS", Side::Right)];
    if with_cid {
        columns.push(("ROOT", Side::Left));
    }
    let mut table = Table::new(terminal, &columns);
    let mut faults = String::new();
    for one in listed {
        let name = shortened(&one.name, name_width);
        let (kind, size, tokens, mark) = match &one.summary {
            Ok(summary) => {
                let (kind, tokens) = (summary.architecture.clone(), summary.max_sequence.to_string());
                (kind, bytes(summary.bytes), tokens, Mark::None)
            }
            Err(fault) => {
                faults.push_str(&format!("{}: {}\n", one.name, shortened(fault, 400)));
                ("damaged".to_owned(), String::new(), String::new(), Mark::Bad)
            }
        };
        let mut row = vec![(name, Mark::None), (kind, mark), (size, Mark::None), (tokens, Mark::None)];
        if with_cid {
            row.push((one.root.to_string(), Mark::Faint));
        }
        table.row(row);
    }
    table.render() + &faults
}

async fn remove(arguments: Rm, context: &Context) -> Result<Verdict> {
    let library = context.library()?;
    let mut text = String::new();
    for name in &arguments.names {
        library.remove(name)?;
        text.push_str(&format!("removed {}\n", context.terminal.bold(name)));
    }
    let freed = collect(context).await?;
    text.push_str(&format!("{}\n", describe(freed)));
    print(context, arguments.json, &Freeing { removed: &arguments.names, freed: freed.into() }, &text)
}

async fn collect(context: &Context) -> Result<Freed> {
    let library = context.library()?;
    let spinner = context.bars.spinner("freeing blocks that no model needs");
    let freed =
        context.interrupt.guard(async { Ok(tokio::task::spawn_blocking(move || library.collect()).await??) }).await?;
    spinner.clear();
    Ok(freed)
}

fn describe(freed: Freed) -> String {
    match freed {
        Freed::Blocks { blocks: 0, .. } => "nothing to free: every block is part of a model".to_owned(),
        Freed::Blocks { blocks, bytes: size } => format!("freed {} in {}", bytes(size), count(blocks, "block")),
        Freed::InUse => {
            "nothing freed: a pool is running or a model is being added; do it later by tabpool models gc".to_owned()
        }
    }
}

fn print(context: &Context, json: bool, value: &impl Serialize, text: &str) -> Result<Verdict> {
    if json {
        context.terminal.print_json(value)?;
    } else {
        context.terminal.print(text)?;
    }
    Ok(Verdict::Fine)
}

#[derive(Serialize)]
struct AddedJson<'a> {
    name: &'a str,
    root: String,
    architecture: &'a str,
    files: u64,
    bytes: u64,
    bytes_new: u64,
    bytes_fetched: u64,
    replaced: Option<String>,
}

impl<'a> From<&'a Added> for AddedJson<'a> {
    fn from(added: &'a Added) -> Self {
        Self {
            name: &added.name,
            root: added.root.to_string(),
            architecture: &added.architecture,
            files: added.files,
            bytes: added.bytes,
            bytes_new: added.bytes_new,
            bytes_fetched: added.bytes_fetched,
            replaced: added.replaced.map(|root| root.to_string()),
        }
    }
}

#[derive(Serialize)]
struct ListedJson<'a> {
    name: &'a str,
    root: String,
    architecture: Option<&'a str>,
    files: Option<u64>,
    bytes: Option<u64>,
    max_tokens: Option<usize>,
    fault: Option<&'a str>,
}

impl<'a> From<&'a Listed> for ListedJson<'a> {
    fn from(listed: &'a Listed) -> Self {
        let summary = listed.summary.as_ref().ok();
        Self {
            name: &listed.name,
            root: listed.root.to_string(),
            architecture: summary.map(|summary| summary.architecture.as_str()),
            files: summary.map(|summary| summary.files),
            bytes: summary.map(|summary| summary.bytes),
            max_tokens: summary.map(|summary| summary.max_sequence),
            fault: listed.summary.as_ref().err().map(String::as_str),
        }
    }
}

#[derive(Serialize)]
struct Freeing<'a> {
    removed: &'a [String],
    freed: FreedJson,
}

#[derive(Serialize)]
struct FreedJson {
    blocks: u64,
    bytes: u64,
    in_use: bool,
}

impl From<Freed> for FreedJson {
    fn from(freed: Freed) -> Self {
        match freed {
            Freed::Blocks { blocks, bytes } => Self { blocks, bytes, in_use: false },
            Freed::InUse => Self { blocks: 0, bytes: 0, in_use: true },
        }
    }
}

#[cfg(test)]
mod tests {
    use tabpool::{Cid, Freed, Listed, Summary};

    use super::{describe, list_text};
    use crate::terminal::Terminal;

    fn listed(name: &str, summary: Result<Summary, String>) -> Listed {
        Listed { name: name.to_owned(), root: Cid::default(), summary }
    }

    #[test]
    fn a_damaged_model_is_listed_among_the_whole_ones_and_explained_below() {
        let summary = Summary { architecture: "bert".into(), files: 4, bytes: 90_868_376, max_sequence: 512 };
        let models = [listed("good", Ok(summary)), listed("poor", Err("block x is missing".into()))];
        let text = list_text(&models, &Terminal::plain(80));
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("NAME  KIND     "), "{text}");
        assert!(lines[1].contains("good") && lines[1].contains("bert") && lines[1].contains("90.9 MB"), "{text}");
        assert!(lines[2].contains("damaged"), "{text}");
        assert_eq!(lines[3], "poor: block x is missing");
    }

    #[test]
    fn what_was_freed_is_said_in_words() {
        assert_eq!(describe(Freed::Blocks { blocks: 1, bytes: 2_000_000 }), "freed 2.0 MB in 1 block");
        assert!(describe(Freed::InUse).contains("models gc"));
        assert!(describe(Freed::Blocks { blocks: 0, bytes: 0 }).starts_with("nothing to free"));
    }
}
