//! `tabpool similarity`: how close texts are to another one in meaning, as the cosine of their embeddings.

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tabpool::{Model, ModelKind};

use crate::context::Context;
use crate::failure::Verdict;
use crate::placing::{Placing, reads_texts};
use crate::terminal::shortened;

/// Arguments of `similarity`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A model's name in the library, or its folder
    model: String,

    /// The text that the others are compared with
    text: String,

    /// The others
    #[arg(required = true, value_name = "OTHER")]
    others: Vec<String>,

    #[command(flatten)]
    placing: Placing,

    /// Print JSON, one object a line: {"text": …, "similarity": …}
    ///
    /// That is also what is printed when standard output is no terminal.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<Verdict> {
    let Arguments { model: name, text, others, placing, .. } = arguments;
    let terminal = &context.terminal;
    let work = async |model: &Model| Ok(model.similarity(&[text], others).await?.to_f32()?.to_vec());
    let cosines = placing.with_model(context, name, ModelKind::Text, reads_texts, work).await?;
    let mut out = String::new();
    for (other, cosine) in others.iter().zip(cosines) {
        if arguments.json || !terminal.output {
            out.push_str(&serde_json::to_string(&json!({"text": other, "similarity": cosine}))?);
        } else {
            out.push_str(&format!("{cosine:>8.4}  {}", shortened(other, terminal.width.saturating_sub(10))));
        }
        out.push('\n');
    }
    terminal.print(&out)?;
    Ok(Verdict::Fine)
}
