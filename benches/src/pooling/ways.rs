//! The ways to have the requests answered.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use serde::Serialize;
use tabpool::{Answer, Batching, ModelHandle, ModelRequest, Target};

use super::Surroundings;
use crate::Fault;
use crate::rig::host::Worker;
use crate::rig::milliseconds;

/// No answer takes longer.
const LIMIT: Duration = Duration::from_secs(300);
/// Answers of two workers with one kind of arithmetic may differ by this, absolute and relative: batches are summed otherwise.
const CLOSE: f32 = 2e-3;

/// The most requests that share a run where they wait anyway.
const ROWS: usize = 8;

/// How long the requests took.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Times {
    pub(super) seconds: f64,
    /// What the devices computed, all runs together, as the answers say: a run of several requests counts for each.
    pub(super) computed_seconds: f64,
    /// Cores that this program and its browsers kept busy.
    pub(super) cores: f64,
    /// Cores that everybody else on the machine kept busy.
    pub(super) others: f64,
}

/// What was answered.
pub(super) type Answers = Vec<Vec<f32>>;

/// Starts a browser for each of some requests; gives each subject's times from the start to the answer, in milliseconds.
pub(super) async fn each_anew(here: &Surroundings, samples: usize, threads: usize) -> Result<Vec<Vec<f64>>, Fault> {
    let mut times = vec![Vec::new(); here.subjects.len()];
    // What the host does only once, importing a model and building its program, is not in the figures.
    for number in 0..=samples {
        for (at, subject) in here.subjects.iter().enumerate() {
            let question = subject.question(number)?;
            let begun = Instant::now();
            let worker = here.host.tab(&here.starter, &here.on, (here.api, Some(threads))).await?;
            let model = model(here, at, |request| request.pinned(worker.id)).await?;
            model.run_for(question, &[subject.output]).await?;
            let took = begun.elapsed();
            worker.close().await;
            if number > 0 {
                times[at].push(milliseconds(took));
            }
        }
    }
    Ok(times)
}

/// Loads every model on a worker.
pub(super) async fn ready(here: &Surroundings, worker: &Worker) -> Result<(), Fault> {
    let requests = here.requests(32 * here.subjects.len());
    one_by_one(here, worker, &requests).await.map(drop)
}

/// One request after another, all on one worker.
pub(super) async fn one_by_one(
    here: &Surroundings,
    worker: &Worker,
    requests: &[(usize, usize)],
) -> Result<(Times, Answers), Fault> {
    let mut models = Vec::new();
    for at in 0..here.subjects.len() {
        models.push(model(here, at, |request| request.pinned(worker.id)).await?);
    }
    let questions = questions(here, requests)?;
    let (begun, busy) = (Instant::now(), Busy::now());
    let mut answers = Vec::with_capacity(questions.len());
    for ((at, _), question) in requests.iter().zip(questions) {
        answers.push(models[*at].run_for(question, &[here.subjects[*at].output]).await?);
    }
    gathered(begun, busy, &answers)
}

/// All requests at once, on every tab that is there.
pub(super) async fn at_once(here: &Surroundings, requests: &[(usize, usize)]) -> Result<(Times, Answers), Fault> {
    let target: Target = format!("{}:{}", here.on.kind, here.api).parse()?;
    let mut models = Vec::new();
    for at in 0..here.subjects.len() {
        models.push(model(here, at, |request| request.on(target).batching(Batching::up_to(ROWS))).await?);
    }
    let questions = questions(here, requests)?;
    let (begun, busy) = (Instant::now(), Busy::now());
    let runs = requests.iter().zip(questions).map(|((at, _), question)| {
        let (model, output) = (&models[*at], here.subjects[*at].output);
        async move { model.run_for(question, &[output]).await }
    });
    let answers = try_join_all(runs).await?;
    gathered(begun, busy, &answers)
}

/// A subject's model, where it is to run.
async fn model(
    here: &Surroundings,
    at: usize,
    place: impl FnOnce(ModelRequest) -> ModelRequest,
) -> Result<ModelHandle, Fault> {
    let request = ModelRequest::new(here.subjects[at].name).root(here.roots[at]).hardware([here.api]).timeout(LIMIT);
    Ok(here.host.accelerator.pool().model(place(request)).await?)
}

/// Whether two ways gave the same answers.
pub(super) fn agree(one: &Answers, other: &Answers) -> Result<(), Fault> {
    let far = |(a, b): (&f32, &f32)| (a - b).abs() > CLOSE + CLOSE * a.abs() || (a - b).is_nan();
    for (number, (one, other)) in one.iter().zip(other).enumerate() {
        if one.len() != other.len() || one.iter().zip(other).any(far) {
            return Err(format!("request {number} was answered differently by the pool").into());
        }
    }
    Ok(())
}

fn questions(here: &Surroundings, requests: &[(usize, usize)]) -> Result<Vec<Vec<(String, tabpool::Tensor)>>, Fault> {
    requests.iter().map(|(at, number)| here.subjects[*at].question(*number)).collect()
}

fn gathered(begun: Instant, before: Busy, answers: &[Answer]) -> Result<(Times, Answers), Fault> {
    let took = begun.elapsed();
    let now = Busy::now();
    let [ours, all] = [now.ours - before.ours, now.all - before.all];
    let computed: Duration = answers.iter().map(|answer| answer.timing.compute + answer.timing.readback).sum();
    let times = Times {
        seconds: took.as_secs_f64(),
        computed_seconds: computed.as_secs_f64(),
        cores: ours / took.as_secs_f64(),
        others: (all - ours).max(0.0) / took.as_secs_f64(),
    };
    let values = |answer: &Answer| Ok(answer.outputs[0].1.to_f32()?.into_owned());
    Ok((times, answers.iter().map(values).collect::<Result<_, Fault>>()?))
}

/// Processor time in seconds, in steps of ten milliseconds.
#[derive(Clone, Copy, Debug)]
struct Busy {
    /// Of this program and all that descend from it.
    ours: f64,
    /// Of all cores.
    all: f64,
}

impl Busy {
    fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = line.split_ascii_whitespace().skip(1).filter_map(|ticks| ticks.parse().ok()).collect();
        // User, nice, system; idle and waiting for disks follow; then interrupts.
        let all = ticks.iter().take(3).chain(ticks.iter().skip(5).take(3)).sum::<u64>();
        let processes = processes();
        let parents: HashMap<u32, u32> = processes.iter().map(|(pid, parent, _)| (*pid, *parent)).collect();
        let descends = |pid: u32| {
            std::iter::successors(Some(pid), |pid| parents.get(pid).copied()).any(|pid| pid == std::process::id())
        };
        let ours = processes.iter().filter(|(pid, ..)| descends(*pid)).map(|(.., ticks)| ticks).sum::<u64>();
        #[expect(clippy::cast_precision_loss, reason = "a machine's uptime fits")]
        let seconds = |ticks: u64| ticks as f64 / 100.0;
        Self { ours: seconds(ours), all: seconds(all) }
    }
}

/// Every process with its parent and its processor time in ticks.
fn processes() -> Vec<(u32, u32, u64)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in parentheses and may hold anything; the state and the parent follow it.
        let fields: Vec<&str> = stat.rsplit(')').next()?.split_ascii_whitespace().collect();
        let ticks = fields.get(11..13)?.iter().filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Some((pid, fields.get(1)?.parse().ok()?, ticks))
    })
    .collect()
}
