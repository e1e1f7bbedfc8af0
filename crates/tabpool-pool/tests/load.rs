//! Pools of native workers under load: memory that is short, requests that share runs, groups that grow and sleep, workers
//! that are replaced, answers that are checked.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tabpool_metrics::{Report, ReportFilter};
use tabpool_pool::{
    Batching, Checking, ModelHandle, ModelRequest, PoolBuilder, PoolError, PoolEvent, ResourcePool, ScalingConfig,
    WorkerSpec,
};
use tabpool_protocol::ApiKind;
use tabpool_tensor::Tensor;
use tokio::sync::broadcast::Receiver;

type Outcome = Result<(), Box<dyn Error>>;

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name).display().to_string()
}

fn native() -> WorkerSpec {
    WorkerSpec::native().apis(&[ApiKind::Cpu])
}

async fn ready(builder: PoolBuilder) -> Result<ResourcePool, PoolError> {
    let pool = builder.metrics_in_memory().build().await?;
    pool.wait_ready(PATIENCE).await?;
    Ok(pool)
}

fn builder() -> PoolBuilder {
    ResourcePool::builder()
}

/// Sixteen tokens that differ from request to request.
fn request(number: usize) -> Vec<(String, Tensor)> {
    let ids = (0..16).map(|i| 5 + ((number * 7 + i * 3) % 90) as i64).collect();
    vec![("input_ids".to_owned(), Tensor::from_i64([1, 16], ids).expect("sixteen"))]
}

async fn run(model: &ModelHandle, number: usize) -> Result<Vec<f32>, Box<dyn Error>> {
    let answer = model.run(request(number)).await?;
    Ok(answer.outputs[0].1.to_f32()?.into_owned())
}

fn held(pool: &ResourcePool) -> u64 {
    pool.workers().iter().map(|view| view.memory.0).sum()
}

/// The events so far that `choose` chooses.
fn seen<T>(events: &mut Receiver<PoolEvent>, choose: impl Fn(PoolEvent) -> Option<T>) -> Vec<T> {
    std::iter::from_fn(|| events.try_recv().ok()).filter_map(choose).collect()
}

#[tokio::test]
async fn what_does_not_fit_together_takes_turns_and_what_never_fits_is_refused() -> Outcome {
    let pool = ready(builder().worker(native())).await?;
    let bert = pool.model(ModelRequest::new(fixture("bert"))).await?;
    let alone = run(&bert, 1).await?;
    let first = held(&pool);
    run(&pool.model(ModelRequest::new(fixture("roberta"))).await?, 1).await?;
    let both = held(&pool);
    assert!(first > 0 && both > first, "{first} bytes, then {both}");
    pool.close().await?;

    let pool = ready(builder().worker(native().memory(both - 1))).await?;
    let mut events = pool.events();
    let bert = pool.model(ModelRequest::new(fixture("bert"))).await?;
    let roberta = pool.model(ModelRequest::new(fixture("roberta"))).await?;
    for round in 0..3 {
        assert_eq!(run(&bert, 1).await?, alone, "round {round}");
        run(&roberta, round).await?;
        assert!(held(&pool) < both);
    }
    let unloaded = |event| match event {
        PoolEvent::Unloaded { bytes, reason, .. } => Some((bytes, reason)),
        _ => None,
    };
    let unloads = seen(&mut events, unloaded);
    assert_eq!(unloads.len(), 5, "{unloads:?}");
    // What the second needs beside its weights is known only when it was loaded once.
    let expected = |reason: &str| reason.starts_with("room for") || reason.ends_with("takes more than was expected");
    assert!(unloads.iter().all(|(bytes, reason)| *bytes > 0 && expected(reason)), "{unloads:?}");
    // Both wait at once, and neither starves.
    let turns = (0..20).map(async |number| run(if number % 2 == 0 { &bert } else { &roberta }, number).await.map(drop));
    for outcome in futures::future::join_all(turns).await {
        outcome?;
    }
    pool.close().await?;

    let pool = ready(builder().worker(native().memory(first / 2))).await?;
    let bert = pool.model(ModelRequest::new(fixture("bert"))).await?;
    let refused = bert.run(request(1)).await.expect_err("it does not fit").to_string();
    assert!(refused.contains("it takes") && refused.contains("of at most"), "{refused}");
    pool.close().await?;
    Ok(())
}

#[tokio::test]
async fn requests_that_wait_share_runs_and_each_gets_its_own_answer() -> Outcome {
    let pool = ready(builder().worker(native()).batching(Batching::up_to(8))).await?;
    let model = pool.model(ModelRequest::new(fixture("bert"))).await?;
    let mut alone = Vec::new();
    for number in 0..40 {
        alone.push(run(&model, number).await?);
    }
    let together = futures::future::join_all((0..40).map(|number| run(&model, number))).await;
    for (number, (answer, alone)) in together.into_iter().zip(&alone).enumerate() {
        let worst = answer?.iter().zip(alone).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "request {number} is {worst} off");
    }
    let reader = pool.metrics_reader().await?;
    let report = Report::build(&reader, ReportFilter::default())?.to_json();
    let runs = report["totals"]["requests"].as_u64().ok_or("a number")?;
    assert!((45..70).contains(&runs), "eighty requests made {runs} runs");
    drop(reader);
    pool.close().await?;
    Ok(())
}

#[tokio::test]
async fn requests_whose_callers_left_are_not_run() -> Outcome {
    let pool = ready(builder().worker(native()).batching(Batching::up_to(8))).await?;
    let model = pool.model(ModelRequest::new(fixture("bert"))).await?;
    run(&model, 0).await?;
    let given_up = (0..50).map(|number| tokio::time::timeout(Duration::from_micros(1), run(&model, number)));
    futures::future::join_all(given_up).await;
    run(&model, 1).await?;
    pool.close().await?;
    Ok(())
}

#[tokio::test]
async fn who_comes_to_a_flood_does_not_wait_for_its_end() -> Outcome {
    const FLOOD: usize = 400;
    let pool = ready(builder().worker(native())).await?;
    let model = pool.model(ModelRequest::new(fixture("bert"))).await?;
    run(&model, 0).await?;
    let answered = Arc::new(AtomicUsize::new(0));
    let mut flood = tokio::task::JoinSet::new();
    for number in 0..FLOOD {
        let (model, answered) = (model.client("flood"), Arc::clone(&answered));
        flood.spawn(async move {
            let outcome = model.run(request(number)).await.map(drop);
            answered.fetch_add(1, Ordering::Relaxed);
            outcome
        });
    }
    while answered.load(Ordering::Relaxed) < 20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    run(&model.client("somebody"), 1).await?;
    let before = answered.load(Ordering::Relaxed);
    assert!(before < FLOOD / 2, "after {before} of {FLOOD} others");
    while let Some(outcome) = flood.join_next().await {
        outcome??;
    }
    pool.close().await?;
    Ok(())
}

#[tokio::test]
async fn a_group_sleeps_wakes_for_a_request_and_sleeps_again() -> Outcome {
    let scaling = ScalingConfig::between(0, 2).delays(Duration::from_millis(100), Duration::from_millis(600));
    let pool = ready(builder().worker(native().scaling(scaling))).await?;
    let mut events = pool.events();
    assert!(pool.workers().is_empty());
    let model = pool.model(ModelRequest::new(fixture("bert"))).await?;
    run(&model, 1).await?;
    let until = tokio::time::Instant::now() + PATIENCE;
    while !pool.workers().is_empty() && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(pool.workers().is_empty());
    let scaled = |event| match event {
        PoolEvent::Scaled { up, reason, .. } => Some((up, reason)),
        _ => None,
    };
    let decisions = seen(&mut events, scaled);
    assert_eq!(decisions.len(), 2, "{decisions:?}");
    assert_eq!(decisions[0], (true, "a request came, and all were asleep".to_owned()));
    assert!(!decisions[1].0 && decisions[1].1.contains("no more than 0 native workers"), "{decisions:?}");
    run(&model, 2).await?;
    pool.close().await?;
    Ok(())
}

#[tokio::test]
async fn a_group_grows_under_load_and_every_request_is_answered() -> Outcome {
    let scaling = ScalingConfig::between(1, 3).delays(Duration::from_millis(100), Duration::from_secs(60));
    let pool = ready(builder().worker(native().scaling(scaling))).await?;
    let model = pool.model(ModelRequest::new(fixture("bert"))).await?;
    let stop = tokio::time::Instant::now() + Duration::from_secs(3);
    let callers = (0..12).map(async |caller| {
        let mut answered = 0;
        while tokio::time::Instant::now() < stop {
            run(&model, caller + answered).await?;
            answered += 1;
        }
        Ok::<_, Box<dyn Error>>(answered)
    });
    for answered in futures::future::join_all(callers).await {
        assert!(answered? > 0);
    }
    assert_eq!(pool.workers().len(), 3);
    pool.close().await?;
    Ok(())
}

#[tokio::test]
async fn a_worker_is_replaced_after_so_many_requests_and_none_is_lost() -> Outcome {
    let pool = ready(builder().worker(native().recycle_after(5))).await?;
    let model = pool.model(ModelRequest::new(fixture("bert"))).await?;
    let mut workers = BTreeSet::new();
    for number in 0..20 {
        workers.insert(model.run(request(number)).await?.worker.0);
    }
    assert_eq!(workers.len(), 4, "{workers:?}");
    assert_eq!(pool.metrics().failed, 0);
    pool.close().await?;
    Ok(())
}

#[tokio::test]
async fn right_answers_pass_every_check() -> Outcome {
    let checking = Checking::everybody().spot_checks(0.5);
    let pool = ready(builder().worker(native()).worker(native()).checking(checking)).await?;
    let mut events = pool.events();
    let model = pool.model(ModelRequest::new(fixture("bert"))).await?;
    for answer in futures::future::join_all((0..40).map(|number| run(&model, number))).await {
        answer?;
    }
    let distrusted = |event| matches!(event, PoolEvent::Distrusted { .. }).then_some(());
    assert_eq!(seen(&mut events, distrusted), []);
    assert_eq!((pool.metrics().finished, pool.metrics().replayed), (40, 0));
    pool.close().await?;
    Ok(())
}
