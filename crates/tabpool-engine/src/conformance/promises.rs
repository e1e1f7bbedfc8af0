//! The promises of the contract that are not numbers: weights are shared, runs may overlap, wrong inputs and bad
//! sources are refused and leave the backend whole, states belong to whoever holds them.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use futures::future::join_all;
use tabpool_graph::{Activation, Binary, Op, Reduction, Unary};
use tabpool_tensor::{DType, Tensor};

use super::case::{Case, CaseError, Fill, Sketch, failed};
use super::weights::MemoryWeights;
use super::{CaseResult, Outcome};
use crate::backend::{Backend, EngineError, Loaded};
use crate::state::{StateSet, StateSpec};

/// Checks every promise whose name holds this text.
pub(super) async fn check_all(backend: &dyn Backend, filter: &str) -> Vec<CaseResult> {
    let mut results = Vec::new();
    macro_rules! check {
        ($($name:literal => $check:ident),* $(,)?) => {$(
            if $name.contains(filter) {
                results.push(match $check(backend).await {
                    Ok(worst_error) => CaseResult {
                        name: $name.to_owned(), worst_error, tolerance: TOLERANCE, outcome: Outcome::Passed,
                    },
                    Err(Broken::Failed(why)) => failed($name, why),
                    Err(Broken::Refused(why)) => CaseResult { outcome: Outcome::Unsupported(why), ..failed($name, String::new()) },
                });
            }
        )*};
    }
    check! {
        "two programs share their weights" => two_programs_share,
        "several runs in flight finish in order" => several_in_flight,
        "a dropped run leaves the next one right" => a_dropped_run,
        "wrong inputs are refused by name" => wrong_inputs,
        "a source without blocks is an error" => a_source_without_blocks,
        "a block of the wrong length is an error" => a_short_block,
        "outputs outlive their executable" => outputs_outlive,
        "programs take turns on sets of states" => states_are_shared,
        "states that do not fit are refused by name" => wrong_states,
        "a dropped run changes states as a whole or not at all" => a_dropped_run_on_states,
    }
    results
}

const TOLERANCE: f64 = 2e-5;

/// A promise that was not kept.
enum Broken {
    /// It was broken; this is how.
    Failed(String),
    /// The backend says that it cannot run the program that would show.
    Refused(String),
}

impl From<EngineError> for Broken {
    fn from(e: EngineError) -> Self {
        match e {
            EngineError::Unsupported { .. } => Broken::Refused(e.to_string()),
            _ => Broken::Failed(e.to_string()),
        }
    }
}

impl From<CaseError> for Broken {
    fn from(e: CaseError) -> Self {
        Broken::Failed(e.to_string())
    }
}

fn require(held: bool, otherwise: impl FnOnce() -> String) -> Result<(), Broken> {
    if held { Ok(()) } else { Err(Broken::Failed(otherwise())) }
}

/// A two-layer perceptron over `rows` rows whose weights depend on the name alone.
fn perceptron(rows: usize) -> Result<Case, CaseError> {
    let mut s = Sketch::new("perceptron");
    let (first, second) = (s.weight(DType::F16, [65, 33])?, s.weight(DType::F32, [17, 65])?);
    let bias = s.weight_between(DType::F32, [65], -1.0, 1.0)?;
    let x = s.input([rows, 33], Fill::PLAIN)?;
    let y = s.node(Op::Linear { activation: Some(Activation::Gelu), residual: false }, &[x, first, bias])?;
    let y = s.node(Op::LINEAR, &[y, second])?;
    let z = s.node(Op::Unary(Unary::Tanh), &[y])?;
    s.finish(&[z], TOLERANCE)
}

async fn load(backend: &dyn Backend, case: &Case, source: &mut MemoryWeights) -> Result<Loaded, Broken> {
    let program = source.bind(case.graph.clone(), &case.weights).map_err(CaseError::from)?;
    Ok(backend.load(&program, source).await?)
}

async fn right(loaded: &Loaded, case: &Case, inputs: &[Tensor]) -> Result<f64, Broken> {
    let got = loaded.executable.run(inputs).await?;
    case.compare(inputs, &got.tensors).map_err(Broken::Failed)
}

async fn two_programs_share(backend: &dyn Backend) -> Result<f64, Broken> {
    let (one, other) = (perceptron(7)?, perceptron(70)?);
    let mut source = MemoryWeights::new();
    let first = load(backend, &one, &mut source).await?;
    let asked = source.asked();
    let second = load(backend, &other, &mut source).await?;
    require(source.asked() == asked, || "the second program fetched blocks the first one holds".to_owned())?;
    let memory = second.report.memory;
    require(memory.weights > 0 && memory.shared == memory.weights, || format!("not all is shared: {memory:?}"))?;
    require(first.report.memory.shared == 0, || format!("the first program shares: {:?}", first.report.memory))?;
    let mut worst = right(&first, &one, &one.runs[0]).await?;
    worst = worst.max(right(&second, &other, &other.runs[0]).await?);
    drop(first);
    worst = worst.max(right(&second, &other, &other.runs[1]).await?);
    drop(second);
    let asked = source.asked();
    let again = load(backend, &one, &mut source).await?;
    require(source.asked() > asked, || "weights outlive the last executable that holds them".to_owned())?;
    Ok(worst.max(right(&again, &one, &one.runs[0]).await?))
}

async fn several_in_flight(backend: &dyn Backend) -> Result<f64, Broken> {
    let (case, mut source) = (perceptron(33)?, MemoryWeights::new());
    let loaded = load(backend, &case, &mut source).await?;
    let finished = RefCell::new(Vec::new());
    let runs = (0..5).map(|n| {
        let (inputs, executable, finished) = (&case.runs[n % 2], &loaded.executable, &finished);
        async move {
            let got = executable.run(inputs).await;
            finished.borrow_mut().push(n);
            got.map(|got| (inputs, got))
        }
    });
    let mut worst = 0.0f64;
    for result in join_all(runs).await {
        let (inputs, got) = result?;
        worst = worst.max(case.compare(inputs, &got.tensors).map_err(Broken::Failed)?);
    }
    let order = finished.into_inner();
    require(order.is_sorted(), || format!("runs finished in the order {order:?}"))?;
    Ok(worst)
}

async fn a_dropped_run(backend: &dyn Backend) -> Result<f64, Broken> {
    // Long enough that the dropped run is over while the next one is not: what is left of the first must not pass for the
    // second's.
    let (case, mut source) = (perceptron(4096)?, MemoryWeights::new());
    let loaded = load(backend, &case, &mut source).await?;
    {
        // Polled once, so that work has begun wherever a backend can suspend at all.
        let mut run = pin!(loaded.executable.run(&case.runs[1]));
        let _ = run.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
    let first = right(&loaded, &case, &case.runs[0]).await?;
    Ok(first.max(right(&loaded, &case, &case.runs[1]).await?))
}

async fn wrong_inputs(backend: &dyn Backend) -> Result<f64, Broken> {
    let mut s = Sketch::new("wrong inputs");
    let ids = s.input([3, 5], Fill::Integers(0, 7))?;
    let x = s.input([3, 5], Fill::PLAIN)?;
    let y = s.node(Op::Cast { to: DType::F32 }, &[ids])?;
    let y = s.node(Op::Binary(Binary::Add), &[y, x])?;
    let case = s.finish(&[y], TOLERANCE)?;
    let loaded = load(backend, &case, &mut MemoryWeights::new()).await?;
    let (ids, x) = (case.runs[0][0].clone(), case.runs[0][1].clone());
    let reshaped = x.clone().reshape([5, 3]).map_err(CaseError::from)?;
    let wrong: [(&str, Vec<Tensor>, &str); 6] = [
        ("no inputs", vec![], "in0"),
        ("one input too few", vec![ids.clone()], "in1"),
        ("one input too many", vec![ids.clone(), x.clone(), x.clone()], "#2"),
        ("inputs in the wrong order", vec![x.clone(), ids.clone()], "in0"),
        ("a wrong dtype", vec![ids.clone(), ids.clone()], "in1"),
        ("a wrong shape", vec![ids, reshaped], "in1"),
    ];
    for (what, inputs, at) in wrong {
        match loaded.executable.run(&inputs).await {
            Err(EngineError::Input { name, .. }) if name == at => {}
            Err(e) => return Err(Broken::Failed(format!("{what}: should name the input {at:?}, says: {e}"))),
            Ok(_) => return Err(Broken::Failed(format!("{what}: was accepted"))),
        }
    }
    right(&loaded, &case, &case.runs[1]).await
}

/// Loads from a source that was spoilt, then from one that was not.
async fn spoilt_source(backend: &dyn Backend, spoil: fn(&mut MemoryWeights)) -> Result<f64, Broken> {
    let (case, mut source) = (perceptron(5)?, MemoryWeights::new());
    let program = source.bind(case.graph.clone(), &case.weights).map_err(CaseError::from)?;
    spoil(&mut source);
    match backend.load(&program, &source).await {
        Err(EngineError::Weight { name, .. }) if case.weights.contains_key(&name) => {}
        Err(e) => return Err(Broken::Failed(format!("the error does not name a weight: {e}"))),
        Ok(_) => return Err(Broken::Failed("the program was loaded".to_owned())),
    }
    let loaded = load(backend, &case, &mut MemoryWeights::new()).await?;
    right(&loaded, &case, &case.runs[0]).await
}

async fn a_source_without_blocks(backend: &dyn Backend) -> Result<f64, Broken> {
    spoilt_source(backend, MemoryWeights::forget_all).await
}

async fn a_short_block(backend: &dyn Backend) -> Result<f64, Broken> {
    spoilt_source(backend, MemoryWeights::truncate_all).await
}

async fn outputs_outlive(backend: &dyn Backend) -> Result<f64, Broken> {
    let (case, mut source) = (perceptron(3)?, MemoryWeights::new());
    let loaded = load(backend, &case, &mut source).await?;
    let first = loaded.executable.run(&case.runs[0]).await?;
    loaded.executable.run(&case.runs[1]).await?;
    drop(loaded);
    case.compare(&case.runs[0], &first.tensors).map_err(Broken::Failed)
}

/// Writes `rows` rows into a cache at the position it keeps, moves that on, and gives back what the cache then adds up to. All
/// of these programs keep the same states.
fn keeper(rows: usize) -> Result<Case, CaseError> {
    let mut s = Sketch::new(format!("keeper of {rows} rows"));
    let cache = s.state(DType::F32, [1, 40, 33])?;
    let position = s.state(DType::I32, [1])?;
    let x = s.input([1, rows, 33], Fill::PLAIN)?;
    let y = s.node(Op::WriteRows, &[cache, x, position])?;
    let step = s.constant(Tensor::from_i32([1], vec![i32::try_from(rows).unwrap_or(1)])?)?;
    let moved = s.node(Op::Binary(Binary::Add), &[position, step])?;
    s.next(cache, y)?;
    s.next(position, moved)?;
    let sum = s.node(Op::Reduce { reduction: Reduction::Sum, axis: 1, keep: false }, &[y])?;
    s.finish(&[sum, moved], TOLERANCE)
}

/// A set of states beside what the oracle has in it.
struct Kept {
    states: Rc<dyn StateSet>,
    want: Vec<Tensor>,
}

impl Kept {
    async fn new(backend: &dyn Backend, case: &Case) -> Result<Self, Broken> {
        let specs = StateSpec::of(&case.graph);
        let states = backend.new_states(&specs).await?;
        require(states.specs() == specs, || format!("the set is of {:?}, asked for were {specs:?}", states.specs()))?;
        let (least, bytes) = (specs.iter().map(StateSpec::bytes).sum::<u64>(), states.bytes());
        require(bytes >= least, || format!("the set says it takes {bytes} bytes, its elements alone take {least}"))?;
        Ok(Self { states, want: case.new_states() })
    }

    async fn right(&mut self, loaded: &Loaded, case: &Case, run: usize) -> Result<f64, Broken> {
        let inputs = &case.runs[run];
        let got = loaded.executable.run_on(&self.states, inputs).await?;
        case.compare_on(&mut self.want, inputs, &got.tensors).map_err(Broken::Failed)
    }
}

async fn states_are_shared(backend: &dyn Backend) -> Result<f64, Broken> {
    let (prompt, step) = (keeper(7)?, keeper(1)?);
    let mut source = MemoryWeights::new();
    let first = load(backend, &prompt, &mut source).await?;
    let mut one = Kept::new(backend, &prompt).await?;
    let then = load(backend, &step, &mut source).await?;
    let mut other = Kept::new(backend, &step).await?;
    let mut worst = 0.0f64;
    for n in 0..2 {
        worst = worst.max(one.right(&first, &prompt, n).await?);
        worst = worst.max(other.right(&first, &prompt, 1 - n).await?);
        worst = worst.max(one.right(&then, &step, n).await?);
        worst = worst.max(one.right(&then, &step, 1 - n).await?);
        worst = worst.max(other.right(&then, &step, n).await?);
    }
    // A set outlives executables and other sets; a new one is empty wherever its memory was before.
    drop((first, one));
    worst = worst.max(other.right(&then, &step, 0).await?);
    drop(then);
    let again = load(backend, &step, &mut source).await?;
    worst = worst.max(other.right(&again, &step, 1).await?);
    let mut fresh = Kept::new(backend, &step).await?;
    worst = worst.max(fresh.right(&again, &step, 0).await?);
    // Runs take effect in the order they were started.
    let runs = (0..4).map(|n| again.executable.run_on(&fresh.states, &step.runs[n % 2]));
    for (n, got) in join_all(runs).await.into_iter().enumerate() {
        let error = step.compare_on(&mut fresh.want, &step.runs[n % 2], &got?.tensors);
        worst = worst.max(error.map_err(Broken::Failed)?);
    }
    Ok(worst)
}

async fn wrong_states(backend: &dyn Backend) -> Result<f64, Broken> {
    let (case, stateless, mut source) = (keeper(3)?, perceptron(3)?, MemoryWeights::new());
    let loaded = load(backend, &case, &mut source).await?;
    let without = load(backend, &stateless, &mut source).await?;
    let specs = StateSpec::of(&case.graph);
    let mut renamed = specs.clone();
    renamed[1].name = "another".to_owned();
    let mut smaller = specs.clone();
    smaller[0].shape = [1, 39, 33].into();
    let wrong = [("one state too few", specs[..1].to_vec()), ("a name", renamed), ("a shape", smaller)];
    let mut refused = vec![("no states", loaded.executable.run(&case.runs[0]).await)];
    for (what, specs) in wrong {
        let states = backend.new_states(&specs).await?;
        refused.push((what, loaded.executable.run_on(&states, &case.runs[0]).await));
    }
    let mut kept = Kept::new(backend, &case).await?;
    refused.push(("a program without states", without.executable.run_on(&kept.states, &stateless.runs[0]).await));
    for (what, result) in refused {
        match result {
            Err(EngineError::State { .. }) => {}
            Err(e) => return Err(Broken::Failed(format!("{what}: should be an error of states, is: {e}"))),
            Ok(_) => return Err(Broken::Failed(format!("{what}: was accepted"))),
        }
    }
    // Wrong inputs change nothing.
    match loaded.executable.run_on(&kept.states, &[]).await {
        Err(EngineError::Input { .. }) => {}
        _ => return Err(Broken::Failed("no inputs: should be an error of inputs".to_owned())),
    }
    let empty = backend.new_states(&[]).await?;
    let got = without.executable.run_on(&empty, &stateless.runs[0]).await?;
    let worst = stateless.compare(&stateless.runs[0], &got.tensors).map_err(Broken::Failed)?;
    Ok(worst.max(kept.right(&loaded, &case, 0).await?))
}

async fn a_dropped_run_on_states(backend: &dyn Backend) -> Result<f64, Broken> {
    let (case, mut source) = (keeper(7)?, MemoryWeights::new());
    let loaded = load(backend, &case, &mut source).await?;
    let mut kept = Kept::new(backend, &case).await?;
    let mut worst = kept.right(&loaded, &case, 0).await?;
    {
        let mut run = pin!(loaded.executable.run_on(&kept.states, &case.runs[1]));
        let _ = run.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
    let got = loaded.executable.run_on(&kept.states, &case.runs[0]).await?;
    let mut whole = kept.want.clone();
    case.expected_on(&mut whole, &case.runs[1])?;
    let not_at_all = case.compare_on(&mut kept.want, &case.runs[0], &got.tensors);
    if let Ok(error) = not_at_all {
        worst = worst.max(error);
    } else {
        worst = worst.max(case.compare_on(&mut whole, &case.runs[0], &got.tensors).map_err(Broken::Failed)?);
        kept.want = whole;
    }
    Ok(worst.max(kept.right(&loaded, &case, 1).await?))
}
