//! 300 embeddings in flight over two browsers while one of them is killed three times: 300 right answers, none twice.

use std::path::Path;
use std::time::{Duration, Instant};

use tabpool_browser::BrowserKind;
use tabpool_pool::{ModelRequest, PoolEvent, Profile, ResourcePool, WorkerSpec, WorkerState, WorkerView};
use tabpool_protocol::ApiKind;
use tabpool_scheduler::Config;
use tabpool_tests::golden::{Named, error, ids, sentences};
use tabpool_tests::processes::{Signal, send};
use tabpool_tests::records::Records;
use tabpool_tests::scene::{self, JOINED_WITHIN, Watch};
use tabpool_tests::{Fault, Outcome, browsers, places, require};

const REQUESTS: usize = 300;
const KILLS: i64 = 3;
/// Different texts among the requests.
const TEXTS: usize = 30;
/// Tokens of a text: long enough that there is work left when the victim has come back twice.
const TOKENS: usize = 128;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_chromium_loses_no_answer() -> Outcome {
    one_killed("recovery with chromium killed", 0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_firefox_loses_no_answer() -> Outcome {
    one_killed("recovery with firefox killed", 1).await
}

async fn one_killed(case: &str, victim: usize) -> Outcome {
    let _alone = scene::machine().await;
    let Some(path) = places::minilm(case) else { return Ok(()) };
    let kinds = browsers::kinds(case);
    let [_, _] = kinds[..] else {
        places::left_out(case, "two browsers are wanted");
        return Ok(());
    };
    let texts = texts()?;
    let wanted = reference(&path, &texts).await?;
    let folder = tempfile::tempdir()?;
    let begun = Instant::now();
    let (busy, attempts) = serve(folder.path(), &path, &kinds, kinds[victim], &texts, &wanted).await?;
    tabpool_tests::show(&format!(
        "{}: {REQUESTS} answers in {:.1} s, {} attempts, killed after {busy:?} answers",
        kinds[victim],
        begun.elapsed().as_secs_f64(),
        attempts
    ));
    recorded(folder.path(), kinds[victim], kinds[1 - victim])
}

/// Different texts of equal length, made of the golden's sentences.
fn texts() -> Result<Vec<Named>, Fault> {
    let words: Vec<i64> = sentences()?.iter().flat_map(|s| s.ids[1..s.ids.len() - 1].to_vec()).collect();
    let text = |start: usize| {
        let inner = words.iter().cycle().skip(start * 5).take(TOKENS - 2).copied();
        ids(&[101].into_iter().chain(inner).chain([102]).collect::<Vec<_>>())
    };
    (0..TEXTS).map(text).collect()
}

/// What a native worker gives for each text.
async fn reference(path: &str, texts: &[Named]) -> Result<Vec<Vec<f32>>, Fault> {
    let spec = WorkerSpec::native().apis(&[ApiKind::Cpu]);
    let pool = scene::ready(ResourcePool::builder().worker(spec)).await?;
    let model = pool.model(ModelRequest::new(path)).await?;
    let mut wanted = Vec::new();
    for text in texts {
        let answer = model.run_for(text.clone(), &["sentence_embedding"]).await?;
        wanted.push(answer.outputs[0].1.to_f32()?.into_owned());
    }
    pool.close().await?;
    Ok(wanted)
}

/// Submits every request at once and kills the victim three times, each time while it has work. Gives how many answers
/// there were at each kill, and how many attempts all answers took.
async fn serve(
    data: &Path,
    path: &str,
    kinds: &[BrowserKind],
    victim: BrowserKind,
    texts: &[Named],
    wanted: &[Vec<f32>],
) -> Result<(Vec<u64>, u64), Fault> {
    let mut config = Config::default();
    // Being on a worker that is killed is no fault of a request's, yet one may be on it every time.
    config.max_attempts = 10;
    config.request_timeout = Duration::from_secs(300);
    let mut builder = ResourcePool::builder().data_dir(data).scheduler(config);
    for kind in kinds {
        builder = builder.worker(scene::browser(*kind, Profile::Fresh).apis(&[ApiKind::Cpu]));
    }
    let pool = scene::ready(builder).await?;
    let mut watch = Watch::on(&pool);
    let model = pool.model(ModelRequest::new(path)).await?;
    let runs: Vec<_> = (0..REQUESTS)
        .map(|i| {
            let (model, text) = (model.clone(), texts[i % TEXTS].clone());
            tokio::spawn(async move { model.run_for(text, &["sentence_embedding"]).await })
        })
        .collect();
    let mut answered = Vec::new();
    for kill in 1..=KILLS {
        // Busy is having been sent requests and not having answered them: each kill costs some.
        let worker = scene::eventually("work on the victim", JOINED_WITHIN, || busy(&pool, victim)).await;
        let worker = worker.map_err(|e| format!("kill {kill}, {} answered: {e}", pool.metrics().finished))?;
        send(Signal::Kill, i64::from(worker.pid.ok_or("a busy browser has a process")?))?;
        answered.push(pool.metrics().finished);
        let lost = |event: &PoolEvent| matches!(event, PoolEvent::Lost { worker: id, .. } if Some(*id) == worker.id);
        watch.until("the loss", Duration::from_secs(10), |e| lost(e).then_some(())).await?;
        let joined = |event: &PoolEvent| matches!(event, PoolEvent::Joined { slot, .. } if *slot == worker.slot);
        watch.until("the victim's return", JOINED_WITHIN, |e| joined(e).then_some(())).await?;
    }
    let mut attempts = 0;
    for (i, run) in runs.into_iter().enumerate() {
        let answer = run.await?.map_err(|e| format!("request {i}: {e}"))?;
        attempts += u64::from(answer.attempts);
        let worst = error(&answer.outputs[0].1.to_f32()?, &wanted[i % TEXTS], |_| true);
        require(worst <= 1.0, || format!("request {i}: off by {worst} times the tolerance"))?;
    }
    let figures = pool.metrics();
    let whole = (figures.finished, figures.failed) == (REQUESTS as u64, 0);
    require(whole && figures.replayed >= KILLS.unsigned_abs(), || format!("{figures:?}"))?;
    pool.close().await?;
    Ok((answered, attempts))
}

/// The victim, if it has work now.
fn busy(pool: &ResourcePool, victim: BrowserKind) -> Option<WorkerView> {
    let is_busy = |w: &WorkerView| w.kind.to_string() == victim.name() && w.state == WorkerState::Busy;
    pool.workers().into_iter().find(|w| is_busy(w) && w.pid.is_some())
}

/// The database has every answer once, every kill, and nothing wrong with the other browser.
fn recorded(data: &Path, victim: BrowserKind, other: BrowserKind) -> Outcome {
    let records = Records::open(data)?;
    let answers = records.rows("SELECT count(*), count(DISTINCT request), bool_and(outcome = 'ok') FROM inferences")?;
    let want: Vec<serde_json::Value> = vec![REQUESTS.into(), REQUESTS.into(), true.into()];
    require(answers == [want.clone()], || format!("inferences: {answers:?}, not {want:?}"))?;
    for (kind, event, times) in [
        (victim, "launched", 1),
        (victim, "lost", KILLS),
        (victim, "restarting", KILLS),
        (victim, "joined", KILLS + 1),
        (other, "lost", 0),
        (other, "restarting", 0),
        (other, "joined", 1),
    ] {
        let sql = format!("SELECT count(*) FROM connections WHERE browser = '{kind}' AND event = '{event}'");
        let got = records.number(&sql)?;
        require(got == times, || format!("{kind} {event}: {got} times, not {times}"))?;
    }
    Ok(())
}
