//! Whoever joins a pool may lie, babble or hold the wrong token: each is refused for what it did, and a good worker of
//! the same pool goes on answering rightly.

mod guests;
mod lies;
mod refusals;

use std::time::Duration;

use tabpool_bridge::BridgeConfig;
use tabpool_pool::{ModelRequest, PoolEvent, ResourcePool, WorkerId, WorkerSpec};
use tabpool_protocol::{ApiKind, Frame, Hello, Limits, LoadStats, Message, RefusalCode};
use tabpool_scheduler::Config;
use tabpool_tests::golden::Golden;
use tabpool_tests::intruder::{Door, Intruder};
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

fn greeting(hello: Hello) -> Frame {
    Message::Hello(Box::new(hello)).into()
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
