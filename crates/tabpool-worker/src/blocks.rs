//! Blocks of weights: from the cache or from the host, verified, a bounded number ahead of their use.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use tabpool_content::{Cid, verify};
use tabpool_engine::{WeightError, WeightSource};
use tabpool_graph::BlockRef;
use web_time::{Duration, Instant};

use crate::{BlockCache, BlockFetcher, Environment};

/// How many blocks are on their way or waiting to be used at once: at 1 MiB each this bounds memory, and it is enough
/// to hide the round trip to the host.
const AHEAD: usize = 8;

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
    coming: HashMap<Box<[u8]>, oneshot::Receiver<Result<Bytes, WeightError>>>,
    used: u64,
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

    /// Starts fetching announced blocks until [`AHEAD`] are on their way.
    fn fetch_ahead(&self) {
        loop {
            let next = {
                let mut state = self.state.borrow_mut();
                if state.coming.len() >= AHEAD {
                    return;
                }
                let Some(block) = state.announced.pop_front() else { return };
                block
            };
            self.start(next);
        }
    }

    fn start(&self, block: BlockRef) {
        let (sender, receiver) = oneshot::channel();
        if self.state.borrow().coming.contains_key(&block.cid) {
            return;
        }
        self.state.borrow_mut().coming.insert(block.cid.clone(), receiver);
        let (state, fetcher, cache) = (Rc::clone(&self.state), self.env.fetcher(), self.env.cache());
        self.env.spawn(Box::pin(async move {
            let result = obtain(&block, &*fetcher, cache.as_deref(), &state).await;
            // Nobody waits any more where the load was given up.
            let _ = sender.send(result);
        }));
    }
}

#[async_trait(?Send)]
impl WeightSource for Blocks {
    async fn block(&self, block: &BlockRef) -> Result<Bytes, WeightError> {
        let start = Instant::now();
        self.fetch_ahead();
        let coming = self.state.borrow_mut().coming.remove(&block.cid);
        let coming = match coming {
            Some(coming) => coming,
            None => {
                self.start(block.clone());
                let started = self.state.borrow_mut().coming.remove(&block.cid);
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
        self.state.borrow_mut().announced.extend(blocks.iter().cloned());
        self.fetch_ahead();
    }
}

/// A block from the cache if it is there and sound, otherwise from the host.
async fn obtain(
    block: &BlockRef,
    fetcher: &dyn BlockFetcher,
    cache: Option<&dyn BlockCache>,
    state: &RefCell<State>,
) -> Result<Bytes, WeightError> {
    let cid = Cid::try_from(&*block.cid).map_err(|e| failure(&block.cid, format!("not a CID: {e}")))?;
    let sound = |bytes: &Bytes| {
        verify(&cid, bytes).map_err(|e| e.to_string())?;
        let (got, want) = (bytes.len(), block.len as usize);
        (got == want).then_some(()).ok_or_else(|| format!("it has {got} bytes, the program says {want}"))
    };
    if let Some(cache) = cache
        && let Some(bytes) = cache.get(&cid).await
    {
        if sound(&bytes).is_ok() {
            count(&mut state.borrow_mut().counts.cached, &bytes);
            return Ok(bytes);
        }
        state.borrow_mut().counts.corrupt += 1;
        cache.remove(&cid).await;
    }
    let bytes = fetcher.fetch(&cid).await.map_err(|reason| failure(&block.cid, reason))?;
    sound(&bytes).map_err(|reason| failure(&block.cid, format!("the host sent something else: {reason}")))?;
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
