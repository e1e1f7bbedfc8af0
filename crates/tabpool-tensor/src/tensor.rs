//! Tensors: dtype, shape and reference-counted little-endian bytes.

use std::borrow::Cow;

use bytes::Bytes;
use half::{bf16, f16};

use crate::{DType, Shape};

/// What was wrong with a tensor.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TensorError {
    /// The bytes do not fit the dtype and shape.
    #[error("a tensor of {dtype} {shape} takes {want} bytes, got {got}")]
    Length {
        /// The dtype said.
        dtype: DType,
        /// The shape said.
        shape: Shape,
        /// The bytes such a tensor takes.
        want: usize,
        /// The bytes given.
        got: usize,
    },
    /// The shape holds more elements than memory can address.
    #[error("the shape {shape} overflows")]
    Overflow {
        /// The shape.
        shape: Shape,
    },
    /// The tensor has another dtype than was asked for.
    #[error("the tensor is {got}, {want} was asked for")]
    DType {
        /// What was asked for.
        want: &'static str,
        /// What the tensor is.
        got: DType,
    },
    /// A value does not fit the type it was to be converted to.
    #[error("the value {value} at position {position} does not fit {to}")]
    Range {
        /// The value.
        value: i64,
        /// Its position in row-major order.
        position: usize,
        /// The type it was to become.
        to: DType,
    },
}

/// An n-dimensional array: a dtype, a shape and row-major little-endian bytes. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    dtype: DType,
    shape: Shape,
    data: Bytes,
}

impl Tensor {
    /// A tensor over these bytes, without copying them.
    ///
    /// # Errors
    /// [`TensorError::Length`] or [`TensorError::Overflow`] where the bytes do not fit dtype and shape.
    pub fn new(dtype: DType, shape: impl Into<Shape>, data: Bytes) -> Result<Self, TensorError> {
        let shape = shape.into();
        let want = shape
            .checked_elements()
            .and_then(|n| n.checked_mul(dtype.size()))
            .ok_or_else(|| TensorError::Overflow { shape: shape.clone() })?;
        if want != data.len() {
            return Err(TensorError::Length { dtype, shape, want, got: data.len() });
        }
        Ok(Self { dtype, shape, data })
    }

    /// An `f32` tensor of these values, without copying them.
    ///
    /// # Errors
    /// [`TensorError::Length`] where the shape holds another number of elements.
    pub fn from_f32(shape: impl Into<Shape>, values: Vec<f32>) -> Result<Self, TensorError> {
        Self::from_pod(DType::F32, shape, values)
    }

    /// An `i32` tensor of these values, without copying them.
    ///
    /// # Errors
    /// [`TensorError::Length`] where the shape holds another number of elements.
    pub fn from_i32(shape: impl Into<Shape>, values: Vec<i32>) -> Result<Self, TensorError> {
        Self::from_pod(DType::I32, shape, values)
    }

    /// An `i64` tensor of these values, without copying them.
    ///
    /// # Errors
    /// [`TensorError::Length`] where the shape holds another number of elements.
    pub fn from_i64(shape: impl Into<Shape>, values: Vec<i64>) -> Result<Self, TensorError> {
        Self::from_pod(DType::I64, shape, values)
    }

    fn from_pod<T: bytemuck::Pod + Send + Sync>(
        dtype: DType,
        shape: impl Into<Shape>,
        values: Vec<T>,
    ) -> Result<Self, TensorError> {
        struct Owner<T>(Vec<T>);
        impl<T: bytemuck::Pod> AsRef<[u8]> for Owner<T> {
            fn as_ref(&self) -> &[u8] {
                bytemuck::cast_slice(&self.0)
            }
        }
        Self::new(dtype, shape, Bytes::from_owner(Owner(values)))
    }

    /// The dtype.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The bytes: row-major, little-endian.
    #[must_use]
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`TensorError::Length`] where the number of elements differs.
    pub fn reshape(self, shape: impl Into<Shape>) -> Result<Self, TensorError> {
        Self::new(self.dtype, shape, self.data)
    }

    /// The elements as `f32`, borrowed where dtype and alignment allow it; `f16`, `bf16` and `f64` are converted.
    ///
    /// # Errors
    /// [`TensorError::DType`] for tensors that do not hold floating-point numbers.
    pub fn to_f32(&self) -> Result<Cow<'_, [f32]>, TensorError> {
        Ok(match self.dtype {
            DType::F32 => elements(&self.data),
            DType::F16 => elements::<f16>(&self.data).iter().map(|v| v.to_f32()).collect(),
            DType::BF16 => elements::<bf16>(&self.data).iter().map(|v| v.to_f32()).collect(),
            #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what was asked for")]
            DType::F64 => elements::<f64>(&self.data).iter().map(|&v| v as f32).collect(),
            got => return Err(TensorError::DType { want: "a floating-point dtype", got }),
        })
    }

    /// The elements as `i32`, borrowed where dtype and alignment allow it; other integers are converted.
    ///
    /// # Errors
    /// [`TensorError::Range`] for values that do not fit, [`TensorError::DType`] for floating-point tensors.
    pub fn to_i32(&self) -> Result<Cow<'_, [i32]>, TensorError> {
        let narrow = |(position, value): (usize, i64)| {
            i32::try_from(value).map_err(|_| TensorError::Range { value, position, to: DType::I32 })
        };
        Ok(match self.dtype {
            DType::I32 => elements(&self.data),
            DType::I64 => {
                elements::<i64>(&self.data).iter().copied().enumerate().map(narrow).collect::<Result<_, _>>()?
            }
            DType::U32 => elements::<u32>(&self.data)
                .iter()
                .map(|&v| i64::from(v))
                .enumerate()
                .map(narrow)
                .collect::<Result<_, _>>()?,
            DType::I8 => elements::<i8>(&self.data).iter().map(|&v| i32::from(v)).collect(),
            DType::U8 | DType::Bool => self.data.iter().map(|&v| i32::from(v)).collect(),
            got => return Err(TensorError::DType { want: "an integer dtype", got }),
        })
    }
}

/// Views bytes as elements, copying only where they are not aligned.
fn elements<T: bytemuck::Pod>(bytes: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(view) => Cow::Borrowed(view),
        Err(_) => Cow::Owned(bytemuck::allocation::pod_collect_to_vec(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::{any, proptest};

    use super::{Tensor, TensorError};
    use crate::DType;

    #[test]
    fn refuses_bytes_that_do_not_fit_the_shape() {
        let err = Tensor::new(DType::F32, [2, 2], Bytes::from_static(&[0; 15])).expect_err("15 bytes are not 16");
        assert_eq!(err.to_string(), "a tensor of f32 [2, 2] takes 16 bytes, got 15");
        let err = Tensor::new(DType::F32, [usize::MAX, 2], Bytes::new()).expect_err("overflows");
        assert!(matches!(err, TensorError::Overflow { .. }));
    }

    #[test]
    fn narrows_i64_and_names_what_does_not_fit() {
        let t = Tensor::from_i64([2], vec![7, 1 << 40]).expect("two values");
        let err = t.to_i32().expect_err("2^40 is no i32");
        assert_eq!(err, TensorError::Range { value: 1 << 40, position: 1, to: DType::I32 });
    }

    #[test]
    fn converts_half_precision_exactly() {
        let bytes: Vec<u8> =
            [1.5f32, -0.25, 65504.0].iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
        let t = Tensor::new(DType::F16, [3], bytes.into()).expect("three halves");
        assert_eq!(t.to_f32().expect("floats").as_ref(), [1.5, -0.25, 65504.0]);
    }

    proptest! {
        #[test]
        fn unaligned_views_read_the_same(values in proptest::collection::vec(any::<i32>(), 0..50)) {
            let mut bytes = vec![0u8];
            bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            let t = Tensor::new(DType::I32, [values.len()], Bytes::from(bytes).slice(1..)).expect("fits");
            assert_eq!(t.to_i32().expect("integers").as_ref(), values);
        }
    }
}
