//! Generation: the programs that say one token after another, and what they keep between runs.
//!
//! A model that generates has up to three kinds of programs, its [`Stage`]s, which take turns on one set of states. With an
//! encoder, [`Stage::Encode`] reads the source and leaves what the decoder's layers see of it. [`Stage::Prefill`] reads a
//! part of the prompt, as often as there are parts. [`Stage::Step`] reads one token and says the next. For one [`Plan`] all
//! have the same states, so a worker runs them on one set, one after the other.
//!
//! The position, and where the choice is greedy the last token, are states too: greedy steps take no inputs, so that any
//! number of them can be in flight. What lies in a cache beyond the position is never seen, so a set can be used for the
//! next text as it is.
//!
//! **Prompts.** All sequences of a batch end their prompts together: shorter ones are padded on the left, and the input
//! `padding` says by how many tokens. A part of a prompt that is shorter than the plan's chunk is filled up on the right, and
//! `count` says how many of its tokens are real.

use tabpool_graph::{Binary, Op, Program, ValueId};
use tabpool_tensor::{DType, Shape, Tensor};

use crate::blocks::{Build, Built, Context, Cross, counted};
use crate::bucket::Ladder;
use crate::family::{Decoder, DecoderSizes};
use crate::model::{Entry, MAX_BATCH, Model};
use crate::signature::{INPUT_IDS, LOGITS, Signature, Sizes};
use crate::{Bucket, ModelError, RequestError};

/// The smallest capacity of caches, where positions allow it.
const SMALLEST_CAPACITY: usize = 64;

/// The most candidates that a step gives.
pub const MAX_CANDIDATES: usize = 1024;

const POSITION: &str = "position";
const TOKEN: &str = "token";
const PADDING: &str = "padding";
const HIDDEN_KEYS: &str = "hidden keys";
const HIDDEN_SOURCE: &str = "hidden source";
const START: &str = "start";
const COUNT: &str = "count";
const TOKEN_IDS: &str = "token_ids";
const CANDIDATES: &str = "candidates";
const FIRST_HIDDEN_STATE: &str = "first_hidden_state";

/// A kind of program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Reads the source, and begins a text: the position is 0, the last token the one that begins texts.
    Encode,
    /// Reads a part of the prompt.
    Prefill,
    /// Reads the last token.
    Step,
}

/// What prefill and steps give of the token that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Choice {
    /// The likeliest token, which the next step reads by itself: `token_ids`, `i32 [batch]`.
    Greedy,
    /// The likeliest tokens with their logits, as [`Op::TopK`] gives them: `candidates`, `f32 [batch, 2, k]`. The next step
    /// is told which one was chosen.
    Candidates(usize),
    /// All logits: `logits`, `f32 [batch, vocabulary]`. The next step is told which one was chosen.
    Logits,
}

/// The sizes of a generation's programs. Programs of plans that differ in anything but the chunk and the choice have
/// different states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Texts at the same time.
    pub batch: usize,
    /// Tokens of each, the prompt's included, that there is room for.
    pub capacity: usize,
    /// Tokens of a prompt that are read at once.
    pub chunk: usize,
    /// The length of the source for an encoder; 1 where the model has none.
    pub source: usize,
    /// What is given of the token that follows.
    pub choice: Choice,
}

/// An input, an output or a state of a program that generates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// `F32` or `I32`.
    pub dtype: DType,
    /// The static shape.
    pub shape: Shape,
}

impl Slot {
    fn new(name: &str, dtype: DType, dims: &[usize]) -> Self {
        Self { name: name.to_owned(), dtype, shape: dims.into() }
    }
}

/// How a model generates: which programs there are, with which states, inputs and outputs.
#[derive(Clone, Copy)]
pub struct Generation<'a> {
    model: &'a Model,
    decoder: &'a dyn Decoder,
}

impl std::fmt::Debug for Generation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation").field("sizes", &self.decoder.sizes()).finish_non_exhaustive()
    }
}

impl<'a> Generation<'a> {
    pub(crate) fn new(model: &'a Model, decoder: &'a dyn Decoder) -> Self {
        Self { model, decoder }
    }

    /// The stages there are, in the order of their runs.
    #[must_use]
    pub fn stages(&self) -> &'static [Stage] {
        if self.decoder.encoder().is_some() {
            &[Stage::Encode, Stage::Prefill, Stage::Step]
        } else {
            &[Stage::Prefill, Stage::Step]
        }
    }

    /// How many tokens there are to choose from.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.decoder.sizes().vocabulary
    }

    /// The ids that end a text, as the model's configuration names them; it may name none.
    #[must_use]
    pub fn ends(&self) -> Vec<i32> {
        let said = &self.model.generation_defaults().ends;
        if said.is_empty() { self.decoder.sizes().ends } else { said.clone() }
    }

    /// The id that begins a text where the model has an encoder; it is read without being in a prompt.
    #[must_use]
    pub fn begins(&self) -> Option<i32> {
        self.decoder.sizes().begins
    }

    /// The most tokens of a text, the prompt's included.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.decoder.sizes().positions
    }

    /// The capacities to choose from: powers of two, and at last what positions allow.
    #[must_use]
    pub fn capacities(&self) -> Vec<usize> {
        let most = self.max_tokens();
        let powers = (0..usize::BITS).map(|i| 1 << i).filter(|&c| (SMALLEST_CAPACITY..most).contains(&c));
        powers.chain([most]).collect()
    }

    /// The smallest capacity that holds so many tokens, those of the prompt included.
    ///
    /// # Errors
    /// [`RequestError::TooLong`], [`RequestError::Empty`].
    pub fn capacity_for(&self, tokens: usize) -> Result<usize, RequestError> {
        if tokens == 0 {
            return Err(RequestError::Empty { batch: 1, sequence: 0 });
        }
        let fits = self.capacities().into_iter().find(|&c| c >= tokens);
        fits.ok_or(RequestError::TooLong { got: tokens, limit: self.max_tokens() })
    }

    /// What the encoder takes, and the lengths of sources to choose from, ascending; `None` where there is no encoder.
    #[must_use]
    pub fn source(&self) -> Option<(Signature, Vec<usize>)> {
        let (signature, ladder) = self.decoder.encoder()?.inputs();
        Some((signature, ladder.sequences()))
    }

    /// Checks what the encoder is to read, narrows and pads it to the smallest length and number of texts that hold it: that of
    /// the plan, and the inputs of [`Stage::Encode`]. Inputs are named as in [`source`](Self::source).
    ///
    /// # Errors
    /// [`RequestError`] with the input's name; [`RequestError::UnknownInput`] where the model has no encoder.
    pub fn prepare_source(&self, inputs: &[(String, Tensor)]) -> Result<(Bucket, Vec<Tensor>), RequestError> {
        let Some(encoder) = self.decoder.encoder() else {
            let name = inputs.first().map(|(name, _)| name.clone()).unwrap_or_default();
            return Err(RequestError::UnknownInput { name, available: "no source: it has no encoder".to_owned() });
        };
        let (signature, ladder) = encoder.inputs();
        Entry { name: "source", signature, ladder }.prepare_inputs(inputs)
    }

    /// What every program of a plan keeps between runs, in order.
    ///
    /// # Errors
    /// [`ModelError::Plan`] where the plan does not fit the model.
    pub fn states(&self, plan: &Plan) -> Result<Vec<Slot>, ModelError> {
        self.check_plan(plan)?;
        let sizes = self.decoder.sizes();
        let Plan { batch, capacity, .. } = *plan;
        let mut states = vec![Slot::new(POSITION, DType::I32, &[1]), Slot::new(TOKEN, DType::I32, &[batch])];
        if self.pads(plan) {
            states.push(Slot::new(PADDING, DType::I32, &[batch, 1]));
            states.push(Slot::new(HIDDEN_KEYS, DType::F32, &[batch, 1, 1, capacity]));
        }
        for layer in 0..sizes.layers {
            for name in cache_names(layer) {
                states.push(Slot::new(&name, DType::F32, &[batch, capacity, sizes.width]));
            }
        }
        if let Some(encoder) = self.decoder.encoder() {
            let source = encoder.positions(plan.source);
            if encoder.masks() {
                states.push(Slot::new(HIDDEN_SOURCE, DType::F32, &[batch, 1, 1, source]));
            }
            for layer in 0..sizes.layers {
                for name in cross_names(layer) {
                    states.push(Slot::new(&name, DType::F32, &[batch, source, sizes.width]));
                }
            }
        }
        Ok(states)
    }

    /// The inputs of a program, in order.
    ///
    /// # Errors
    /// [`ModelError::Plan`] where the plan does not fit the model, or the stage is none of the model's.
    pub fn inputs(&self, stage: Stage, plan: &Plan) -> Result<Vec<Slot>, ModelError> {
        self.check_plan(plan)?;
        Ok(match stage {
            Stage::Encode => {
                let (signature, _) = self.encoder()?.inputs();
                let sizes = Sizes::of(Bucket { batch: plan.batch, sequence: plan.source });
                let slot =
                    |spec: &crate::InputSpec| Slot::new(spec.name, spec.program, &signature.sized(&spec.dims, &sizes));
                signature.inputs.iter().map(slot).collect()
            }
            Stage::Prefill => {
                let mut inputs = vec![
                    Slot::new(INPUT_IDS, DType::I32, &[plan.batch, plan.chunk]),
                    Slot::new(START, DType::I32, &[1]),
                    Slot::new(COUNT, DType::I32, &[1]),
                ];
                if self.pads(plan) {
                    inputs.push(Slot::new(PADDING, DType::I32, &[plan.batch]));
                }
                inputs
            }
            Stage::Step => match plan.choice {
                Choice::Greedy => Vec::new(),
                Choice::Candidates(_) | Choice::Logits => vec![Slot::new(INPUT_IDS, DType::I32, &[plan.batch])],
            },
        })
    }

    /// The outputs of a program, in order. What [`Stage::Encode`] gives is the first of the encoder's vectors, which nobody
    /// needs, but a run without outputs would give no sign of what became of it.
    ///
    /// # Errors
    /// As [`inputs`](Self::inputs).
    pub fn outputs(&self, stage: Stage, plan: &Plan) -> Result<Vec<Slot>, ModelError> {
        let program = self.program(stage, plan)?;
        let graph = program.graph();
        let slot = |o: &tabpool_graph::Output| {
            let value = graph.value(o.value);
            Slot { name: o.name.clone(), dtype: value.dtype, shape: value.shape.clone() }
        };
        Ok(graph.outputs().iter().map(slot).collect())
    }

    /// The program of a stage.
    ///
    /// # Errors
    /// As [`inputs`](Self::inputs), and [`ModelError::Graph`] where the plan's values are too large for the IR.
    pub fn program(&self, stage: Stage, plan: &Plan) -> Result<Program, ModelError> {
        let inputs = self.inputs(stage, plan)?;
        let bucket =
            Bucket { batch: plan.batch, sequence: if stage == Stage::Encode { plan.source } else { plan.chunk } };
        let mut b = Build::new(&self.model.weights, bucket);
        for slot in self.states(plan)? {
            b.declare_state(&slot.name, slot.dtype, slot.shape.dims())?;
        }
        for slot in inputs {
            b.declare(&slot.name, slot.dtype, slot.shape.dims())?;
        }
        let output = match stage {
            Stage::Encode => self.encode(&mut b, plan)?,
            Stage::Prefill => self.prefill(&mut b, plan)?,
            Stage::Step => self.step(&mut b, plan)?,
        };
        self.model.bind(b.finish(&[output], output)?)
    }

    /// Builds each program at its smallest, so that whatever is wrong with the model's files is found.
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        let source = self.source().and_then(|(_, lengths)| lengths.first().copied()).unwrap_or(1);
        let capacity = self.capacities().first().copied().unwrap_or(1);
        let plan = Plan { batch: 2, capacity, chunk: 2.min(capacity), source, choice: Choice::Greedy };
        self.stages().iter().try_for_each(|&stage| self.program(stage, &plan).map(drop))
    }

    fn encoder(&self) -> Result<&'a dyn crate::family::Encoder, ModelError> {
        self.decoder.encoder().ok_or_else(|| ModelError::Plan { reason: "the model has no encoder".to_owned() })
    }

    /// Whether prompts may be padded on the left: only where there is more than one, and each has tokens of its own.
    fn pads(&self, plan: &Plan) -> bool {
        plan.batch > 1 && self.decoder.encoder().is_none()
    }

    fn check_plan(&self, plan: &Plan) -> Result<(), ModelError> {
        let refuse = |reason: String| Err(ModelError::Plan { reason });
        let DecoderSizes { positions, vocabulary, .. } = self.decoder.sizes();
        if !(1..=MAX_BATCH).contains(&plan.batch) {
            return refuse(format!("a batch of {} texts, where 1 to {MAX_BATCH} are possible", plan.batch));
        }
        if !(1..=positions).contains(&plan.capacity) {
            return refuse(format!("a capacity of {} tokens, where the model has 1 to {positions}", plan.capacity));
        }
        if !(1..=plan.capacity).contains(&plan.chunk) {
            return refuse(format!("a chunk of {} tokens, where the capacity is {}", plan.chunk, plan.capacity));
        }
        if let Choice::Candidates(count) = plan.choice
            && !(1..=vocabulary.min(MAX_CANDIDATES)).contains(&count)
        {
            let most = vocabulary.min(MAX_CANDIDATES);
            return refuse(format!("{count} candidates a step, where 1 to {most} are possible"));
        }
        let ladder = self.decoder.encoder().map_or_else(|| Ladder::fixed(1, 1, 1, 1), |e| e.inputs().1);
        if !ladder.takes(plan.source) {
            return refuse(format!("a source of {}, where the model takes {:?}", plan.source, ladder.sequences()));
        }
        Ok(())
    }

    fn encode(&self, b: &mut Build<'_>, plan: &Plan) -> Result<&'static str, ModelError> {
        let encoder = self.encoder()?;
        let (hidden, bias) = encoder.encode(b)?;
        if let Some(bias) = bias {
            b.next(HIDDEN_SOURCE, bias)?;
        }
        for (layer, Cross { key, value }) in encoder.cross(b, hidden)?.into_iter().enumerate() {
            let [key_name, value_name] = cross_names(layer);
            b.next(&key_name, key)?;
            b.next(&value_name, value)?;
        }
        let begins = self.decoder.sizes().begins.unwrap_or(0);
        let token = b.integers("first token", &[plan.batch], vec![begins; plan.batch])?;
        b.next(TOKEN, token)?;
        let zero = b.integers("first position", &[1], vec![0])?;
        b.next(POSITION, zero)?;
        let first = b.at(FIRST_HIDDEN_STATE, hidden, 0)?;
        b.offer(FIRST_HIDDEN_STATE, first);
        Ok(FIRST_HIDDEN_STATE)
    }

    fn prefill(&self, b: &mut Build<'_>, plan: &Plan) -> Result<&'static str, ModelError> {
        let (ids, start, count) = (b.input(INPUT_IDS)?, b.input(START)?, b.input(COUNT)?);
        let mut padding = None;
        if self.pads(plan) {
            let input = b.input(PADDING)?;
            let column = b.reshape(PADDING, input, &[plan.batch, 1])?;
            b.next(PADDING, column)?;
            // Keys below a sequence's padding are hidden: 0 for those that count, so low for the others that they do not.
            let keys = counted(b, "keys", plan.capacity)?;
            let keys = b.reshape("keys", keys, &[1, plan.capacity])?;
            let above = b.binary("keys above padding", Binary::Sub, keys, column)?;
            let one = b.integers("one key", &[1], vec![1])?;
            let zero = b.integers("no key", &[1], vec![0])?;
            let above = b.add("keys above padding", above, one)?;
            let above = b.binary("keys above padding", Binary::Max, above, zero)?;
            let above = b.binary("keys above padding", Binary::Min, above, one)?;
            let real = b.float("real keys", above)?;
            let hidden = b.mask_bias(real)?;
            b.next(HIDDEN_KEYS, hidden)?;
            padding = Some((column, hidden));
        }
        let context = self.context(b, plan, ids, plan.chunk, start, padding)?;
        let hidden = self.decoder.decode(b, &context)?;
        let position = b.add(POSITION, start, count)?;
        b.next(POSITION, position)?;
        // The vector of the last real token, which is that of row `count - 1` of every sequence.
        let one = b.integers("one token", &[1], vec![1])?;
        let last = b.binary("last token", Binary::Sub, count, one)?;
        let rows = b.transpose("last token", hidden, &[1, 0, 2])?;
        let width = b.width(hidden);
        let row = b.gather("last token", rows, last)?;
        let row = b.reshape("last token", row, &[plan.batch, width])?;
        self.choose(b, plan, row)
    }

    fn step(&self, b: &mut Build<'_>, plan: &Plan) -> Result<&'static str, ModelError> {
        let position = b.state(POSITION)?;
        let token = match plan.choice {
            Choice::Greedy => b.state(TOKEN)?,
            Choice::Candidates(_) | Choice::Logits => {
                let token = b.input(INPUT_IDS)?;
                b.next(TOKEN, token)?;
                token
            }
        };
        let ids = b.reshape(TOKEN, token, &[plan.batch, 1])?;
        let padding = if self.pads(plan) { Some((b.state(PADDING)?, b.state(HIDDEN_KEYS)?)) } else { None };
        let context = self.context(b, plan, ids, 1, position, padding)?;
        let hidden = self.decoder.decode(b, &context)?;
        let one = b.integers("one token", &[1], vec![1])?;
        let next = b.add(POSITION, position, one)?;
        b.next(POSITION, next)?;
        let row = b.at("last token", hidden, 0)?;
        self.choose(b, plan, row)
    }

    /// What layers know of a run of `tokens` tokens from `start` on.
    fn context(
        &self,
        b: &mut Build<'_>,
        plan: &Plan,
        ids: ValueId,
        tokens: usize,
        start: ValueId,
        padding: Option<(ValueId, ValueId)>,
    ) -> Result<Context, ModelError> {
        let places = counted(b, "places", tokens)?;
        let places = b.reshape("places", places, &[1, tokens])?;
        let mut positions = b.add("positions", places, start)?;
        if let Some((padding, _)) = padding {
            // Sequences count from their first real token on; what is padded before it stays at 0.
            let zero = b.integers("first position", &[1], vec![0])?;
            positions = b.binary("positions", Binary::Sub, positions, padding)?;
            positions = b.binary("positions", Binary::Max, positions, zero)?;
        }
        let mut cross = Vec::new();
        let mut cross_bias = None;
        if let Some(encoder) = self.decoder.encoder() {
            for layer in 0..self.decoder.sizes().layers {
                let [key, value] = cross_names(layer);
                cross.push(Cross { key: b.state(&key)?, value: b.state(&value)? });
            }
            cross_bias = if encoder.masks() { Some(b.state(HIDDEN_SOURCE)?) } else { None };
        }
        Ok(Context {
            ids,
            tokens,
            positions,
            limit: plan.capacity,
            start,
            keys: plan.capacity,
            bias: padding.map(|(_, hidden)| hidden),
            cached: true,
            cross,
            cross_bias,
        })
    }

    /// What follows, out of the last tokens' vectors.
    fn choose(&self, b: &mut Build<'_>, plan: &Plan, row: ValueId) -> Result<&'static str, ModelError> {
        let logits = self.decoder.logits(b, row)?;
        let (name, value) = match plan.choice {
            Choice::Greedy => {
                let token: Built = b.node(TOKEN_IDS, Op::ArgMax, &[logits]);
                let token = token?;
                b.next(TOKEN, token)?;
                (TOKEN_IDS, token)
            }
            Choice::Candidates(k) => (CANDIDATES, b.node(CANDIDATES, Op::TopK { k }, &[logits])?),
            Choice::Logits => (LOGITS, logits),
        };
        b.offer(name, value);
        Ok(name)
    }
}

/// The states of a layer's own keys and values.
pub(crate) fn cache_names(layer: usize) -> [String; 2] {
    [format!("layer.{layer}.keys"), format!("layer.{layer}.values")]
}

/// The states of what a layer sees of the encoder.
fn cross_names(layer: usize) -> [String; 2] {
    [format!("layer.{layer}.source_keys"), format!("layer.{layer}.source_values")]
}
