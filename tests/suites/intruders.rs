//! Whoever joins a pool may lie, babble or hold the wrong token: each is refused for what it did, and a good worker of
//! the same pool goes on answering rightly.

use std::time::Duration;

use bytes::Bytes;
use tabpool_bridge::{BridgeConfig, StrikeLimit};
use tabpool_pool::{
    JoinEndpoint, JoinOptions, ModelRequest, PoolError, PoolEvent, ResourcePool, Revocation, WorkerId, WorkerSpec,
    WorkerState,
};
use tabpool_protocol::{
    ApiKind, Frame, Hello, Limits, LoadStats, Message, RefusalCode, RunStats, VERSION, WorkerStatus,
};
use tabpool_scheduler::Config;
use tabpool_tensor::Tensor;
use tabpool_tests::golden::Golden;
use tabpool_tests::intruder::{Door, Intruder, hello};
use tabpool_tests::places::fixture_name;
use tabpool_tests::records::Records;
use tabpool_tests::scene::{self, Watch};
use tabpool_tests::{Fault, Outcome, require};
use tempfile::TempDir;

/// No event takes longer.
const TOLD_WITHIN: Duration = Duration::from_secs(10);
/// Large enough for a small model's answers.
const FRAME_LIMIT: usize = 1 << 20;

/// A pool with one good worker, and what it tells.
struct Stage {
    folder: TempDir,
    pool: ResourcePool,
    watch: Watch,
    door: Door,
}

impl Stage {
    async fn new() -> Result<Self, Fault> {
        // Long enough to be seen, short enough to try a worker again that was caught three times.
        let mut config = Config::default();
        config.circuit.cool_down = Duration::from_millis(200);
        Self::with(config).await
    }

    async fn with(config: Config) -> Result<Self, Fault> {
        Self::waiting(Duration::from_millis(100), config).await
    }

    /// With a pool that waits for so long for a worker whose link broke.
    async fn waiting(grace: Duration, config: Config) -> Result<Self, Fault> {
        let folder = tempfile::tempdir()?;
        let limits = Limits { frame: FRAME_LIMIT, ..Limits::default() };
        let bridge = BridgeConfig { limits, grace, ..BridgeConfig::default() };
        let builder = ResourcePool::builder().data_dir(folder.path()).bridge(bridge).scheduler(config);
        let pool = scene::ready(builder.worker(WorkerSpec::native().apis(&[ApiKind::Cpu]))).await?;
        let (watch, door) = (Watch::on(&pool), Door::of(&pool)?);
        Ok(Self { folder, pool, watch, door })
    }

    /// Waits until the pool tells that somebody has joined by himself.
    async fn guest(&mut self) -> Result<WorkerId, Fault> {
        let joined = |event: &PoolEvent| match event {
            PoolEvent::Joined { worker, slot: None, .. } => Some(*worker),
            _ => None,
        };
        self.watch.until("a guest's join", TOLD_WITHIN, joined).await
    }

    /// Waits until the pool tells why somebody was not let in.
    async fn rejection(&mut self) -> Result<String, Fault> {
        let rejected = |event: &PoolEvent| match event {
            PoolEvent::Rejected { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        self.watch.until("the rejection", TOLD_WITHIN, rejected).await
    }

    /// Waits until the pool tells why a worker was lost.
    async fn loss(&mut self) -> Result<String, Fault> {
        let lost = |event: &PoolEvent| match event {
            PoolEvent::Lost { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        self.watch.until("the loss", TOLD_WITHIN, lost).await
    }

    /// The good worker still answers, and the database has one row of this event whose reason holds this text.
    async fn ends_well(self, event: &str, reason: &str) -> Outcome {
        let model = self.pool.model(ModelRequest::new(fixture_name("bert")).on("native:cpu".parse()?)).await?;
        Golden::read("bert")?.check(&model).await?;
        self.pool.close().await?;
        let records = Records::open(self.folder.path())?;
        let rows = records.rows(&format!("SELECT reason FROM connections WHERE event = '{event}'"))?;
        let holds = |row: &Vec<serde_json::Value>| row[0].as_str().is_some_and(|r| r.contains(reason));
        require(rows.len() == 1 && rows.iter().all(holds), || format!("{event}: {rows:?}, not one of {reason:?}"))
    }
}

fn refusal_code(words: Option<&Message>) -> Option<RefusalCode> {
    match words {
        Some(Message::Refused { code, .. }) => Some(*code),
        _ => None,
    }
}

/// Sends a hello, and expects this refusal and this reason in what the pool tells.
async fn refused(mut first: impl FnMut(&Door) -> Bytes, code: RefusalCode, reason: &str) -> Outcome {
    let mut stage = Stage::new().await?;
    let mut intruder = stage.door.knock(&[]).await?;
    intruder.send_bytes(first(&stage.door)).await?;
    let words = intruder.last_words().await?;
    require(refusal_code(words.as_ref()) == Some(code), || format!("its last words were {words:?}"))?;
    let told = stage.rejection().await?;
    require(told.contains(reason), || format!("{told:?} says nothing of {reason:?}"))?;
    stage.ends_well("rejected", reason).await
}

/// Knocks with a token, and expects to be refused with this code.
async fn turned_away(door: &Door, code: RefusalCode) -> Outcome {
    let mut intruder = door.knock(&[]).await?;
    intruder.send(greeting(hello(&door.token))).await?;
    let words = intruder.last_words().await?;
    require(refusal_code(words.as_ref()) == Some(code), || format!("its last words were {words:?}"))
}

#[tokio::test]
async fn a_revoked_ticket_lets_nobody_in_and_ends_whom_it_brought() -> Outcome {
    let mut stage = Stage::new().await?;
    let tickets = ["kept", "ended"].map(|label| stage.pool.join(JoinOptions::new().label(label)));
    let [kept, ended] = tickets;
    let (kept, ended) = (kept?, ended?);
    let (stays, mut goes) = (Door::at(kept.url())?.join().await?, Door::at(ended.url())?.join().await?);
    let here = |pool: &ResourcePool| pool.workers().iter().filter(|worker| worker.ticket.is_some()).count();
    scene::eventually("both joins", TOLD_WITHIN, || (here(&stage.pool) == 2).then_some(())).await?;
    require((kept.tabs(), ended.tabs()) == (1, 1), || "each brought one".to_owned())?;

    kept.revoke(Revocation::KeepWorkers);
    ended.revoke(Revocation::EndWorkers);
    let words = goes.last_words().await?;
    let told = matches!(&words, Some(Message::Bye { reason }) if reason.contains("revoked"));
    require(told, || format!("its last words were {words:?}"))?;
    require(stage.loss().await?.contains("revoked"), || "the pool says nothing of it".to_owned())?;
    for ticket in [&kept, &ended] {
        turned_away(&Door::at(ticket.url())?, RefusalCode::Token).await?;
        require(!ticket.is_valid(), || format!("{ticket:?} is still good"))?;
    }
    let left: Vec<_> = stage.pool.workers().iter().filter_map(|worker| worker.ticket).collect();
    require(left == [kept.id()], || format!("{left:?} are here"))?;
    // It is listed for as long as the worker that it brought is here.
    let listed: Vec<_> = stage.pool.tickets().iter().map(tabpool_pool::JoinTicket::id).collect();
    require(listed.contains(&kept.id()) && !listed.contains(&ended.id()), || format!("{listed:?} are listed"))?;
    drop(stays);
    Ok(stage.pool.close().await?)
}

#[tokio::test]
async fn a_ticket_lets_no_more_tabs_in_than_it_says_and_nobody_after_its_time() -> Outcome {
    let stage = Stage::new().await?;
    let one = stage.pool.join(JoinOptions::new().most_tabs(1))?;
    let door = Door::at(one.url())?;
    let first = door.join().await?;
    turned_away(&door, RefusalCode::Full).await?;
    drop(first);
    // Its time to come back is over soon.
    scene::eventually("the first one's end", TOLD_WITHIN, || (one.tabs() == 0).then_some(())).await?;
    let _second = door.join().await?;

    let short = stage.pool.join(JoinOptions::new().lifetime(Duration::from_millis(1)))?;
    scene::eventually("its time to be over", TOLD_WITHIN, || (!short.is_valid()).then_some(())).await?;
    turned_away(&Door::at(short.url())?, RefusalCode::Token).await?;
    let refused = stage.pool.join(JoinOptions::new().most_tabs(0)).err().map(|e| e.to_string());
    require(refused.as_deref() == Some("a ticket for no tabs lets nobody in"), || format!("{refused:?}"))?;
    Ok(stage.pool.close().await?)
}

fn greeting(hello: Hello) -> Frame {
    Message::Hello(Box::new(hello)).into()
}

#[tokio::test]
async fn a_wrong_token_is_refused() -> Outcome {
    refused(|_| greeting(hello("guess")).encode(), RefusalCode::Token, "the join token is not valid").await
}

#[tokio::test]
async fn a_newer_protocol_is_refused_by_its_version() -> Outcome {
    let newer = |door: &Door| {
        let next = VERSION + 1;
        greeting(Hello { oldest: next, newest: next, ..hello(&door.token) }).encode_as(next)
    };
    refused(newer, RefusalCode::Version, &format!("versions {0} to {0}", VERSION + 1)).await
}

#[tokio::test]
async fn junk_instead_of_a_hello_is_refused() -> Outcome {
    let junk = Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n and so on");
    refused(move |_| junk.clone(), RefusalCode::Malformed, "a frame could not be read").await
}

#[tokio::test]
async fn a_frame_before_the_hello_is_refused() -> Outcome {
    let early = Frame::from(Message::Status(tabpool_protocol::WorkerStatus::default()));
    refused(move |_| early.encode(), RefusalCode::Malformed, "may not come now").await
}

#[tokio::test]
async fn text_instead_of_a_hello_is_refused() -> Outcome {
    let mut stage = Stage::new().await?;
    let mut intruder = stage.door.knock(&[]).await?;
    intruder.send_text("hello").await?;
    let words = intruder.last_words().await?;
    require(words.is_none(), || format!("its last words were {words:?}"))?;
    let told = stage.rejection().await?;
    require(told.contains("a text message"), || told.clone())?;
    stage.ends_well("rejected", "a text message").await
}

/// Joins, misbehaves, and expects this reason in the loss of the worker.
async fn dismissed(reason: &str, act: impl AsyncFnOnce(&mut Intruder) -> Result<(), Fault>) -> Outcome {
    let mut stage = Stage::new().await?;
    let mut intruder = stage.door.join().await?;
    act(&mut intruder).await?;
    intruder.last_words().await?;
    let told = stage.loss().await?;
    require(told.contains(reason), || format!("{told:?} says nothing of {reason:?}"))?;
    stage.ends_well("lost", reason).await
}

#[tokio::test]
async fn junk_after_the_welcome_ends_its_worker() -> Outcome {
    let act = async |intruder: &mut Intruder| intruder.send_bytes(Bytes::from_static(&[0xff; 64])).await;
    dismissed("unknown frame kind 255", act).await
}

#[tokio::test]
async fn text_after_the_welcome_ends_its_worker() -> Outcome {
    dismissed("a text message came", async |intruder: &mut Intruder| intruder.send_text("hello").await).await
}

#[tokio::test]
async fn a_second_hello_ends_its_worker() -> Outcome {
    dismissed("a frame of kind 64", async |intruder: &mut Intruder| intruder.send(greeting(hello("x"))).await).await
}

#[tokio::test]
async fn a_frame_over_the_limit_ends_its_worker() -> Outcome {
    let act = async |intruder: &mut Intruder| {
        let large = Tensor::from_f32([FRAME_LIMIT / 2], vec![0.0; FRAME_LIMIT / 2])?;
        let message = Message::Finished { attempt: 1, stats: RunStats::default() };
        // The host may cut the connection while this is still being sent.
        let _ = intruder.send(Frame { id: 1, message, tensors: vec![large] }).await;
        Ok(())
    };
    dismissed("the socket broke", act).await
}

#[tokio::test]
async fn answers_that_nobody_asked_for_are_ignored() -> Outcome {
    let stage = Stage::new().await?;
    let mut intruder = stage.door.join().await?;
    let tensor = || Tensor::from_f32([1], vec![1.0]);
    for id in 0..20 {
        let message = Message::Finished { attempt: 1, stats: RunStats::default() };
        intruder.send(Frame { id, message, tensors: vec![tensor()?] }).await?;
        let (program, api) = (id, ApiKind::Cpu);
        intruder.send(Message::Loaded { program, api, stats: LoadStats::default(), kept: Vec::new() }.into()).await?;
        intruder.send(Message::DeviceLost { api, reason: "nothing".to_owned() }.into()).await?;
    }
    let model = stage.pool.model(ModelRequest::new(fixture_name("bert")).on("native:cpu".parse()?)).await?;
    Golden::read("bert")?.check(&model).await?;
    let figures = stage.pool.metrics();
    require((figures.finished, figures.failed, figures.loads) == (1, 0, 1), || format!("{figures:?}"))?;
    intruder.send(Message::Bye { reason: "enough".to_owned() }.into()).await?;
    // The pool closes the link once it has read that.
    intruder.last_words().await?;
    stage.ends_well("lost", "the other side left: enough").await
}

/// What a worker answers that claims to have loaded whatever it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    TooFew,
    TooMany,
    Shape,
    DType,
    /// No answer at all.
    Silence,
    /// Zeros, of which nothing but the numbers is wrong; in the order that is asked for.
    Numbers {
        pooled_first: bool,
    },
}

impl Lie {
    /// The two outputs of the fixture `bert` for `inputs`, all zeros, but for the lie.
    fn outputs(self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Fault> {
        let (batch, sequence) = (inputs[0].shape()[0], inputs[0].shape()[1]);
        let zeros = |shape: Vec<usize>| Tensor::from_f32(shape.clone(), vec![0.0; shape.iter().product()]);
        let hidden = zeros(vec![batch, sequence, 64])?;
        let pooled = zeros(vec![batch, 64])?;
        Ok(match self {
            Lie::TooFew => vec![hidden],
            Lie::TooMany => vec![hidden, pooled.clone(), pooled],
            Lie::Shape => vec![zeros(vec![batch, sequence, 63])?, pooled],
            Lie::Silence => Vec::new(),
            Lie::Numbers { pooled_first: true } => vec![pooled, hidden],
            Lie::Numbers { pooled_first: false } => vec![hidden, pooled],
            Lie::DType => vec![Tensor::from_i32([batch, sequence, 64], vec![0; batch * sequence * 64])?, pooled],
        })
    }
}

/// Answers loads and runs until the socket closes; gives how many runs it was given.
async fn lie(mut intruder: Intruder, lie: Lie) -> Result<usize, Fault> {
    let mut runs = 0;
    while let Ok(Some(frame)) = intruder.hear().await {
        let answer: Frame = match frame.message {
            Message::Load { program, api, .. } => {
                Message::Loaded { program, api, stats: LoadStats::default(), kept: Vec::new() }.into()
            }
            Message::Run { attempt, .. } => {
                runs += 1;
                if lie == Lie::Silence {
                    continue;
                }
                let message = Message::Finished { attempt, stats: RunStats::default() };
                Frame { id: frame.id, message, tensors: lie.outputs(&frame.tensors)? }
            }
            Message::Ping { nonce } => Message::Pong { nonce }.into(),
            _ => continue,
        };
        // The pool may have sent this worker away.
        if intruder.send(answer).await.is_err() {
            break;
        }
    }
    Ok(runs)
}

/// A request that only the liar may serve fails with what is wrong; of those that anybody may serve, every one is
/// answered rightly.
async fn believed_by_nobody(what: Lie, reason: &str) -> Outcome {
    let mut stage = Stage::new().await?;
    let intruder = stage.door.join().await?;
    let worker = stage.guest().await?;
    let liar = tokio::spawn(lie(intruder, what));
    let golden = Golden::read("bert")?;
    let model = stage.pool.model(ModelRequest::new(fixture_name("bert"))).await?;
    // Many at once, so that the good worker alone has too many.
    let runs = (0..24).map(|_| golden.check(&model));
    for outcome in futures::future::join_all(runs).await {
        outcome?;
    }
    let answer = model.pinned(worker).run(golden.inputs.clone()).await;
    match answer {
        Err(PoolError::Failed { reason: told, .. }) if told.contains(reason) => {}
        other => return Err(format!("{what:?}: {other:?} says nothing of {reason:?}").into()),
    }
    golden.check(&model).await?;
    let figures = stage.pool.metrics();
    require((figures.finished, figures.failed) == (25, 1), || format!("{figures:?}"))?;
    require(figures.replayed > 0, || "the liar was given nothing to lie about".to_owned())?;
    stage.pool.close().await?;
    let runs = liar.await??;
    require(runs > 1, || format!("the liar was given {runs} runs"))?;
    let records = Records::open(stage.folder.path())?;
    let outcomes = records.rows("SELECT outcome, count(*) FROM inferences GROUP BY ALL ORDER BY ALL")?;
    let want: Vec<Vec<serde_json::Value>> = vec![vec!["error".into(), 1.into()], vec!["ok".into(), 25.into()]];
    require(outcomes == want, || format!("the database says {outcomes:?}"))
}

#[tokio::test]
async fn an_answer_with_too_few_tensors_is_not_believed() -> Outcome {
    believed_by_nobody(Lie::TooFew, "1 output").await
}

#[tokio::test]
async fn an_answer_with_too_many_tensors_is_not_believed() -> Outcome {
    believed_by_nobody(Lie::TooMany, "3 output").await
}

#[tokio::test]
async fn an_answer_of_a_wrong_shape_is_not_believed() -> Outcome {
    believed_by_nobody(Lie::Shape, "63]").await
}

#[tokio::test]
async fn an_answer_of_a_wrong_dtype_is_not_believed() -> Outcome {
    believed_by_nobody(Lie::DType, "i32").await
}

/// Its first answer is compared with what the host itself computes, and nobody is given it or those that came with it.
#[tokio::test]
async fn a_guest_with_wrong_numbers_is_found_out_before_anybody_gets_them() -> Outcome {
    let mut stage = Stage::new().await?;
    let intruder = stage.door.join().await?;
    let worker = stage.guest().await?;
    let golden = Golden::read("bert")?;
    let pooled_first = golden.outputs().next() == Some("pooler_output");
    let liar = tokio::spawn(lie(intruder, Lie::Numbers { pooled_first }));
    let model = stage.pool.model(ModelRequest::new(fixture_name("bert"))).await?;
    let runs = (0..24).map(|_| golden.check(&model));
    for outcome in futures::future::join_all(runs).await {
        outcome?;
    }
    let distrusted = |event: &PoolEvent| match event {
        PoolEvent::Distrusted { worker, reason, .. } => Some((*worker, reason.clone())),
        _ => None,
    };
    let (who, reason) = stage.watch.until("the verdict", TOLD_WITHIN, distrusted).await?;
    require(who == worker && reason.contains("its numbers are wrong"), || format!("{who}: {reason}"))?;
    match model.pinned(worker).run(golden.inputs.clone()).await {
        Err(PoolError::NoWorker(told)) if told.contains("its numbers are wrong") => {}
        other => return Err(format!("{other:?} does not say what is wrong").into()),
    }
    require(stage.pool.metrics().replayed > 0, || "the liar was given nothing to lie about".to_owned())?;
    golden.check(&model).await?;
    stage.pool.close().await?;
    let decided = "SELECT browser, api, reason FROM decisions WHERE decision = 'distrust'";
    let rows = Records::open(stage.folder.path())?.rows(decided)?;
    require(rows.len() == 1 && rows[0][2].as_str() == Some(&reason), || format!("{rows:?}"))?;
    liar.await?.map(drop)
}

/// A worker that takes requests and answers none is waited for, given up, and sent away; its requests are answered.
#[tokio::test]
async fn a_worker_that_never_answers_holds_nothing_up() -> Outcome {
    let mut config = Config::default();
    config.attempt_timeout = Duration::from_millis(300);
    config.max_attempts = 6;
    let mut stage = Stage::with(config).await?;
    let intruder = stage.door.join().await?;
    let silent = tokio::spawn(lie(intruder, Lie::Silence));
    let golden = Golden::read("bert")?;
    let model = stage.pool.model(ModelRequest::new(fixture_name("bert"))).await?;
    let runs = (0..24).map(|_| golden.check(&model));
    for outcome in futures::future::join_all(runs).await {
        outcome?;
    }
    stage.loss().await?;
    let figures = stage.pool.metrics();
    require((figures.finished, figures.failed) == (24, 0), || format!("{figures:?}"))?;
    require(figures.replayed > 0 && silent.await?? > 0, || "it was given nothing to be silent about".to_owned())?;
    stage.ends_well("closed", "").await
}

/// An address whose joins fail is not listened to for a while; the pool's own address has nothing to do with that.
#[tokio::test]
async fn who_guesses_tokens_at_the_endpoint_is_not_listened_to_any_more() -> Outcome {
    let folder = tempfile::tempdir()?;
    let strikes = StrikeLimit { strikes: 4, forgotten_after: Duration::from_secs(600) };
    let bridge = BridgeConfig { strikes, ..BridgeConfig::default() };
    let endpoint = JoinEndpoint::on("127.0.0.2:0".parse()?);
    let pool = ResourcePool::builder().data_dir(folder.path()).bridge(bridge).join_from(endpoint).build().await?;
    let ticket = pool.join(JoinOptions::new().most_tabs(1))?;
    let door = Door::at(ticket.url())?;
    let mut good = door.join().await?;
    // The host's own reasons are no fault of theirs.
    for _ in 0..5 {
        turned_away(&door, RefusalCode::Full).await?;
    }
    let guess = Door { token: "guess".to_owned(), ..door.clone() };
    for _ in 0..4 {
        turned_away(&guess, RefusalCode::Token).await?;
    }
    for address in [&guess, &door] {
        let status = address.knock(&[]).await.err().map(|e| e.to_string());
        require(status.as_deref() == Some("status 429"), || format!("{status:?}"))?;
    }
    good.send(Message::Ping { nonce: 1 }.into()).await?;
    let answered = async {
        while let Some(frame) = good.hear().await? {
            if frame.message == (Message::Pong { nonce: 1 }) {
                return Ok(());
            }
        }
        Err::<(), Fault>("the good one was sent away".into())
    };
    answered.await?;
    Ok(pool.close().await?)
}

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

/// The next frame of a kind; loads are answered as done on the way, and pings.
async fn next(worker: &mut Intruder, wanted: impl Fn(&Message) -> bool) -> Result<Frame, Fault> {
    while let Some(frame) = worker.hear().await? {
        let answer = match &frame.message {
            message if wanted(message) => return Ok(frame),
            &Message::Load { program, api, .. } => {
                Message::Loaded { program, api, stats: LoadStats::default(), kept: Vec::new() }
            }
            &Message::Ping { nonce } => Message::Pong { nonce },
            _ => continue,
        };
        worker.send(answer.into()).await?;
    }
    Err("the pool sent it away".into())
}

#[tokio::test]
async fn a_page_of_another_site_may_not_join() -> Outcome {
    knocked("origin", "http://evil.example").await
}

#[tokio::test]
async fn a_foreign_host_name_is_not_answered() -> Outcome {
    // A name of somebody else's that points to loopback: what a rebinding attack asks for.
    knocked("host", "evil.example").await
}

/// The socket is not even opened, so nobody has to be rejected; the pool's own origin and name are let in.
async fn knocked(header: &'static str, value: &str) -> Outcome {
    let mut stage = Stage::new().await?;
    let status = stage.door.knock(&[(header, value)]).await.err().map(|e| e.to_string());
    require(status.as_deref() == Some("status 403"), || format!("{header}: {value} gives {status:?}"))?;
    let address = stage.door.address.clone();
    let own = if header == "origin" { format!("http://{address}") } else { address };
    let mut intruder = stage.door.knock(&[(header, &own)]).await?;
    intruder.send(greeting(hello("guess"))).await?;
    let words = intruder.last_words().await?;
    require(refusal_code(words.as_ref()) == Some(RefusalCode::Token), || format!("its last words were {words:?}"))?;
    stage.rejection().await?;
    stage.ends_well("rejected", "the join token").await
}
