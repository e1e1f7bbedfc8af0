//! Holding a tensor against a reference.

use anyhow::{Result, bail};
use serde::Serialize;
use tabpool::Tensor;

/// How far a tensor is from its reference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Comparison {
    /// The largest difference of two values; infinite where one of them is no number or one of them alone is infinite.
    #[serde(serialize_with = "number")]
    pub(super) worst: f64,
    /// What was allowed, absolutely and relative to the reference.
    pub(super) tolerance: f64,
    /// Values compared.
    pub(super) values: usize,
    /// Values left out because they stand at masked positions.
    pub(super) masked: usize,
    /// Values that differ by more than is allowed.
    pub(super) beyond: usize,
}

/// JSON knows no infinity.
fn number<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() { serializer.serialize_f64(*value) } else { serializer.serialize_none() }
}

/// Compares value by value. `mask [batch, sequence]` leaves out the rows of those positions at which it is 0.
pub(super) fn compare(got: &Tensor, want: &Tensor, mask: Option<&Tensor>, tolerance: f64) -> Result<Comparison> {
    if got.shape() != want.shape() {
        bail!("the shape is {}, the reference's {}", got.shape(), want.shape());
    }
    let (got_values, want_values) = (got.to_f32()?, want.to_f32()?);
    let mask = match mask {
        None => None,
        Some(mask) => {
            if got.shape().dims().get(..2) != Some(mask.shape().dims()) {
                bail!("the mask's shape {} is not how the output's {} begins", mask.shape(), got.shape());
            }
            Some(mask.to_i32()?)
        }
    };
    let row = got.shape().dims().iter().skip(2).product::<usize>().max(1);
    let mut comparison = Comparison { worst: 0.0, tolerance, values: 0, masked: 0, beyond: 0 };
    for (index, (&got, &want)) in got_values.iter().zip(want_values.iter()).enumerate() {
        if mask.as_ref().is_some_and(|mask| mask.get(index / row) == Some(&0)) {
            comparison.masked += 1;
            continue;
        }
        let difference = difference(got, want);
        comparison.values += 1;
        comparison.worst = comparison.worst.max(difference);
        let allowed = tolerance + tolerance * f64::from(want).abs();
        // An infinite reference would allow everything.
        if difference > 0.0 && !(difference <= allowed && allowed.is_finite()) {
            comparison.beyond += 1;
        }
    }
    Ok(comparison)
}

fn difference(got: f32, want: f32) -> f64 {
    if got == want || (got.is_nan() && want.is_nan()) {
        return 0.0;
    }
    let difference = (f64::from(got) - f64::from(want)).abs();
    if difference.is_nan() { f64::INFINITY } else { difference }
}

#[cfg(test)]
mod tests {
    use tabpool::Tensor;

    use super::compare;

    fn tensor<const N: usize>(shape: [usize; N], values: &[f32]) -> Tensor {
        Tensor::from_f32(shape, values.to_vec()).expect("fits")
    }

    #[test]
    fn the_tolerance_grows_with_the_reference() {
        let want = tensor([3], &[1.0, 100.0, -100.0]);
        let got = tensor([3], &[1.000_15, 100.009, -100.02]);
        let result = compare(&got, &want, None, 1e-4).expect("comparable");
        assert_eq!((result.values, result.beyond), (3, 1));
        assert!((result.worst - 0.02).abs() < 1e-4, "{result:?}");
    }

    #[test]
    fn masked_positions_are_left_out_and_no_others() {
        let want = tensor([2, 2, 2], &[0.0; 8]);
        let got = tensor([2, 2, 2], &[0.0, 0.0, 9.0, 9.0, 0.0, 0.0, 0.0, 5.0]);
        let mask = Tensor::from_i64([2, 2], vec![1, 0, 1, 1]).expect("fits");
        let result = compare(&got, &want, Some(&mask), 1e-4).expect("comparable");
        assert_eq!((result.values, result.masked, result.beyond, result.worst), (6, 2, 1, 5.0));
    }

    #[test]
    fn what_is_no_number_is_beyond_every_tolerance() {
        let want = tensor([4], &[1.0, f32::NAN, f32::INFINITY, f32::INFINITY]);
        let got = tensor([4], &[f32::NAN, f32::NAN, f32::INFINITY, 1.0]);
        let result = compare(&got, &want, None, 1e30).expect("comparable");
        assert_eq!((result.beyond, result.worst), (2, f64::INFINITY));
        assert_eq!(serde_json::to_value(&result).expect("JSON")["worst"], serde_json::Value::Null);
    }

    #[test]
    fn other_shapes_cannot_be_compared() {
        let error = compare(&tensor([2], &[0.0; 2]), &tensor([3], &[0.0; 3]), None, 1.0).expect_err("2 is not 3");
        assert_eq!(error.to_string(), "the shape is [2], the reference's [3]");
        let mask = Tensor::from_i64([1, 3], vec![1; 3]).expect("fits");
        assert!(compare(&tensor([1, 2], &[0.0; 2]), &tensor([1, 2], &[0.0; 2]), Some(&mask), 1.0).is_err());
    }
}
