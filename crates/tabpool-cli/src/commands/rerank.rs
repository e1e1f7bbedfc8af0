//! `tabpool rerank`: documents in the order in which they answer a query, as a cross-encoder scores them.
//!
//! Documents come from the command line, or line by line from a file or standard input. Only the best are kept, so there may
//! be any number of them.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tabpool::{Model, ModelKind};

use crate::arriving::{each_text, given, lines_of};
use crate::context::Context;
use crate::failure::Verdict;
use crate::placing::{Placing, reads_texts};
use crate::terminal::shortened;

/// Arguments of `rerank`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A cross-encoder's name in the library, or its folder
    model: String,

    /// What is asked
    query: String,

    /// The documents
    #[arg(required_unless_present = "file", conflicts_with = "file", value_name = "DOCUMENT")]
    documents: Vec<String>,

    /// A file with one document a line, or - for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Documents shown at most
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    top: usize,

    #[command(flatten)]
    placing: Placing,

    /// Print JSON, one object a line: {"document": its place from 0 on, "score": …, "text": …}
    ///
    /// That is also what is printed when standard output is no terminal.
    #[arg(long)]
    json: bool,
}

/// A document that may be among the best.
#[derive(Debug)]
struct Scored {
    place: u64,
    score: f32,
    text: String,
}

pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<Verdict> {
    let Arguments { model: name, query, placing, top, .. } = arguments;
    let lines = match &arguments.file {
        Some(file) => lines_of(file)?,
        None => given(&arguments.documents),
    };
    let work = async |model: &Model| {
        let (mut best, mut seen, mut cut) = (Vec::new(), 0, 0);
        let rank = |texts: Vec<String>| async move {
            let ranked = model.rerank(query, &texts).await?;
            Ok((texts, ranked))
        };
        each_text(lines, rank, |(mut texts, ranked)| {
            cut += ranked.truncated().len() as u64;
            let scored = ranked.values().iter().map(|one| Scored {
                place: seen + one.document as u64,
                score: one.score,
                text: std::mem::take(&mut texts[one.document]),
            });
            keep(&mut best, scored, *top);
            seen += ranked.values().len() as u64;
            Ok(())
        })
        .await?;
        context.warn_of_cut(cut, model)?;
        Ok(best)
    };
    let best = placing.with_model(context, name, ModelKind::Text, reads_texts, work).await?;
    let terminal = &context.terminal;
    let mut out = String::new();
    for Scored { place, score, text } in best {
        if arguments.json || !terminal.output {
            out.push_str(&serde_json::to_string(&json!({"document": place, "score": score, "text": text}))?);
        } else {
            out.push_str(&format!("{score:>9.4}  {}", shortened(&text, terminal.width.saturating_sub(11))));
        }
        out.push('\n');
    }
    terminal.print(&out)?;
    Ok(Verdict::Fine)
}

/// Puts documents among the best and keeps the first `top`; equal ones stay in their order.
fn keep(best: &mut Vec<Scored>, more: impl Iterator<Item = Scored>, top: usize) {
    best.extend(more);
    best.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.place.cmp(&b.place)));
    best.truncate(top);
}

#[cfg(test)]
mod tests {
    use super::{Scored, keep};

    #[test]
    fn the_best_of_all_groups_are_kept_in_order() {
        let mut best = Vec::new();
        for group in [[(0, 0.5), (1, 0.9)], [(2, 0.9), (3, 0.1)], [(4, 0.7), (5, 0.95)]] {
            let scored = group.into_iter().map(|(place, score)| Scored { place, score, text: String::new() });
            keep(&mut best, scored, 4);
        }
        assert_eq!(best.iter().map(|one| one.place).collect::<Vec<_>>(), [5, 1, 2, 4]);
    }
}
