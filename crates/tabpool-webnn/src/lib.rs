//! Programs as graphs of the browser's own WebNN.
//!
//! A program is first lowered to a *recipe* (`recipe`, `lower`): the calls of `MLGraphBuilder` as plain data, each held
//! against what `opSupportLimits()` says before a byte of a weight is fetched. The recipe then becomes an `MLGraph`, with
//! the weights as constants that the browser lays out for its kernels once.
//!
//! A browser that computes WebNN on the processor uses one core for each worker that opened a context, however many
//! contexts that worker has. So the backend keeps *lanes* (`lanes`): one context in the worker itself, and one in each of
//! a few workers nested in it, with the same graphs in all. Runs go to the lane that has least to do.
//!
//! What programs keep between runs (`states`) belongs to one lane, and runs on it go there. WebNN cannot write what it reads,
//! so each state is there twice and a run that changes it swaps the two.
//!
//! Everything that touches the browser builds for WebAssembly only; lowering builds everywhere, for its tests.

#[cfg(any(target_family = "wasm", test))]
mod limits;
#[cfg(any(target_family = "wasm", test))]
mod lower;
#[cfg(any(target_family = "wasm", test))]
mod order;
#[cfg(any(target_family = "wasm", test))]
mod recipe;

#[cfg(target_family = "wasm")]
mod backend;
#[cfg(target_family = "wasm")]
mod context;
#[cfg(target_family = "wasm")]
mod lane;
#[cfg(target_family = "wasm")]
mod lanes;
#[cfg(target_family = "wasm")]
mod message;
#[cfg(target_family = "wasm")]
mod ml;
#[cfg(target_family = "wasm")]
mod states;
#[cfg(target_family = "wasm")]
mod weights;

#[cfg(target_family = "wasm")]
pub use backend::{LaneSource, Options, WebNnBackend};
#[cfg(target_family = "wasm")]
pub use context::{Claims, probe};
#[cfg(target_family = "wasm")]
pub use lane::serve_lane;
