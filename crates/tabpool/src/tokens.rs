//! What models say of single tokens: names in a text, the answer to a question, the words behind masks.
//!
//! Each text is a run of its own. The choices are those of transformers' pipelines: entities by the strategy "simple", answers
//! of at most fifteen tokens.

use tabpool_pipelines::labels::ScoredLabel;
use tabpool_pipelines::{Tokenized, Tokenizer};
use tabpool_pool::Answer;
use tabpool_tensor::Tensor;

use crate::classify::LOGITS;
use crate::error::Error;
use crate::model::Model;
use crate::runs::Answers;

const START_LOGITS: &str = "start_logits";
const END_LOGITS: &str = "end_logits";

/// The longest answer, in tokens.
const LONGEST_ANSWER: usize = 15;
/// The label of tokens that are part of nothing.
const OUTSIDE: &str = "O";

/// A part of a text, with what a model says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Where it begins in the text, in Unicode scalar values.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// The part.
    pub text: String,
    /// The probability that the model gives it.
    pub score: f32,
    /// What it is; empty for answers.
    pub label: String,
}

impl Model {
    /// The entities of each text: neighbouring tokens of one label, whose score is the mean of theirs. Labels are given without
    /// the `B-` and `I-` that mark an entity's first and later tokens; tokens labelled `O` are part of none.
    ///
    /// # Errors
    ///
    /// [`Error::Unfit`] where the model does not label tokens, [`Error::Text`] where it has no tokenizer or a text cannot be
    /// read by it, [`Error::Pool`] for the first run that failed.
    pub async fn find_entities<T: AsRef<str>>(&self, texts: &[T]) -> Result<Answers<Vec<Span>>, Error> {
        let names = self.handle().model().labels();
        let by_token = self.handle().signature().output(LOGITS).is_some_and(|output| output.dims.len() == 3);
        if !by_token || names.is_empty() {
            return Err(self.unfit("labels no tokens", "models for token classification do, as dslim/bert-base-NER"));
        }
        let inputs: Vec<_> = texts.iter().map(|text| (text.as_ref(), None)).collect();
        let (tokenized, said) = self.read_tokens(&inputs, &[LOGITS]).await?;
        let entities = |(tensors, (text, tokens)): (&Vec<Tensor>, (&T, &Tokenized))| {
            let rows = probabilities(&tensors[0], names.len())?;
            if rows.len() != tokens.ids.len() {
                return Err(self.unexpected(format!("{} labels for {} tokens", rows.len(), tokens.ids.len())));
            }
            Ok(entities(text.as_ref(), tokens, &rows, names))
        };
        let values = said.values.iter().zip(texts.iter().zip(&tokenized)).map(entities);
        Ok(Answers { values: values.collect::<Result<_, Error>>()?, runs: said.runs, truncated: said.truncated })
    }

    /// The likeliest answer to each question within its text. Of a text that is too long the end is left out.
    ///
    /// # Errors
    ///
    /// [`Error::Unfit`] where the model answers no questions, [`Error::Text`] where it has no tokenizer or a text cannot be
    /// read by it or holds no token, [`Error::Pool`] for the first run that failed.
    pub async fn answer_questions(&self, questions: &[(&str, &str)]) -> Result<Answers<Span>, Error> {
        let signature = self.handle().signature();
        if signature.output(START_LOGITS).is_none() || signature.output(END_LOGITS).is_none() {
            return Err(
                self.unfit("answers no questions", "models for question answering do, as deepset/roberta-base-squad2")
            );
        }
        let inputs: Vec<_> = questions.iter().map(|(question, text)| (*question, Some(*text))).collect();
        let (tokenized, said) = self.read_tokens(&inputs, &[START_LOGITS, END_LOGITS]).await?;
        let answer = |(tensors, ((_, text), tokens)): (&Vec<Tensor>, (&(&str, &str), &Tokenized))| {
            let (starts, ends) = (tensors[0].to_f32()?, tensors[1].to_f32()?);
            if starts.len() != tokens.ids.len() || ends.len() != tokens.ids.len() {
                return Err(self.unexpected(format!("{} places for {} tokens", starts.len(), tokens.ids.len())));
            }
            answer(text, tokens, &starts, &ends).ok_or_else(|| self.unfit("finds no token to answer with", ""))
        };
        let values = said.values.iter().zip(questions.iter().zip(&tokenized)).map(answer);
        Ok(Answers { values: values.collect::<Result<_, Error>>()?, runs: said.runs, truncated: said.truncated })
    }

    /// The `top` likeliest tokens behind each mask of each text, the likeliest first. A mask is written as the model's
    /// tokenizer writes it, mostly `[MASK]` or `<mask>`.
    ///
    /// # Errors
    ///
    /// [`Error::Unfit`] where the model fills no masks, [`Error::Text`] where it has no tokenizer or a text cannot be read by
    /// it, [`Error::Pool`] for the first run that failed.
    pub async fn fill_masks<T: AsRef<str>>(
        &self,
        texts: &[T],
        top: usize,
    ) -> Result<Answers<Vec<Vec<ScoredLabel>>>, Error> {
        let by_token = self.handle().signature().output(LOGITS).is_some_and(|output| output.dims.len() == 3);
        let mask = self.text_encoder()?.mask_id();
        let (true, true, Some(mask)) = (by_token, self.handle().model().labels().is_empty(), mask) else {
            return Err(self.unfit("fills no masks", "models for masked words do, as google-bert/bert-base-uncased"));
        };
        let inputs: Vec<_> = texts.iter().map(|text| (text.as_ref(), None)).collect();
        let (tokenized, said) = self.read_tokens(&inputs, &[LOGITS]).await?;
        let tokenizer = self.text_encoder()?.tokenizer();
        let fill = |(tensors, tokens): (&Vec<Tensor>, &Tokenized)| {
            let width = tensors[0].shape().dims().last().copied().unwrap_or(0).max(1);
            let values = tensors[0].to_f32()?;
            if values.len() != width * tokens.ids.len() {
                return Err(self.unexpected(format!("logits of shape {}", tensors[0].shape())));
            }
            let masks = values.chunks_exact(width).zip(&tokens.ids).filter(|(_, id)| **id == mask);
            Ok(masks.map(|(row, _)| likeliest(tokenizer, row, top)).collect())
        };
        let values = said.values.iter().zip(&tokenized).map(fill);
        Ok(Answers { values: values.collect::<Result<_, Error>>()?, runs: said.runs, truncated: said.truncated })
    }

    /// Texts or pairs as tokens, and what the model gives for each.
    async fn read_tokens(
        &self,
        texts: &[(&str, Option<&str>)],
        outputs: &[&str],
    ) -> Result<(Vec<Tokenized>, Answers<Vec<Tensor>>), Error> {
        let (encoder, handle) = (self.text_encoder()?, self.handle());
        let tokenized =
            texts.iter().map(|(text, pair)| encoder.tokenize(text, *pair)).collect::<Result<Vec<_>, _>>()?;
        let mut batches = Vec::new();
        for (index, tokens) in tokenized.iter().enumerate() {
            let inputs = encoder.encode_tokenized(tokens)?.inputs(handle.signature());
            batches.push(std::future::ready(Ok((vec![index], inputs))));
        }
        let read = |answer: &Answer| {
            let tensors = outputs.iter().map(|output| self.output(answer, output).cloned());
            Ok(vec![tensors.collect::<Result<Vec<_>, _>>()?])
        };
        let said = self.gather(handle, outputs, texts.len(), batches, read).await?;
        let truncated = (0..texts.len()).filter(|&text| tokenized[text].truncated).collect();
        Ok((tokenized, Answers { truncated, ..said }))
    }
}

/// Rows of logits as probabilities.
fn probabilities(logits: &Tensor, width: usize) -> Result<Vec<Vec<f32>>, Error> {
    Ok(logits.to_f32()?.chunks_exact(width.max(1)).map(softmax).collect())
}

#[expect(clippy::cast_possible_truncation, reason = "probabilities are f32")]
fn softmax(row: &[f32]) -> Vec<f32> {
    let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let powers: Vec<f64> = row.iter().map(|v| (f64::from(*v) - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| (power / sum) as f32).collect()
}

/// The place and value of the first of the largest.
fn largest(row: &[f32]) -> (usize, f32) {
    let first = (0, row.first().copied().unwrap_or(f32::NAN));
    row.iter().copied().enumerate().fold(first, |best, one| if one.1 > best.1 { one } else { best })
}

/// The characters of a text from one place to another.
fn part(text: &str, start: usize, end: usize) -> String {
    text.chars().skip(start).take(end.saturating_sub(start)).collect()
}

#[expect(clippy::cast_precision_loss, reason = "an entity has few tokens")]
fn entities(text: &str, tokens: &Tokenized, rows: &[Vec<f32>], names: &[String]) -> Vec<Span> {
    let mut spans: Vec<(Span, usize)> = Vec::new();
    let of_text = tokens.texts.iter().zip(&tokens.offsets).zip(rows).filter(|((text, _), _)| text.is_some());
    for ((_, &(start, end)), row) in of_text {
        let (index, score) = largest(row);
        let name = &names[index];
        let (first, label) = match (name.strip_prefix("B-"), name.strip_prefix("I-")) {
            (Some(label), _) => (true, label),
            (None, later) => (false, later.unwrap_or(name)),
        };
        match spans.last_mut() {
            Some((span, count)) if span.label == label && !first => {
                (span.end, span.score, *count) = (end, span.score + score, *count + 1);
            }
            _ => spans.push((Span { start, end, text: String::new(), score, label: label.to_owned() }, 1)),
        }
    }
    let whole = |(span, count): (Span, usize)| Span {
        text: part(text, span.start, span.end),
        score: span.score / count as f32,
        ..span
    };
    spans.into_iter().filter(|(span, _)| span.label != OUTSIDE).map(whole).collect()
}

/// The likeliest beginning and end among the tokens of the second text.
fn answer(text: &str, tokens: &Tokenized, starts: &[f32], ends: &[f32]) -> Option<Span> {
    let places: Vec<usize> = (0..tokens.ids.len()).filter(|&place| tokens.texts[place] == Some(1)).collect();
    let of = |all: &[f32]| softmax(&places.iter().map(|&place| all[place]).collect::<Vec<_>>());
    let (starts, ends) = (of(starts), of(ends));
    let mut best: Option<(usize, usize, f32)> = None;
    for (first, start) in starts.iter().enumerate() {
        let after = ends.iter().enumerate().skip(first).take(LONGEST_ANSWER);
        for (last, end) in after {
            if best.is_none_or(|(.., score)| start * end > score) {
                best = Some((first, last, start * end));
            }
        }
    }
    let (first, last, score) = best?;
    let (start, end) = (tokens.offsets[places[first]].0, tokens.offsets[places[last]].1);
    Some(Span { start, end, text: part(text, start, end), score, label: String::new() })
}

fn likeliest(tokenizer: &Tokenizer, row: &[f32], top: usize) -> Vec<ScoredLabel> {
    let scores = softmax(row);
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(top);
    let label = |index: usize| {
        let id = u32::try_from(index).unwrap_or(u32::MAX);
        // Special tokens have no text of their own.
        let text = tokenizer.decode(&[id]).unwrap_or_default();
        let label = if text.is_empty() { tokenizer.token(id).unwrap_or_default() } else { text.trim().to_owned() };
        ScoredLabel { index, label, score: scores[index] }
    };
    order.into_iter().map(label).collect()
}

#[cfg(test)]
mod tests {
    use tabpool_pipelines::Tokenized;

    use super::{answer, entities};

    /// `[CLS] who [SEP] Ada of Rome sings [SEP]`, or without the question.
    fn tokens(question: bool) -> Tokenized {
        let mut all = vec![(None, (0, 0))];
        if question {
            all.extend([(Some(0), (0, 3)), (None, (0, 0))]);
        }
        let text = usize::from(question);
        all.extend([(0, 3), (4, 6), (7, 11), (12, 17)].map(|offsets| (Some(text), offsets)));
        all.push((None, (0, 0)));
        let (texts, offsets): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let ids = vec![0; texts.len()];
        Tokenized { type_ids: ids.clone(), tokens: Vec::new(), ids, offsets, texts, truncated: false }
    }

    #[test]
    fn neighbours_of_one_label_are_one_entity_unless_a_new_one_begins() {
        let names = ["O", "B-PER", "I-PER", "LOC"].map(str::to_owned);
        let row = |index: usize, score: f32| {
            let mut row = vec![0.0; 4];
            row[index] = score;
            row
        };
        let found = |labels: [(usize, f32); 4]| {
            let mut rows = vec![row(1, 0.9)];
            rows.extend(labels.map(|(index, score)| row(index, score)));
            rows.push(row(1, 0.9));
            let spans = entities("Ada of Rome sings", &tokens(false), &rows, &names);
            spans.into_iter().map(|s| (s.text, s.label, s.score)).collect::<Vec<_>>()
        };
        let person = |text: &str, score| (text.to_owned(), "PER".to_owned(), score);
        assert_eq!(found([(1, 0.5), (2, 0.75), (0, 0.9), (0, 0.9)]), [person("Ada of", 0.625)]);
        assert_eq!(
            found([(1, 0.5), (1, 0.75), (0, 0.9), (3, 1.0)]),
            [person("Ada", 0.5), person("of", 0.75), ("sings".to_owned(), "LOC".to_owned(), 1.0)]
        );
        assert!(found([(0, 1.0); 4]).is_empty(), "special tokens are no entities");
    }

    #[test]
    fn an_answer_lies_in_the_text_and_ends_after_it_begins() {
        let tokens = tokens(true);
        // The likeliest beginning is in the question, and the likeliest end in the text before the likeliest beginning there.
        let starts = [9.0, 9.0, 9.0, 0.0, 1.0, 5.0, 0.0, 9.0];
        let ends = [9.0, 9.0, 9.0, 6.0, 0.0, 2.0, 4.0, 9.0];
        let found = answer("Ada of Rome sings", &tokens, &starts, &ends).expect("an answer");
        assert_eq!((found.start, found.end, found.text.as_str()), (7, 17, "Rome sings"));
        let nothing = Tokenized { texts: vec![None; 8], ..tokens };
        assert!(answer("", &nothing, &starts, &ends).is_none());
    }
}
