//! WGSL kernels and dispatch plans over wgpu, in browsers and natively.
//!
//! [`WebGpuBackend`] is the [`Backend`](tabpool_engine::Backend) for WebGPU in a browser's worker and for Vulkan, Metal and
//! Direct3D 12 natively. A program is *lowered* once, at load: every node becomes one or more launches of a kernel with the
//! buffers it binds, buffers come from the engine's memory plan, bind groups and parameters are made for good. A
//! run writes its inputs, records one compute pass, submits once and reads all outputs back through one mapped buffer.
//!
//! Kernels are `.wgsl` files with `override` constants; shapes are parameters, so programs for other shapes reuse the
//! pipelines that earlier ones compiled. Nothing here knows a model.
//!
//! Which variant of a kernel serves a node is decided by timing them on the device ([`Backend::tune`](tabpool_engine::Backend::tune)),
//! or by a prior for the kind of adapter.
//!
//! # Precision
//!
//! A program may permit f16 or int8 in its linear layers; the weights then lie on the device in fewer bits (half and about a
//! quarter of the memory), wherever that is the choice. Natively on lavapipe all-MiniLM-L6-v2 comes to these differences
//! from PyTorch's embeddings, which are of length 1 (least cosine, worst number), as the suite `precision` shows:
//!
//! | weights | products | least cosine | worst error |
//! |---|---|---|---|
//! | f32 | f32 | 1.0000000 | 2.0e-7 |
//! | f16 | f32 | 0.9999998 | 8.4e-5 |
//! | f16 | f16, sums of more than four in f32 | 0.9999992 | 2.1e-4 |
//! | int8 | int8, sums in 32 bits | 0.9907507 | 2.2e-2 |
//!
//! Where products are in f16, activations and products have f16's range too: beyond 65,504 they are infinite.
//!
//! *Not here yet:* cutting the work of a run into several submits: Chrome ends GPU work that takes about 10 s, so on a slow software adapter
//! programs have to stay below that (at 4 GFLOP/s, 40 GFLOP).

mod backend;
mod bindings;
mod device;
mod executable;
mod health;
mod kernels;
mod lower;
mod options;
mod pipelines;
#[cfg_attr(target_arch = "wasm32", path = "pump_web.rs")]
mod pump;
mod rates;
mod report;
mod staging;
mod states;
mod strides;
mod trial;
mod tuner;
mod weights;

pub use backend::WebGpuBackend;
pub use executable::WebGpuExecutable;
pub use kernels::attention::AttentionVariant;
pub use kernels::gemm::GemmVariant;
pub use kernels::row::RowVariant;
pub use options::{AdapterChoice, Options, Power};
pub use rates::KernelRate;
pub use report::{AdapterKind, AdapterReport};
