//! Who was let in is treated as he asks for: paused, limited to what his ticket is for, believed in what he holds.

use std::time::Duration;

use tabpool_pool::{JoinOptions, ModelRequest, PoolError, PoolEvent, ResourcePool, WorkerState};
use tabpool_protocol::{ApiKind, Frame, Hello, LoadStats, Message, WorkerStatus};
use tabpool_scheduler::Config;
use tabpool_tests::golden::Golden;
use tabpool_tests::intruder::{Door, hello};
use tabpool_tests::places::fixture_name;
use tabpool_tests::scene;
use tabpool_tests::{Outcome, require};

use super::{Stage, TOLD_WITHIN, next};

/// A worker that is paused is given nothing, what it held is computed by others, and it goes on where it was.
#[tokio::test]
async fn a_paused_worker_is_given_nothing_until_it_goes_on() -> Outcome {
    let mut stage = Stage::new().await?;
    let mut worker = stage.door.join().await?;
    let id = stage.guest().await?;
    let golden = Golden::read("bert")?;
    let model = stage.pool.model(ModelRequest::new(fixture_name("bert"))).await?;
    // A good worker is there as well, so all are answered, whatever this one does with those that it is given.
    let runs = tokio::spawn({
        let (golden, model) = (Golden::read("bert")?, model.clone());
        async move {
            let runs = (0..24).map(|_| golden.check(&model));
            futures::future::join_all(runs).await.into_iter().collect::<Result<Vec<_>, _>>().map(drop)
        }
    });
    next(&mut worker, |message| matches!(message, Message::Run { .. })).await?;
    let paused = |paused| Frame::from(Message::Status(WorkerStatus { paused, ..WorkerStatus::default() }));
    worker.send(paused(true)).await?;
    next(&mut worker, |message| matches!(message, Message::Cancel { .. })).await?;
    runs.await??;
    let state = |pool: &ResourcePool| pool.workers().iter().find(|w| w.id == Some(id)).map(|w| w.state.clone());
    let shown = || (state(&stage.pool) == Some(WorkerState::Paused)).then_some(());
    scene::eventually("the pause to be shown", TOLD_WITHIN, shown).await?;
    let pinned = model.pinned(id);
    match pinned.run(golden.inputs.clone()).await {
        Err(PoolError::NoWorker(reason)) if reason.contains("takes no requests") => {}
        other => return Err(format!("{other:?}").into()),
    }
    let told = |event: &PoolEvent| matches!(event, PoolEvent::Paused { worker } if *worker == id).then_some(());
    stage.watch.until("the pause", TOLD_WITHIN, told).await?;

    worker.send(paused(false)).await?;
    let told = |event: &PoolEvent| matches!(event, PoolEvent::Unpaused { worker } if *worker == id).then_some(());
    stage.watch.until("its end", TOLD_WITHIN, told).await?;
    let asked = tokio::spawn({
        let inputs = golden.inputs.clone();
        async move { pinned.run(inputs).await }
    });
    next(&mut worker, |message| matches!(message, Message::Run { .. })).await?;
    worker.send(Message::Bye { reason: "enough".to_owned() }.into()).await?;
    worker.last_words().await?;
    require(asked.await?.is_err(), || "nobody else may answer it".to_owned())?;
    stage.ends_well("lost", "the other side left: enough").await
}

/// What its ticket is not for a tab never sees, whoever asks for it.
#[tokio::test]
async fn a_tab_is_given_only_the_models_of_its_ticket() -> Outcome {
    let mut stage = Stage::new().await?;
    let bert = stage.pool.model(ModelRequest::new(fixture_name("bert"))).await?;
    let other = stage.pool.model(ModelRequest::new(fixture_name("roberta"))).await?;
    let ticket = stage.pool.join(JoinOptions::new().only([&bert]))?;
    let mut worker = Door::at(ticket.url())?.join().await?;
    let id = stage.guest().await?;
    match other.pinned(id).run(Golden::read("roberta")?.inputs).await {
        Err(PoolError::NoWorker(reason)) if reason.contains("the ticket it came with is for other models") => {}
        answer => return Err(format!("{answer:?}").into()),
    }
    let asked = tokio::spawn({
        let (model, inputs) = (bert.pinned(id), Golden::read("bert")?.inputs);
        async move { model.run(inputs).await }
    });
    let given = next(&mut worker, |message| matches!(message, Message::Load { .. } | Message::Run { .. })).await?;
    let is_bert = matches!(&given.message, Message::Load { name, .. } if name.ends_with("bert"));
    require(is_bert, || format!("{given:?}"))?;
    // Others compute what this one may not.
    Golden::read("roberta")?.check(&other).await?;
    let none = stage.pool.join(JoinOptions::new().only([])).err().map(|e| e.to_string());
    require(none.as_deref() == Some("a ticket for no models lets tabs in for nothing"), || format!("{none:?}"))?;
    asked.abort();
    Ok(stage.pool.close().await?)
}

/// What a link swallowed as it broke is not known: what the worker says it holds is, and what it does not hold is given to it again
/// before it is asked for, and what nobody knows it to hold is taken from it.
#[tokio::test]
async fn a_worker_that_is_back_is_believed_in_what_it_holds() -> Outcome {
    let mut stage = Stage::waiting(Duration::from_secs(10), Config::default()).await?;
    let (mut worker, session, _) = stage.door.enter(hello(&stage.door.token)).await?;
    let id = stage.guest().await?;
    let model = stage.pool.model(ModelRequest::new(fixture_name("bert"))).await?.pinned(id);
    let inputs = Golden::read("bert")?.inputs;
    let asked = tokio::spawn(async move { model.run(inputs).await });
    let Message::Run { program, .. } =
        next(&mut worker, |message| matches!(message, Message::Run { .. })).await?.message
    else {
        return Err("no run".into());
    };
    drop(worker);
    let resume = |session: &str, loaded| Hello { resume: Some(session.to_owned()), loaded, ..hello(&stage.door.token) };
    let unknown = (program + 1000, ApiKind::Cpu);
    let (mut worker, session, resumed) = stage.door.enter(resume(&session, vec![unknown])).await?;
    require(resumed, || "the session was not resumed".to_owned())?;
    let (mut unloaded, mut loaded) = (None, None);
    while unloaded.is_none() || loaded.is_none() {
        let frame =
            next(&mut worker, |m| matches!(m, Message::Load { .. } | Message::Unload { .. } | Message::Run { .. }));
        match frame.await?.message {
            Message::Load { program, .. } => loaded = Some(program),
            Message::Unload { program, api } => unloaded = Some((program, api)),
            other => return Err(format!("{other:?} before a load").into()),
        }
    }
    require((unloaded, loaded) == (Some(unknown), Some(program)), || format!("{unloaded:?}, {loaded:?}"))?;
    // The order to load may be lost as well: it is repeated.
    drop(worker);
    let (mut worker, _, resumed) = stage.door.enter(resume(&session, Vec::new())).await?;
    require(resumed, || "the session was not resumed again".to_owned())?;
    next(&mut worker, |message| matches!(message, Message::Load { .. })).await?;
    let message = Message::Loaded { program, api: ApiKind::Cpu, stats: LoadStats::default(), kept: Vec::new() };
    worker.send(message.into()).await?;
    next(&mut worker, |message| matches!(message, Message::Run { .. })).await?;
    worker.send(Message::Bye { reason: "enough".to_owned() }.into()).await?;
    worker.last_words().await?;
    require(asked.await?.is_err(), || "nobody else may answer it".to_owned())?;
    stage.ends_well("lost", "the other side left: enough").await
}
