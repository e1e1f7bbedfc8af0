//! Documents in the order in which they answer a query, by a cross-encoder: a model that reads query and document together.

use crate::error::Error;
use crate::model::Model;
use crate::runs::Answers;

/// A document with its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Which of the documents given.
    pub document: usize,
    /// How well it answers the query, as the model's configuration scales that: mostly a probability.
    pub score: f32,
}

impl Model {
    /// Scores documents for a query; the best comes first, equal ones in their order. Of a pair that is too long the longer
    /// text is cut.
    ///
    /// # Errors
    ///
    /// [`Error::Unfit`] where the model does not give a pair of texts one score, [`Error::Text`] where it has no tokenizer or a
    /// text cannot be read by it, [`Error::Pool`] for the first run that failed.
    pub async fn rerank<T: AsRef<str>>(&self, query: &str, documents: &[T]) -> Result<Answers<Ranked>, Error> {
        let handle = self.texts_in()?;
        let hint = "a reranker is a cross-encoder, as cross-encoder/ms-marco-MiniLM-L6-v2";
        self.classes(&handle, "texts").map_err(|_| self.unfit("gives pairs of texts no score", hint))?;
        let count = self.labels()?.names().len();
        if count != 1 {
            return Err(self.unfit(format!("tells {count} classes apart, where a reranker gives one score"), hint));
        }
        let pairs: Vec<(&str, &str)> = documents.iter().map(|document| (query, document.as_ref())).collect();
        let batches = self.text_encoder()?.pair_batches(&pairs, self.together(&handle, pairs.len()))?;
        let Answers { values, runs, truncated } = self.classify_batches(&handle, batches, 1).await?;
        let scores = values.into_iter().map(|labels| labels.first().map_or(f32::NEG_INFINITY, |label| label.score));
        let mut values: Vec<_> = scores.enumerate().map(|(document, score)| Ranked { document, score }).collect();
        values.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ok(Answers { values, runs, truncated })
    }
}
