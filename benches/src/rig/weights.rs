//! Weights that are drawn for a model, the same in every run, and the file that holds them.

use std::collections::HashMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};

use crate::Fault;

/// A tensor's dimensions and elements.
pub(crate) type Drawn = (Vec<usize>, Vec<f32>);

/// Writes the weights into a model's folder.
pub(crate) fn write(weights: &HashMap<String, Drawn>, folder: &Path) -> Result<(), Fault> {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = weights
        .iter()
        .map(|(name, (dims, values))| (name, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let mut views = Vec::with_capacity(bytes.len());
    for (name, dims, bytes) in &bytes {
        views.push((*name, TensorView::new(Dtype::F32, (*dims).clone(), bytes)?));
    }
    Ok(serialize_to_file(views, None, &folder.join("model.safetensors"))?)
}

/// Marsaglia's xorshift64*, as numbers about zero whose square is one on average.
pub(crate) struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Random {
    pub(crate) fn next(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        #[expect(clippy::cast_precision_loss, reason = "23 bits fit")]
        let share = (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 41) as f32 / 8_388_608.0;
        (share - 0.5) * 12.0_f32.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn numbers_are_spread_about_zero_and_come_again() {
        let [one, two] = [7, 7].map(|seed| {
            let mut random = Random(seed);
            (0..4096).map(|_| random.next()).collect::<Vec<_>>()
        });
        assert_eq!(one, two);
        let mean = one.iter().sum::<f32>() / 4096.0;
        let square = one.iter().map(|v| v * v).sum::<f32>() / 4096.0;
        assert!(mean.abs() < 0.1 && (square - 1.0).abs() < 0.1, "{mean} {square}");
    }
}
