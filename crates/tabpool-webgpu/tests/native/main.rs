//! Tests on a real adapter, software or hardware, through wgpu's native side.

mod adapter;
mod conformance;
