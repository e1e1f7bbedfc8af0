//! What a worker needs from the place it runs in.

use std::rc::Rc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use tabpool_content::{Cid, sha256};
use tabpool_engine::{Backend, EngineError};
use tabpool_protocol::{ApiKind, Capabilities, WorkerStatus};
use web_time::Instant;

/// Brings blocks from the host. What it brings is verified by the worker, not trusted.
#[async_trait(?Send)]
pub trait BlockFetcher {
    /// The bytes of a block, of which so many are expected.
    ///
    /// # Errors
    /// A clause for people: where it was asked for and what came back.
    async fn fetch(&self, cid: &Cid, len: usize) -> Result<Bytes, String>;
}

/// Keeps blocks between sessions, under their CIDs. What it gives is verified by the worker, not trusted.
#[async_trait(?Send)]
pub trait BlockCache {
    /// Whether a block is here, as far as can be told at once.
    fn has(&self, cid: &Cid) -> bool;
    /// The bytes of a block, if they are here.
    async fn get(&self, cid: &Cid) -> Option<Bytes>;
    /// Keeps a block, now or soon: what is not kept when its place ends is fetched again. A cache that is full or broken keeps
    /// nothing; the worker goes on.
    async fn put(&self, cid: &Cid, bytes: &Bytes);
    /// Forgets a block that turned out to be corrupt.
    async fn remove(&self, cid: &Cid);
}

/// The place a worker runs in.
#[async_trait(?Send)]
pub trait Environment {
    /// What this worker is, asked for at every join.
    fn capabilities(&self) -> Capabilities;
    /// How it is at the moment. What it holds of states the worker fills in.
    fn status(&self) -> WorkerStatus;
    /// The time, which never goes back. A place that has a clock of its own says so.
    fn now(&self) -> Instant {
        Instant::now()
    }
    /// Sends a message over the link; `false` where the link is not open.
    fn send(&self, message: Bytes) -> bool;
    /// Runs a future on this thread until it ends.
    fn spawn(&self, task: LocalBoxFuture<'static, ()>);
    /// Makes a backend. Called at the first load for its API, and again after its device was lost.
    ///
    /// # Errors
    /// [`EngineError`] where this place has no such API or device.
    async fn backend(&self, api: ApiKind) -> Result<Rc<dyn Backend>, EngineError>;
    /// Where blocks come from.
    fn fetcher(&self) -> Rc<dyn BlockFetcher>;
    /// Where blocks are kept, if anywhere.
    fn cache(&self) -> Option<Rc<dyn BlockCache>>;
    /// The sha2-256 of bytes. A place that hashes faster than this module's code, or beside it, says so.
    async fn sha256(&self, bytes: &Bytes) -> [u8; 32] {
        sha256(bytes)
    }
}
