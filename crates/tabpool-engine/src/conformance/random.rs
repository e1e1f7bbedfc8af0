//! Pseudo-random data that are the same everywhere: `SplitMix64` (Steele, Lea and Flood, 2014).

use tabpool_tensor::{DType, Shape, Tensor, TensorError};

/// A generator of numbers that depend on the seed alone.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator whose seed is made of a name (FNV-1a), so that cases do not depend on their order.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self(fnv1a(name.as_bytes()))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A whole number of `0..below`; 0 where `below` is 0.
    pub fn below(&mut self, below: usize) -> usize {
        usize::try_from(self.bits() % (below.max(1) as u64)).unwrap_or(0)
    }

    /// A number of `low..high`.
    #[expect(clippy::cast_precision_loss, reason = "24 bits fit an f32 exactly")]
    pub fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.bits() >> 40) as f32 / (1u64 << 24) as f32)
    }

    /// A tensor of numbers of `low..high`, rounded to `dtype` (`F32`, `F16` or `BF16`).
    ///
    /// # Errors
    /// [`TensorError`] where the shape overflows.
    pub fn tensor(&mut self, dtype: DType, shape: &Shape, low: f32, high: f32) -> Result<Tensor, TensorError> {
        let values: Vec<f32> = (0..shape.elements()).map(|_| self.uniform(low, high)).collect();
        let bytes: Vec<u8> = match dtype {
            DType::F16 => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
            DType::BF16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
            _ => return Tensor::from_f32(shape.clone(), values),
        };
        Tensor::new(dtype, shape.clone(), bytes.into())
    }
}

/// The FNV-1a hash of these bytes.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
