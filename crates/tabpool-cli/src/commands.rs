//! The commands, each in a file of its own with its arguments, their help and its tests.

mod classify;
mod demo;
mod doctor;
mod embed;
mod generate;
mod invite;
mod models;
mod report;
mod rerank;
mod run;
mod similarity;
mod transcribe;

use anyhow::Result;
use clap::Subcommand;

use crate::context::Context;
use crate::failure::Verdict;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say which browsers, adapters and APIs there are, and what is missing
    Doctor(doctor::Arguments),
    /// Add, list and remove models
    #[command(subcommand)]
    Models(models::Command),
    /// Embed texts, pictures or sounds, one vector each
    Embed(embed::Arguments),
    /// Say what texts, pictures or sounds are, by the model's labels or your own
    Classify(classify::Arguments),
    /// Compare a text with others
    Similarity(similarity::Arguments),
    /// Put documents into the order in which they answer a query
    Rerank(rerank::Arguments),
    /// Write down what is said in sounds
    Transcribe(transcribe::Arguments),
    /// Write text that goes on from a prompt, or answers it
    Generate(generate::Arguments),
    /// Translate a text
    Translate(generate::Translate),
    /// Summarize a text
    Summarize(generate::Summarize),
    /// Run a model on tensors from a file
    Run(run::Arguments),
    /// Let tabs of any browser compute for a pool: shows an address and a QR code, and who comes and goes
    Invite(invite::Arguments),
    /// Show what was measured
    Report(report::Arguments),
    /// Run a real model on every worker of this machine, compared and timed
    Demo(demo::Arguments),
}

/// Does it.
pub(crate) async fn run(command: Command, context: &Context) -> Result<Verdict> {
    match command {
        Command::Doctor(arguments) => doctor::run(&arguments, context).await,
        Command::Models(command) => models::run(command, context).await,
        Command::Embed(arguments) => embed::run(&arguments, context).await,
        Command::Classify(arguments) => classify::run(&arguments, context).await,
        Command::Similarity(arguments) => similarity::run(&arguments, context).await,
        Command::Rerank(arguments) => rerank::run(&arguments, context).await,
        Command::Transcribe(arguments) => transcribe::run(&arguments, context).await,
        Command::Generate(arguments) => generate::run(&arguments, context).await,
        Command::Translate(arguments) => generate::translate(&arguments, context).await,
        Command::Summarize(arguments) => generate::summarize(&arguments, context).await,
        Command::Run(arguments) => run::run(&arguments, context).await,
        Command::Invite(arguments) => invite::run(&arguments, context).await,
        Command::Report(arguments) => report::run(&arguments, context).await,
        Command::Demo(arguments) => demo::run(&arguments, context).await,
    }
}
