//! Sets of states: what programs keep on a lane between runs.
//!
//! A set is on one lane and stays there, so that runs on it need not wait for another lane's memory: with one set everything
//! runs on that lane, with several they spread over all. Each state is there twice, because WebNN never writes what it
//! reads; a set says so when it is asked how many bytes it takes.

use std::rc::Rc;

use js_sys::Array;
use tabpool_engine::state::StateSet;
use tabpool_engine::{EngineError, StateSpec};
use wasm_bindgen::prelude::JsValue;

use crate::backend::{Lanes, Placed};
use crate::context::{States, bytes_of_states};
use crate::ml::object;

/// A set of states on one lane.
pub(crate) struct LaneStates {
    specs: Vec<StateSpec>,
    /// Which lane, the worker's own first.
    pub(crate) lane: usize,
    /// What the lane knows it by; a nested lane forgets it with this.
    pub(crate) placed: Placed,
    /// The states themselves, where the lane is the worker's own.
    pub(crate) own: Option<States>,
}

impl LaneStates {
    /// Makes a set on the lane that has the fewest.
    ///
    /// # Errors
    /// As the browser says, and [`EngineError::State`] for what this browser's tensors cannot be.
    pub(crate) async fn new(lanes: &Rc<Lanes>, number: u32, specs: &[StateSpec]) -> Result<Self, EngineError> {
        for spec in specs {
            for role in ["input", "output"] {
                let fits = lanes.own.limits().check(role, "", spec.dtype, spec.shape.dims());
                fits.map_err(|reason| EngineError::State { reason: format!("cannot hold {:?}: {reason}", spec.name) })?;
            }
        }
        let lane = lanes.lane_for_states();
        // Made now, so that what the lane made is freed where something fails.
        let mut made = Self { specs: specs.to_vec(), lane, placed: Placed::on(lanes, number, lane), own: None };
        match lane.checked_sub(1) {
            None => made.own = Some(lanes.own.states(specs).await?),
            Some(nested) => {
                let specs: Array = specs.iter().map(described).collect();
                let members = object([("specs", specs.into())]);
                lanes.nested[nested].call("keep", number, &members, &Array::new())?.await?;
            }
        }
        Ok(made)
    }
}

impl StateSet for LaneStates {
    fn specs(&self) -> &[StateSpec] {
        &self.specs
    }

    fn bytes(&self) -> u64 {
        bytes_of_states(&self.specs)
    }
}

/// A kind of state as a message carries it.
fn described(spec: &StateSpec) -> JsValue {
    // A double holds every size a tensor can have.
    let shape: Array = spec.shape.dims().iter().map(|&d| JsValue::from_f64(d as f64)).collect();
    object([("dtype", spec.dtype.code().into()), ("shape", shape.into())]).into()
}
