//! The promises of the contract that are not numbers: weights are shared, runs may overlap, wrong inputs and bad
//! sources are refused and leave the backend whole.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use futures::future::join_all;
use tabpool_graph::{Activation, Op, Unary};
use tabpool_tensor::{DType, Tensor};

use super::case::{Case, CaseError, Fill, Sketch, failed};
use super::weights::MemoryWeights;
use super::{CaseResult, Outcome};
use crate::backend::{Backend, EngineError, Loaded};

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
                    Err(broken) => failed($name, broken.0),
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
    }
    results
}

const TOLERANCE: f64 = 2e-5;

/// A promise that was broken, and how.
struct Broken(String);

impl From<EngineError> for Broken {
    fn from(e: EngineError) -> Self {
        Broken(e.to_string())
    }
}

impl From<CaseError> for Broken {
    fn from(e: CaseError) -> Self {
        Broken(e.to_string())
    }
}

fn require(held: bool, otherwise: impl FnOnce() -> String) -> Result<(), Broken> {
    if held { Ok(()) } else { Err(Broken(otherwise())) }
}

/// A two-layer perceptron over `rows` rows whose weights depend on the name alone.
fn perceptron(rows: usize) -> Result<Case, CaseError> {
    let mut s = Sketch::new("perceptron");
    let (first, second) = (s.weight(DType::F16, [65, 33])?, s.weight(DType::F32, [17, 65])?);
    let bias = s.weight_between(DType::F32, [65], -1.0, 1.0)?;
    let x = s.input([rows, 33], Fill::PLAIN)?;
    let y = s.node(Op::Linear { activation: Some(Activation::Gelu) }, &[x, first, bias])?;
    let y = s.node(Op::Linear { activation: None }, &[y, second])?;
    let z = s.node(Op::Unary(Unary::Tanh), &[y])?;
    s.finish(&[z], TOLERANCE)
}

async fn load(backend: &dyn Backend, case: &Case, source: &mut MemoryWeights) -> Result<Loaded, Broken> {
    let program = source.bind(case.graph.clone(), &case.weights).map_err(CaseError::from)?;
    Ok(backend.load(&program, source).await?)
}

async fn right(loaded: &Loaded, case: &Case, inputs: &[Tensor]) -> Result<f64, Broken> {
    let got = loaded.executable.run(inputs).await?;
    case.compare(inputs, &got.tensors).map_err(Broken)
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
        worst = worst.max(case.compare(inputs, &got.tensors).map_err(Broken)?);
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
    let y = s.node(Op::Binary(tabpool_graph::Binary::Add), &[y, x])?;
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
            Err(e) => return Err(Broken(format!("{what}: should name the input {at:?}, says: {e}"))),
            Ok(_) => return Err(Broken(format!("{what}: was accepted"))),
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
        Err(e) => return Err(Broken(format!("the error does not name a weight: {e}"))),
        Ok(_) => return Err(Broken("the program was loaded".to_owned())),
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
    case.compare(&case.runs[0], &first.tensors).map_err(Broken)
}
