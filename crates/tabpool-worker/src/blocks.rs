//! Blocks of weights: from the cache or from the host, verified, a bounded number ahead of their use.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use tabpool_content::{Cid, verify_digest};
use tabpool_engine::{WeightError, WeightSource};
use tabpool_graph::BlockRef;
use web_time::{Duration, Instant};

use crate::Environment;

/// Bytes that are on their way or waiting to be used at once. This bounds memory, and it is enough to keep the link to the
/// host full while weights are brought into place.
const AHEAD_BYTES: u64 = 32 << 20;
/// The same where blocks come from the cache, which keeps nobody waiting: only hashing goes on beside.
const AHEAD_BYTES_CACHED: u64 = 8 << 20;
/// Blocks that are on their way or waiting at once, however small they are.
const AHEAD_BLOCKS: usize = 1024;

/// Where blocks came from so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCounts {
    /// Blocks and bytes from the host.
    pub fetched: (u32, u64),
    /// Blocks and bytes from the worker's cache.
    pub cached: (u32, u64),
    /// Blocks of the cache that were corrupt and were fetched again.
    pub corrupt: u32,
    /// How long uses had to wait for blocks.
    pub waited: Duration,
}

/// The blocks of one load. Blocks announced by [`WeightSource::expect`] are fetched ahead of their use.
pub struct Blocks {
    env: Rc<dyn Environment>,
    state: Rc<RefCell<State>>,
    progress: Box<dyn Fn(u64)>,
}

#[derive(Default)]
struct State {
    counts: BlockCounts,
    announced: VecDeque<BlockRef>,
    /// Those announced so far. Who announces a block twice wants it once ahead, and again when it is asked for again.
    known: HashSet<Box<[u8]>>,
    coming: HashMap<Box<[u8]>, Coming>,
    /// Bytes of those coming.
    coming_bytes: u64,
    used: u64,
}

/// A block on its way, or here and not asked for yet.
struct Coming {
    bytes: oneshot::Receiver<Result<Bytes, WeightError>>,
    len: u64,
}

impl Blocks {
    /// The blocks of a load; `progress` is told the bytes handed over so far.
    #[must_use]
    pub fn new(env: Rc<dyn Environment>, progress: impl Fn(u64) + 'static) -> Self {
        Self { env, state: Rc::default(), progress: Box::new(progress) }
    }

    /// Where blocks came from so far.
    #[must_use]
    pub fn counts(&self) -> BlockCounts {
        self.state.borrow().counts
    }

    /// Starts fetching announced blocks until as much as may be is on its way. Nothing is started while more than half of
    /// that is, so that many blocks are asked for at once.
    fn fetch_ahead(&self) {
        let most = self.most_ahead();
        {
            let state = self.state.borrow();
            if state.coming_bytes > most / 2 || state.coming.len() > AHEAD_BLOCKS / 2 {
                return;
            }
        }
        loop {
            let next = {
                let mut state = self.state.borrow_mut();
                let len = state.announced.front().map_or(0, |block| u64::from(block.len));
                let full = state.coming_bytes + len > most || state.coming.len() >= AHEAD_BLOCKS;
                if full && !state.coming.is_empty() {
                    return;
                }
                let Some(block) = state.announced.pop_front() else { return };
                block
            };
            self.start(next);
        }
    }

    /// Bytes that may be coming, by where the next block is.
    fn most_ahead(&self) -> u64 {
        let state = self.state.borrow();
        let next = state.announced.front().and_then(|block| Cid::try_from(&*block.cid).ok());
        let held = next.zip(self.env.cache()).is_some_and(|(cid, cache)| cache.has(&cid));
        if held { AHEAD_BYTES_CACHED } else { AHEAD_BYTES }
    }

    fn start(&self, block: BlockRef) {
        let (sender, receiver) = oneshot::channel();
        let len = u64::from(block.len);
        {
            let mut state = self.state.borrow_mut();
            if state.coming.contains_key(&block.cid) {
                return;
            }
            state.coming_bytes += len;
            state.coming.insert(block.cid.clone(), Coming { bytes: receiver, len });
        }
        let (state, env) = (Rc::clone(&self.state), Rc::clone(&self.env));
        self.env.spawn(Box::pin(async move {
            let result = obtain(&block, &*env, &state).await;
            // Nobody waits any more where the load was given up.
            let _ = sender.send(result);
        }));
    }

    /// Takes a block that is on its way or here.
    fn take(&self, cid: &[u8]) -> Option<oneshot::Receiver<Result<Bytes, WeightError>>> {
        let mut state = self.state.borrow_mut();
        let coming = state.coming.remove(cid)?;
        state.coming_bytes -= coming.len;
        Some(coming.bytes)
    }
}

#[async_trait(?Send)]
impl WeightSource for Blocks {
    async fn block(&self, block: &BlockRef) -> Result<Bytes, WeightError> {
        let start = Instant::now();
        self.fetch_ahead();
        let coming = match self.take(&block.cid) {
            Some(coming) => coming,
            None => {
                // Announced or not, it is wanted now; one that is still to be started ahead is not started again.
                self.state.borrow_mut().announced.retain(|announced| announced.cid != block.cid);
                self.start(block.clone());
                let started = self.take(&block.cid);
                started.ok_or_else(|| failure(&block.cid, "it was asked for twice at once".to_owned()))?
            }
        };
        let bytes = coming.await.map_err(|_| failure(&block.cid, "its fetch was given up".to_owned()))??;
        self.fetch_ahead();
        let used = {
            let mut state = self.state.borrow_mut();
            state.counts.waited += start.elapsed();
            state.used += bytes.len() as u64;
            state.used
        };
        (self.progress)(used);
        Ok(bytes)
    }

    fn expect(&self, blocks: &[BlockRef]) {
        {
            let state = &mut *self.state.borrow_mut();
            let new = blocks.iter().filter(|block| state.known.insert(block.cid.clone()));
            state.announced.extend(new.cloned());
        }
        self.fetch_ahead();
    }
}

/// A block from the cache if it is there and sound, otherwise from the host.
async fn obtain(block: &BlockRef, env: &dyn Environment, state: &RefCell<State>) -> Result<Bytes, WeightError> {
    let cid = Cid::try_from(&*block.cid).map_err(|e| failure(&block.cid, format!("not a CID: {e}")))?;
    let sound = async |bytes: &Bytes| {
        let (got, want) = (bytes.len(), block.len as usize);
        if got != want {
            return Err(format!("it has {got} bytes, the program says {want}"));
        }
        verify_digest(&cid, got, &env.sha256(bytes).await).map_err(|e| e.to_string())
    };
    let cache = env.cache();
    if let Some(cache) = &cache
        && let Some(bytes) = cache.get(&cid).await
    {
        if sound(&bytes).await.is_ok() {
            count(&mut state.borrow_mut().counts.cached, &bytes);
            return Ok(bytes);
        }
        state.borrow_mut().counts.corrupt += 1;
        cache.remove(&cid).await;
    }
    let fetch =
        async || env.fetcher().fetch(&cid, block.len as usize).await.map_err(|reason| failure(&block.cid, reason));
    let mut bytes = fetch().await?;
    let mut verdict = sound(&bytes).await;
    if verdict.is_err() {
        // Asked for alone, a block is verified by the host first, which says what is wrong with it.
        bytes = fetch().await?;
        verdict = sound(&bytes).await;
    }
    verdict.map_err(|reason| failure(&block.cid, format!("the host sent something else: {reason}")))?;
    count(&mut state.borrow_mut().counts.fetched, &bytes);
    if let Some(cache) = cache {
        cache.put(&cid, &bytes).await;
    }
    Ok(bytes)
}

fn count(counter: &mut (u32, u64), bytes: &Bytes) {
    counter.0 += 1;
    counter.1 += bytes.len() as u64;
}

fn failure(cid: &[u8], reason: String) -> WeightError {
    let text =
        Cid::try_from(cid).map_or_else(|_| cid.iter().map(|b| format!("{b:02x}")).collect(), |cid| cid.to_string());
    WeightError { cid: text, reason }
}
