//! The CPU kernels as a WebAssembly module apart from the browser runtime.
//!
//! `cargo xtask build-web` builds it four times: with `simd128` or with relaxed SIMD, which an engine that lacks it rejects
//! together with everything else in its module; and with memory of its own or with imported, shared memory, in which
//! several instances, each in a worker of its own, are the threads of one team. Stable Rust can do that for a module
//! without the standard library: nothing in it was compiled without atomics.
//!
//! The runtime gives out the memory from `__heap_base` on, writes weights, steps and inputs there, and calls
//! `execute`. Nothing here allocates. `static/kernels.js` is the other side.
//!
//! Natively this crate is empty.

#![cfg_attr(target_family = "wasm", no_std)]

#[cfg(target_family = "wasm")]
mod exports;
