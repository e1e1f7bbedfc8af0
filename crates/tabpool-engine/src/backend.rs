//! The contract between a worker and a backend.

use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tabpool_graph::{BlockRef, Graph, Program};
use tabpool_tensor::{Precision, Tensor};

use crate::state::{StateSet, StateSpec};
use crate::tuning::{Tuning, Winner};

/// Which of a worker's ways to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Api {
    /// WGSL kernels through WebGPU, or natively through Vulkan, Metal or Direct3D 12.
    WebGpu,
    /// The browser's `MLGraphBuilder`.
    WebNn,
    /// The processor: SIMD in wasm or natively.
    Cpu,
}

impl Api {
    /// The name people and databases see: `webgpu`, `webnn` or `cpu`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Api::WebGpu => "webgpu",
            Api::WebNn => "webnn",
            Api::Cpu => "cpu",
        }
    }
}

/// What a backend says of its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendInfo {
    /// Which API this is.
    pub api: Api,
    /// The device as its driver names it, as in `google swiftshader` or `AVX-512, 2 threads`.
    pub device: String,
}

/// Where a backend gets the blocks of weights from. Bytes are verified before they are handed over.
#[async_trait(?Send)]
pub trait WeightSource {
    /// The bytes of one block, exactly [`BlockRef::len`] of them.
    ///
    /// # Errors
    /// [`WeightError`] where the block cannot be had or does not hash to its CID.
    async fn block(&self, block: &BlockRef) -> Result<Bytes, WeightError>;

    /// Says which blocks will be asked for, in order, so that a source can fetch ahead. Does nothing by default.
    fn expect(&self, _blocks: &[BlockRef]) {}
}

/// Why a block could not be had.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("block {cid}: {reason}")]
pub struct WeightError {
    /// The block's CID as text, or as hexadecimal digits where it does not parse.
    pub cid: String,
    /// What went wrong.
    pub reason: String,
}

/// Why a backend could not load or run a program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The device or backend lacks something the program needs; another device may have it.
    #[error("{api} cannot run this program: node {node:?} ({op}) {reason}")]
    Unsupported {
        /// The backend's API.
        api: &'static str,
        /// The node's name.
        node: String,
        /// The operator's name.
        op: &'static str,
        /// What is lacking.
        reason: String,
    },
    /// A weight could not be had.
    #[error("weight {name:?}: {source}")]
    Weight {
        /// The weight's name.
        name: String,
        /// Why.
        source: WeightError,
    },
    /// An input of a run is missing, has another dtype or another shape than the program's.
    #[error("input {name:?}: {reason}")]
    Input {
        /// The input's name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The states of a run are missing, or are not those of the program.
    #[error("the states {reason}")]
    State {
        /// What is wrong.
        reason: String,
    },
    /// The device ran out of memory.
    #[error("out of memory on the device while {doing}: {reason}")]
    OutOfMemory {
        /// What needed it.
        doing: String,
        /// What the device says.
        reason: String,
    },
    /// The device is lost; every executable of this backend is dead and the backend must be made anew.
    #[error("the device is lost: {reason}")]
    DeviceLost {
        /// What the device says.
        reason: String,
    },
    /// The device refused something it should accept: a bug here or in the driver.
    #[error("the device failed while {doing}: {reason}")]
    Device {
        /// What was being done.
        doing: String,
        /// What the device says.
        reason: String,
    },
}

/// Bytes that an executable holds on its device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Weights, shared ones counted in full.
    pub weights: u64,
    /// Of `weights`, those that were on the device already for another program.
    pub shared: u64,
    /// Activations and staging. Sets of states are apart, see [`StateSet::bytes`].
    pub scratch: u64,
}

/// What loading cost, and what it came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Making and compiling kernels or graphs.
    pub compile: Duration,
    /// Getting weights and bringing them onto the device.
    pub upload: Duration,
    /// What the executable holds.
    pub memory: MemoryUse,
    /// The least exact arithmetic that its linear layers are computed with; never less exact than the program permits.
    pub precision: Precision,
    /// Nodes that stayed more exact because their weights do not fit a format that was otherwise used.
    pub kept: Vec<String>,
}

/// What a run gave, and where its time went.
#[derive(Clone, Debug)]
pub struct RunOutput {
    /// The program's outputs, in order.
    pub tensors: Vec<Tensor>,
    /// From the first write of an input until the device had finished, as far as can be told from outside.
    pub compute: Duration,
    /// Bringing the outputs back.
    pub readback: Duration,
}

/// A program ready to run on one device.
#[async_trait(?Send)]
pub trait Executable {
    /// Runs once. `inputs` are in the program's order, with exactly its dtypes and shapes. Several runs may be in
    /// flight; they finish in the order they were started. Dropping the future leaves the device consistent.
    ///
    /// # Errors
    /// [`EngineError::Input`] for inputs that do not fit, [`EngineError::State`] where the program keeps states, otherwise
    /// what the device reports.
    async fn run(&self, inputs: &[Tensor]) -> Result<RunOutput, EngineError>;

    /// Runs once on a set of states: it reads what the run before left there, whichever executable's that was, and leaves
    /// what the program says. Runs on one set take effect in the order they were started. One whose inputs or states are
    /// refused changes nothing; one whose future is dropped once it was polled has changed them as a whole or not at all;
    /// after an error of the device the set's content is lost, and the set is to be dropped.
    ///
    /// A program without states runs on an empty set as it does without. By default there are none.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`EngineError::State`] where the set is not of exactly this program's states, or is not this
    /// backend's.
    async fn run_on(&self, states: &Rc<dyn StateSet>, inputs: &[Tensor]) -> Result<RunOutput, EngineError> {
        match states.specs().first() {
            None => self.run(inputs).await,
            Some(spec) => {
                Err(EngineError::State { reason: format!("have {:?}, which this executable does not keep", spec.name) })
            }
        }
    }
}

/// An executable and what it cost.
pub struct Loaded {
    /// What runs.
    pub executable: Rc<dyn Executable>,
    /// What loading cost.
    pub report: LoadReport,
}

/// One device through one API.
#[async_trait(?Send)]
pub trait Backend {
    /// What this is.
    fn info(&self) -> &BackendInfo;

    /// Makes a program ready: kernels compiled, weights on the device, memory planned. Weights that another live
    /// executable of this backend holds (equal blocks, stored dtype and shape) are shared, not loaded again.
    ///
    /// # Errors
    /// [`EngineError`]; nothing stays behind on the device.
    async fn load(&self, program: &Program, weights: &dyn WeightSource) -> Result<Loaded, EngineError>;

    /// Makes a set of states of these kinds, all zeros, for [`Executable::run_on`]: of any executable of this backend whose
    /// program has equal [`StateSpec`]s, loaded before or afterwards. Its memory is freed when it is dropped and the runs
    /// on it are over. By default a backend keeps none, and refuses programs that have some when they are loaded.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`], [`EngineError::DeviceLost`]; [`EngineError::State`] where the backend keeps no states.
    async fn new_states(&self, specs: &[StateSpec]) -> Result<Rc<dyn StateSet>, EngineError> {
        let first = specs.first().map(|spec| spec.name.clone()).unwrap_or_default();
        Err(EngineError::State { reason: format!("cannot be kept by this backend: {first:?}") })
    }

    /// How many runs it computes at the same time, each as fast as one alone. What is in flight beyond that only waits.
    fn lanes(&self) -> usize {
        1
    }

    /// Whether loading a program with a budget may choose better than loading it without: whoever serves requests loads
    /// without one first, and again with one when nobody waits.
    fn tunes(&self) -> bool {
        false
    }

    /// Says how to tune at the loads to come, and what is known of this device. A backend without variants ignores it.
    fn tune(&self, _tuning: Tuning) {}

    /// Somebody waits: a load that tries variants ends that at the next moment it can, and goes on with what it knows.
    fn hurry(&self) {}

    /// The winners found since this was last asked.
    fn take_winners(&self) -> Vec<Winner> {
        Vec::new()
    }
}

/// Checks the inputs of a run against a graph: their number, dtypes and shapes. Every backend calls this first.
///
/// # Errors
/// [`EngineError::Input`] that names the first input that does not fit.
pub fn check_inputs(graph: &Graph, inputs: &[Tensor]) -> Result<(), EngineError> {
    let fail = |name: &str, reason: String| Err(EngineError::Input { name: name.to_owned(), reason });
    let wanted = graph.inputs();
    for (position, &id) in wanted.iter().enumerate() {
        let value = graph.value(id);
        let Some(given) = inputs.get(position) else {
            return fail(&value.name, format!("is missing: the program takes {}, got {}", wanted.len(), inputs.len()));
        };
        if (given.dtype(), given.shape()) != (value.dtype, &value.shape) {
            let (dtype, shape) = (given.dtype(), given.shape());
            return fail(&value.name, format!("must be {}{}, got {dtype}{shape}", value.dtype, value.shape));
        }
    }
    if inputs.len() > wanted.len() {
        let extra = format!("#{}", wanted.len());
        return fail(&extra, format!("is one too many: the program takes {}, got {}", wanted.len(), inputs.len()));
    }
    Ok(())
}
