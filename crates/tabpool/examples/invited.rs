//! Texts embedded by whatever tabs open an address: a pool that starts no worker and waits for guests.
//!
//!     cargo run --package tabpool --example invited [MODEL [ADDRESS:PORT]]
//!
//! Open the address that it prints in any browser, or in several. It embeds sentences until nobody is here any more, and says who
//! did it. With an address to listen on, tabs of other machines join too, over plain HTTP: enough to try it in a network of
//! one's own. The model is a folder or a name in the library; by default a tiny one of this repository's tests.

#![expect(clippy::print_stdout, reason = "a program that shows what it does")]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use tabpool::{Accelerator, JoinEndpoint, JoinOptions, WorkerState};

const TEXTS: [&str; 3] = ["A man is eating food.", "Someone has a meal.", "The sky is clear tonight."];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/bert");
    let name = arguments.next().unwrap_or_else(|| tiny.to_string_lossy().into_owned());
    let mut builder = Accelerator::builder().metrics_in_memory().guests_only();
    if let Some(address) = arguments.next() {
        builder = builder.join_from(JoinEndpoint::on(address.parse()?).allow_plain_http());
    }
    let accelerator = builder.build().await?;
    let model = accelerator.accelerate_model(name).await?;
    let ticket = accelerator.pool().join(JoinOptions::new().label("an example").lifetime(Duration::from_secs(3600)))?;
    println!("{}", ticket.url());

    let computes = || accelerator.pool().workers().iter().any(|worker| worker.state != WorkerState::Paused);
    let (mut seconds, mut begun) = (tokio::time::interval(Duration::from_millis(500)), false);
    loop {
        seconds.tick().await;
        if begun && ticket.tabs() == 0 {
            break;
        }
        if !computes() {
            continue;
        }
        begun = true;
        match model.embed(&TEXTS).await {
            Ok(embeddings) => {
                let runs = embeddings.runs().iter();
                let mut who: Vec<String> = runs.map(|run| format!("{} with {}", run.worker, run.api)).collect();
                who.dedup();
                println!("cosine {:.3}, by {}", embeddings.similarity()?.to_f32()?[1], who.join(" and "));
            }
            // A tab that leaves while it is the only one takes its request with it.
            Err(error) => println!("{error}"),
        }
    }
    Ok(accelerator.close().await?)
}
