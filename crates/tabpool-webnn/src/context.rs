//! One context of WebNN: how it is opened, how a recipe becomes a graph on it, what is kept there between runs, and how that
//! graph runs.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use bytes::Bytes;
use futures::future::try_join_all;
use js_sys::{Array, Object, Reflect, Uint8Array};
use tabpool_engine::{EngineError, StateSpec};
use tabpool_tensor::DType;
use wasm_bindgen::prelude::{JsCast, JsValue};
use wasm_bindgen_futures::{JsFuture, spawn_local};

use crate::limits::{Limits, Support, data_type};
use crate::ml::{self, Ml, MlContext, MlGraph, MlGraphBuilder, MlOperand, MlTensor, get, object, set, thrown};
use crate::recipe::{Argument, Recipe, Source, Step};
use crate::weights::allocate;

/// The most dimensions any browser takes, for those that do not tell.
const ANY_RANK: usize = 64;

/// How often, and how far apart, a failure waits for the news that it was a loss.
const LOST_POLLS: u32 = 10;
const LOST_POLL_MS: u32 = 20;

/// What a browser says of its WebNN before anything is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Whether it computes on a GPU or an NPU; `None` where the browser does not say.
    pub accelerated: Option<bool>,
    /// How many operators it has.
    pub operators: usize,
    /// The most bytes of one tensor, where it tells.
    pub tensor_bytes: Option<u64>,
}

/// Opens a context, asks what it can do, and gives it back.
///
/// # Errors
/// What is lacking, for people.
pub async fn probe() -> Result<Claims, String> {
    let ml = ml::navigator_ml().ok_or_else(|| "the browser has no WebNN in workers".to_owned())?;
    let context = open(&ml).await.map_err(|e| thrown(&e))?;
    let limits = context.op_support_limits().map_err(|e| thrown(&e));
    let claims = limits.map(|limits| Claims {
        accelerated: context.accelerated(),
        operators: Object::entries(&limits).iter().filter(|entry| is_operator(&pair(entry).1)).count(),
        tensor_bytes: whole(&get(&limits, "maxTensorByteLength")),
    });
    // A context that cannot be given back is collected.
    let _ = context.destroy();
    claims
}

/// A context with the options this backend wants. The specification once named a device's type and now says how much
/// power may be used, so the present wish comes first, then no wish at all.
async fn open(ml: &Ml) -> Result<MlContext, JsValue> {
    let wish = object([("powerPreference", "high-performance".into())]);
    let made = match ml.create_context(&wish) {
        Ok(promise) => JsFuture::from(promise).await,
        Err(refused) => Err(refused),
    };
    match made {
        Ok(context) => Ok(context.unchecked_into()),
        Err(_) => JsFuture::from(ml.create_context(&Object::new())?).await.map(JsCast::unchecked_into),
    }
}

/// A device, alive until it is lost.
pub(crate) struct Context {
    ml: MlContext,
    limits: Limits,
    /// Why it is lost.
    lost: Rc<RefCell<Option<String>>>,
}

impl Context {
    /// Opens one.
    ///
    /// # Errors
    /// [`EngineError::Device`] with what the browser says.
    pub(crate) async fn open() -> Result<Self, EngineError> {
        let failed = |reason: String| EngineError::Device { doing: "opening WebNN".to_owned(), reason };
        let ml = ml::navigator_ml().ok_or_else(|| failed("the browser has no WebNN in workers".to_owned()))?;
        let context = open(&ml).await.map_err(|e| failed(thrown(&e)))?;
        let limits = context.op_support_limits().map_err(|e| failed(thrown(&e)))?;
        let lost = Rc::new(RefCell::new(None));
        if let Some(promise) = context.lost() {
            let lost = Rc::clone(&lost);
            spawn_local(async move {
                let why = JsFuture::from(promise).await.unwrap_or_else(|e| e);
                let why = get(&why, "message").as_string().filter(|text| !text.is_empty());
                lost.replace(Some(why.unwrap_or_else(|| "the browser does not say why".to_owned())));
            });
        }
        Ok(Self { ml: context, limits: read_limits(&limits), lost })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether it computes on a GPU or an NPU, where the browser tells.
    pub(crate) fn accelerated(&self) -> Option<bool> {
        self.ml.accelerated()
    }

    /// Gives the device back: everything on it is lost.
    pub(crate) fn destroy(&self) {
        // One that is lost already cannot be given back.
        let _ = self.ml.destroy();
    }

    /// # Errors
    /// [`EngineError::DeviceLost`] once it is.
    pub(crate) fn alive(&self) -> Result<(), EngineError> {
        match &*self.lost.borrow() {
            Some(reason) => Err(EngineError::DeviceLost { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// What a thrown value means while something was being done.
    async fn failed(&self, doing: &str, error: JsValue) -> EngineError {
        // The news that a context is lost may come after the first failure that it causes: it has a way of its own. Nothing
        // is in a hurry after a failure.
        for _ in 0..LOST_POLLS {
            if let Err(lost) = self.alive() {
                return lost;
            }
            ml::sleep(LOST_POLL_MS).await;
        }
        let reason = thrown(&error);
        let doing = doing.to_owned();
        match reason.to_lowercase().contains("memory") || reason.contains("QuotaExceeded") {
            true => EngineError::OutOfMemory { doing, reason },
            false => EngineError::Device { doing, reason },
        }
    }

    /// Makes a recipe a graph, with tensors for its inputs and outputs. `weight` gives the bytes of a weight in `f32`;
    /// `tables` are those the recipe names, on this context.
    ///
    /// # Errors
    /// [`EngineError`]; what was made is freed with it.
    pub(crate) async fn build(
        self: &Rc<Self>,
        recipe: &Recipe,
        weight: &dyn Fn(usize) -> JsValue,
        tables: Vec<(usize, Rc<Table>)>,
    ) -> Result<Built, EngineError> {
        self.alive()?;
        let doing = "making the graph";
        let graph = match self.graph(recipe, weight) {
            Ok(promise) => JsFuture::from(promise).await,
            Err(thrown) => Err(thrown),
        };
        let graph: MlGraph = match graph {
            Ok(graph) => graph.unchecked_into(),
            Err(thrown) => return Err(self.failed(doing, thrown).await),
        };
        let mut built = Built {
            context: Rc::clone(self),
            graph,
            inputs: Vec::new(),
            outputs: Vec::new(),
            reads: recipe.states().collect(),
            changes: recipe.nexts.iter().map(|&(position, _)| position).collect(),
            _tables: Vec::new(),
            input_names: Object::new(),
            output_names: Object::new(),
            bytes: 0,
        };
        for (position, step) in recipe.inputs() {
            let tensor = self.tensor(step.dtype, &step.shape, "writable").await?;
            set(&built.input_names, &format!("i{position}"), &tensor);
            built.inputs.push((position, tensor));
            built.bytes += bytes_of(step);
        }
        for (position, table) in &tables {
            set(&built.input_names, &format!("t{position}"), &table.0.0);
        }
        built._tables = tables.into_iter().map(|(_, table)| table).collect();
        for (position, &output) in recipe.outputs.iter().enumerate() {
            let step = &recipe.steps[output.0];
            let tensor = self.tensor(step.dtype, &step.shape, "readable").await?;
            set(&built.output_names, &format!("o{position}"), &tensor);
            built.outputs.push(tensor);
            built.bytes += bytes_of(step);
        }
        Ok(built)
    }

    /// Brings a table of the recipe onto this context.
    ///
    /// # Errors
    /// [`EngineError`] as the browser says.
    pub(crate) async fn table(&self, step: &Step, bytes: &JsValue) -> Result<Rc<Table>, EngineError> {
        let table = Rc::new(Table(Kept(self.tensor(step.dtype, &step.shape, "writable").await?)));
        match self.ml.write_tensor(&table.0.0, bytes) {
            Ok(()) => Ok(table),
            Err(thrown) => Err(self.failed("writing a table", thrown).await),
        }
    }

    /// Makes memory for states, all zeros.
    ///
    /// # Errors
    /// [`EngineError`]; what was made is freed with it.
    pub(crate) async fn states(self: &Rc<Self>, specs: &[StateSpec]) -> Result<States, EngineError> {
        self.alive()?;
        let mut states = States { all: Vec::with_capacity(specs.len()) };
        for spec in specs {
            let shape = spec.shape.dims();
            let present = Kept(self.tensor(spec.dtype, shape, "writable").await?);
            let next = Kept(self.tensor(spec.dtype, shape, "writable").await?);
            let zeros = allocate(spec.shape.elements() * spec.dtype.size(), false);
            if let Err(thrown) = zeros.and_then(|zeros| self.ml.write_tensor(&present.0, &zeros)) {
                return Err(self.failed("emptying a state", thrown).await);
            }
            states.all.push(State { tensors: [present, next], present: Cell::new(0) });
        }
        Ok(states)
    }

    async fn tensor(&self, dtype: DType, shape: &[usize], use_: &str) -> Result<MlTensor, EngineError> {
        let descriptor = descriptor(dtype, shape);
        set(&descriptor, use_, &JsValue::TRUE);
        let made = match self.ml.create_tensor(&descriptor) {
            Ok(promise) => JsFuture::from(promise).await,
            Err(thrown) => Err(thrown),
        };
        match made {
            Ok(tensor) => Ok(tensor.unchecked_into()),
            Err(thrown) => Err(self.failed("making a tensor", thrown).await),
        }
    }

    /// Calls the builder as the recipe says.
    fn graph(&self, recipe: &Recipe, weight: &dyn Fn(usize) -> JsValue) -> Result<js_sys::Promise, JsValue> {
        let builder = MlGraphBuilder::new(&self.ml)?;
        let mut made: Vec<MlOperand> = Vec::with_capacity(recipe.steps.len());
        for step in &recipe.steps {
            let operand = match &step.source {
                Source::Input(position) => {
                    builder.input(&format!("i{position}"), &descriptor(step.dtype, &step.shape))?
                }
                Source::Table(position) => {
                    builder.input(&format!("t{position}"), &descriptor(step.dtype, &step.shape))?
                }
                Source::State(position) => {
                    builder.input(&format!("s{position}"), &descriptor(step.dtype, &step.shape))?
                }
                Source::Weight(position) => {
                    builder.constant(&descriptor(step.dtype, &step.shape), &weight(*position))?
                }
                Source::Constant(bytes) => {
                    let bytes = Uint8Array::from(&bytes[..]).buffer();
                    builder.constant(&descriptor(step.dtype, &step.shape), &bytes)?
                }
                Source::Call { method, arguments, options } => {
                    let all = Array::new();
                    for argument in arguments {
                        all.push(&value(argument, &made));
                    }
                    if !options.is_empty() {
                        let object = Object::new();
                        for (key, argument) in options {
                            set(&object, key, &value(argument, &made));
                        }
                        all.push(&object);
                    }
                    builder.operator(method, &all)?
                }
            };
            made.push(operand);
        }
        let outputs = Object::new();
        for (position, &output) in recipe.outputs.iter().enumerate() {
            set(&outputs, &format!("o{position}"), &made[output.0]);
        }
        for (position, next) in &recipe.nexts {
            set(&outputs, &format!("n{position}"), &made[next.0]);
        }
        builder.build(&outputs)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // Now, and not when the browser happens to collect it: a context holds the memory of all its graphs.
        self.destroy();
    }
}

/// A table on a context, which its graphs share.
pub(crate) struct Table(Kept);

/// A tensor that is freed with this.
struct Kept(MlTensor);

impl Drop for Kept {
    fn drop(&mut self) {
        // One whose context is gone is gone as well.
        let _ = self.0.destroy_tensor();
    }
}

/// A state: a graph never writes what it reads, so there are two tensors, and a run that changes the state swaps them.
struct State {
    tensors: [Kept; 2],
    /// Which of them holds it.
    present: Cell<usize>,
}

/// States on a context, in the order in which they were asked for.
pub(crate) struct States {
    all: Vec<State>,
}

/// The bytes that states of these kinds take, all copies counted.
pub(crate) fn bytes_of_states(specs: &[StateSpec]) -> u64 {
    specs.iter().map(|spec| spec.bytes().saturating_mul(2)).fold(0, u64::saturating_add)
}

/// A graph on a context, with its tensors.
pub(crate) struct Built {
    context: Rc<Context>,
    graph: MlGraph,
    /// With the position of each in the program.
    inputs: Vec<(usize, MlTensor)>,
    outputs: Vec<MlTensor>,
    /// The positions of the states that are read, and of those that are changed.
    reads: Vec<usize>,
    changes: Vec<usize>,
    /// Kept for as long as runs read them.
    _tables: Vec<Rc<Table>>,
    input_names: Object,
    output_names: Object,
    /// The bytes of the tensors.
    pub(crate) bytes: u64,
}

impl Built {
    /// Runs once, on these states where it has some, and gives the outputs' buffers. `input` gives a view of an input's bytes, which is copied before this
    /// returns. A context does what it is asked in order, so that runs may overlap in one set of tensors: the next run's
    /// inputs are written after the present one has read its own.
    pub(crate) fn run(
        &self,
        input: &dyn Fn(usize) -> JsValue,
        states: Option<&States>,
    ) -> impl Future<Output = Result<Vec<JsValue>, EngineError>> + use<> {
        let asked = self.ask(input, states);
        let context = Rc::clone(&self.context);
        async move {
            let doing = "running the graph";
            match asked {
                Ok(promises) => match try_join_all(promises.into_iter().map(JsFuture::from)).await {
                    Ok(buffers) => Ok(buffers),
                    Err(thrown) => Err(context.failed(doing, thrown).await),
                },
                Err(thrown) => Err(context.failed(doing, thrown).await),
            }
        }
    }

    /// Asks for everything at once, so that no other run comes in between.
    fn ask(&self, input: &dyn Fn(usize) -> JsValue, states: Option<&States>) -> Result<Vec<js_sys::Promise>, JsValue> {
        let ml = &self.context.ml;
        for (position, tensor) in &self.inputs {
            ml.write_tensor(tensor, &input(*position))?;
        }
        if self.reads.is_empty() && self.changes.is_empty() {
            ml.dispatch(&self.graph, &self.input_names, &self.output_names)?;
        } else {
            self.dispatch_on(states)?;
        }
        self.outputs.iter().map(|tensor| ml.read_tensor(tensor)).collect()
    }

    /// Reads what states are and writes what they become beside it; from then on that is what they are.
    fn dispatch_on(&self, states: Option<&States>) -> Result<(), JsValue> {
        let missing = || js_sys::Error::new("the graph keeps a state that was not given");
        let state = |&position: &usize| states.and_then(|states| states.all.get(position)).ok_or_else(missing);
        let inputs = Object::assign(&Object::new(), &self.input_names);
        for position in &self.reads {
            let state = state(position)?;
            set(&inputs, &format!("s{position}"), &state.tensors[state.present.get()].0);
        }
        let outputs = Object::assign(&Object::new(), &self.output_names);
        let changed = self.changes.iter().map(state).collect::<Result<Vec<_>, _>>()?;
        for (position, state) in self.changes.iter().zip(&changed) {
            set(&outputs, &format!("n{position}"), &state.tensors[1 - state.present.get()].0);
        }
        self.context.ml.dispatch(&self.graph, &inputs, &outputs)?;
        for state in changed {
            state.present.set(1 - state.present.get());
        }
        Ok(())
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        self.graph.free();
        for tensor in self.inputs.iter().map(|(_, tensor)| tensor).chain(&self.outputs) {
            // One whose context is gone is gone as well.
            let _ = tensor.destroy_tensor();
        }
    }
}

fn bytes_of(step: &Step) -> u64 {
    (step.shape.iter().product::<usize>() * step.dtype.size()) as u64
}

fn descriptor(dtype: DType, shape: &[usize]) -> Object {
    // Limits were checked by this name, so there is one; earlier drafts called the shape `dimensions`.
    let shape = dims(shape);
    object([("dataType", data_type(dtype).unwrap_or_default().into()), ("shape", shape.clone()), ("dimensions", shape)])
}

fn dims(shape: &[usize]) -> JsValue {
    // A double holds every size a tensor can have.
    shape.iter().map(|&d| JsValue::from_f64(d as f64)).collect::<Array>().into()
}

fn value(argument: &Argument, made: &[MlOperand]) -> JsValue {
    match argument {
        Argument::Operand(operand) => made[operand.0].clone().into(),
        Argument::Operands(operands) => {
            operands.iter().map(|operand| made[operand.0].clone()).collect::<Array>().into()
        }
        Argument::Dims(shape) => dims(shape),
        Argument::Number(number) => JsValue::from_f64(*number),
        Argument::Flag(flag) => JsValue::from_bool(*flag),
        Argument::Text(text) => JsValue::from_str(text),
    }
}

fn pair(entry: &JsValue) -> (String, JsValue) {
    let entry: &Array = entry.unchecked_ref();
    (entry.get(0).as_string().unwrap_or_default(), entry.get(1))
}

fn is_operator(value: &JsValue) -> bool {
    value.is_object() && get(value, "dataTypes").is_undefined()
}

fn whole(value: &JsValue) -> Option<u64> {
    value.as_f64().filter(|number| *number >= 0.0).map(|number| number as u64)
}

/// The table of `opSupportLimits()`.
fn read_limits(object: &Object) -> Limits {
    let mut limits = Limits::new(whole(&get(object, "maxTensorByteLength")));
    for entry in Object::entries(object).iter() {
        let (operator, value) = pair(&entry);
        if let Some(support) = support(&value) {
            limits.insert(&operator, "", support);
        } else if value.is_object() {
            for entry in Object::entries(value.unchecked_ref()).iter() {
                let (operand, value) = pair(&entry);
                if let Some(support) = support(&value) {
                    limits.insert(&operator, &operand, support);
                }
            }
        }
    }
    limits
}

fn support(value: &JsValue) -> Option<Support> {
    let names = Reflect::get(value, &"dataTypes".into()).ok()?.dyn_into::<Array>().ok()?;
    let dtypes: BTreeSet<String> = names.iter().filter_map(|name| name.as_string()).collect();
    let range = get(value, "rankRange");
    let bound = |key| whole(&get(&range, key)).and_then(|rank| usize::try_from(rank).ok());
    Some(Support { dtypes, ranks: bound("min").unwrap_or(0)..=bound("max").unwrap_or(ANY_RANK) })
}

/// The bytes of a buffer that JavaScript made.
pub(crate) fn bytes_in(buffer: &JsValue) -> Bytes {
    Uint8Array::new(buffer).to_vec().into()
}

/// A view of bytes in this module's memory, for a call that copies them before anything else runs.
pub(crate) fn view(bytes: &[u8]) -> JsValue {
    // SAFETY: every caller hands the view to `writeTensor`, which copies it before it returns, and nothing in between
    // allocates in the module's memory.
    unsafe { Uint8Array::view(bytes) }.into()
}
