//! Tabs that nobody here has started: whoever opens the pool's URL becomes a worker, whoever has a wrong one does not.

use std::path::Path;
use std::time::Duration;

use tabpool_bridge::WorkerId;
use tabpool_browser::{Browser, GpuMode, Installed, LaunchOptions};
use tabpool_pool::{
    JoinEndpoint, JoinOptions, ModelRequest, PoolError, PoolEvent, ResourcePool, Revocation, WorkerState,
};
use tabpool_tests::golden::Golden;
use tabpool_tests::places::fixture_name;
use tabpool_tests::records::Records;
use tabpool_tests::scene::{self, JOINED_WITHIN, Watch};
use tabpool_tests::{Fault, Outcome, browsers, require};

/// A tab says goodbye when it is closed; one that cannot is missed when its time to come back is over.
const GONE_WITHIN: Duration = Duration::from_secs(15);

/// Opens a URL as a person would, in a browser that the pool does not know.
async fn open(installed: &Installed, profiles: &Path, url: &str) -> Result<Browser, Fault> {
    Ok(Browser::launch(installed, LaunchOptions::new(url, profiles, GpuMode::detect())).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tab_that_opened_the_url_works_until_it_is_closed() -> Outcome {
    let _alone = scene::machine().await;
    for installed in browsers::each("a tab that opened the URL") {
        works_until_closed(&installed, None).await.map_err(|e| format!("{}: {e}", installed.kind))?;
    }
    Ok(())
}

/// A tab of another machine is given blocks because it has joined; this machine's second address stands for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tab_that_came_through_an_endpoint_works_until_it_is_closed() -> Outcome {
    let _alone = scene::machine().await;
    for installed in browsers::each("a tab that came through an endpoint") {
        let endpoint = JoinEndpoint::on("127.0.0.2:0".parse()?);
        works_until_closed(&installed, Some(endpoint)).await.map_err(|e| format!("{}: {e}", installed.kind))?;
    }
    Ok(())
}

async fn works_until_closed(installed: &Installed, endpoint: Option<JoinEndpoint>) -> Outcome {
    let (folder, profiles) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let builder = ResourcePool::builder().data_dir(folder.path());
    let pool = match endpoint {
        Some(endpoint) => builder.join_from(endpoint).build().await?,
        None => builder.build().await?,
    };
    let mut watch = Watch::on(&pool);
    let browser = open(installed, profiles.path(), &pool.join_url()).await?;
    let joined = |event: &PoolEvent| match event {
        PoolEvent::Joined { worker, slot: None, kind } => Some((*worker, kind.to_string())),
        _ => None,
    };
    let (worker, kind): (WorkerId, String) = watch.until("the tab's join", JOINED_WITHIN, joined).await?;
    require(kind == installed.kind.name(), || format!("it calls itself {kind}"))?;
    let model = pool.model(ModelRequest::new(fixture_name("bert")).pinned(worker)).await?;
    Golden::read("bert")?.check(&model).await?;
    browser.close(Duration::from_secs(5)).await;
    let lost = |event: &PoolEvent| matches!(event, PoolEvent::Lost { worker: id, .. } if *id == worker).then_some(());
    watch.until("the tab's end", GONE_WITHIN, lost).await?;
    pool.close().await?;
    let records = Records::open(folder.path())?;
    let steps = records.rows("SELECT event FROM connections WHERE slot IS NULL ORDER BY happened_at")?;
    require(steps == [["joined"], ["lost"]], || format!("the database says {steps:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tab_with_a_wrong_token_is_turned_away() -> Outcome {
    let _alone = scene::machine().await;
    for installed in browsers::each("a tab with a wrong token") {
        let (folder, profiles) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let pool = ResourcePool::builder().data_dir(folder.path()).build().await?;
        let mut watch = Watch::on(&pool);
        let url = pool.join_url();
        let (page, _) = url.split_once("token=").ok_or("the join URL has no token")?;
        let browser = open(&installed, profiles.path(), &format!("{page}token=guess")).await?;
        let rejected = |event: &PoolEvent| match event {
            PoolEvent::Rejected { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        let reason = watch.until("the rejection", JOINED_WITHIN, rejected).await?;
        require(reason.contains("the join token is not valid"), || reason)?;
        require(pool.workers().is_empty(), || format!("{:?}", pool.workers()))?;
        browser.close(Duration::from_secs(5)).await;
        pool.close().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tab_whose_ticket_is_revoked_is_sent_home() -> Outcome {
    let _alone = scene::machine().await;
    for installed in browsers::each("a tab whose ticket is revoked") {
        let (folder, profiles) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let pool = ResourcePool::builder().data_dir(folder.path()).build().await?;
        let mut watch = Watch::on(&pool);
        let ticket = pool.join(JoinOptions::new().label("Ada's phone").most_tabs(1))?;
        let browser = open(&installed, profiles.path(), ticket.url()).await?;
        let joined = |event: &PoolEvent| matches!(event, PoolEvent::Joined { slot: None, .. }).then_some(());
        watch.until("the tab's join", JOINED_WITHIN, joined).await?;
        let here = || Some(pool.workers()).filter(|workers| !workers.is_empty());
        let workers = scene::eventually("the tab to be shown", GONE_WITHIN, here).await?;
        let its =
            workers.iter().all(|worker| worker.ticket == Some(ticket.id()) && worker.remote.starts_with("127.0.0.1:"));
        require(workers.len() == 1 && its, || format!("{workers:?}"))?;
        ticket.revoke(Revocation::EndWorkers);
        let lost = |event: &PoolEvent| match event {
            PoolEvent::Lost { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        let reason = watch.until("the tab's end", GONE_WITHIN, lost).await?;
        require(reason.contains("revoked"), || reason)?;
        require(pool.tickets().is_empty(), || format!("{:?}", pool.tickets()))?;
        browser.close(Duration::from_secs(5)).await;
        pool.close().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tab_that_is_paused_is_seen_to_be_and_is_given_nothing() -> Outcome {
    let _alone = scene::machine().await;
    for installed in browsers::each("a paused tab") {
        let (folder, profiles) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let pool = ResourcePool::builder().data_dir(folder.path()).build().await?;
        let mut watch = Watch::on(&pool);
        let browser = open(&installed, profiles.path(), &format!("{}&pause", pool.join_url())).await?;
        let paused = |event: &PoolEvent| match event {
            PoolEvent::Paused { worker } => Some(*worker),
            _ => None,
        };
        let worker = watch.until("the pause", JOINED_WITHIN, paused).await?;
        let shown = || pool.workers().iter().all(|worker| worker.state == WorkerState::Paused).then_some(());
        scene::eventually("the pause to be shown", GONE_WITHIN, shown).await?;
        let model = pool.model(ModelRequest::new(fixture_name("bert")).pinned(worker)).await?;
        let answer = model.run(Golden::read("bert")?.inputs).await;
        match answer {
            Err(PoolError::NoWorker(reason)) if reason.contains("takes no requests") => {}
            other => return Err(format!("{other:?}").into()),
        }
        browser.close(Duration::from_secs(5)).await;
        pool.close().await?;
    }
    Ok(())
}
