//! The suite must notice what it is there to notice: backends that are wrong in one way each.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use tabpool_graph::Program;
use tabpool_tensor::{DType, Tensor};

use super::{CaseResult, Outcome, cases, run, run_matching};
use crate::backend::{Backend, BackendInfo, EngineError, Executable, Loaded, RunOutput, WeightSource};
use crate::cpu::{CpuBackend, CpuOptions};
use crate::state::{StateSet, StateSpec};

/// How a backend is wrong.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// The last element of each output is off by a thousandth.
    LastElement,
    /// Every run gives what the first one gave.
    Stale,
    /// Wrong inputs are taken.
    Unchecked,
    /// Outputs come back flat.
    Flat,
}

struct Faulty {
    inner: CpuBackend,
    fault: Fault,
}

struct FaultyExecutable {
    inner: Rc<dyn Executable>,
    fault: Fault,
    first: RefCell<Option<RunOutput>>,
}

#[async_trait(?Send)]
impl Backend for Faulty {
    fn info(&self) -> &BackendInfo {
        self.inner.info()
    }

    async fn load(&self, program: &Program, weights: &dyn WeightSource) -> Result<Loaded, EngineError> {
        let Loaded { executable: inner, report } = self.inner.load(program, weights).await?;
        let executable = Rc::new(FaultyExecutable { inner, fault: self.fault, first: RefCell::default() });
        Ok(Loaded { executable, report })
    }

    async fn new_states(&self, specs: &[StateSpec]) -> Result<Rc<dyn StateSet>, EngineError> {
        self.inner.new_states(specs).await
    }
}

fn spoil(tensor: &Tensor) -> Tensor {
    let shape = tensor.shape().clone();
    if tensor.dtype() == DType::I32 {
        let mut values = tensor.to_i32().expect("integers").into_owned();
        *values.last_mut().expect("no value is empty") += 1;
        return Tensor::from_i32(shape, values).expect("as before");
    }
    let mut values = tensor.to_f32().expect("floats").into_owned();
    let last = values.last_mut().expect("no value is empty");
    *last += 1e-3 * last.abs().max(1.0);
    Tensor::from_f32(shape, values).expect("as before")
}

#[async_trait(?Send)]
impl Executable for FaultyExecutable {
    async fn run(&self, inputs: &[Tensor]) -> Result<RunOutput, EngineError> {
        self.spoilt(self.inner.run(inputs).await)
    }

    async fn run_on(&self, states: &Rc<dyn StateSet>, inputs: &[Tensor]) -> Result<RunOutput, EngineError> {
        self.spoilt(self.inner.run_on(states, inputs).await)
    }
}

impl FaultyExecutable {
    fn spoilt(&self, got: Result<RunOutput, EngineError>) -> Result<RunOutput, EngineError> {
        let first = self.first.borrow().clone();
        if let (Fault::Unchecked, Err(EngineError::Input { .. })) = (self.fault, &got) {
            return Ok(RunOutput { tensors: Vec::new(), compute: Duration::ZERO, readback: Duration::ZERO });
        }
        let mut got = got?;
        self.first.borrow_mut().get_or_insert_with(|| got.clone());
        match self.fault {
            Fault::LastElement => got.tensors = got.tensors.iter().map(spoil).collect(),
            Fault::Stale => got = first.unwrap_or(got),
            Fault::Flat => {
                let flat = |t: Tensor| t.clone().reshape([t.shape().elements()]).expect("as many elements");
                got.tensors = got.tensors.into_iter().map(flat).collect();
            }
            Fault::Unchecked => {}
        }
        Ok(got)
    }
}

fn results(fault: Fault, filter: &str) -> Vec<CaseResult> {
    let inner = CpuBackend::new(&CpuOptions::new()).expect("threads");
    pollster::block_on(run_matching(&Faulty { inner, fault }, filter))
}

#[test]
fn one_wrong_element_fails_every_case_that_compares() {
    let passed: Vec<_> = results(Fault::LastElement, "").into_iter().filter(CaseResult::passed).collect();
    // What remains are the checks of errors alone; even they run the program rightly once.
    assert!(passed.is_empty(), "not noticed: {passed:?}");
}

#[test]
fn inputs_that_do_not_reach_the_device_are_noticed() {
    for filter in ["linear", "softmax [5, 7]", "gather", "in flight", "dropped run"] {
        let results = results(Fault::Stale, filter);
        assert!(results.iter().any(|r| !r.passed()), "not noticed by {filter:?}");
    }
}

#[test]
fn wrong_shapes_are_noticed() {
    assert!(results(Fault::Flat, "softmax [5, 7]").iter().all(|r| !r.passed()));
}

#[test]
fn a_backend_that_takes_wrong_inputs_is_noticed() {
    let results = results(Fault::Unchecked, "wrong inputs");
    assert!(matches!(&results[..], [CaseResult { outcome: Outcome::Failed(why), .. }] if why.contains("was accepted")));
}

/// What is no number differs from everything, so a case that asked for it could not be passed.
#[test]
fn results_are_numbers() {
    for case in cases().expect("valid") {
        let mut states = case.new_states();
        for inputs in case.runs() {
            for output in case.expected_on(&mut states, inputs).expect("fits") {
                let odd = output.dtype() == DType::F32 && output.to_f32().expect("floats").iter().any(|v| v.is_nan());
                assert!(!odd, "{}", case.name());
            }
        }
    }
}

#[test]
fn names_of_cases_are_unique() {
    let inner = CpuBackend::new(&CpuOptions::new()).expect("threads");
    let mut names: Vec<_> = pollster::block_on(run(&inner)).into_iter().map(|r| r.name).collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all);
}
