//! One case: a graph, its weights and the inputs of two runs; how it is sketched and how it is checked.

use std::collections::BTreeMap;

use tabpool_graph::{Graph, GraphBuilder, GraphError, Op, ProgramError, ValueId};
use tabpool_tensor::{DType, Precision, Shape, Tensor, TensorError};

use super::random::Random;
use super::weights::MemoryWeights;
use super::{CaseResult, Outcome};
use crate::backend::{Backend, EngineError};
use crate::oracle;
use crate::state::StateSpec;

/// Why a case could not be made. A bug of the suite, not of a backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaseError {
    /// The graph is not valid.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The weights do not fit the graph.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A tensor does not fit its shape.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The oracle refused the case.
    #[error(transparent)]
    Oracle(#[from] EngineError),
}

/// A graph, its weights and the inputs of some runs.
#[derive(Clone, Debug)]
pub struct Case {
    pub(super) name: String,
    pub(super) graph: Graph,
    /// The graph the oracle evaluates, where it is not the one the backend runs: before the passes.
    pub(super) reference: Option<Graph>,
    pub(super) weights: BTreeMap<String, Tensor>,
    pub(super) runs: Vec<Vec<Tensor>>,
    pub(super) tolerance: f64,
    /// The least exact arithmetic that its linear nodes may be computed with.
    pub(super) precision: Precision,
}

impl Case {
    /// The case's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The graph a backend is to run, its weights unbound; see [`MemoryWeights::bind`].
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The weights' tensors by name, as stored.
    #[must_use]
    pub fn weights(&self) -> &BTreeMap<String, Tensor> {
        &self.weights
    }

    /// The inputs of each run.
    #[must_use]
    pub fn runs(&self) -> &[Vec<Tensor>] {
        &self.runs
    }

    /// What the outputs of a first run should be.
    ///
    /// # Errors
    /// [`EngineError`] where the oracle refuses the inputs.
    pub fn expected(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, EngineError> {
        self.expected_on(&mut self.new_states(), inputs)
    }

    /// What the states are before the first run.
    pub(super) fn new_states(&self) -> Vec<Tensor> {
        oracle::new_states(&self.graph)
    }

    /// What the outputs of a run over states of these contents should be; the states become what they should.
    pub(super) fn expected_on(&self, states: &mut Vec<Tensor>, inputs: &[Tensor]) -> Result<Vec<Tensor>, EngineError> {
        let graph = self.reference.as_ref().unwrap_or(&self.graph);
        oracle::run_on(graph, &|id| self.weights.get(&graph.value(id).name).cloned(), states, inputs)
    }

    /// The case with the graph after every pass, still compared to the one before.
    ///
    /// # Errors
    /// [`CaseError::Graph`] where a pass breaks the graph.
    pub fn optimised(&self) -> Result<Self, CaseError> {
        let graph = tabpool_graph::passes::optimise(self.graph.clone())?;
        let name = format!("{}, optimised", self.name);
        Ok(Self { name, graph, reference: Some(self.graph.clone()), ..self.clone() })
    }

    /// Loads the case's program and compares every run to the oracle.
    pub async fn check(&self, backend: &dyn Backend) -> CaseResult {
        let mut worst_error = 0.0;
        let outcome = match self.check_runs(backend, &mut worst_error).await {
            Ok(()) => Outcome::Passed,
            Err(outcome) => outcome,
        };
        CaseResult { name: self.name.clone(), worst_error, tolerance: self.tolerance, outcome }
    }

    async fn check_runs(&self, backend: &dyn Backend, worst: &mut f64) -> Result<(), Outcome> {
        let mut source = MemoryWeights::new();
        let program = source.bind(self.graph.clone(), &self.weights).map_err(failure)?.permitting(self.precision);
        let loaded = backend.load(&program, &source).await.map_err(refusal)?;
        let came_to = loaded.report.precision;
        if !came_to.within(self.precision) {
            return Err(Outcome::Failed(format!("computes in {came_to}, {} is permitted", self.precision)));
        }
        let specs = StateSpec::of(&self.graph);
        let mut want = self.new_states();
        let states = if specs.is_empty() { None } else { Some(backend.new_states(&specs).await.map_err(refusal)?) };
        for (n, inputs) in self.runs.iter().enumerate() {
            let got = match &states {
                None => loaded.executable.run(inputs).await,
                Some(states) => loaded.executable.run_on(states, inputs).await,
            };
            let got = got.map_err(refusal)?;
            let error = self.compare_on(&mut want, inputs, &got.tensors);
            *worst = worst.max(error.map_err(|e| Outcome::Failed(format!("run {n}: {e}")))?);
        }
        Ok(())
    }

    /// The worst error of a first run's outputs.
    ///
    /// # Errors
    /// What differs, where the outputs are not those the oracle gives, within the tolerance.
    pub fn compare(&self, inputs: &[Tensor], got: &[Tensor]) -> Result<f64, String> {
        self.compare_on(&mut self.new_states(), inputs, got)
    }

    /// The same for a run over states of these contents, which become what they should.
    pub(super) fn compare_on(
        &self,
        states: &mut Vec<Tensor>,
        inputs: &[Tensor],
        got: &[Tensor],
    ) -> Result<f64, String> {
        let want = self.expected_on(states, inputs).map_err(|e| format!("the oracle: {e}"))?;
        if got.len() != want.len() {
            return Err(format!("gives {} outputs, {} are named", got.len(), want.len()));
        }
        let mut worst = 0.0f64;
        for (n, (got, want)) in got.iter().zip(&want).enumerate() {
            let error = difference(got, want, self.tolerance).map_err(|e| format!("output {n}: {e}"))?;
            worst = worst.max(error);
        }
        Ok(worst)
    }
}

fn failure(e: impl std::fmt::Display) -> Outcome {
    Outcome::Failed(e.to_string())
}

fn refusal(e: EngineError) -> Outcome {
    match e {
        EngineError::Unsupported { .. } => Outcome::Unsupported(e.to_string()),
        _ => failure(e),
    }
}

/// The result of a case that failed before any number was compared.
pub(super) fn failed(name: &str, reason: String) -> CaseResult {
    CaseResult { name: name.to_owned(), worst_error: 0.0, tolerance: 0.0, outcome: Outcome::Failed(reason) }
}

/// The worst error of a tensor, or what is wrong with it: the position, what is there and what should be.
fn difference(got: &Tensor, want: &Tensor, tolerance: f64) -> Result<f64, String> {
    if (got.dtype(), got.shape()) != (want.dtype(), want.shape()) {
        return Err(format!("is {}{}, should be {}{}", got.dtype(), got.shape(), want.dtype(), want.shape()));
    }
    let numbers = |t: &Tensor| -> Result<Vec<f64>, TensorError> {
        Ok(match t.dtype() {
            DType::I32 => t.to_i32()?.iter().map(|&v| f64::from(v)).collect(),
            _ => t.to_f32()?.iter().map(|&v| f64::from(v)).collect(),
        })
    };
    let (got, want) = (numbers(got).map_err(|e| e.to_string())?, numbers(want).map_err(|e| e.to_string())?);
    let mut worst = 0.0f64;
    for (at, (&got, &want)) in got.iter().zip(&want).enumerate() {
        let error = if got == want { 0.0 } else { (got - want).abs() / want.abs().max(1.0) };
        if error.is_nan() || error > tolerance {
            return Err(format!("element {at} is {got}, should be {want}: error {error:.1e} of {tolerance:.0e}"));
        }
        worst = worst.max(error);
    }
    Ok(worst)
}

/// What an input is filled with; another seed in each run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fill {
    /// Numbers of this range.
    Uniform(f32, f32),
    /// These numbers in turn, over and over.
    Cycle(&'static [f32]),
    /// Whole numbers of this range, its end left out.
    Integers(i32, i32),
    /// An additive mask: 0 or this number, at random.
    Mask(f32),
    /// Positions of an attention mask as tokenizers give it: ones up to a random length, then zeros.
    Prefix,
    /// One whole number everywhere, the next of these in each run.
    Each(&'static [i32]),
    /// Numbers of -1 to 1 in as many of the rows of dimension 1 as the next of these says; what follows is no number.
    Rows(&'static [usize]),
}

impl Fill {
    /// Numbers a kernel should find harmless.
    pub(super) const PLAIN: Fill = Fill::Uniform(-2.0, 2.0);

    fn dtype(self) -> DType {
        match self {
            Fill::Uniform(..) | Fill::Cycle(_) | Fill::Mask(_) | Fill::Rows(_) => DType::F32,
            Fill::Integers(..) | Fill::Prefix | Fill::Each(_) => DType::I32,
        }
    }

    fn tensor(self, random: &mut Random, shape: &Shape, run: usize) -> Result<Tensor, TensorError> {
        let elements = 0..shape.elements();
        match self {
            Fill::Uniform(low, high) => random.tensor(DType::F32, shape, low, high),
            Fill::Cycle(values) => {
                Tensor::from_f32(shape.clone(), elements.map(|i| values[i % values.len()]).collect())
            }
            Fill::Mask(hidden) => {
                let one = |_| if random.below(3) == 0 { hidden } else { 0.0 };
                Tensor::from_f32(shape.clone(), elements.map(one).collect())
            }
            Fill::Each(numbers) => {
                Tensor::from_i32(shape.clone(), elements.map(|_| numbers[run % numbers.len()]).collect())
            }
            Fill::Rows(rows) => {
                let (rows, width) = (rows[run % rows.len()], shape[2..].iter().product::<usize>());
                let one = |i: usize| if i / width % shape[1] < rows { random.uniform(-1.0, 1.0) } else { f32::NAN };
                Tensor::from_f32(shape.clone(), elements.map(one).collect())
            }
            Fill::Integers(low, high) => {
                let width = usize::try_from(high - low).unwrap_or(1);
                let one = |_| low + i32::try_from(random.below(width)).unwrap_or(0);
                Tensor::from_i32(shape.clone(), elements.map(one).collect())
            }
            Fill::Prefix => {
                let width = shape.last().copied().unwrap_or(1);
                let lengths: Vec<_> = (0..shape.elements() / width).map(|_| 1 + random.below(width)).collect();
                Tensor::from_i32(shape.clone(), elements.map(|i| i32::from(i % width < lengths[i / width])).collect())
            }
        }
    }
}

/// A case in the making.
pub(super) struct Sketch {
    name: String,
    builder: GraphBuilder,
    random: Random,
    weights: BTreeMap<String, Tensor>,
    inputs: Vec<(Shape, Fill)>,
    nodes: usize,
    runs: usize,
}

impl Sketch {
    pub(super) fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        let random = Random::named(&name);
        let (builder, weights) = (GraphBuilder::new(), BTreeMap::new());
        Self { name, builder, random, weights, inputs: Vec::new(), nodes: 0, runs: 2 }
    }

    pub(super) fn input(&mut self, shape: impl Into<Shape>, fill: Fill) -> Result<ValueId, CaseError> {
        let shape = shape.into();
        let id = self.builder.input(&format!("in{}", self.inputs.len()), fill.dtype(), shape.clone())?;
        self.inputs.push((shape, fill));
        Ok(id)
    }

    /// A weight of numbers of `-1/sqrt(width)..1/sqrt(width)` times two, as trained layers have them.
    pub(super) fn weight(&mut self, stored: DType, shape: impl Into<Shape>) -> Result<ValueId, CaseError> {
        let shape = shape.into();
        #[expect(clippy::cast_precision_loss, reason = "a width, not exact to begin with")]
        let bound = 2.0 / (shape.last().copied().unwrap_or(1) as f32).sqrt();
        self.weight_between(stored, shape, -bound, bound)
    }

    pub(super) fn weight_between(
        &mut self,
        stored: DType,
        shape: impl Into<Shape>,
        low: f32,
        high: f32,
    ) -> Result<ValueId, CaseError> {
        let (name, shape) = (format!("w{}", self.weights.len()), shape.into());
        let id = self.builder.weight(&name, stored, shape.clone())?;
        self.weights.insert(name, self.random.tensor(stored, &shape, low, high)?);
        Ok(id)
    }

    /// A weight of these very numbers.
    pub(super) fn weight_of(&mut self, tensor: Tensor) -> Result<ValueId, CaseError> {
        let name = format!("w{}", self.weights.len());
        let id = self.builder.weight(&name, tensor.dtype(), tensor.shape().clone())?;
        self.weights.insert(name, tensor);
        Ok(id)
    }

    pub(super) fn constant(&mut self, tensor: Tensor) -> Result<ValueId, CaseError> {
        self.nodes += 1;
        Ok(self.builder.constant(&format!("c{}", self.nodes), tensor)?)
    }

    pub(super) fn node(&mut self, op: Op, inputs: &[ValueId]) -> Result<ValueId, CaseError> {
        self.nodes += 1;
        Ok(self.builder.node(&format!("n{}", self.nodes), op, inputs)?)
    }

    /// A state, and later what it becomes; see [`next`](Self::next).
    pub(super) fn state(&mut self, dtype: DType, shape: impl Into<Shape>) -> Result<ValueId, CaseError> {
        self.nodes += 1;
        Ok(self.builder.state(&format!("s{}", self.nodes), dtype, shape)?)
    }

    pub(super) fn next(&mut self, state: ValueId, next: ValueId) -> Result<(), CaseError> {
        Ok(self.builder.next(state, next)?)
    }

    /// How many runs there are, on one set of states; two where nothing is said.
    pub(super) fn runs(&mut self, runs: usize) {
        self.runs = runs;
    }

    pub(super) fn shape(&self, id: ValueId) -> &Shape {
        self.builder.shape(id)
    }

    /// The case: these values are the outputs, and each run has inputs of its own.
    pub(super) fn finish(mut self, outputs: &[ValueId], tolerance: f64) -> Result<Case, CaseError> {
        for (n, &value) in outputs.iter().enumerate() {
            self.builder.output(&format!("out{n}"), value)?;
        }
        let mut runs = Vec::new();
        for run in 0..self.runs {
            let filled = self.inputs.iter().map(|(shape, fill)| fill.tensor(&mut self.random, shape, run));
            runs.push(filled.collect::<Result<Vec<_>, _>>()?);
        }
        let graph = self.builder.finish()?;
        Ok(Case {
            name: self.name,
            graph,
            reference: None,
            weights: self.weights,
            runs,
            tolerance,
            precision: Precision::F32,
        })
    }
}
