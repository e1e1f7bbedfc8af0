//! Generation in ids: a session of the pool that is begun, goes on token by token, and is begun again elsewhere from the tokens
//! so far where its worker is lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tabpool_models::{Bucket, Choice, MAX_CANDIDATES, Plan, RequestError, Stage};
use tabpool_pipelines::{Sampling, TokenRule};
use tabpool_pool::{Answer, ModelHandle, Pending, PoolError, Session, Timing, WorkerId};
use tabpool_protocol::ApiKind;
use tabpool_tensor::{Precision, Tensor};

use super::GenerateOptions;
use crate::error::Error;

/// Steps under way where the next does not wait for what the last one said: enough that a worker never waits for the host.
const STEPS_AHEAD: usize = 4;
/// Tokens of a prompt that are read at once, at most and at least.
const CHUNKS: std::ops::RangeInclusive<usize> = 16..=256;
/// How often a session may be lost without having said a token in between.
const LOST_IN_A_ROW: u32 = 4;
/// How often the pool may be busy in a row.
const BUSY_IN_A_ROW: u32 = 100;

/// What texts begin with: ids, one list a text, and what an encoder reads.
#[derive(Clone, Debug, Default)]
pub struct TokenPrompt {
    /// The ids of each text. Without the one that begins texts where the model has an encoder; such texts may be empty, but
    /// have one length.
    pub ids: Vec<Vec<i32>>,
    /// What the encoder reads, as its signature names it; none where the model has no encoder.
    pub source: Vec<(String, Tensor)>,
}

/// One more token of each text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The token of each text; `None` where the text has ended before. A token that ends a text is the last one it gives.
    pub ids: Vec<Option<i32>>,
    /// What the worker took to compute them and to read them back, for all texts together. Where a prompt is read in several
    /// parts, the last of them.
    pub computed: Duration,
}

/// Where the time of a generation went, and where it was computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GenerationFigures {
    /// Tokens of prompts that were read, padding included, those that were read again after a loss too.
    pub read: usize,
    /// Tokens that were said, one for each text.
    pub steps: usize,
    /// From the beginning to the first token: the time of the loads, of the encoder and of the prompt.
    pub first_token: Duration,
    /// From the first token to the last.
    pub stepping: Duration,
    /// How often a worker was lost and the generation went on elsewhere.
    pub moved: u32,
    /// The bytes of what is kept between tokens.
    pub state_bytes: u64,
    /// Where the time of all runs together went.
    pub timing: Timing,
    /// The least exact arithmetic that was used.
    pub precision: Precision,
    /// Who computes, once somebody does.
    pub place: Option<(WorkerId, ApiKind)>,
}

/// Texts that are being generated, in ids. Dropping it ends the generation and frees what its worker keeps for it.
#[derive(Debug)]
pub struct TokenGeneration {
    handle: ModelHandle,
    sampling: Sampling,
    suppressed: Vec<i32>,
    /// Those, and what is not said first.
    suppressed_first: Vec<i32>,
    rules: Vec<Arc<dyn TokenRule>>,
    ends: Vec<i32>,
    plan: Plan,
    /// What the encoder reads, ready for it.
    source: Option<Vec<Tensor>>,
    /// Of each text: padding on the left, what it begins with, and every token so far. All have one length.
    written: Vec<Vec<i32>>,
    padding: Vec<i32>,
    /// Tokens that were given before the first one was said.
    given: usize,
    most: usize,
    /// How many of `written` are texts of the caller's; the others fill the batch.
    texts: usize,
    ended: Vec<bool>,
    session: Option<Session>,
    ahead: VecDeque<Pending>,
    lost_in_a_row: u32,
    busy_in_a_row: u32,
    begun: Instant,
    first: Option<Instant>,
    figures: GenerationFigures,
}

impl TokenGeneration {
    /// Prepares a generation. No worker is asked before the first token is.
    pub(crate) fn new(handle: ModelHandle, prompt: TokenPrompt, options: &GenerateOptions) -> Result<Self, Error> {
        options.sampling.check()?;
        let generation = handle.generation()?;
        let refused = |source| PoolError::Request { model: handle.name().to_owned(), source: Box::new(source) };
        let texts = prompt.ids.len();
        if texts == 0 {
            return Err(Error::Generation { reason: "there is no text to go on with".to_owned() });
        }
        check_ids(&prompt.ids, generation.vocabulary()).map_err(refused)?;

        let (mut written, mut source, mut bucket) = (prompt.ids, None, Bucket { batch: texts, sequence: 1 });
        if let Some(begins) = generation.begins() {
            let (fits, tensors) = generation.prepare_source(&prompt.source).map_err(refused)?;
            (bucket, source) = (fits, Some(tensors));
            for text in &mut written {
                text.insert(0, begins);
            }
        } else if let Some((name, _)) = prompt.source.first() {
            let available = "ids: it has no encoder".to_owned();
            return Err(refused(RequestError::UnknownInput { name: name.clone(), available }).into());
        }
        let given = written.iter().map(Vec::len).max().unwrap_or(0);
        let uneven = source.is_some() && written.iter().any(|text| text.len() != given);
        if uneven || written.iter().any(Vec::is_empty) || bucket.batch < texts {
            let reason = if uneven {
                "texts that follow a source have prompts of different lengths"
            } else if bucket.batch < texts {
                "there are more texts than sources"
            } else {
                "a text has no tokens"
            };
            return Err(Error::Generation { reason: reason.to_owned() });
        }
        let padding = written.iter().map(|text| i32::try_from(given - text.len()).unwrap_or(i32::MAX));
        let mut padding: Vec<i32> = padding.collect();
        for text in &mut written {
            text.splice(0..0, std::iter::repeat_n(0, given - text.len()));
        }
        // The batch's other rows say what its first does, to nobody.
        written.resize(bucket.batch, written[0].clone());
        padding.resize(bucket.batch, padding[0]);

        let room = generation.max_tokens();
        let most = options.max_new_tokens.min(room.saturating_sub(given));
        if most == 0 {
            let reason = if options.max_new_tokens == 0 {
                "no token is wanted".to_owned()
            } else {
                format!("the prompt has {given} tokens, and the model has room for {room} with what follows")
            };
            return Err(Error::Generation { reason });
        }
        // The last token is said, not read.
        let capacity = generation.capacity_for((given + most).saturating_sub(1).max(1)).map_err(refused)?;
        let vocabulary = generation.vocabulary();
        let mut suppressed = options.suppressed.clone();
        let mut suppressed_first = [&suppressed[..], &options.suppressed_first].concat();
        for list in [&mut suppressed, &mut suppressed_first] {
            list.sort_unstable();
            list.dedup();
        }
        let choice = if options.rules.is_empty() {
            choice(&options.sampling, suppressed_first.len(), vocabulary)
        } else {
            Choice::Logits
        };
        let chunk = given.next_power_of_two().clamp(*CHUNKS.start(), *CHUNKS.end()).min(capacity);
        let plan = Plan { batch: bucket.batch, capacity, chunk, source: bucket.sequence, choice };
        let ends = if options.ignore_ends { Vec::new() } else { generation.ends() };
        Ok(Self {
            sampling: options.sampling,
            suppressed,
            suppressed_first,
            rules: options.rules.clone(),
            ends,
            plan,
            source,
            ended: (0..written.len()).map(|row| row >= texts).collect(),
            written,
            padding,
            given,
            most,
            texts,
            session: None,
            ahead: VecDeque::new(),
            lost_in_a_row: 0,
            busy_in_a_row: 0,
            begun: Instant::now(),
            first: None,
            figures: GenerationFigures::default(),
            handle,
        })
    }

    /// The next token of every text that has not ended; `None` when all have, or have as many as were wanted. Dropping the
    /// future loses nothing: the next call goes on where this one was.
    ///
    /// # Errors
    ///
    /// [`Error::Pool`]. After an error the next call tries again.
    pub async fn next(&mut self) -> Result<Option<Tokens>, Error> {
        while !self.is_over() {
            let error = match self.advance().await {
                Ok(answer) => {
                    (self.lost_in_a_row, self.busy_in_a_row) = (0, 0);
                    return self.say(&answer).map(Some);
                }
                Err(error) => error,
            };
            match error {
                PoolError::SessionLost { reason } if self.lost_in_a_row < LOST_IN_A_ROW => {
                    tracing::info!(reason, "a generation is begun again from {} tokens", self.written[0].len());
                    self.lost_in_a_row += 1;
                    self.figures.moved += 1;
                    self.leave();
                }
                PoolError::Busy { retry_after, .. } if self.busy_in_a_row < BUSY_IN_A_ROW => {
                    self.busy_in_a_row += 1;
                    tokio::time::sleep(retry_after).await;
                }
                error => {
                    self.leave();
                    return Err(error.into());
                }
            }
        }
        self.leave();
        Ok(None)
    }

    /// Says no more of a text: whoever reads it has found its end.
    pub fn end(&mut self, text: usize) {
        if let Some(ended) = self.ended.get_mut(text) {
            *ended = true;
        }
        if self.is_over() {
            self.leave();
        }
    }

    /// How many texts there are.
    #[must_use]
    pub fn texts(&self) -> usize {
        self.texts
    }

    /// The tokens that were said of a text so far, up to the one that ended it.
    #[must_use]
    pub fn said(&self, text: usize) -> &[i32] {
        if text >= self.texts {
            return &[];
        }
        let said = &self.written[text][self.given..];
        let end = said.iter().position(|id| self.is_end(*id)).map_or(said.len(), |end| end + 1);
        &said[..end]
    }

    /// Whether a token ends a text.
    #[must_use]
    pub fn is_end(&self, id: i32) -> bool {
        self.ends.contains(&id)
    }

    /// What it took so far.
    #[must_use]
    pub fn figures(&self) -> &GenerationFigures {
        &self.figures
    }

    fn steps(&self) -> usize {
        self.written[0].len() - self.given
    }

    fn is_over(&self) -> bool {
        self.steps() >= self.most || self.ended.iter().all(|ended| *ended)
    }

    /// Gives up the session, and what is under way on it.
    fn leave(&mut self) {
        self.ahead.clear();
        self.session = None;
    }

    /// What a worker says of the next token.
    async fn advance(&mut self) -> Result<Answer, PoolError> {
        let Some(session) = &self.session else {
            let (session, answer) = self.begin().await?;
            self.figures.place = session.place();
            self.figures.state_bytes = session.bytes();
            self.session = Some(session);
            return Ok(answer);
        };
        // Greedy steps read by themselves what the one before has said, so that several can be under way.
        let (greedy, left) = (self.plan.choice == Choice::Greedy, self.most - self.steps());
        let wanted = if greedy { STEPS_AHEAD.min(left) } else { 1 };
        while self.ahead.len() < wanted {
            self.ahead.push_back(session.submit(Stage::Step, &self.plan, self.step_inputs()?).await?);
        }
        // It stays in the queue until its answer is here: whoever drops this future has lost nothing.
        let answer = match self.ahead.front_mut() {
            Some(pending) => pending.await,
            None => Err(PoolError::Closed),
        };
        self.ahead.pop_front();
        answer
    }

    /// Begins a session: has everything read that was written so far. What it gives says the next token.
    async fn begin(&mut self) -> Result<(Session, Answer), PoolError> {
        let session = self.handle.session(self.plan)?.expecting(self.most - self.steps());
        let length = self.written[0].len();
        if let Some(source) = &self.source {
            session.begin(Stage::Encode, &self.plan, source.clone()).await?;
            if length == 1 {
                // The encoder has left the first token for the first step.
                let answer = session.submit(Stage::Step, &self.plan, self.step_inputs()?).await?.await?;
                return Ok((session, answer));
            }
        }
        self.figures.read += length * self.texts;
        let mut under_way = VecDeque::new();
        let mut answer = None;
        for start in (0..length).step_by(self.plan.chunk) {
            let inputs = self.chunk_inputs(start, self.plan.chunk.min(length - start))?;
            if start == 0 && self.source.is_none() {
                answer = Some(session.begin(Stage::Prefill, &self.plan, inputs).await?);
            } else {
                under_way.push_back(session.submit(Stage::Prefill, &self.plan, inputs).await?);
            }
        }
        for pending in under_way {
            answer = Some(pending.await?);
        }
        answer.map(|answer| (session, answer)).ok_or(PoolError::Closed)
    }

    /// The inputs of the step that reads the last tokens; none where they are in the states.
    fn step_inputs(&self) -> Result<Vec<Tensor>, PoolError> {
        if self.plan.choice == Choice::Greedy {
            return Ok(Vec::new());
        }
        let last = self.written.iter().filter_map(|text| text.last().copied()).collect();
        Ok(vec![integers(&[self.plan.batch], last)?])
    }

    /// The inputs that have a part of what is written read.
    fn chunk_inputs(&self, start: usize, count: usize) -> Result<Vec<Tensor>, PoolError> {
        let mut ids = Vec::with_capacity(self.plan.batch * self.plan.chunk);
        for (row, text) in self.written.iter().enumerate() {
            ids.extend_from_slice(&text[start..start + count]);
            ids.resize((row + 1) * self.plan.chunk, 0);
        }
        let one = |n: usize| integers(&[1], vec![i32::try_from(n).unwrap_or(i32::MAX)]);
        let mut inputs = vec![integers(&[self.plan.batch, self.plan.chunk], ids)?, one(start)?, one(count)?];
        if self.source.is_none() && self.plan.batch > 1 {
            inputs.push(integers(&[self.plan.batch], self.padding.clone())?);
        }
        Ok(inputs)
    }

    /// Takes the next token of every text out of an answer.
    fn say(&mut self, answer: &Answer) -> Result<Tokens, Error> {
        let wrong = |reason: String| Error::Generation { reason: format!("{}: {reason}", answer.worker) };
        let (_, tensor) = answer.outputs.first().ok_or_else(|| wrong("an answer without an output".to_owned()))?;
        let batch = self.plan.batch;
        let mut ids = Vec::with_capacity(batch);
        if self.plan.choice == Choice::Greedy {
            ids.extend_from_slice(&tensor.to_i32()?);
        } else {
            let values = tensor.to_f32()?;
            let suppressed = if self.steps() == 0 { &self.suppressed_first } else { &self.suppressed };
            for (row, values) in values.chunks_exact(values.len() / batch).enumerate() {
                // Padding is no part of the text.
                let padding = usize::try_from(self.padding[row]).unwrap_or(0);
                let written = &self.written[row][padding..];
                let chosen = match self.plan.choice {
                    Choice::Candidates(k) => {
                        let (logits, places) = values.split_at(k);
                        #[expect(clippy::cast_possible_truncation, reason = "positions below 2^24, as floats")]
                        let candidates = places.iter().zip(logits).map(|(place, logit)| (*place as i32, *logit));
                        self.sampling.choose(candidates, written, suppressed, row)
                    }
                    _ => {
                        let mut logits = values.to_vec();
                        for rule in &self.rules {
                            rule.apply(&self.written[row][self.given..], &mut logits);
                        }
                        self.sampling.choose((0..).zip(logits), written, suppressed, row)
                    }
                };
                ids.push(chosen.ok_or_else(|| wrong("no logit is a number".to_owned()))?);
            }
        }
        let vocabulary = self.handle.generation()?.vocabulary();
        if ids.len() != batch || ids.iter().any(|&id| usize::try_from(id).map_or(true, |id| id >= vocabulary)) {
            return Err(wrong(format!("{ids:?} are no {batch} tokens of {vocabulary}")));
        }
        for (text, id) in self.written.iter_mut().zip(&ids) {
            text.push(*id);
        }
        let now = Instant::now();
        let first = *self.first.get_or_insert(now);
        self.figures.first_token = first - self.begun;
        self.figures.stepping = now - first;
        self.figures.steps += 1;
        self.figures.precision = answer.precision;
        let (sum, one) = (&mut self.figures.timing, &answer.timing);
        sum.queue_wait += one.queue_wait;
        sum.transfer += one.transfer;
        sum.compute += one.compute;
        sum.readback += one.readback;
        sum.total = now - self.begun;
        let said = ids.iter().zip(&self.ended).take(self.texts);
        let tokens = Tokens {
            ids: said.map(|(id, ended)| (!ended).then_some(*id)).collect(),
            computed: answer.timing.compute + answer.timing.readback,
        };
        for (ended, id) in self.ended.iter_mut().zip(&ids) {
            *ended |= self.ends.contains(id);
        }
        if self.is_over() {
            self.leave();
        }
        Ok(tokens)
    }
}

/// What the programs are to give so that the next token can be chosen.
fn choice(sampling: &Sampling, suppressed: usize, vocabulary: usize) -> Choice {
    if sampling.is_greedy() && !sampling.penalises() && suppressed == 0 {
        return Choice::Greedy;
    }
    // Powers of two, so that programs are few.
    match sampling.candidates(suppressed).map(usize::next_power_of_two) {
        Some(k) if k <= MAX_CANDIDATES && k < vocabulary => Choice::Candidates(k),
        _ => Choice::Logits,
    }
}

fn check_ids(texts: &[Vec<i32>], vocabulary: usize) -> Result<(), RequestError> {
    let end = i32::try_from(vocabulary).unwrap_or(i32::MAX);
    for (row, text) in texts.iter().enumerate() {
        if let Some(at) = text.iter().position(|id| !(0..end).contains(id)) {
            let (name, value) = ("input_ids".to_owned(), i64::from(text[at]));
            return Err(RequestError::Value { name, value, position: vec![row, at], start: 0, end });
        }
    }
    Ok(())
}

fn integers(dims: &[usize], values: Vec<i32>) -> Result<Tensor, PoolError> {
    let unfit =
        |e: tabpool_tensor::TensorError| PoolError::Answer { worker: "this host".to_owned(), reason: e.to_string() };
    Tensor::from_i32(dims, values).map_err(unfit)
}
