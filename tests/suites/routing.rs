//! Which API a worker serves a model with is decided by what was measured: what nobody has measured is tried, what is faster
//! serves, and the next pool over the same database begins with it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tabpool_pool::{ModelRequest, PoolBuilder, Profile, ResourcePool, Target, TuningPolicy, WorkerSpec};
use tabpool_protocol::ApiKind;
use tabpool_scheduler::Config;
use tabpool_tests::golden::Golden;
use tabpool_tests::places::fixture_name;
use tabpool_tests::records::Records;
use tabpool_tests::{Fault, Outcome, browsers, require, scene};

const CASE: &str = "routing";
/// Requests within which everything is found out here.
const MOST: usize = 20_000;
/// Requests after the last API has answered: what is left of its trial, and as many again.
const SETTLED: usize = 40;
/// What is so many times as fast is so in any order of events.
const CLEARLY: f64 = 2.0;

/// Spends as much on finding out as on all else, and takes loads and runs for short until it knows better: the model is tiny.
fn builder(data: &Path, spec: WorkerSpec) -> PoolBuilder {
    let mut config = Config::default();
    config.exploring.share = 1.0;
    config.priors.load = Duration::from_millis(10);
    config.priors.compute_otherwise = [Duration::from_millis(1); 3];
    let quiet = TuningPolicy::default().budget(Duration::ZERO);
    ResourcePool::builder().data_dir(data).scheduler(config).tuning(quiet).worker(spec)
}

/// What each API took, the first time left out, and who served in the end.
struct Found {
    means: BTreeMap<ApiKind, f64>,
    last: Vec<ApiKind>,
}

impl Found {
    /// Whether an API is clearly slower than another. Of those that are not, any may serve.
    fn is_slow(&self, api: ApiKind) -> bool {
        self.means.values().any(|mean| self.means[&api] > CLEARLY * mean)
    }
}

/// Asks until every API of the only worker has answered, and for a while after that.
async fn find_out(pool: &ResourcePool, golden: &Golden) -> Result<Found, Fault> {
    let worker = pool.workers().into_iter().next().ok_or("a worker")?;
    let working: Vec<ApiKind> = worker.capabilities.working().map(|(api, _)| api).collect();
    let target = Target { kind: Some(worker.kind), api: None };
    let model = pool.model(ModelRequest::new(fixture_name("bert")).on(target)).await?;
    let mut times: BTreeMap<ApiKind, Vec<f64>> = BTreeMap::new();
    let mut latest = Vec::new();
    let (mut asked, mut left) = (0, SETTLED);
    while left > 0 {
        asked += 1;
        require(asked < MOST, || format!("{asked} requests and only {:?} of {working:?}", times.keys()))?;
        let (worst, answer) = golden.run(&model).await?;
        require(worst <= 1.0, || format!("{}: off by {worst} times the tolerance", answer.api))?;
        times.entry(answer.api).or_default().push(answer.timing.compute.as_secs_f64());
        latest.push(answer.api);
        if times.len() == working.len() {
            left -= 1;
        }
    }
    let mean = |times: &[f64]| {
        let counted = &times[usize::from(times.len() > 1)..];
        counted.iter().sum::<f64>() / counted.len() as f64
    };
    let means = times.iter().map(|(api, times)| (*api, mean(times))).collect();
    Ok(Found { means, last: latest.split_off(latest.len() - SETTLED / 2) })
}

/// One kind of worker finds out, and its successor knows.
async fn on(spec: impl Fn() -> WorkerSpec) -> Outcome {
    let folder = tempfile::tempdir()?;
    let golden = Golden::read("bert")?;
    let pool = scene::ready(builder(folder.path(), spec())).await?;
    let kind = pool.workers().into_iter().next().ok_or("a worker")?.kind;
    let found = find_out(&pool, &golden).await?;
    pool.close().await?;
    let (means, last) = (&found.means, &found.last);
    tabpool_tests::show(&format!("{CASE}: {kind} is served by {:?} in the end; seconds: {means:?}", last.last()));
    require(!last.iter().any(|api| found.is_slow(*api)), || format!("{kind}: {last:?} served; {means:?}"))?;
    let decided = "SELECT DISTINCT api FROM decisions WHERE decision = 'load' AND reason LIKE '%it is tried'";
    let tried = Records::open(folder.path())?.rows(decided)?;
    require(tried.len() + 1 == means.len(), || format!("{kind}: of {means:?} tried were {tried:?}"))?;

    let pool = scene::ready(builder(folder.path(), spec())).await?;
    let target = Target { kind: Some(kind), api: None };
    let model = pool.model(ModelRequest::new(fixture_name("bert")).on(target)).await?;
    let (_, answer) = golden.run(&model).await?;
    let api = answer.api;
    require(!found.is_slow(api), || format!("{kind}: it was known that {api} is not the fastest; {means:?}"))?;
    Ok(pool.close().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_worker_serves_with_the_api_that_it_was_measured_to_be_fastest_with() -> Outcome {
    let _alone = scene::machine().await;
    let in_place = |e: Fault| format!("native: {e}");
    on(WorkerSpec::native).await.map_err(in_place)?;
    let shell = browsers::webnn_shell(CASE).map(|shell| shell.kind);
    for kind in browsers::kinds(CASE).into_iter().chain(shell) {
        let named = |e: Fault| format!("{kind}: {e}");
        on(|| scene::browser(kind, Profile::Fresh)).await.map_err(named)?;
    }
    Ok(())
}
