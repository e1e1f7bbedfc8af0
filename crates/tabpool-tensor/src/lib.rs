//! Data types, shapes and tensors: the vocabulary every other crate of tabpool shares.
//!
//! A [`Tensor`] is a dtype, a shape and little-endian bytes in row-major order. The bytes are reference counted, so a
//! tensor sliced out of a network frame or of a memory-mapped file is handed on without a copy. There is no arithmetic
//! here (that is the engine's) and no serialisation (formats belong to the crates that speak them).
//!
//! ```
//! use tabpool_tensor::{DType, Tensor};
//!
//! let t = Tensor::from_f32([2, 3], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0])?;
//! assert_eq!(t.dtype(), DType::F32);
//! assert_eq!(t.shape().dims(), [2, 3]);
//! assert_eq!(t.to_f32()?[4], 4.0);
//! # Ok::<(), tabpool_tensor::TensorError>(())
//! ```

mod dtype;
mod precision;
mod shape;
mod tensor;

pub use dtype::{DType, UnknownDType};
pub use precision::{Precision, UnknownPrecision};
pub use shape::Shape;
pub use tensor::{Tensor, TensorError};
