//! WGSL kernels and dispatch plans over wgpu, in browsers and natively.
