//! The backend: opens lanes, loads programs onto all of them, and gives each run to the one with the least to do, or to the
//! one that keeps its states.

use std::cell::Cell;
use std::rc::Rc;

use async_trait::async_trait;
use futures::future::{join_all, try_join_all};
use js_sys::{Array, Uint8Array};
use tabpool_engine::state::{StateSet, check_states, own};
use tabpool_engine::{
    Api, Backend, BackendInfo, EngineError, Executable, LoadReport, Loaded, MemoryUse, RunOutput, StateSpec,
    WeightSource, check_inputs,
};
use tabpool_graph::{Graph, Program};
use tabpool_tensor::Tensor;
use wasm_bindgen::prelude::JsValue;
use web_time::Instant;

use crate::context::{Built, Context, bytes_in, view};
use crate::lanes::Nested;
use crate::lower::lower;
use crate::ml::{get, object};
use crate::order::Order;
use crate::states::LaneStates;
use crate::weights::{WeightCache, Weights};

/// The most lanes, whatever is asked for: each holds the weights of every program.
const MOST_LANES: usize = 4;

/// How nested workers are started.
#[derive(Clone, Debug)]
pub struct LaneSource {
    /// The address of the script, which awaits a first message with `module`, loads the runtime from it, and calls
    /// [`serve_lane`](crate::serve_lane).
    pub script: String,
    /// The compiled module to load it from.
    pub module: JsValue,
}

/// How a [`WebNnBackend`] is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many lanes, from one to four. More than one helps only where the browser computes on the processor.
    pub lanes: usize,
    /// Where lanes beyond the first come from; with none there is one lane.
    pub source: Option<LaneSource>,
    /// Whether this page may share memory with the workers nested in it.
    pub isolated: bool,
}

/// The browser's WebNN as a backend.
pub struct WebNnBackend {
    info: BackendInfo,
    lanes: Rc<Lanes>,
    weights: WeightCache,
    isolated: bool,
    /// The number of the next graph or set of states.
    next: Cell<u32>,
}

pub(crate) struct Lanes {
    pub(crate) own: Rc<Context>,
    pub(crate) nested: Vec<Nested>,
    /// How many runs each lane has that are not over, this worker's own first.
    busy: Vec<Cell<u32>>,
    /// How many sets of states each keeps.
    sets: Vec<Cell<u32>>,
}

impl WebNnBackend {
    /// Opens the lanes. Where a nested worker cannot be had there are fewer, and the device's name says why.
    ///
    /// # Errors
    /// [`EngineError::Device`] where not even this worker gets a context.
    pub async fn open(options: Options) -> Result<Self, EngineError> {
        let own = Rc::new(Context::open().await?);
        let wanted = options.lanes.clamp(1, MOST_LANES);
        let (mut nested, mut missing) = (Vec::new(), None);
        // A GPU computes for all contexts; only the processor has a core for each.
        if let Some(source) = options.source.filter(|_| own.accelerated() != Some(true)) {
            let opened = join_all((1..wanted).map(|_| Nested::open(&source.script, &source.module))).await;
            for lane in opened {
                match lane {
                    Ok(lane) => nested.push(lane),
                    Err(e) => missing = Some(e.to_string()),
                }
            }
        }
        let count = 1 + nested.len();
        let kind = match own.accelerated() {
            Some(true) => "on an accelerator",
            Some(false) => "on the processor",
            None => "on a device the browser does not name",
        };
        let plural = if count == 1 { "" } else { "s" };
        let missing = missing.map(|reason| format!(" ({wanted} were wanted: {reason})")).unwrap_or_default();
        let device = format!("WebNN {kind}, {count} lane{plural}{missing}");
        let zeros = || (0..count).map(|_| Cell::new(0)).collect();
        let lanes = Lanes { own, nested, busy: zeros(), sets: zeros() };
        Ok(Self {
            info: BackendInfo { api: Api::WebNn, device },
            lanes: Rc::new(lanes),
            weights: WeightCache::default(),
            isolated: options.isolated,
            next: Cell::new(0),
        })
    }

    fn number(&self) -> u32 {
        self.next.replace(self.next.get().wrapping_add(1))
    }

    /// Gives the device back, as a browser takes it away: everything on it is lost.
    pub fn destroy(&self) {
        self.lanes.own.destroy();
    }
}

#[async_trait(?Send)]
impl Backend for WebNnBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn lanes(&self) -> usize {
        self.lanes.busy.len()
    }

    async fn load(&self, program: &Program, source: &dyn WeightSource) -> Result<Loaded, EngineError> {
        let lanes = &self.lanes;
        lanes.own.alive()?;
        let graph = program.graph();
        let begin = Instant::now();
        let recipe = lower(graph, lanes.own.limits())?;
        let mut compile = begin.elapsed();
        let begin = Instant::now();
        let mut positions: Vec<_> = recipe.weights().collect();
        positions.sort_unstable();
        let shareable = self.isolated && !lanes.nested.is_empty();
        let weights = self.weights.load(graph, &positions, source, shareable).await?;
        let upload = begin.elapsed();
        let begin = Instant::now();
        let number = self.number();
        // Made now, so that what other lanes made is freed where one of them fails.
        let placed = Placed { lanes: Rc::clone(lanes), number, lane: None };
        let others = lanes.build_nested(number, program, &weights, positions.len())?;
        let weight = |position| weights.buffer(position);
        let own = async {
            let tables = weights.tables(&recipe, &lanes.own).await?;
            lanes.own.build(&recipe, &weight, tables).await
        };
        let (built, others) = futures::join!(own, try_join_all(others));
        let (built, others) = (built?, others?);
        compile += begin.elapsed();
        let of_others: u64 = others.iter().map(|answer| get(answer, "bytes").as_f64().unwrap_or_default() as u64).sum();
        // What the graphs themselves keep of the weights, once in each lane, no browser tells.
        let memory = MemoryUse { weights: weights.bytes, shared: weights.shared, scratch: built.bytes + of_others };
        let executable =
            WebNnExecutable { graph: graph.clone(), built, placed, order: Rc::default(), _weights: weights };
        Ok(Loaded {
            executable: Rc::new(executable),
            report: LoadReport { compile, upload, memory, ..LoadReport::default() },
        })
    }

    async fn new_states(&self, specs: &[StateSpec]) -> Result<Rc<dyn StateSet>, EngineError> {
        self.lanes.own.alive()?;
        Ok(Rc::new(LaneStates::new(&self.lanes, self.number(), specs).await?))
    }
}

impl Lanes {
    /// Asks every nested lane to make a graph.
    fn build_nested(
        &self,
        number: u32,
        program: &Program,
        weights: &Weights,
        read: usize,
    ) -> Result<Vec<impl Future<Output = Result<JsValue, EngineError>> + use<>>, EngineError> {
        if self.nested.is_empty() {
            return Ok(Vec::new());
        }
        let encoded = program.encode();
        let count = if read == 0 { 0 } else { program.graph().weights().len() };
        let ask = |lane: &Nested| {
            let encoded = Uint8Array::from(&encoded[..]);
            let members = object([
                ("program", encoded.into()),
                ("weights", weights.buffers(count).into()),
                ("numbers", weights.numbers(count).into()),
            ]);
            lane.call("build", number, &members, &Array::new())
        };
        self.nested.iter().map(ask).collect()
    }

    /// The lane with the least to do, the worker's own among equals.
    fn pick(&self) -> usize {
        (0..self.busy.len()).min_by_key(|&lane| self.busy[lane].get()).unwrap_or(0)
    }

    /// The lane that keeps the fewest sets of states, the one with the least to do among equals.
    pub(crate) fn lane_for_states(&self) -> usize {
        let load = |&lane: &usize| (self.sets[lane].get(), self.busy[lane].get());
        (0..self.sets.len()).min_by_key(load).unwrap_or(0)
    }
}

/// The number of a graph on all nested lanes, or of a set of states on one lane; they forget it with this.
pub(crate) struct Placed {
    pub(crate) lanes: Rc<Lanes>,
    pub(crate) number: u32,
    /// The lane that keeps the set, the worker's own first.
    lane: Option<usize>,
}

impl Placed {
    /// A set of states on this lane, counted there.
    pub(crate) fn on(lanes: &Rc<Lanes>, number: u32, lane: usize) -> Self {
        lanes.sets[lane].set(lanes.sets[lane].get() + 1);
        Self { lanes: Rc::clone(lanes), number, lane: Some(lane) }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        let Some(lane) = self.lane else {
            self.lanes.nested.iter().for_each(|lane| lane.forget(self.number));
            return;
        };
        let count = &self.lanes.sets[lane];
        count.set(count.get() - 1);
        if let Some(nested) = lane.checked_sub(1) {
            self.lanes.nested[nested].forget(self.number);
        }
    }
}

/// A program on every lane.
struct WebNnExecutable {
    graph: Graph,
    built: Built,
    placed: Placed,
    order: Rc<Order>,
    /// Kept for programs to come; the graphs have copies of their own.
    _weights: Weights,
}

/// Counts a run on its lane until it is over or dropped.
struct Busy<'a>(&'a Cell<u32>);

impl<'a> Busy<'a> {
    fn new(count: &'a Cell<u32>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[async_trait(?Send)]
impl Executable for WebNnExecutable {
    async fn run(&self, inputs: &[Tensor]) -> Result<RunOutput, EngineError> {
        check_inputs(&self.graph, inputs)?;
        check_states(&self.graph, None)?;
        self.run_somewhere(None, inputs).await
    }

    async fn run_on(&self, states: &Rc<dyn StateSet>, inputs: &[Tensor]) -> Result<RunOutput, EngineError> {
        check_inputs(&self.graph, inputs)?;
        let states = own::<LaneStates>(states)?;
        check_states(&self.graph, Some(states.specs()))?;
        if !Rc::ptr_eq(&states.placed.lanes, &self.placed.lanes) {
            let reason = "are on a device that was given back, or on another worker's".to_owned();
            return Err(EngineError::State { reason });
        }
        let states = if states.specs().is_empty() { None } else { Some(&*states) };
        self.run_somewhere(states, inputs).await
    }
}

impl WebNnExecutable {
    /// Runs where the states are, and otherwise on the lane with the least to do.
    async fn run_somewhere(&self, states: Option<&LaneStates>, inputs: &[Tensor]) -> Result<RunOutput, EngineError> {
        let lanes = &self.placed.lanes;
        lanes.own.alive()?;
        let begin = Instant::now();
        let ticket = self.order.ticket();
        let lane = states.map_or_else(|| lanes.pick(), |states| states.lane);
        let busy = Busy::new(&lanes.busy[lane]);
        let buffers = match lane.checked_sub(1) {
            None => {
                let states = states.and_then(|states| states.own.as_ref());
                self.built.run(&|position| view(inputs[position].data()), states).await
            }
            Some(nested) => self.run_nested(&lanes.nested[nested], states, inputs).await,
        };
        drop(busy);
        let compute = begin.elapsed();
        let begin = Instant::now();
        let tensors = buffers.and_then(|buffers| {
            let outputs = self.graph.outputs().iter().map(|output| self.graph.value(output.value));
            let tensors = outputs.zip(&buffers).enumerate().map(|(position, (value, buffer))| {
                let tensor = Tensor::new(value.dtype, value.shape.clone(), bytes_in(buffer));
                tensor.map_err(|e| EngineError::Device {
                    doing: format!("reading output {position}"),
                    reason: e.to_string(),
                })
            });
            tensors.collect::<Result<Vec<_>, _>>()
        });
        let readback = begin.elapsed();
        ticket.turn().await;
        Ok(RunOutput { tensors: tensors?, compute, readback })
    }

    async fn run_nested(
        &self,
        lane: &Nested,
        states: Option<&LaneStates>,
        inputs: &[Tensor],
    ) -> Result<Vec<JsValue>, EngineError> {
        let buffers: Array = inputs.iter().map(|t| JsValue::from(Uint8Array::from(&t.data()[..]).buffer())).collect();
        let set = states.map_or(JsValue::UNDEFINED, |states| states.placed.number.into());
        let members = object([("inputs", buffers.clone().into()), ("states", set)]);
        let answer = lane.call("run", self.placed.number, &members, &buffers)?.await?;
        Ok(Array::from(&get(&answer, "outputs")).to_vec())
    }
}
