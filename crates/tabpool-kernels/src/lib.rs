//! The arithmetic of the CPU backend: what runs natively inside the worker's process, and in a browser inside a small
//! WebAssembly module of its own.
//!
//! A program is a list of [`Step`]s over raw memory. A step is cut into tasks that touch nothing of each other's, so that
//! a [`Team`] of threads may run them in any order; steps run one after another. Everything here works on addresses and
//! slices that others have made: nothing allocates, nothing knows a graph, a tensor or a browser. That is what lets the
//! same code be built a second time without the standard library, with shared memory and with instructions that the
//! rest of a page must not contain (an engine without relaxed SIMD rejects every module that mentions it).
//!
//! Who builds steps answers for their addresses; that is the one promise behind every `unsafe` here.

#![no_std]

// Detecting a processor's instructions, square roots and fused sums are the standard library's; in WebAssembly all three
// are instructions or settled when the module is built.
#[cfg(not(target_arch = "wasm32"))]
extern crate std;

pub mod attention;
pub mod convolution;
pub mod elementwise;
mod gemm;
mod isa;
pub mod layout;
pub mod math;
mod ranking;
mod rows;
mod step;
pub mod team;
pub mod weights;

pub use gemm::{Product, Right, Size, TileSize, columns_alike, packed_right_len};
pub use isa::Isa;
pub use rows::Reduction;
pub use step::{Kernel, MAX_OPERANDS, MAX_RANK, Scratch, Span, Step};
pub use team::Team;
