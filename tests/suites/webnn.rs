//! WebNN in the shell: what runs spread over several contexts give is what one gives, in less time, and it is what a
//! worker without a GPU uses when nobody says otherwise.

use std::time::{Duration, Instant};

use futures::future::try_join_all;
use tabpool_browser::{BrowserKind, GpuMode};
use tabpool_pool::{ModelHandle, ModelRequest, Profile, ResourcePool};
use tabpool_protocol::ApiKind;
use tabpool_tensor::Tensor;
use tabpool_tests::golden::{Golden, ids};
use tabpool_tests::processes::{self, Signal};
use tabpool_tests::{Fault, Outcome, browsers, places, require, scene};

const CASE: &str = "webnn";
/// Tokens of a request.
const TOKENS: i64 = 128;
/// Requests, answered one by one and then all at once.
const REQUESTS: i64 = 12;
/// How often both are measured.
const ROUNDS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_once_give_what_they_give_alone() -> Outcome {
    let _alone = scene::machine().await;
    let (Some(shell), Some(path)) = (browsers::webnn_shell(CASE), places::minilm(CASE)) else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let worker = scene::browser(shell.kind, Profile::Fresh);
    let pool = scene::ready(ResourcePool::builder().data_dir(folder.path()).worker(worker)).await?;
    let model = pool.model(ModelRequest::new(path)).await?.on("webnn-shell:webnn".parse()?);
    let requests: Vec<Vec<i64>> =
        (0..REQUESTS).map(|n| (0..TOKENS).map(|i| 1000 + (n * 97 + i * 31) % 20_000).collect()).collect();
    // The load and every lane's first run are not what is measured.
    try_join_all(requests[..4].iter().map(|tokens| embed(&model, tokens))).await?;

    // In turns, and the best of each counts: what else the machine does comes and goes.
    let (mut one_by_one, mut at_once) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let mut alone = Vec::new();
        for tokens in &requests {
            alone.push(embed(&model, tokens).await?);
        }
        one_by_one = one_by_one.min(begun.elapsed());
        let begun = Instant::now();
        let together = try_join_all(requests.iter().map(|tokens| embed(&model, tokens))).await?;
        at_once = at_once.min(begun.elapsed());
        for (n, (one, other)) in alone.iter().zip(&together).enumerate() {
            require(one.data() == other.data(), || format!("request {n} is another one among others"))?;
            require(n == 0 || one.data() != alone[0].data(), || format!("request {n} gives what 0 gives"))?;
        }
    }
    pool.close().await?;
    let each = |took: Duration| took.as_secs_f64() * 1e3 / REQUESTS as f64;
    tabpool_tests::show(&format!(
        "webnn: {TOKENS} tokens, {:.1} ms a request one by one, {:.1} ms all at once: {:.2} times the throughput",
        each(one_by_one),
        each(at_once),
        one_by_one.as_secs_f64() / at_once.as_secs_f64()
    ));
    // A machine with other work to do has no second core to give; but nothing may be lost by asking at once.
    require(at_once < one_by_one.mul_f64(1.25), || format!("{at_once:?} at once, {one_by_one:?} one by one"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_a_gpu_prefers_webnn() -> Outcome {
    let _alone = scene::machine().await;
    let Some(shell) = browsers::webnn_shell(CASE) else { return Ok(()) };
    if GpuMode::detect() == GpuMode::Hardware {
        places::left_out(CASE, "this machine has a GPU, which comes first");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let worker = scene::browser(shell.kind, Profile::Fresh);
    let pool = scene::ready(ResourcePool::builder().data_dir(folder.path()).worker(worker)).await?;
    let order: Vec<ApiKind> =
        pool.workers().iter().flat_map(|w| w.capabilities.working().map(|(api, _)| api)).collect();
    let model = pool.model(ModelRequest::new(places::fixture_name("bert"))).await?;
    let golden = Golden::read("bert")?;
    let answer = model.run(golden.inputs.clone()).await?;
    let worst = golden.error_of(&answer, model.signature())?;
    pool.close().await?;
    require(shell.kind == BrowserKind::WebNnShell, || format!("a {} is no shell", shell.kind))?;
    require(order == [ApiKind::WebNn, ApiKind::Cpu, ApiKind::WebGpu], || format!("it prefers {order:?}"))?;
    require(answer.api == ApiKind::WebNn, || format!("it ran on {}", answer.api))?;
    require(worst <= 1.0, || format!("off by {worst} times the tolerance"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_context_that_dies_costs_no_request() -> Outcome {
    let _alone = scene::machine().await;
    let Some(shell) = browsers::webnn_shell(CASE) else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let worker = scene::browser(shell.kind, Profile::Fresh);
    let pool = scene::ready(ResourcePool::builder().data_dir(folder.path()).worker(worker)).await?;
    let model = pool.model(ModelRequest::new(places::fixture_name("bert"))).await?.on("webnn-shell:webnn".parse()?);
    let golden = Golden::read("bert")?;
    golden.check(&model).await?;
    let joined = pool.workers().first().map(|worker| worker.id);

    // The browser computes WebNN in the process of its GPU, and starts another one when that is gone.
    let pids = processes::descendants(std::process::id(), "--type=gpu-process");
    require(pids.len() == 1, || format!("the shell has the GPU processes {pids:?}"))?;
    processes::send(Signal::Kill, i64::from(pids[0]))?;
    for _ in 0..6 {
        golden.check(&model).await?;
    }
    require(pool.workers().first().map(|worker| worker.id) == joined, || "the worker itself was replaced".to_owned())?;
    Ok(pool.close().await?)
}

async fn embed(model: &ModelHandle, tokens: &[i64]) -> Result<Tensor, Fault> {
    let mut answer = model.run_for(ids(tokens)?, &["last_hidden_state"]).await?;
    require(answer.api == ApiKind::WebNn, || format!("it ran on {}", answer.api))?;
    Ok(answer.outputs.pop().ok_or("no output came")?.1)
}
