//! What the host itself costs: requests to a worker that answers at once, over a real WebSocket on loopback.
//!
//! The pool is a real one: its server, frames, scheduler, database. Its worker speaks the protocol and computes nothing, so that all
//! there is to be measured is the way there and back. Beside it, in turn and in the same process, stands a bare WebSocket
//! that sends and answers as many bytes: no host that speaks over one can be faster.

#![expect(clippy::print_stdout, reason = "what is measured is shown as it comes")]

mod echo;
mod options;
mod report;
mod worker;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use serde::Serialize;
use tabpool::{Checking, ModelHandle, ModelRequest, ResourcePool, Tensor};

pub use options::Options;

use crate::Fault;
use crate::rig::machine::Machine;
use crate::rig::percentile;
use echo::Echo;
use report::Report;
use worker::NullWorker;

/// The model whose programs are asked for; its worker computes none of them.
const MODEL: &str = "tests/fixtures/bert";
/// What is asked for, and its numbers.
const OUTPUT: &str = "pooler_output";
const NUMBERS: usize = 64;
/// Tokens of the text.
const TOKENS: usize = 8;
/// Requests that a worker with one lane holds at a time, by the pool's default.
const HELD: usize = 4;
/// Requests before those that count.
const WARMING_UP: usize = 2000;

/// Where things are.
#[derive(Clone, Debug)]
pub struct Folders {
    /// The repository.
    pub root: PathBuf,
    /// What the benchmark writes.
    pub out: PathBuf,
}

/// What one side did.
#[derive(Clone, Debug, Default, Serialize)]
struct Side {
    /// One request at a time, in microseconds.
    alone_us: Vec<f64>,
    /// Requests a second with many at a time, of each round.
    rates_hz: Vec<f64>,
    /// Processor time of the whole process for a request of those, in microseconds, of each round.
    processor_us: Vec<f64>,
}

/// Where a request's time went, in microseconds, as the pool says.
#[derive(Clone, Debug, Default, Serialize)]
struct Parts {
    /// From its submission until it was sent.
    queue_us: Vec<f64>,
    /// From then until its answer was here.
    transfer_us: Vec<f64>,
    /// From the caller's call to the submission, and from the answer to the caller.
    hands_us: Vec<f64>,
}

/// Measures, prints, and keeps it.
///
/// # Errors
/// Where either side does not answer.
pub async fn run(options: &Options, folders: &Folders) -> Result<(), Fault> {
    let machine = Machine::read(&[]);
    println!("{machine}\n");
    let data = tempfile::Builder::new().prefix("tabpool-bench-").tempdir()?;
    // The worker answers zeros at once: the way there and back is measured, and its numbers are wrong.
    let builder = ResourcePool::builder().data_dir(data.path()).checking(Checking::nobody());
    let pool = builder.build().await?;
    let worker = NullWorker::join(&pool, options.workers).await?;
    let model = pool.model(ModelRequest::new(folders.root.join(MODEL).display().to_string())).await?;
    ask_many(&model, WARMING_UP, options.at_once).await?;
    let sizes = worker.sizes();
    let mut echo = Echo::open(sizes).await?;
    echo.many(WARMING_UP, options.at_once).await?;
    let (mut ours, mut bare, mut parts) = (Side::default(), Side::default(), Parts::default());
    let mut held = Side::default();
    for _ in 0..options.rounds {
        ours.alone_us.extend(ask_alone(&model, options.alone(), &mut parts).await?);
        bare.alone_us.extend(echo.alone(options.alone()).await?);
        let many = options.many();
        ours.add(many, timed(ask_many(&model, many, options.at_once)).await?);
        bare.add(many, timed(echo.many(many, options.at_once)).await?);
        held.add(many, timed(echo.many(many, HELD * options.workers)).await?);
    }
    let lost = pool.recorder().map(|recorder| recorder.stats()).unwrap_or_default().queue_full;
    Report::new(machine, options, sizes, [ours, bare, held], parts, lost).finish(options, folders)?;
    worker.leave();
    Ok(pool.close().await?)
}

impl Side {
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    fn add(&mut self, count: usize, (took, processor): (Duration, Duration)) {
        self.rates_hz.push(count as f64 / took.as_secs_f64());
        self.processor_us.push(microseconds(processor) / count as f64);
    }

    fn alone(&self, percent: usize) -> f64 {
        percentile(&self.alone_us, percent)
    }

    fn rate(&self) -> f64 {
        percentile(&self.rates_hz, 50)
    }

    fn processor(&self) -> f64 {
        percentile(&self.processor_us, 50)
    }
}

/// A text of a few tokens.
fn question() -> Result<Vec<(String, Tensor)>, Fault> {
    Ok(vec![("input_ids".to_owned(), Tensor::from_i64([1, TOKENS], (1..=TOKENS as i64).collect::<Vec<_>>())?)])
}

/// One after another; gives each one's time.
async fn ask_alone(model: &ModelHandle, count: usize, parts: &mut Parts) -> Result<Vec<f64>, Fault> {
    let question = question()?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        let answer = model.run_for(question.clone(), &[OUTPUT]).await?;
        let took = begun.elapsed();
        times.push(microseconds(took));
        parts.queue_us.push(microseconds(answer.timing.queue_wait));
        parts.transfer_us.push(microseconds(answer.timing.transfer));
        parts.hands_us.push(microseconds(took.saturating_sub(answer.timing.total)));
    }
    Ok(times)
}

/// As many as that, so many at a time, from one task.
async fn ask_many(model: &ModelHandle, count: usize, at_once: usize) -> Result<(), Fault> {
    let question = question()?;
    let mut open = FuturesUnordered::new();
    for asked in 0..count {
        open.push(model.run_for(question.clone(), &[OUTPUT]));
        if asked + 1 >= at_once {
            open.next().await.ok_or("nothing is open")??;
        }
    }
    while let Some(answer) = open.next().await {
        answer?;
    }
    Ok(())
}

/// How long it takes by the clock, and by all the threads of this process.
async fn timed(work: impl Future<Output = Result<(), Fault>>) -> Result<(Duration, Duration), Fault> {
    let (begun, before) = (Instant::now(), processor_time());
    work.await?;
    Ok((begun.elapsed(), processor_time().saturating_sub(before)))
}

/// Processor time that this process has had, in steps of ten milliseconds.
fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
