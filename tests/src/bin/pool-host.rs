//! A host that the `endings` suite ends in every way there is: it starts a pool, says so, and waits for its order.
//!
//! It ends by signals as a program does that uses the crate without a thought about its own end: at once. Interrupts it takes
//! itself to that end, for tests in a shell's background ignore them, and what they start inherits that.

use std::io::{BufRead as _, Lines, StdinLock, Write as _, stdin, stdout};

use tabpool_pool::{Profile, ResourcePool};
use tabpool_tests::{Fault, Outcome, host, scene};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Outcome {
    let mut interrupts = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        interrupts.recv().await;
        std::process::exit(130)
    });
    let mut lines = stdin().lock().lines();
    let data = order(&mut lines)?;
    let mut builder = ResourcePool::builder().data_dir(data);
    for kind in order(&mut lines)?.split(',') {
        builder = builder.worker(scene::browser(kind.parse()?, Profile::Fresh));
    }
    let pool = scene::ready(builder).await?;
    let mut output = stdout();
    writeln!(output, "{}", host::READY)?;
    output.flush()?;
    match order(&mut lines)?.as_str() {
        "drop" => drop(pool),
        "close" => pool.close().await?,
        other => return Err(format!("{other:?} is no order").into()),
    }
    Ok(())
}

fn order(lines: &mut Lines<StdinLock<'_>>) -> Result<String, Fault> {
    Ok(lines.next().ok_or("nobody gives orders any more")??)
}
