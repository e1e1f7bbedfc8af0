//! A host that the `endings` suite ends in every way there is: it starts a pool, says so, and waits for its order.
//!
//! It handles no signal, as a program does that uses the crate without a thought about its own end.

use std::io::{BufRead as _, Lines, StdinLock, Write as _, stdin, stdout};

use tabpool_pool::{Profile, ResourcePool};
use tabpool_tests::{Fault, Outcome, host, scene};

#[tokio::main]
async fn main() -> Outcome {
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
