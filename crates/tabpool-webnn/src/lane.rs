//! A lane's side: what runs in a worker nested in the tab's worker, with a context of its own, graphs on it and
//! states that belong to it.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::{Rc, Weak};

use js_sys::{Array, Object, Uint8Array};
use tabpool_engine::{EngineError, StateSpec};
use tabpool_graph::{Program, ProgramLimits};
use tabpool_tensor::{DType, Shape};
use wasm_bindgen::closure::Closure;
use wasm_bindgen::prelude::{JsCast, JsValue, wasm_bindgen};
use wasm_bindgen_futures::spawn_local;
use web_sys::MessageEvent;
use web_time::Instant;

use crate::context::{Built, Context, States, Table};
use crate::lower::lower;
use crate::message::refusal;
use crate::ml::{get, object, set, thrown};

#[wasm_bindgen]
extern "C" {
    /// The scope of a nested worker.
    type LaneScope;
    #[wasm_bindgen(method, setter, js_name = onmessage)]
    fn set_onmessage(this: &LaneScope, listener: &js_sys::Function);
    #[wasm_bindgen(method, catch, js_name = postMessage)]
    fn post(this: &LaneScope, message: &JsValue, transfer: &Array) -> Result<(), JsValue>;
}

/// Serves the worker that started this one, until it ends this one. Calls that came before are answered first.
pub fn serve_lane(early: &Array) {
    let lane = Rc::new(Lane::default());
    let serving = Rc::clone(&lane);
    let listener = Closure::<dyn Fn(MessageEvent)>::new(move |event: MessageEvent| serving.serve(event.data()));
    js_sys::global().unchecked_into::<LaneScope>().set_onmessage(listener.as_ref().unchecked_ref());
    // It listens for as long as this worker lives.
    listener.forget();
    for message in early.iter() {
        lane.serve(message);
    }
}

#[derive(Default)]
struct Lane {
    context: RefCell<Option<Rc<Context>>>,
    graphs: RefCell<HashMap<u32, Rc<Built>>>,
    /// Tables that some graph reads, by the worker's numbers for weights.
    tables: RefCell<HashMap<u32, Weak<Table>>>,
    states: RefCell<HashMap<u32, Rc<States>>>,
    /// Graphs and states that are being made; one that is dropped meanwhile is not kept when it is done.
    building: RefCell<HashSet<u32>>,
}

impl Lane {
    fn serve(self: &Rc<Self>, message: JsValue) {
        let number = get(&message, "graph").as_f64().unwrap_or_default() as u32;
        if get(&message, "kind").as_string().as_deref() == Some("drop") {
            self.graphs.borrow_mut().remove(&number);
            self.states.borrow_mut().remove(&number);
            self.building.borrow_mut().remove(&number);
            return;
        }
        // A run is asked of the context before anything else is awaited, so that runs keep the order of their calls.
        let run = match get(&message, "kind").as_string().as_deref() {
            Some("run") => Some(self.run(number, &message)),
            _ => None,
        };
        let this = Rc::clone(self);
        spawn_local(async move {
            let call = get(&message, "call");
            let outcome = match run {
                Some(run) => run.await,
                None if get(&message, "kind") == "open" => this.open().await,
                None if get(&message, "kind") == "keep" => this.keep(number, &message).await,
                None => this.build(number, &message).await,
            };
            let (answer, transfer) = match outcome {
                Ok((answer, transfer)) => {
                    set(&answer, "call", &call);
                    (answer, transfer)
                }
                Err(error) => (refusal(&call, &error), Array::new()),
            };
            let scope = js_sys::global().unchecked_into::<LaneScope>();
            if let Err(e) = scope.post(&answer, &transfer) {
                let error = EngineError::Device { doing: "answering from a lane".to_owned(), reason: thrown(&e) };
                // A plain object of texts can always be posted.
                let _ = scope.post(&refusal(&call, &error), &Array::new());
            }
        });
    }

    async fn open(&self) -> Result<(Object, Array), EngineError> {
        let context = Context::open().await?;
        self.context.replace(Some(Rc::new(context)));
        Ok((Object::new(), Array::new()))
    }

    async fn build(&self, number: u32, message: &JsValue) -> Result<(Object, Array), EngineError> {
        self.building.borrow_mut().insert(number);
        let built = self.make(message).await;
        let wanted = self.building.borrow_mut().remove(&number);
        let built = built?;
        let answer = object([("bytes", JsValue::from_f64(built.bytes as f64))]);
        if wanted {
            self.graphs.borrow_mut().insert(number, Rc::new(built));
        }
        Ok((answer, Array::new()))
    }

    /// Makes states for a set of the worker's.
    async fn keep(&self, number: u32, message: &JsValue) -> Result<(Object, Array), EngineError> {
        let failed = |reason: &str| EngineError::Device {
            doing: "making states in a lane".to_owned(),
            reason: reason.to_owned(),
        };
        let context = self.context.borrow().clone().ok_or_else(|| failed("it has no context"))?;
        let mut specs = Vec::new();
        for spec in Array::from(&get(message, "specs")).iter() {
            let dtype = get(&spec, "dtype").as_f64().and_then(|code| DType::from_code(code as u8));
            let dims: Option<Vec<usize>> =
                Array::from(&get(&spec, "shape")).iter().map(|d| d.as_f64().map(|d| d as usize)).collect();
            let (dtype, dims) = dtype.zip(dims).ok_or_else(|| failed("a kind of state is not readable"))?;
            specs.push(StateSpec { name: String::new(), dtype, shape: Shape::from(dims) });
        }
        self.building.borrow_mut().insert(number);
        let states = context.states(&specs).await;
        let wanted = self.building.borrow_mut().remove(&number);
        let states = states?;
        if wanted {
            self.states.borrow_mut().insert(number, Rc::new(states));
        }
        Ok((Object::new(), Array::new()))
    }

    async fn make(&self, message: &JsValue) -> Result<Built, EngineError> {
        let failed = |reason| EngineError::Device { doing: "reading a program in a lane".to_owned(), reason };
        let context = self.context.borrow().clone().ok_or_else(|| failed("it has no context".to_owned()))?;
        let program = Uint8Array::new(&get(message, "program")).to_vec();
        let program = Program::decode(&program, &ProgramLimits::default()).map_err(|e| failed(e.to_string()))?;
        let recipe = lower(program.graph(), context.limits())?;
        let weights: Array = get(message, "weights").unchecked_into();
        let weight = |position: usize| u32::try_from(position).map_or(JsValue::UNDEFINED, |at| weights.get(at));
        let numbers: Array = get(message, "numbers").unchecked_into();
        let mut tables = Vec::new();
        for (position, step) in recipe.tables() {
            let number = u32::try_from(position).map_or(JsValue::UNDEFINED, |at| numbers.get(at));
            let number = number.as_f64().unwrap_or_default() as u32;
            let known = self.tables.borrow().get(&number).and_then(Weak::upgrade);
            let table = match known {
                Some(table) => table,
                None => context.table(step, &weight(position)).await?,
            };
            self.tables.borrow_mut().retain(|_, table| table.strong_count() > 0);
            self.tables.borrow_mut().insert(number, Rc::downgrade(&table));
            tables.push((position, table));
        }
        context.build(&recipe, &weight, tables).await
    }

    fn run(
        &self,
        number: u32,
        message: &JsValue,
    ) -> impl Future<Output = Result<(Object, Array), EngineError>> + use<> {
        let begun = Instant::now();
        let built = self.graphs.borrow().get(&number).cloned();
        let inputs: Array = get(message, "inputs").unchecked_into();
        let input = |position: usize| u32::try_from(position).map_or(JsValue::UNDEFINED, |at| inputs.get(at));
        // A set that is not here is missed by the graph that keeps it.
        let states = get(message, "states").as_f64().and_then(|set| self.states.borrow().get(&(set as u32)).cloned());
        let asked = built.map(|built| built.run(&input, states.as_deref()));
        async move {
            let unknown = || EngineError::Device {
                doing: "running in a lane".to_owned(),
                reason: format!("it has no graph {number}"),
            };
            let outputs = asked.ok_or_else(unknown)?.await?;
            let outputs: Array = outputs.into_iter().collect();
            let ms = begun.elapsed().as_secs_f64() * 1e3;
            let answer = object([("outputs", outputs.clone().into()), ("ms", JsValue::from_f64(ms))]);
            Ok((answer, outputs))
        }
    }
}
