//! Embeddings: one vector for each text, picture or sound, in their order, with what it took to get them.

use tabpool_pipelines::{SimilarityError, similarity_matrix};
use tabpool_tensor::{Tensor, TensorError};

use crate::runs::Run;

/// The embeddings of some texts, pictures or sounds, row by row in the order in which these were given.
#[derive(Clone, Debug, Default)]
pub struct Embeddings {
    pub(crate) dimension: usize,
    pub(crate) values: Vec<f32>,
    pub(crate) runs: Vec<Run>,
    pub(crate) truncated: Vec<usize>,
}

impl Embeddings {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.dimension).unwrap_or(0)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// How many numbers each has; 0 where there are none.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The embedding of one of them.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[f32]> {
        let start = index.checked_mul(self.dimension)?;
        self.values.get(start..start.checked_add(self.dimension)?).filter(|row| !row.is_empty())
    }

    /// Each embedding, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dimension.max(1))
    }

    /// The runs that gave them, in the order in which they ended.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The texts of which a part was cut off because the model takes no more tokens.
    #[must_use]
    pub fn truncated(&self) -> &[usize] {
        &self.truncated
    }

    /// All of them as one tensor, `f32 [embeddings, dimension]`.
    ///
    /// # Errors
    ///
    /// Never where they came from a model.
    pub fn to_tensor(&self) -> Result<Tensor, TensorError> {
        Tensor::from_f32([self.len(), self.dimension], self.values.clone())
    }

    /// The cosine of each with each, as `f32 [embeddings, embeddings]`.
    ///
    /// # Errors
    ///
    /// Never where they came from a model.
    pub fn similarity(&self) -> Result<Tensor, SimilarityError> {
        let all = self.to_tensor()?;
        similarity_matrix(&all, &all)
    }
}

#[cfg(test)]
mod tests {
    use super::Embeddings;

    #[test]
    fn rows_are_in_order_and_none_is_made_up() {
        let embeddings = Embeddings { dimension: 2, values: vec![1.0, 0.0, 0.0, 2.0], ..Embeddings::default() };
        assert_eq!((embeddings.len(), embeddings.get(1), embeddings.get(2)), (2, Some(&[0.0, 2.0][..]), None));
        assert_eq!(embeddings.iter().collect::<Vec<_>>(), [[1.0, 0.0], [0.0, 2.0]]);
        let cosines = embeddings.similarity().expect("rows of one length");
        assert_eq!(cosines.to_f32().expect("floats").as_ref(), [1.0, 0.0, 0.0, 1.0]);
        let none = Embeddings::default();
        assert_eq!((none.len(), none.get(0), none.iter().len(), none.get(usize::MAX)), (0, None, 0, None));
    }
}
