//! What can strike, and how. Only processes that the pool started are struck, told from strangers by when they were started.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tabpool_pool::{ModelHandle, ModelRequest, PoolError, ResourcePool, WorkerView};
use tabpool_tests::chance::Chance;
use tabpool_tests::golden::Golden;
use tabpool_tests::intruder::Door;
use tabpool_tests::places::fixture_name;
use tabpool_tests::processes::{Process, Signal, descendants, open_files};
use tabpool_tests::relay::Relay;
use tabpool_tests::room::Room;
use tabpool_tests::{Fault, Outcome};
use tokio::task::JoinSet;

/// How long a browser is held still: longer than a host waits for a sign of life and for its return.
const FROZEN: Duration = Duration::from_secs(20);
/// How long a disk stays full.
const FULL: Duration = Duration::from_secs(3);
/// How long the host can open nothing.
const STARVED: Duration = Duration::from_secs(3);
/// How many files it can open all the same.
const CRUMBS: usize = 3;
/// As many as may be open where there was no limit before.
const MOST_FILES: u64 = 1 << 20;
/// How long a block stays corrupt at most.
const CORRUPT: Duration = Duration::from_secs(15);
/// How long the line is held, from and to: more than the second is a silence that the host takes for an end.
const HELD: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(9)];
/// The model whose blocks are corrupted; nothing else is asked of it.
const VICTIM: &str = "distilbert";

/// What can strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strike {
    /// A browser is killed.
    Browser,
    /// Chromium's process for the GPU is killed.
    Gpu,
    /// The process of a browser's tab is killed.
    Tab,
    /// A browser is stopped for twenty seconds.
    Freeze,
    /// The line to a tab is cut.
    Cut,
    /// The line to a tab is held.
    Hold,
    /// Junk gets into the stream from a tab.
    Garble,
    /// Somebody joins and sends a frame of junk.
    Junk,
    /// A tab's devices are destroyed.
    Device,
    /// A block of the store is corrupted, and asked for.
    Block,
    /// The disk is full.
    Disk,
    /// The host can open no more files and sockets.
    Descriptors,
}

impl Strike {
    pub(crate) const ALL: [Self; 12] = [
        Self::Browser,
        Self::Gpu,
        Self::Tab,
        Self::Freeze,
        Self::Cut,
        Self::Hold,
        Self::Garble,
        Self::Junk,
        Self::Device,
        Self::Block,
        Self::Disk,
        Self::Descriptors,
    ];

    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Browser => "browsers killed",
            Self::Gpu => "GPU processes killed",
            Self::Tab => "tabs killed",
            Self::Freeze => "browsers stopped for 20 s",
            Self::Cut => "lines cut",
            Self::Hold => "lines held",
            Self::Garble => "streams garbled",
            Self::Junk => "frames of junk",
            Self::Device => "devices destroyed",
            Self::Block => "blocks corrupted",
            Self::Disk => "disks filled",
            Self::Descriptors => "times out of file descriptors",
        }
    }
}

/// What is struck.
pub(crate) struct Field {
    pub(crate) pool: Arc<ResourcePool>,
    pub(crate) relay: Arc<Relay>,
    pub(crate) room: Arc<Room>,
    victim: ModelHandle,
    /// The files of the victim's blocks.
    blocks: Vec<PathBuf>,
    /// Processes that are held still.
    frozen: HashSet<u32>,
    /// What undoes a strike when its time is over; gives who is not held any more.
    endings: JoinSet<Result<Option<u32>, Fault>>,
    /// Whether something of a kind goes on that is not to go on twice.
    busy: BTreeSet<Strike>,
}

impl Field {
    pub(crate) async fn new(pool: Arc<ResourcePool>, relay: Arc<Relay>, room: Arc<Room>) -> Result<Self, Fault> {
        let before = block_files(pool.data_dir())?;
        let victim = pool.model(ModelRequest::new(fixture_name(VICTIM)).timeout(CORRUPT)).await?;
        let blocks: Vec<_> = block_files(pool.data_dir())?.difference(&before).cloned().collect();
        if blocks.is_empty() {
            return Err(format!("{VICTIM} has no blocks of its own").into());
        }
        let (frozen, endings, busy) = (HashSet::new(), JoinSet::new(), BTreeSet::new());
        Ok(Self { pool, relay, room, victim, blocks, frozen, endings, busy })
    }

    /// Strikes; says whom, or nothing where nobody is there to be struck.
    pub(crate) async fn strike(&mut self, strike: Strike, chance: &mut Chance) -> Result<Option<String>, Fault> {
        self.settle()?;
        match strike {
            Strike::Browser => {
                Ok(self.browser(chance, |_| true).filter(|(_, first)| first.send(Signal::Kill)).map(told))
            }
            Strike::Gpu => Ok(self.kill_of(chance, &[("chromium", "--type=gpu-process")])),
            Strike::Tab => Ok(self.kill_of(chance, &[("chromium", "--type=renderer"), ("firefox", " tab")])),
            Strike::Freeze => Ok(self.freeze(chance)),
            Strike::Cut => Ok(Some(format!("{} connections", self.relay.cut()))),
            Strike::Hold => {
                let time = chance.between(HELD[0], HELD[1]);
                self.relay.hold(time);
                Ok(Some(format!("for {time:?}")))
            }
            Strike::Garble => {
                let count = 1 + chance.below(200);
                let sockets = self.relay.garble(chance.bytes(count));
                Ok((sockets > 0).then(|| format!("{sockets} by {count} bytes")))
            }
            Strike::Junk => self.junk(chance).map(Some),
            Strike::Device => {
                self.relay.destroy_devices();
                Ok(Some("as soon as the tab asks".to_owned()))
            }
            Strike::Block => self.corrupt(chance),
            Strike::Disk => self.fill(),
            Strike::Descriptors => self.starve().await,
        }
    }

    /// Waits until nothing is held, corrupted or filled any more.
    pub(crate) async fn calm(&mut self) -> Outcome {
        while let Some(ended) = self.endings.join_next().await {
            ended??;
        }
        self.frozen.clear();
        Ok(())
    }

    /// Takes note of what is over.
    fn settle(&mut self) -> Outcome {
        while let Some(ended) = self.endings.try_join_next() {
            if let Some(pid) = ended?? {
                self.frozen.remove(&pid);
            }
        }
        if self.endings.is_empty() {
            self.busy.clear();
        }
        Ok(())
    }

    /// A browser of the pool's that has joined and is not held, with its first process.
    fn browser(&self, chance: &mut Chance, of: impl Fn(&str) -> bool) -> Option<(WorkerView, Process)> {
        let there = self.pool.workers().into_iter().filter(|view| view.id.is_some() && of(&view.kind.to_string()));
        let there = there.filter_map(|view| Some((view.pid?, view))).filter(|(pid, _)| !self.frozen.contains(pid));
        let all: Vec<_> = there.filter_map(|(pid, view)| Some((view, Process::of(pid)?))).collect();
        chance.pick(&all).cloned()
    }

    /// Kills those processes of a browser that say what they are on their command line.
    fn kill_of(&self, chance: &mut Chance, said: &[(&str, &str)]) -> Option<String> {
        let (view, first) = self.browser(chance, |kind| said.iter().any(|(of, _)| *of == kind))?;
        let kind = view.kind.to_string();
        let (_, text) = said.iter().find(|(of, _)| *of == kind)?;
        let all: Vec<_> = descendants(first.pid, text).into_iter().filter_map(Process::of).collect();
        let killed = all.into_iter().filter(|process| process.send(Signal::Kill)).count();
        (killed > 0).then(|| format!("{killed} of {kind}"))
    }

    fn freeze(&mut self, chance: &mut Chance) -> Option<String> {
        // One at a time: with every browser held there is nobody to be struck.
        if !self.frozen.is_empty() {
            return None;
        }
        let (view, first) = self.browser(chance, |_| true)?;
        let family: Vec<_> = first.family().into_iter().filter(|process| process.send(Signal::Stop)).collect();
        self.frozen.insert(first.pid);
        let count = family.len();
        self.endings.spawn(async move {
            tokio::time::sleep(FROZEN).await;
            // Those that the host has ended meanwhile are told from strangers of the same number.
            for process in family {
                let _ = process.send(Signal::Continue);
            }
            Ok(Some(first.pid))
        });
        (count > 0).then(|| format!("{count} processes of {}", view.kind))
    }

    /// Somebody joins, says something that is no frame, and is sent away.
    fn junk(&mut self, chance: &mut Chance) -> Result<String, Fault> {
        let door = Door::of(&self.pool)?;
        let count = 1 + chance.below(100);
        let junk = Bytes::from(chance.bytes(count));
        self.endings.spawn(async move {
            let mut intruder = door.join().await?;
            // The host may be so quick that it has hung up.
            drop(intruder.send_bytes(junk).await);
            intruder.last_words().await?;
            Ok(None)
        });
        Ok(format!("of {count} bytes"))
    }

    /// Changes a bit of a block, and asks for what is in it: the answer is right or a reason, never wrong.
    fn corrupt(&mut self, chance: &mut Chance) -> Result<Option<String>, Fault> {
        let (Some(path), true) = (chance.pick(&self.blocks).cloned(), self.busy.insert(Strike::Block)) else {
            return Ok(None);
        };
        let Some((view, _)) = self.browser(chance, |_| true) else { return Ok(None) };
        let good = fs::read(&path)?;
        let mut bad = good.clone();
        let at = chance.below(bad.len());
        bad[at] ^= 1 << chance.below(8);
        replace(&path, &bad)?;
        let model = self.victim.on(view.kind.to_string().parse()?);
        self.endings.spawn(async move {
            let asked = async {
                let golden = Golden::read(VICTIM)?;
                match model.run(golden.inputs.clone()).await {
                    Ok(answer) => golden.error_of(&answer, model.signature()).and_then(right),
                    Err(PoolError::NoWorker(_) | PoolError::Failed { .. } | PoolError::TimedOut(_)) => Ok(()),
                    Err(e) => Err(format!("a corrupt block gave {e}").into()),
                }
            };
            let asked = tokio::time::timeout(CORRUPT * 2, asked).await;
            // A disk that is full meanwhile has room again in a moment.
            while replace(&path, &good).is_err() {
                tokio::time::sleep(FULL / 4).await;
            }
            asked.map_err(|_| "nobody answers for a corrupt block")??;
            Ok(None)
        });
        Ok(Some(format!("of {VICTIM} and asked of {}", view.kind)))
    }

    /// Leaves the host a few file descriptors for a while. Nothing else strikes meanwhile: strikes open files themselves.
    async fn starve(&mut self) -> Result<Option<String>, Fault> {
        if !self.endings.is_empty() {
            return Ok(None);
        }
        let left = open_files() + CRUMBS;
        let before = file_limit(left as u64)?;
        tokio::time::sleep(STARVED).await;
        file_limit(before.unwrap_or(MOST_FILES))?;
        Ok(Some(format!("at {left} files, for {STARVED:?}")))
    }

    fn fill(&mut self) -> Result<Option<String>, Fault> {
        if !self.room.is_small() || !self.busy.insert(Strike::Disk) {
            return Ok(None);
        }
        let filled = self.room.fill()?;
        let told = format!("with {} MiB", filled.bytes >> 20);
        self.endings.spawn(async move {
            tokio::time::sleep(FULL).await;
            drop(filled);
            Ok(None)
        });
        Ok(Some(told))
    }
}

/// Sets how many files this process may open; gives how many it might before.
fn file_limit(most: u64) -> Result<Option<u64>, Fault> {
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..before })?;
    Ok(before.current)
}

fn told((view, first): (WorkerView, Process)) -> String {
    format!("{} ({})", view.kind, first.pid)
}

fn right(worst: f32) -> Outcome {
    if worst <= 1.0 { Ok(()) } else { Err(format!("a corrupt block gave an answer off by {worst} tolerances").into()) }
}

/// Writes into the file as it lies, as a bad disk does.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    fs::OpenOptions::new().write(true).open(path)?.write_all(bytes)
}

/// The files of a store's blocks that are larger than a name's worth.
fn block_files(data: &Path) -> Result<BTreeSet<PathBuf>, Fault> {
    let mut files = BTreeSet::new();
    for shard in fs::read_dir(data.join("blocks"))? {
        for file in fs::read_dir(shard?.path())? {
            let file = file?;
            if file.metadata()?.len() >= 1024 {
                files.insert(file.path());
            }
        }
    }
    Ok(files)
}
