//! The storm: fair weather first, then what strikes, then what is left.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tabpool_browser::{Browser, GpuMode, Installed, LaunchOptions};
use tabpool_pool::{PoolError, PoolEvent, PoolMetrics, Profile, ResourcePool, TuningPolicy, WorkerSpec};
use tabpool_protocol::ApiKind;
use tabpool_scheduler::Config;
use tabpool_tests::chance::Chance;
use tabpool_tests::intruder::Door;
use tabpool_tests::processes::{descendants, none_left, open_files, resident};
use tabpool_tests::records::Records;
use tabpool_tests::relay::Relay;
use tabpool_tests::room::Room;
use tabpool_tests::scene::{self, JOINED_WITHIN, eventually};
use tabpool_tests::{Fault, Outcome, places, require};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Wishes;
use crate::load::{Book, Tally, ask, guest};
use crate::strikes::{Field, Strike};

/// Bytes that one of the native workers may hold: enough for its largest program (1.3 MB) and too few for all, so that it gives up one for
/// another all the time.
const TIGHT: u64 = 1_450_000;
/// Room for blocks, measurements and two profiles.
const ROOM_MIB: usize = 1024;
/// Fair weather before the storm, in which everything is loaded.
const WARMING_UP: Duration = Duration::from_secs(10);
/// Between two strikes, from and to.
const PAUSE: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(3500)];
/// How long answers may take that are still owed when the storm is over.
const OWED: Duration = Duration::from_secs(120);
/// How long workers may take to be back.
const BACK: Duration = Duration::from_secs(120);
/// How often the host is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Looks from which it is told whether memory grows.
const ENOUGH_LOOKS: usize = 60;
/// By how much memory and files may differ from look to look without growing.
const MEMORY_SLACK: u64 = 64 << 20;
const FILES_SLACK: usize = 24;

/// Things that the pool told are kept up to this many.
const MOST_TOLD: usize = 150;

/// Everything that is on stage.
struct Stage {
    pool: Arc<ResourcePool>,
    relay: Arc<Relay>,
    room: Arc<Room>,
    tab: Browser,
    /// The last things that the pool told, for whoever looks for what went wrong.
    told: Arc<Told>,
    listening: JoinHandle<()>,
}

/// What a pool told.
#[derive(Default)]
struct Told {
    last: Mutex<VecDeque<String>>,
    /// Programs that were given up for others.
    unloads: AtomicU64,
}

/// How large the host is.
#[derive(Clone, Copy, Debug)]
struct Look {
    memory: u64,
    files: usize,
    processes: usize,
}

impl Look {
    fn now() -> Self {
        let processes = descendants(std::process::id(), "").len();
        Self { memory: resident(), files: open_files(), processes }
    }
}

/// Lets a storm pass.
pub(crate) async fn weather(wishes: Wishes, chromium: &Installed, firefox: &Installed) -> Outcome {
    let book = Arc::new(Book::write().await?);
    let profiles = tempfile::tempdir()?;
    let stage = Stage::set(chromium, firefox, profiles.path()).await?;
    let tally = Arc::new(Tally::default());
    let (stop, stopped) = watch::channel(false);
    let load = (wishes.rate, wishes.seed);
    let asking = tokio::spawn(ask(Arc::clone(&stage.pool), Arc::clone(&book), Arc::clone(&tally), load, stopped));
    tokio::time::sleep(WARMING_UP).await;
    let (begun, before) = (Instant::now(), Look::now());
    let mut field = Field::new(Arc::clone(&stage.pool), Arc::clone(&stage.relay), Arc::clone(&stage.room)).await?;
    let (log, looks) = blow(wishes, &mut field, &asking).await?;
    let during = begun.elapsed();
    field.calm().await?;
    drop(field);
    stop.send(true)?;
    let told = || format!("the storm was {log:#?}, and the pool told {:#?}", stage.last_events());
    let owed = || format!("{} answers are owed; {:#?}; {}", tally.open(), stage.pool.workers(), told());
    tokio::time::timeout(OWED, asking).await.map_err(|_| owed())???;
    require(tally.wrong().is_empty(), || format!("{:#?}; {}", tally.wrong(), told()))?;
    stage.healthy(&book).await.map_err(|e| format!("{e}; {}", told()))?;
    let after = Look::now();
    show(&log, &tally, &stage, during);
    show_looks(before, &looks, after);
    require(after.files <= before.files + FILES_SLACK, || format!("files: {before:?}, then {after:?}"))?;
    require(!grows(&looks), || format!("memory grows: {looks:?}"))?;
    require(stage.told.unloads.load(Ordering::Relaxed) > 0, || "nothing was ever unloaded".to_owned())?;
    let filled = log.contains_key(&Strike::Disk) || log.contains_key(&Strike::Descriptors);
    stage.close(filled).await
}

/// Strikes until the time is over; gives what struck, and looks at the host meanwhile.
async fn blow(
    wishes: Wishes,
    field: &mut Field,
    asking: &JoinHandle<Outcome>,
) -> Result<(BTreeMap<Strike, Vec<String>>, Vec<Look>), Fault> {
    let mut chance = Chance::new(wishes.seed);
    let (mut log, mut looks) = (BTreeMap::<Strike, Vec<String>>::new(), Vec::new());
    let mut deck = Vec::new();
    let begun = Instant::now();
    let mut look_at = begun + LOOK;
    while begun.elapsed() < wishes.length {
        require(!asking.is_finished(), || "nobody asks any more".to_owned())?;
        tokio::time::sleep(chance.between(PAUSE[0], PAUSE[1])).await;
        // Dealt like cards, so that each kind comes up in a short storm, too.
        if deck.is_empty() {
            deck.extend(Strike::ALL);
        }
        let strike = deck.swap_remove(chance.below(deck.len()));
        let at = begun.elapsed().as_secs_f64();
        let struck = field.strike(strike, &mut chance).await.map_err(|e| format!("{strike:?} at {at:.1} s: {e}"))?;
        if let Some(whom) = struck {
            log.entry(strike).or_default().push(format!("{at:.1} s: {whom}"));
        }
        if Instant::now() >= look_at {
            look_at += LOOK;
            looks.push(Look::now());
        }
    }
    Ok((log, looks))
}

impl Stage {
    async fn set(chromium: &Installed, firefox: &Installed, profiles: &Path) -> Result<Self, Fault> {
        let room = Arc::new(Room::new(ROOM_MIB)?);
        if !room.is_small() {
            places::left_out("a full disk", "mounting is not permitted");
        }
        let native = || WorkerSpec::native().apis(&[ApiKind::Cpu]).threads(std::num::NonZeroUsize::MIN);
        let builder = ResourcePool::builder()
            .data_dir(room.path().join("data"))
            .scheduler(patient())
            // Tuning computes whenever nobody asks for anything, which is never, and after every start.
            .tuning(TuningPolicy::default().budget(Duration::ZERO))
            .worker(scene::browser(chromium.kind, Profile::Fresh).apis(&[ApiKind::WebGpu, ApiKind::Cpu]))
            .worker(scene::browser(firefox.kind, Profile::Fresh).apis(&[ApiKind::Cpu]))
            .worker(native().memory(TIGHT))
            .worker(native());
        let pool = Arc::new(scene::ready(builder).await?);
        let relay = Arc::new(Relay::to(Door::of(&pool)?.address.parse()?).await?);
        let url = relay.url(&format!("{}&apis=webgpu", pool.join_url()))?;
        let tab = Browser::launch(firefox, LaunchOptions::new(url, profiles, GpuMode::detect())).await?;
        eventually("the tab behind the relay", JOINED_WITHIN, || guest(&pool)).await?;
        let told = Arc::<Told>::default();
        let listening = tokio::spawn(listen(pool.events(), Arc::clone(&told)));
        Ok(Self { pool, relay, room, tab, told, listening })
    }

    fn last_events(&self) -> VecDeque<String> {
        self.told.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until every worker is back, and asks each a question.
    async fn healthy(&self, book: &Book) -> Outcome {
        let back = || {
            let workers = self.pool.workers();
            let all = workers.iter().all(|view| view.id.is_some()) && guest(&self.pool).is_some();
            all.then_some(workers)
        };
        let workers = eventually("every worker's return", BACK, back).await;
        let workers = workers.map_err(|e| format!("{e}: {:#?}", self.pool.workers()))?;
        for worker in workers {
            book.examine(&self.pool, &worker).await?;
        }
        Ok(())
    }

    /// Ends everything; nothing is left, and every answer is in the database once.
    async fn close(self, filled: bool) -> Outcome {
        let Self { pool, relay, room, tab, listening, .. } = self;
        listening.abort();
        let figures = pool.metrics();
        let data = pool.data_dir().to_owned();
        tab.close(Duration::from_secs(5)).await;
        let pool = Arc::into_inner(pool).ok_or("somebody still holds the pool")?;
        match pool.close().await {
            // What could not be written while there was no room is counted.
            Err(PoolError::Flush(_)) if filled => {}
            closed => closed?,
        }
        drop(relay);
        none_left(&data, Duration::from_secs(10)).await?;
        let ours = || descendants(std::process::id(), "").is_empty().then_some(());
        eventually("an end of every process", Duration::from_secs(10), ours).await?;
        recorded(&data, &figures, filled)?;
        drop(room);
        Ok(())
    }
}

/// Keeps what a pool tells of its workers, loads that go on left out.
async fn listen(mut events: Receiver<PoolEvent>, told: Arc<Told>) {
    let begun = Instant::now();
    loop {
        let event = match events.recv().await {
            Ok(PoolEvent::Loading { .. } | PoolEvent::Loaded { .. } | PoolEvent::Tuned { .. }) => continue,
            Ok(PoolEvent::Unloaded { .. }) => {
                told.unloads.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            Ok(event) => format!("{event:?}"),
            Err(RecvError::Lagged(missed)) => format!("{missed} events were missed"),
            Err(RecvError::Closed) => return,
        };
        let mut told = told.last.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() == MOST_TOLD {
            told.pop_front();
        }
        told.push_back(format!(
            "{:.1} s: {}",
            begun.elapsed().as_secs_f64(),
            event.chars().take(300).collect::<String>()
        ));
    }
}

/// Being on a worker that is struck is no fault of a request's, yet one may be on it many times; and a slot that is struck
/// as it starts is not to be given up.
fn patient() -> Config {
    let mut config = Config::default();
    config.max_attempts = 20;
    config.request_timeout = Duration::from_secs(300);
    config.restart.max = Duration::from_secs(5);
    config.restart.set_aside = Duration::from_secs(5);
    config.restart.launch_timeout = Duration::from_secs(30);
    config.circuit.cool_down = Duration::from_secs(2);
    config
}

/// Every answer once; where the disk was full, what is missing is counted.
fn recorded(data: &Path, figures: &PoolMetrics, filled: bool) -> Outcome {
    let records = Records::open(data)?;
    let count = |sql: &str| records.number(sql).map(i64::unsigned_abs);
    let (rows, requests) =
        (count("SELECT count(*) FROM inferences")?, count("SELECT count(DISTINCT request) FROM inferences")?);
    let lost = count("SELECT coalesce(sum(queue_full + write_failed), 0)::BIGINT FROM lost_events")?;
    let answered = figures.finished + figures.failed;
    let missing = answered.saturating_sub(rows);
    tabpool_tests::show(&format!("database: {rows} answers, {missing} missing, {lost} events known to be lost"));
    let whole = rows == requests && rows <= answered && missing <= lost && (filled || lost == 0);
    require(whole, || format!("{answered} answers, {rows} rows of {requests} requests, {lost} events lost"))
}

/// Whether the host holds more memory in the last third than it did in the second.
fn grows(looks: &[Look]) -> bool {
    let third = looks.len() / 3;
    let most = |looks: &[Look]| looks.iter().map(|look| look.memory).max().unwrap_or_default();
    looks.len() >= ENOUGH_LOOKS && most(&looks[2 * third..]) > most(&looks[third..2 * third]) + MEMORY_SLACK
}

fn show(log: &BTreeMap<Strike, Vec<String>>, tally: &Tally, stage: &Stage, during: Duration) {
    let strikes = log.values().map(Vec::len).sum::<usize>();
    let each = Strike::ALL.iter().map(|strike| format!("{} {}", log.get(strike).map_or(0, Vec::len), strike.name()));
    let number = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let figures = stage.pool.metrics();
    tabpool_tests::show(&format!(
        "{strikes} faults in {:.0} s: {} ({} devices were open)\n{} requests, {} right answers, {} refused with a reason of \
         those that only the struck tab could serve, {} not asked while too many were open; {} took several attempts, {} at \
         most; {} replays, {} loads, {} unloads\n50 %, 99 % and all within: {}\nby {:?}\nrefused because {:#?}",
        during.as_secs_f64(),
        each.collect::<Vec<_>>().join(", "),
        stage.relay.destroyed(),
        number(&tally.asked),
        number(&tally.right),
        number(&tally.refused),
        number(&tally.held_back),
        number(&tally.again),
        tally.most_attempts(),
        figures.replayed,
        figures.loads,
        number(&stage.told.unloads),
        tally.times(),
        figures.platforms,
        tally.reasons(),
    ));
}

fn show_looks(before: Look, looks: &[Look], after: Look) {
    let mib = |look: &Look| look.memory >> 20;
    let most = looks.iter().map(mib).max().unwrap_or_default();
    tabpool_tests::show(&format!(
        "host: {} MiB before, {most} at most, {} after; {} files before, {} after; {} processes before, {} after",
        mib(&before),
        mib(&after),
        before.files,
        after.files,
        before.processes,
        after.processes,
    ));
}
