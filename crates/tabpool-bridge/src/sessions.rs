//! The sessions of a bridge: which workers there are and how to reach them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tabpool_protocol::Frame;
use tokio::sync::mpsc;

use crate::tokens::TokenId;

/// A worker of one bridge, from its first join until it is lost; a resumed session keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u64);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {}", self.0)
    }
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkError {
    /// The worker is not connected, now or any more.
    #[error("the worker is not connected")]
    Down,
    /// The worker does not take its messages as fast as they come.
    #[error("the worker's queue of outgoing messages is full")]
    Full,
}

/// What a connection's task is told.
pub(crate) enum Order {
    Send(Frame),
    Close(String),
}

/// How to reach one worker. Cloning gives another handle to the same link.
#[derive(Clone)]
pub struct WorkerLink {
    pub(crate) id: WorkerId,
    pub(crate) sessions: Arc<Sessions>,
}

impl WorkerLink {
    /// The worker.
    #[must_use]
    pub fn id(&self) -> WorkerId {
        self.id
    }

    /// Queues a frame for the worker. Nothing is said about its arrival: answers are.
    ///
    /// # Errors
    /// [`LinkError`]; the frame was not taken.
    pub fn send(&self, frame: Frame) -> Result<(), LinkError> {
        let orders = self.sessions.lock().orders(self.id).ok_or(LinkError::Down)?;
        orders.try_send(Order::Send(frame)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => LinkError::Full,
            mpsc::error::TrySendError::Closed(_) => LinkError::Down,
        })
    }

    /// Says goodbye to the worker and closes its connection; a [`BridgeEvent::Lost`](crate::BridgeEvent::Lost) follows.
    pub fn close(&self, reason: &str) {
        let orders = self.sessions.lock().orders(self.id);
        if let Some(orders) = orders {
            // A queue that is full belongs to a worker that does not read; its connection ends by its silence.
            let _ = orders.try_send(Order::Close(reason.to_owned()));
        }
    }
}

impl fmt::Debug for WorkerLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerLink").field("id", &self.id).finish_non_exhaustive()
    }
}

/// One session: connected, or waiting for its worker to come back.
pub(crate) struct Session {
    pub(crate) worker: WorkerId,
    /// What it joined with.
    pub(crate) token: TokenId,
    /// Whether it may not come back.
    pub(crate) expelled: bool,
    /// Counts connections, so that the end of an old one does not end its successor.
    pub(crate) connection: u64,
    pub(crate) orders: Option<mpsc::Sender<Order>>,
}

#[derive(Default)]
pub(crate) struct Table {
    pub(crate) by_name: HashMap<String, Session>,
    pub(crate) last_worker: u64,
    pub(crate) last_connection: u64,
    pub(crate) closing: bool,
}

impl Table {
    fn orders(&self, worker: WorkerId) -> Option<mpsc::Sender<Order>> {
        self.by_name.values().find(|s| s.worker == worker)?.orders.clone()
    }

    /// How many workers there are that joined with a token, those that may still come back included.
    pub(crate) fn joined_with(&self, token: TokenId) -> usize {
        self.by_name.values().filter(|s| s.token == token).count()
    }
}

#[derive(Default)]
pub(crate) struct Sessions(Mutex<Table>);

impl Sessions {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
