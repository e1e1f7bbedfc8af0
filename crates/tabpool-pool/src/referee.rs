//! The host's own engine, which says what an answer should have been.
//!
//! It computes on one thread beside everything else, one case at a time, and keeps the programs it used last for a while.

use std::cell::{OnceCell, RefCell};
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tabpool_content::{BlockStore, Cid};
use tabpool_engine::cpu::{CpuBackend, CpuOptions};
use tabpool_engine::{Backend as _, Executable, WeightError, WeightSource};
use tabpool_graph::{BlockRef, Program, ProgramLimits};
use tabpool_scheduler::ProgramId;
use tabpool_tensor::{DType, Precision, Tensor};
use tokio::sync::mpsc;

use crate::actor::Command;
use crate::model::ProgramEntry;

/// Cases that wait at most. One more is not judged: whoever asked is told so.
const MOST_WAITING: usize = 64;
/// Programs kept ready.
pub(crate) const MOST_KEPT: usize = 2;
/// How long they are kept when nothing is to be judged.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// A program with so many bytes of weights at most is got ready before it is needed, and is kept for longer.
pub(crate) const LIGHT: u64 = 256 << 20;
const LIGHT_KEPT_FOR: Duration = Duration::from_secs(600);

/// Outputs that were computed before the answer came, at most.
const MOST_FORESEEN: usize = 4;

/// What will have to be judged.
pub(crate) struct Prospect {
    pub(crate) program: Arc<ProgramEntry>,
    /// What it will be given, where that is known.
    pub(crate) inputs: Option<Vec<Tensor>>,
}

/// An answer to be judged.
pub(crate) struct Case {
    /// What the verdict is told under.
    pub(crate) number: u64,
    pub(crate) program: Arc<ProgramEntry>,
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) outputs: Vec<Tensor>,
    /// What the outputs were computed with.
    pub(crate) precision: Precision,
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The numbers are right, within what the precision allows.
    Right,
    /// They are not; how, for a person.
    Wrong(String),
    /// The host could not tell; why, for a person.
    Unknown(String),
}

/// Whoever judges. Its thread ends with it.
pub(crate) struct Referee {
    cases: mpsc::Sender<Case>,
    /// What cases will come of. No more than are kept.
    expected: mpsc::Sender<Prospect>,
}

impl Referee {
    /// Starts the thread; verdicts arrive as commands.
    pub(crate) fn start(store: Arc<dyn BlockStore>, commands: mpsc::Sender<Command>) -> std::io::Result<Self> {
        let (cases, waiting) = mpsc::channel(MOST_WAITING);
        let (expected, coming) = mpsc::channel(MOST_KEPT);
        std::thread::Builder::new().name("tabpool-referee".to_owned()).spawn(move || {
            match tokio::runtime::Builder::new_current_thread().enable_time().build() {
                Ok(runtime) => runtime.block_on(judge_all(store, waiting, coming, commands)),
                Err(e) => tracing::error!(error = %e, "the referee has no runtime"),
            }
        })?;
        Ok(Self { cases, expected })
    }

    /// Has a program loaded when there is nothing to judge, and run where its inputs are known, so that the first verdict waits
    /// for little. Where too many wait for that, it is done when it is needed.
    pub(crate) fn prepare(&self, prospect: Prospect) {
        let _ = self.expected.try_send(prospect);
    }

    /// Has a case judged; `false` where too many wait.
    pub(crate) fn judge(&self, case: Case) -> bool {
        self.cases.try_send(case).is_ok()
    }
}

async fn judge_all(
    store: Arc<dyn BlockStore>,
    mut cases: mpsc::Receiver<Case>,
    mut expected: mpsc::Receiver<Prospect>,
    commands: mpsc::Sender<Command>,
) {
    let bench = Bench { store, backend: OnceCell::new(), kept: RefCell::default(), foreseen: RefCell::default() };
    loop {
        let case = tokio::select! {
            biased;
            case = cases.recv() => match case {
                Some(case) => case,
                None => return,
            },
            Some(prospect) = expected.recv() => {
                if let Err(reason) = bench.foresee(&prospect).await {
                    let model = &prospect.program.identity.name;
                    tracing::debug!(model, reason, "the host cannot compute what it will judge");
                }
                continue;
            }
            () = tokio::time::sleep(KEPT_FOR), if bench.keeps(Weight::Heavy) => {
                bench.kept.borrow_mut().retain(|kept| kept.weight == Weight::Light);
                continue;
            }
            () = tokio::time::sleep(LIGHT_KEPT_FOR), if bench.keeps(Weight::Light) => {
                bench.kept.borrow_mut().clear();
                bench.foreseen.borrow_mut().clear();
                continue;
            }
        };
        let verdict = match bench.compute(&case).await {
            Ok(expected) => compare(&case.outputs, &expected, case.precision),
            Err(reason) => Verdict::Unknown(reason),
        };
        if commands.send(Command::Judged { number: case.number, verdict }).await.is_err() {
            return;
        }
    }
}

/// Programs on the host's processor.
struct Bench {
    store: Arc<dyn BlockStore>,
    /// One for all programs, so that those of one model share its weights.
    backend: OnceCell<CpuBackend>,
    /// The last used comes last.
    kept: RefCell<VecDeque<Kept>>,
    /// What programs give for inputs of which an answer is to come; the latest comes last.
    foreseen: RefCell<VecDeque<Foreseen>>,
}

/// What a program gives.
struct Foreseen {
    program: ProgramId,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

/// A program that is ready.
struct Kept {
    id: ProgramId,
    weight: Weight,
    executable: Rc<dyn Executable>,
}

impl Foreseen {
    fn is_of(&self, program: &ProgramEntry, inputs: &[Tensor]) -> bool {
        self.program == program.id && self.inputs == inputs
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    Light,
    Heavy,
}

impl Weight {
    fn of(entry: &ProgramEntry) -> Self {
        if entry.needs.weight_bytes() <= LIGHT { Self::Light } else { Self::Heavy }
    }
}

impl Bench {
    async fn foresee(&self, prospect: &Prospect) -> Result<(), String> {
        let Prospect { program, inputs } = prospect;
        let Some(inputs) = inputs else { return self.load(program).await.map(drop) };
        if self.foreseen.borrow().iter().any(|foreseen| foreseen.is_of(program, inputs)) {
            return Ok(());
        }
        let outputs = self.run(program, inputs).await?;
        let mut all = self.foreseen.borrow_mut();
        all.push_back(Foreseen { program: program.id, inputs: inputs.clone(), outputs });
        if all.len() > MOST_FORESEEN {
            all.pop_front();
        }
        Ok(())
    }

    async fn compute(&self, case: &Case) -> Result<Vec<Tensor>, String> {
        let foreseen = {
            let mut all = self.foreseen.borrow_mut();
            let place = all.iter().position(|foreseen| foreseen.is_of(&case.program, &case.inputs));
            place.and_then(|place| all.remove(place))
        };
        match foreseen {
            Some(foreseen) => Ok(foreseen.outputs),
            None => self.run(&case.program, &case.inputs).await,
        }
    }

    async fn run(&self, program: &ProgramEntry, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let executable = self.load(program).await?;
        executable.run(inputs).await.map(|output| output.tensors).map_err(|e| e.to_string())
    }

    async fn load(&self, entry: &ProgramEntry) -> Result<Rc<dyn Executable>, String> {
        let place = self.kept.borrow().iter().position(|kept| kept.id == entry.id);
        let known = place.and_then(|place| self.kept.borrow_mut().remove(place));
        let kept = match known {
            Some(kept) => kept,
            None => {
                let program = Program::decode(entry.encoded.data(), &ProgramLimits::default());
                let program = program.map_err(|e| e.to_string())?.permitting(Precision::F32);
                let loaded = self.backend()?.load(&program, &Stored(Arc::clone(&self.store))).await;
                let executable = loaded.map_err(|e| e.to_string())?.executable;
                Kept { id: entry.id, weight: Weight::of(entry), executable }
            }
        };
        let executable = Rc::clone(&kept.executable);
        let mut all = self.kept.borrow_mut();
        all.push_back(kept);
        if all.len() > MOST_KEPT {
            all.pop_front();
        }
        Ok(executable)
    }

    fn backend(&self) -> Result<&CpuBackend, String> {
        if let Some(backend) = self.backend.get() {
            return Ok(backend);
        }
        let backend = CpuBackend::new(&CpuOptions::new().threads(NonZeroUsize::MIN)).map_err(|e| e.to_string())?;
        Ok(self.backend.get_or_init(|| backend))
    }

    fn keeps(&self, weight: Weight) -> bool {
        self.kept.borrow().iter().any(|kept| kept.weight == weight)
    }
}

/// Weights from the host's store, which verifies them.
struct Stored(Arc<dyn BlockStore>);

#[async_trait(?Send)]
impl WeightSource for Stored {
    async fn block(&self, block: &BlockRef) -> Result<Bytes, WeightError> {
        let failed = |reason: String| WeightError { cid: hex(&block.cid), reason };
        let cid = Cid::try_from(&*block.cid).map_err(|e| failed(e.to_string()))?;
        let found = self.0.get(&cid).map_err(|e| failed(e.to_string()))?;
        found.ok_or_else(|| failed("the host does not have it".to_owned()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How far the numbers of an answer may be from the host's, as the length of the difference over that of the host's.
fn allowed(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 1e-3,
        Precision::F16 => 2e-2,
        _ => 0.15,
    }
}

/// The share of integers, as ids of tokens, that may differ: of two that are equally likely either may be named.
const INTEGERS_ALLOWED: f64 = 0.02;

fn compare(given: &[Tensor], expected: &[Tensor], precision: Precision) -> Verdict {
    for (index, (given, expected)) in given.iter().zip(expected).enumerate() {
        if (given.dtype(), given.shape()) != (expected.dtype(), expected.shape()) {
            let (got, want) = (given.shape(), expected.shape());
            return Verdict::Wrong(format!("output {index} is {got}, and the host's {want}"));
        }
        let (error, limit) = match expected.dtype() {
            DType::F32 => (distance(given, expected), allowed(precision)),
            _ => (differing(given, expected), INTEGERS_ALLOWED),
        };
        // Not-a-number is wrong, too.
        if !error.is_some_and(|error| error <= limit) {
            let error = error.map_or_else(|| "cannot be read".to_owned(), |error| format!("is {error:.2e} off"));
            return Verdict::Wrong(format!("output {index} {error}, and {limit:.0e} is allowed at {precision}"));
        }
    }
    Verdict::Right
}

fn distance(given: &Tensor, expected: &Tensor) -> Option<f64> {
    let (given, expected) = (given.to_f32().ok()?, expected.to_f32().ok()?);
    let square = |x: f64| x * x;
    let off: f64 = given.iter().zip(&*expected).map(|(g, e)| square(f64::from(*g) - f64::from(*e))).sum();
    let long: f64 = expected.iter().map(|e| square(f64::from(*e))).sum();
    Some(off.sqrt() / long.sqrt().max(1e-6))
}

#[expect(clippy::cast_precision_loss, reason = "a share")]
fn differing(given: &Tensor, expected: &Tensor) -> Option<f64> {
    let (given, expected) = (given.to_i32().ok()?, expected.to_i32().ok()?);
    let differ = given.iter().zip(&*expected).filter(|(g, e)| g != e).count();
    Some(differ as f64 / expected.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::{Precision, Tensor, Verdict, compare};

    fn floats(values: &[f32]) -> Vec<Tensor> {
        vec![Tensor::from_f32([values.len()], values.to_vec()).expect("as many as said")]
    }

    fn wrong(given: &[f32], precision: Precision) -> bool {
        matches!(compare(&floats(given), &floats(&[1.0, -2.0, 3.0, 0.0]), precision), Verdict::Wrong(_))
    }

    #[test]
    fn rounding_is_forgiven_and_wrong_numbers_are_not() {
        assert!(!wrong(&[1.0, -2.0, 3.0, 1e-6], Precision::F32));
        assert!(wrong(&[1.0, -2.0, 3.1, 0.0], Precision::F32));
        assert!(!wrong(&[1.01, -2.0, 3.02, 0.0], Precision::F16));
        assert!(wrong(&[1.5, -2.0, 3.0, 0.0], Precision::F16));
        assert!(wrong(&[1.0, -2.0, f32::NAN, 0.0], Precision::Int8));
        assert!(wrong(&[0.0; 4], Precision::Int8));
    }

    #[test]
    fn integers_have_to_be_the_same_but_for_a_few() {
        let ids = |first: i32| vec![Tensor::from_i32([100], (first..100 + first).collect()).expect("a hundred")];
        assert_eq!(compare(&ids(0), &ids(0), Precision::F32), Verdict::Right);
        let Verdict::Wrong(reason) = compare(&ids(1), &ids(0), Precision::F32) else { panic!("all differ") };
        assert_eq!(reason, "output 0 is 1.00e0 off, and 2e-2 is allowed at f32");
    }
}
