//! `tabpool invite`: lets tabs of any browser compute for a pool, by an address and a QR code.
//!
//! Runs until it is interrupted, or until its ticket is over and nobody is here any more. Where standard output is no terminal
//! the address is all that goes there; who comes and goes is told on standard error.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use tabpool::{Accelerator, JoinEndpoint, JoinOptions, JoinTicket, Target};

use crate::context::Context;
use crate::failure::Verdict;
use crate::qr;
use crate::quantity::{count, remaining, span};
use crate::session::{Measuring, builder, with_accelerator};

/// How often the line that sums up is written anew.
const SUMMED_UP_EVERY: Duration = Duration::from_secs(1);

/// Arguments of `invite`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How long tabs may join: a span as in 90s, 30m, 24h, 7d
    #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = lifetime)]
    valid_for: Duration,

    /// How many tabs may be here at once [default: any number]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    tabs: Option<u32>,

    /// What the tabs' page calls them
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,

    #[command(flatten)]
    endpoint: Endpoint,

    /// Workers of the pool's own besides, as in chromium:webgpu or native:cpu; may be given several times [default: none]
    #[arg(long, value_name = "TARGET")]
    on: Vec<Target>,
}

/// Where tabs of other machines join. Without it only browsers of this machine reach the pool.
#[derive(Debug, Args)]
struct Endpoint {
    /// Let tabs of other machines join at this address, as in 192.168.1.20:8600 or 0.0.0.0:8600
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,

    /// A host name by which they reach it; may be given several times, the first one is shown
    #[arg(long, value_name = "HOST", requires = "listen")]
    name: Vec<String>,

    /// The certificate's chain as PEM: browsers compute on the GPU and with threads over HTTPS only
    #[arg(long, value_name = "FILE", requires = "listen", requires = "key")]
    certificate: Option<PathBuf>,

    /// The certificate's key as PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,

    /// The origin of a proxy in front of it, as in https://pool.example
    #[arg(long, value_name = "ORIGIN", requires = "listen")]
    behind: Option<String>,

    /// Do without HTTPS: whoever is on the way reads along, and tabs compute on one thread
    #[arg(long, requires = "listen", conflicts_with = "certificate")]
    plain_http: bool,
}

impl Endpoint {
    fn wanted(&self) -> Option<JoinEndpoint> {
        let mut endpoint = JoinEndpoint::on(self.listen?);
        for name in &self.name {
            endpoint = endpoint.name(name);
        }
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            endpoint = endpoint.tls(certificate, key);
        }
        if let Some(origin) = &self.behind {
            endpoint = endpoint.behind(origin);
        }
        Some(if self.plain_http { endpoint.allow_plain_http() } else { endpoint })
    }
}

fn lifetime(text: &str) -> Result<Duration, String> {
    span(text).filter(|span| !span.is_zero()).ok_or_else(|| "not a span as in 30m, 24h or 7d".to_owned())
}

impl Arguments {
    fn options(&self) -> JoinOptions {
        let options = JoinOptions::new().lifetime(self.valid_for).label(self.label.clone().unwrap_or_default());
        match self.tabs {
            Some(tabs) => options.most_tabs(tabs),
            None => options,
        }
    }
}

pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<Verdict> {
    let pool = || {
        let builder = builder(context, &arguments.on).guests_only();
        match arguments.endpoint.wanted() {
            Some(endpoint) => builder.join_from(endpoint),
            None => builder,
        }
    };
    with_accelerator(context, Measuring::Wanted, pool, async |accelerator| {
        let ticket = accelerator.pool().join(arguments.options())?;
        let here_only = arguments.endpoint.listen.is_none();
        context.terminal.print(&shown(&ticket, here_only, context))?;
        wait(accelerator, &ticket, context).await;
        Ok(Verdict::Fine)
    })
    .await
}

/// What is printed first: the address alone for a program, with a QR code and what to do with it for a person.
fn shown(ticket: &JoinTicket, here_only: bool, context: &Context) -> String {
    let (url, terminal) = (ticket.url(), &context.terminal);
    if !terminal.output {
        return format!("{url}\n");
    }
    let code = qr::drawn(url, terminal).map_or_else(String::new, |code| format!("{code}\n"));
    let how_many = match ticket.most_tabs() {
        Some(tabs) => format!("up to {}", count(tabs.into(), "tab")),
        None => "any number of tabs".to_owned(),
    };
    // What has passed since the ticket was issued is not worth a unit.
    let how_long = remaining(ticket.remaining().saturating_add(Duration::from_millis(500)));
    let whose = if here_only { "Browsers of this machine can open it; --listen lets others in.\n" } else { "" };
    let note = format!(
        "A tab that opens this address computes for the pool: {how_many}, for {how_long}.\n\
         {whose}Whoever has it can join. Ctrl-C ends it."
    );
    let note: Vec<String> = note.lines().map(|line| terminal.dim(line)).collect();
    format!("{code}{}\n{}\n\n", terminal.bold(url), note.join("\n"))
}

/// Waits until nobody can join any more and nobody is here.
async fn wait(accelerator: &Accelerator, ticket: &JoinTicket, context: &Context) {
    let line = context.bars.spinner("nobody is here yet");
    let mut ticks = tokio::time::interval(SUMMED_UP_EVERY);
    loop {
        ticks.tick().await;
        let (tabs, figures) = (ticket.tabs(), accelerator.pool().metrics());
        if tabs == 0 && !ticket.is_valid() {
            return;
        }
        let here = if tabs == 0 { "nobody is here".to_owned() } else { format!("{} here", count(tabs as u64, "tab")) };
        let good =
            if ticket.is_valid() { remaining(ticket.remaining()) + " left to join" } else { "closed".to_owned() };
        line.say(format!("{here}, {} done, {good}", count(figures.finished, "run")));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::lifetime;
    use crate::arguments::Arguments;

    #[test]
    fn a_ticket_lasts_for_a_span() {
        assert_eq!(lifetime("30m"), Ok(Duration::from_secs(1800)));
        assert!(lifetime("0s").is_err() && lifetime("soon").is_err());
        assert!(Arguments::try_parse_from(["tabpool", "invite", "--valid-for", "7d", "--tabs", "3"]).is_ok());
        assert!(Arguments::try_parse_from(["tabpool", "invite", "--tabs", "0"]).is_err());
    }
}
