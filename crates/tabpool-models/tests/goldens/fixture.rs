//! Fixture folders in a memory store, their goldens, and the oracle run over a model's graphs.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use async_trait::async_trait;
use bytes::Bytes;
use safetensors::SafeTensors;
use tabpool_content::{BlockStore, Cid, ImportOptions, MemoryStore, import_files, import_folder};
use tabpool_engine::cpu::{CpuBackend, CpuOptions};
use tabpool_engine::{Backend, Executable, StateSet, StateSpec, WeightError, WeightSource};
use tabpool_graph::{BlockRef, Graph, Program, ValueId};
use tabpool_models::{Model, ModelError, Plan, Stage};
use tabpool_tensor::{DType, Tensor};

/// The repository's root.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folder of a fixture.
pub(crate) fn folder(name: &str) -> PathBuf {
    repository().join("tests/fixtures").join(name)
}

/// A model in a memory store.
pub(crate) struct Fixture {
    pub(crate) store: MemoryStore,
    pub(crate) model: Model,
}

impl Fixture {
    /// Imports a folder and opens its model.
    pub(crate) fn open(path: &Path) -> Self {
        let store = MemoryStore::new(1 << 30);
        let imported = import_folder(path, &store, &ImportOptions::default(), &mut |_| {})
            .unwrap_or_else(|e| panic!("{} is imported: {e}", path.display()));
        let model = Model::open(&store, &imported.root).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { store, model }
    }

    /// Opens a model made of these files.
    pub(crate) fn of(files: &[(&str, &[u8])]) -> Result<Self, ModelError> {
        let store = MemoryStore::new(1 << 30);
        let imported = import_files(files, &store, &ImportOptions::default(), &mut |_| {}).expect("files are imported");
        Ok(Self { model: Model::open(&store, &imported.root)?, store })
    }

    /// Runs a program on the oracle, its weights read by their blocks.
    pub(crate) fn run(&self, program: &Program, inputs: &[Tensor]) -> Vec<Tensor> {
        let weight = |id: ValueId| self.weight(program, id);
        tabpool_engine::oracle::run(program.graph(), &weight, inputs).expect("the oracle runs every program")
    }

    /// A weight of a program, read by its blocks.
    fn weight(&self, program: &Program, id: ValueId) -> Option<Tensor> {
        let graph = program.graph();
        let weight = graph.weights().iter().find(|w| w.value == id)?;
        let mut bytes = Vec::new();
        for block in &weight.blocks {
            let cid = Cid::try_from(&*block.cid).expect("a binary CID");
            let part = self.store.get(&cid).expect("memory does not fail").expect("the block is in the store");
            assert_eq!(part.len(), block.len as usize);
            bytes.extend_from_slice(&part);
        }
        Some(Tensor::new(weight.stored, graph.value(id).shape.clone(), bytes.into()).expect("as validated"))
    }

    /// Runs a graph without blocks on the oracle, its weights read by their names.
    pub(crate) fn run_graph(&self, graph: &Graph, weights: &HashMap<String, Tensor>, inputs: &[Tensor]) -> Vec<Tensor> {
        let weight = |id: ValueId| weights.get(&graph.value(id).name).cloned();
        tabpool_engine::oracle::run(graph, &weight, inputs).expect("the oracle runs every graph")
    }
}

#[async_trait(?Send)]
impl WeightSource for Fixture {
    async fn block(&self, block: &BlockRef) -> Result<Bytes, WeightError> {
        let cid = Cid::try_from(&*block.cid).expect("a binary CID");
        Ok(self.store.get(&cid).expect("memory does not fail").expect("the block is in the store"))
    }
}

/// The processor's backend, on one thread.
pub(crate) fn processor() -> CpuBackend {
    CpuBackend::new(&CpuOptions::new().threads(NonZeroUsize::MIN)).expect("a processor")
}

impl Fixture {
    /// Loads a program on the processor.
    pub(crate) fn load(&self, backend: &CpuBackend, program: &Program) -> Rc<dyn Executable> {
        pollster::block_on(backend.load(program, self)).expect("the processor loads every program").executable
    }
}

/// Programs that take turns on one set of states, on the oracle or on the processor.
pub(crate) struct Session<'a> {
    fixture: &'a Fixture,
    programs: HashMap<(Stage, Plan), Program>,
    states: Vec<Tensor>,
    processor: Option<OnProcessor>,
}

struct OnProcessor {
    backend: CpuBackend,
    executables: HashMap<(Stage, Plan), Rc<dyn Executable>>,
    states: Option<Rc<dyn StateSet>>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(fixture: &'a Fixture) -> Self {
        Self { fixture, programs: HashMap::new(), states: Vec::new(), processor: None }
    }

    pub(crate) fn on_processor(fixture: &'a Fixture) -> Self {
        let processor = OnProcessor { backend: processor(), executables: HashMap::new(), states: None };
        Self { processor: Some(processor), ..Self::new(fixture) }
    }

    /// Runs a stage.
    pub(crate) fn run(&mut self, stage: Stage, plan: &Plan, inputs: &[Tensor]) -> Vec<Tensor> {
        let generation = self.fixture.model.generation().expect("it generates");
        let program = self
            .programs
            .entry((stage, *plan))
            .or_insert_with(|| generation.program(stage, plan).unwrap_or_else(|e| panic!("{stage:?}: {e}")));
        if let Some(OnProcessor { backend, executables, states }) = &mut self.processor {
            let executable = executables.entry((stage, *plan)).or_insert_with(|| self.fixture.load(backend, program));
            let specs = StateSpec::of(program.graph());
            let states =
                states.get_or_insert_with(|| pollster::block_on(backend.new_states(&specs)).expect("a set of states"));
            return pollster::block_on(executable.run_on(states, inputs)).expect("it runs").tensors;
        }
        if self.states.is_empty() {
            self.states = tabpool_engine::oracle::new_states(program.graph());
        }
        let weight = |id: ValueId| self.fixture.weight(program, id);
        tabpool_engine::oracle::run_on(program.graph(), &weight, &mut self.states, inputs).expect("it runs")
    }
}

/// Reads a safetensors file whole.
pub(crate) fn tensors(path: &Path) -> HashMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let tensor = |view: &safetensors::tensor::TensorView<'_>| {
        let dtype = match view.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::I64 => DType::I64,
            other => panic!("goldens hold no {other:?}"),
        };
        Tensor::new(dtype, view.shape(), view.data().to_vec().into()).expect("a tensor")
    };
    file.iter().map(|(name, view)| (name.to_owned(), tensor(&view))).collect()
}

/// The tensors named `<prefix><name>`, as a request has them.
pub(crate) fn with_prefix(all: &HashMap<String, Tensor>, prefix: &str) -> Vec<(String, Tensor)> {
    let mut found: Vec<_> =
        all.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()))).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// How much of the allowed difference the worst element uses up: right is 1 and less. Elements are compared where
/// `counts` says so.
pub(crate) fn share_of_tolerance(got: &[f32], want: &[f32], counts: impl Fn(usize) -> bool) -> f32 {
    assert_eq!(got.len(), want.len());
    let share = |i: usize| (got[i] - want[i]).abs() / (1e-4 + 1e-4 * want[i].abs());
    let worst = (0..got.len()).filter(|&i| counts(i)).map(share);
    worst.fold(0.0, |a, b| if b.is_nan() { f32::INFINITY } else { a.max(b) })
}
