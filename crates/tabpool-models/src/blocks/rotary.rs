//! Rotary positions: how fast each pair of elements turns, and the cosines and sines of the positions of a run.

use std::f64::consts::PI;

use tabpool_graph::{Binary, ValueId};

use super::{Build, Built};
use crate::ModelError;
use crate::fields::Fields;

/// The most elements of a table that goes into a program as it is. Tables of more positions are put together of two
/// small ones, by the sum of angles.
const LARGEST_TABLE: usize = 1 << 17;

/// Positions in the finer one of two tables: a power of two, so that division is exact.
const FINE: usize = 256;

/// How positions turn the halves of a head's elements.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rotary {
    /// Radians a position, for each pair.
    frequencies: Vec<f32>,
    /// What cosines and sines are multiplied by.
    factor: f32,
}

impl Rotary {
    /// Reads `rope_parameters`, or `rope_theta` and `rope_scaling` as transformers 4 wrote them. `head` is the size of a
    /// head, `theta` what holds where a file says nothing, `positions` the model's limit.
    pub(crate) fn read(config: &Fields, head: usize, theta: f64, positions: usize) -> Result<Self, ModelError> {
        let newer = config.nested_or_none("rope_parameters")?;
        let older = config.nested_or_none("rope_scaling")?;
        let key = if newer.is_some() { "rope_parameters" } else { "rope_scaling" };
        let theta = config.positive_or("rope_theta", theta)?;
        let Some(scaling) = newer.or(older) else {
            return Self::with(config, key, "default", None, head, theta, positions);
        };
        let theta = scaling.positive_or("rope_theta", theta)?;
        let kind = match scaling.text("rope_type")? {
            Some(kind) => kind,
            None => scaling.text("type")?.unwrap_or("default"),
        };
        Self::with(config, key, kind, Some(&scaling), head, theta, positions)
    }

    fn with(
        config: &Fields,
        key: &str,
        kind: &str,
        scaling: Option<&Fields>,
        head: usize,
        theta: f64,
        positions: usize,
    ) -> Result<Self, ModelError> {
        let scaling = scaling.unwrap_or(config);
        let share = scaling.positive_or("partial_rotary_factor", config.positive_or("partial_rotary_factor", 1.0)?)?;
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a head has at most 2^16 elements, and a share of it is not negative"
        )]
        let width = (head as f64 * share) as usize;
        if width == 0 || !width.is_multiple_of(2) || width > head {
            return Err(config.refuse(key, &format!("which would turn {width} of the {head} elements of a head")));
        }
        let plain = frequencies(theta, width);
        let mut rotary = Self { frequencies: plain, factor: 1.0 };
        match kind {
            // Dynamic scaling begins beyond the positions that the configuration states, where sequences end here.
            "default" | "dynamic" => {}
            "linear" => {
                let factor = narrow(scaling.positive("factor")?);
                rotary.frequencies.iter_mut().for_each(|f| *f /= factor);
            }
            "llama3" => rotary.llama3(scaling)?,
            "yarn" => rotary.yarn(scaling, theta, positions)?,
            _ => {
                let supported = "whose type is none of default, linear, dynamic, llama3 and yarn";
                return Err(config.refuse(key, supported));
            }
        }
        Ok(rotary)
    }

    /// As `_compute_llama3_parameters` of transformers.
    fn llama3(&mut self, scaling: &Fields) -> Result<(), ModelError> {
        let factor = scaling.positive("factor")?;
        let (low, high) = (scaling.positive("low_freq_factor")?, scaling.positive("high_freq_factor")?);
        let trained = scaling.positive("original_max_position_embeddings")?;
        if high <= low {
            return Err(scaling.refuse("high_freq_factor", "not larger than low_freq_factor"));
        }
        for frequency in &mut self.frequencies {
            let plain = f64::from(*frequency);
            let wavelength = 2.0 * PI / plain;
            let scaled = if wavelength > trained / low {
                plain / factor
            } else if wavelength < trained / high {
                plain
            } else {
                let smooth = (trained / wavelength - low) / (high - low);
                (1.0 - smooth) * plain / factor + smooth * plain
            };
            *frequency = narrow(scaled);
        }
        Ok(())
    }

    /// As `_compute_yarn_parameters` of transformers.
    #[expect(clippy::cast_precision_loss, reason = "sizes are below 2^24")]
    fn yarn(&mut self, scaling: &Fields, theta: f64, positions: usize) -> Result<(), ModelError> {
        let trained = scaling.positive_or("original_max_position_embeddings", positions as f64)?;
        let factor = scaling.positive_or("factor", positions as f64 / trained)?;
        let magnitude = |scale: f64, by: f64| if scale <= 1.0 { 1.0 } else { 0.1 * by * scale.ln() + 1.0 };
        let (mscale, all) = (scaling.number_or("mscale", 0.0)?, scaling.number_or("mscale_all_dim", 0.0)?);
        let inferred = if mscale > 0.0 && all > 0.0 {
            magnitude(factor, mscale) / magnitude(factor, all)
        } else {
            magnitude(factor, 1.0)
        };
        self.factor = narrow(scaling.positive_or("attention_factor", inferred)?);
        let pairs = self.frequencies.len();
        let width = (2 * pairs) as f64;
        let dimension = |rotations: f64| width * (trained / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
        let (mut low, mut high) =
            (dimension(scaling.positive_or("beta_fast", 32.0)?), dimension(scaling.positive_or("beta_slow", 1.0)?));
        if scaling.flag_or("truncate", true)? {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(width - 1.0));
        if low >= high {
            high = low + 0.001;
        }
        for (pair, frequency) in self.frequencies.iter_mut().enumerate() {
            let ramp = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
            let plain = f64::from(*frequency);
            *frequency = narrow(plain / factor * ramp + plain * (1.0 - ramp));
        }
        Ok(())
    }

    /// How many elements of a head turn.
    pub(crate) fn width(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// The cosines and sines of positions `i32 [rows, tokens]`, all below `limit`: each `[rows, tokens, width / 2]`.
    pub(crate) fn tables(
        &self,
        b: &mut Build<'_>,
        positions: ValueId,
        limit: usize,
    ) -> Result<[ValueId; 2], ModelError> {
        if limit * self.frequencies.len() <= LARGEST_TABLE {
            return Ok([
                self.look_up(b, "rotary cos", positions, limit, 1, |angle| angle.cos() * f64::from(self.factor))?,
                self.look_up(b, "rotary sin", positions, limit, 1, |angle| angle.sin() * f64::from(self.factor))?,
            ]);
        }
        // cos(a + b) and sin(a + b), where a is a multiple of FINE positions and b less than that.
        #[expect(clippy::cast_precision_loss, reason = "a small power of two")]
        let part = b.scalar("rotary fine share", 1.0 / FINE as f32)?;
        let float = b.float("rotary positions", positions)?;
        let coarse = b.mul("rotary coarse", float, part)?;
        let coarse = b.node("rotary coarse", tabpool_graph::Op::Cast { to: tabpool_tensor::DType::I32 }, &[coarse])?;
        let size = b.integers("rotary fine size", &[1], vec![i32::try_from(FINE).unwrap_or(i32::MAX)])?;
        let whole = b.mul("rotary whole", coarse, size)?;
        let fine = b.binary("rotary fine", Binary::Sub, positions, whole)?;
        let factor = f64::from(self.factor);
        let count = limit.div_ceil(FINE);
        let [cos_a, sin_a] = [
            self.look_up(b, "rotary coarse cos", coarse, count, FINE, |angle| angle.cos() * factor)?,
            self.look_up(b, "rotary coarse sin", coarse, count, FINE, |angle| angle.sin() * factor)?,
        ];
        let [cos_b, sin_b] = [
            self.look_up(b, "rotary fine cos", fine, FINE, 1, f64::cos)?,
            self.look_up(b, "rotary fine sin", fine, FINE, 1, f64::sin)?,
        ];
        let (cc, ss) = (b.mul("rotary cos", cos_a, cos_b)?, b.mul("rotary cos", sin_a, sin_b)?);
        let (sc, cs) = (b.mul("rotary sin", sin_a, cos_b)?, b.mul("rotary sin", cos_a, sin_b)?);
        Ok([b.binary("rotary cos", Binary::Sub, cc, ss)?, b.add("rotary sin", sc, cs)?])
    }

    /// Rows of the table of a function of the angles at multiples of `step` positions.
    #[expect(clippy::cast_precision_loss, reason = "positions are below 2^24")]
    fn look_up(
        &self,
        b: &mut Build<'_>,
        name: &str,
        rows: ValueId,
        count: usize,
        step: usize,
        function: impl Fn(f64) -> f64,
    ) -> Built {
        let turned = |position: usize| self.frequencies.iter().map(move |&f| (position * step) as f64 * f64::from(f));
        let values = (0..count).flat_map(turned).map(|angle| narrow(function(angle))).collect();
        let table = b.floats(&format!("{name} table"), &[count, self.frequencies.len()], values)?;
        b.gather(name, table, rows)
    }
}

/// `1 / theta^(2 i / width)`, rounded to `f32` where transformers rounds.
#[expect(clippy::cast_precision_loss, reason = "a head has at most 2^16 elements")]
fn frequencies(theta: f64, width: usize) -> Vec<f32> {
    let exponent = |pair: usize| f64::from((2 * pair) as f32 / width as f32);
    (0..width / 2).map(|pair| 1.0 / narrow(theta.powf(exponent(pair)))).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "the reference computes these in f32 as well")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use tabpool_tensor::Tensor;

    use super::{Rotary, frequencies};
    use crate::Bucket;
    use crate::blocks::Build;
    use crate::weights::Weights;

    #[test]
    fn tables_put_together_of_two_hold_the_cosines_and_sines_of_all_positions() {
        let rotary = Rotary { frequencies: frequencies(1e6, 128), factor: 1.5 };
        let positions = [0, 1, 255, 256, 257, 4095, 16_384, 131_071];
        for limit in [2_000, 131_072] {
            let positions: Vec<i32> =
                positions.iter().copied().filter(|p| usize::try_from(*p).is_ok_and(|p| p < limit)).collect();
            let weights = Weights::default();
            let mut b = Build::new(&weights, Bucket { batch: 1, sequence: positions.len() });
            let dims = [1, positions.len()];
            let ids = b.declare("positions", tabpool_tensor::DType::I32, &dims).expect("an input");
            let [cos, sin] = rotary.tables(&mut b, ids, limit).expect("tables");
            b.offer("cos", cos);
            b.offer("sin", sin);
            let graph = b.finish(&["cos", "sin"], "cos, sin").expect("a graph");
            let split = graph.constants().len() > 2;
            assert_eq!(split, limit > 2_000, "one table each up to 2^17 elements");
            let elements: usize = graph.constants().iter().map(|c| c.tensor.shape().elements()).sum();
            assert!(elements < 1 << 18, "{elements} elements travel in the program");
            let input = Tensor::from_i32(dims, positions.clone()).expect("fits");
            let got = tabpool_engine::oracle::run(&graph, &|_| None, &[input]).expect("it runs");
            let (cos, sin) = (got[0].to_f32().expect("floats"), got[1].to_f32().expect("floats"));
            for (row, &position) in positions.iter().enumerate() {
                for (pair, &frequency) in rotary.frequencies.iter().enumerate() {
                    let angle = f64::from(position) * f64::from(frequency);
                    let at = row * rotary.frequencies.len() + pair;
                    assert!((f64::from(cos[at]) - 1.5 * angle.cos()).abs() < 1e-6, "position {position}, pair {pair}");
                    assert!((f64::from(sin[at]) - 1.5 * angle.sin()).abs() < 1e-6, "position {position}, pair {pair}");
                }
            }
        }
    }
}
