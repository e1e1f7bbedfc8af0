//! What a worker does with frames, whatever it runs on: a browser tab or the native worker.
//!
//! A [`Worker`] is given the messages of one link and answers through its [`Environment`], which is everything that
//! differs between a tab and a process: how to send, how to spawn, where blocks come from, which backends there are.
//! It loads programs (fetching and verifying their weights), runs requests, survives a lost device and a link that
//! is cut and resumed. It knows no model family, opens no socket and reads no environment variable.
//!
//! Everything stays on one thread; nothing here is `Send`.

mod blocks;
mod environment;
mod gate;
mod worker;

pub use blocks::{BlockCounts, Blocks};
pub use environment::{BlockCache, BlockFetcher, Environment};
pub use worker::{Worker, WorkerOptions};
