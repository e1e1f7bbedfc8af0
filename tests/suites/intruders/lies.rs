//! Who was let in and babbles or lies is sent away or not believed.

use std::time::Duration;

use bytes::Bytes;
use tabpool_pool::{ModelRequest, PoolError, PoolEvent};
use tabpool_protocol::{ApiKind, Frame, LoadStats, Message, RunStats, WorkerStatus};
use tabpool_scheduler::Config;
use tabpool_tensor::Tensor;
use tabpool_tests::golden::Golden;
use tabpool_tests::intruder::{Intruder, hello};
use tabpool_tests::places::fixture_name;
use tabpool_tests::records::Records;
use tabpool_tests::{Fault, Outcome, require};
use tokio::sync::mpsc;

use super::{FRAME_LIMIT, Stage, TOLD_WITHIN, greeting};

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
async fn lie(intruder: Intruder, lie: Lie) -> Result<usize, Fault> {
    lie_and_say(intruder, lie, mpsc::channel(1).1).await
}

/// The same, and says what comes to be said.
async fn lie_and_say(mut intruder: Intruder, lie: Lie, mut says: mpsc::Receiver<Frame>) -> Result<usize, Fault> {
    let mut runs = 0;
    loop {
        let frame = tokio::select! {
            Some(frame) = says.recv() => {
                intruder.send(frame).await?;
                continue;
            }
            heard = intruder.hear() => match heard {
                Ok(Some(frame)) => frame,
                _ => break,
            },
        };
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

/// A pause does not make an honest worker of a liar.
#[tokio::test]
async fn a_guest_that_was_found_out_stays_so_over_a_pause() -> Outcome {
    let mut stage = Stage::new().await?;
    let intruder = stage.door.join().await?;
    let worker = stage.guest().await?;
    let golden = Golden::read("bert")?;
    let (words, says) = mpsc::channel(1);
    let liar = tokio::spawn(lie_and_say(intruder, Lie::Numbers { pooled_first: false }, says));
    let model = stage.pool.model(ModelRequest::new(fixture_name("bert"))).await?.pinned(worker);
    let found_out = async |when: &str| match model.run(golden.inputs.clone()).await {
        Err(PoolError::NoWorker(told)) if told.contains("its numbers are wrong") => Ok(()),
        other => Err(Fault::from(format!("{when}: {other:?}"))),
    };
    found_out("at first").await?;
    for paused in [true, false] {
        let status = WorkerStatus { paused, ..WorkerStatus::default() };
        words.send(Message::Status(status).into()).await?;
        let told = |event: &PoolEvent| match event {
            PoolEvent::Paused { worker: who } if paused => (*who == worker).then_some(()),
            PoolEvent::Unpaused { worker: who } if !paused => (*who == worker).then_some(()),
            _ => None,
        };
        stage.watch.until("the pause or its end", TOLD_WITHIN, told).await?;
    }
    found_out("after a pause").await?;
    stage.pool.close().await?;
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
