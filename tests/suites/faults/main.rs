//! A storm of faults over a steady load: two browsers of the pool's own, a third one behind a bad line, and native workers.
//!
//! What strikes, whom and when follows from a seed that is printed, so that a storm can be had again. Whatever happens, every
//! request that was accepted is answered once and rightly, and afterwards every worker is back, nothing is left over, and the
//! host holds no more memory and no more files than before.
//!
//! It blows for two minutes. `TABPOOL_FAULTS_SECONDS=1800` makes it the soak of half an hour, `TABPOOL_FAULTS_SEED` another storm or the same
//! one again, and `TABPOOL_FAULTS_RATE` changes how many requests there are a second.

mod load;
mod storm;
mod strikes;

use std::env;
use std::time::{Duration, SystemTime};

use tabpool_tests::scene;
use tabpool_tests::{Fault, Outcome, browsers, places};

/// How long it blows where nothing is said.
const SECONDS: u64 = 120;
/// Requests a second where nothing is said.
const RATE: u64 = 40;

/// What was asked for.
#[derive(Clone, Copy, Debug)]
struct Wishes {
    length: Duration,
    seed: u64,
    rate: u64,
}

impl Wishes {
    fn read() -> Result<Self, Fault> {
        let clock = SystemTime::UNIX_EPOCH.elapsed()?.as_secs();
        let length = Duration::from_secs(number("TABPOOL_FAULTS_SECONDS")?.unwrap_or(SECONDS));
        let seed = number("TABPOOL_FAULTS_SEED")?.unwrap_or(clock);
        Ok(Self { length, seed, rate: number("TABPOOL_FAULTS_RATE")?.unwrap_or(RATE).clamp(1, 1000) })
    }
}

fn number(variable: &str) -> Result<Option<u64>, Fault> {
    let Some(text) = env::var_os(variable) else { return Ok(None) };
    let number = text.to_str().and_then(|text| text.parse().ok());
    Ok(Some(number.ok_or_else(|| format!("{variable} is {} and no number", text.display()))?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_faults_loses_no_answer() -> Outcome {
    const CASE: &str = "a storm of faults";
    let _alone = scene::machine().await;
    let installed = browsers::each(CASE);
    let [chromium, firefox] = &installed[..] else {
        places::left_out(CASE, "two browsers are wanted");
        return Ok(());
    };
    let wishes = Wishes::read()?;
    tabpool_tests::show(&format!("TABPOOL_FAULTS_SEED={} for {:?}", wishes.seed, wishes.length));
    storm::weather(wishes, chromium, firefox).await
}
