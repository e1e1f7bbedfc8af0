//! The browser shell of a tabpool worker: what runs when somebody opens a pool's URL.
//!
//! The page (`static/page.js`) starts one dedicated worker (`static/worker.js`), which loads this module; everything that
//! works happens there, because browsers throttle the timers of hidden pages and not those of their workers:
//!
//! - `link` keeps the WebSocket to the host and opens it again when it breaks;
//! - `tab` is the `Environment` of a `tabpool_worker::Worker`;
//! - `facts` finds out what browser, adapter and machine this is, `identity` puts names to it;
//! - `lane` spreads WebNN over workers nested in that one (`static/lane.js`);
//! - `gateway` fetches blocks of weights and `body` reads an answer, `hash` has the browser hash them, `opfs` keeps them, `pack`
//!   lays them out in one file and decides which ones go when there is no room;
//! - `kernels` opens the CPU kernels, a module of their own, and gives out its memory;
//! - `page` tells the page what to show, `activity` reads that off the frames that pass.
//!
//! Only the modules without a browser's API build natively, for their tests; elsewhere this crate is empty.
//! It knows no operator and no model family, and trusts no block: those are verified by the worker.

#[cfg(any(target_family = "wasm", test))]
mod activity;
#[cfg(any(target_family = "wasm", test))]
mod identity;
#[cfg(any(target_family = "wasm", test))]
mod pack;
#[cfg(all(target_family = "wasm", feature = "conformance"))]
mod rates;
#[cfg(any(target_family = "wasm", test))]
mod retry;

#[cfg(target_family = "wasm")]
mod body;
#[cfg(all(target_family = "wasm", feature = "conformance"))]
mod conformance;
#[cfg(target_family = "wasm")]
mod facts;
#[cfg(target_family = "wasm")]
mod gateway;
#[cfg(target_family = "wasm")]
mod hash;
#[cfg(target_family = "wasm")]
mod kernels;
#[cfg(target_family = "wasm")]
mod lane;
#[cfg(target_family = "wasm")]
mod link;
#[cfg(all(target_family = "wasm", feature = "conformance"))]
mod measure;
#[cfg(target_family = "wasm")]
mod navigator;
#[cfg(target_family = "wasm")]
mod opfs;
#[cfg(target_family = "wasm")]
mod outside;
#[cfg(target_family = "wasm")]
mod page;
#[cfg(target_family = "wasm")]
mod runtime;
#[cfg(target_family = "wasm")]
mod tab;
#[cfg(target_family = "wasm")]
mod timers;

#[cfg(all(target_family = "wasm", feature = "conformance"))]
pub use conformance::conformance;
#[cfg(target_family = "wasm")]
pub use lane::lane;
#[cfg(all(target_family = "wasm", feature = "conformance"))]
pub use measure::measure;
#[cfg(all(target_family = "wasm", feature = "conformance"))]
pub use rates::{rates, variants};
#[cfg(target_family = "wasm")]
pub use runtime::{Config, Runtime, start};
