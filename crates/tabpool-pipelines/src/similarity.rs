//! Comparing embeddings.

use tabpool_tensor::Tensor;

use crate::SimilarityError;

/// The cosine of the angle between two vectors: 1 for the same direction, 0 where one of them has no length.
///
/// # Errors
/// [`SimilarityError::Length`] where they have different numbers of elements.
pub fn cosine_similarity(a: &[f32], b: &[f32]) -> Result<f32, SimilarityError> {
    if a.len() != b.len() {
        return Err(SimilarityError::Length { a: a.len(), b: b.len() });
    }
    Ok(cosine(a, b, length(a) * length(b)))
}

/// The cosine of each row of `a [N, D]` with each row of `b [M, D]`, as `f32 [N, M]`.
///
/// # Errors
/// [`SimilarityError`] where the shapes do not fit or a tensor does not hold floating-point numbers.
pub fn similarity_matrix(a: &Tensor, b: &Tensor) -> Result<Tensor, SimilarityError> {
    let size = |t: &Tensor| match *t.shape().dims() {
        [rows, width] => Ok((rows, width)),
        _ => Err(SimilarityError::Shape { got: t.shape().dims().to_vec() }),
    };
    let ((n, width), (m, other)) = (size(a)?, size(b)?);
    if width != other {
        return Err(SimilarityError::Length { a: width, b: other });
    }
    let (a, b) = (a.to_f32()?, b.to_f32()?);
    let row = |t: &'_ [f32], i: usize| t[i * width..][..width].to_vec();
    let lengths: Vec<f64> = (0..m).map(|j| length(&b[j * width..][..width])).collect();
    let mut values = Vec::with_capacity(n.saturating_mul(m));
    for i in 0..n {
        let one = row(&a, i);
        let own = length(&one);
        values.extend((0..m).map(|j| cosine(&one, &b[j * width..][..width], own * lengths[j])));
    }
    Ok(Tensor::from_f32([n, m], values)?)
}

/// Summed in `f64`: with hundreds of elements the last digits of an `f32` sum would be noise.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn length(a: &[f32]) -> f64 {
    dot(a, a).sqrt()
}

#[expect(clippy::cast_possible_truncation, reason = "a cosine of f32 vectors is given as f32")]
fn cosine(a: &[f32], b: &[f32], lengths: f64) -> f32 {
    if lengths > 0.0 { (dot(a, b) / lengths) as f32 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use tabpool_tensor::Tensor;

    use super::{cosine_similarity, similarity_matrix};
    use crate::SimilarityError;

    #[test]
    fn directions_count_and_lengths_do_not() {
        let close = |a: &[f32], b: &[f32], want: f32| {
            assert!((cosine_similarity(a, b).expect("equal lengths") - want).abs() < 1e-6);
        };
        close(&[3.0, 4.0], &[6.0, 8.0], 1.0);
        close(&[1.0, 0.0], &[0.0, 5.0], 0.0);
        close(&[1.0, 1.0], &[-2.0, 0.0], -0.5f32.sqrt());
        close(&[0.0, 0.0], &[1.0, 2.0], 0.0);
        assert_eq!(cosine_similarity(&[1.0], &[]), Err(SimilarityError::Length { a: 1, b: 0 }));
    }

    #[test]
    fn a_matrix_holds_every_pair() {
        let a = Tensor::from_f32([2, 2], vec![1.0, 0.0, 1.0, 1.0]).expect("fits");
        let b = Tensor::from_f32([3, 2], vec![2.0, 0.0, 0.0, 3.0, -1.0, -1.0]).expect("fits");
        let got = similarity_matrix(&a, &b).expect("fits");
        assert_eq!(got.shape().dims(), [2, 3]);
        let half = 0.5f32.sqrt();
        for (got, want) in got.to_f32().expect("floats").iter().zip([1.0, 0.0, -half, half, half, -1.0]) {
            assert!((got - want).abs() < 1e-6, "{got} is not {want}");
        }
        let flat = Tensor::from_f32([4], vec![0.0; 4]).expect("fits");
        assert_eq!(similarity_matrix(&a, &flat), Err(SimilarityError::Shape { got: vec![4] }));
    }
}
