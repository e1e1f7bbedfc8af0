//! States: what programs keep on a device between runs.
//!
//! A *set* of states belongs to one conversation, not to one program: a backend makes it from a list of [`StateSpec`]s, and
//! every executable of that backend whose program has that very list runs on it, one after the other. So a program that reads
//! a prompt and one that goes a token further fill one cache. The set is what is kept; dropping it frees its memory.

use std::any::Any;
use std::rc::Rc;

use tabpool_graph::Graph;
use tabpool_tensor::{DType, Shape};

use crate::backend::EngineError;

/// One state of a program: what it is called and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StateSpec {
    /// The state's name.
    pub name: String,
    /// `F32` or `I32`.
    pub dtype: DType,
    /// The static shape.
    pub shape: Shape,
}

impl StateSpec {
    /// The states of a graph, in its order.
    #[must_use]
    pub fn of(graph: &Graph) -> Vec<StateSpec> {
        let spec = |state: &tabpool_graph::State| {
            let value = graph.value(state.value);
            StateSpec { name: value.name.clone(), dtype: value.dtype, shape: value.shape.clone() }
        };
        graph.states().iter().map(spec).collect()
    }

    /// The bytes its elements take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shape.elements() as u64 * self.dtype.size() as u64
    }
}

/// A set of states on a device, zeros at first; made by [`Backend::new_states`](crate::Backend::new_states), which knows its
/// own kind by [`Any`]. Its address names it as long as it lives: a backend that keeps something for each executable and set
/// holds it by a [`Weak`](std::rc::Weak) reference, or in the set itself, so that it goes with either.
pub trait StateSet: Any {
    /// What it holds, in order.
    fn specs(&self) -> &[StateSpec];

    /// The bytes it takes on its device, all of them, until it is dropped.
    fn bytes(&self) -> u64;
}

/// Takes a set for what a backend makes.
///
/// # Errors
/// [`EngineError::State`] where another kind of backend made it.
pub fn own<T: StateSet>(states: &Rc<dyn StateSet>) -> Result<Rc<T>, EngineError> {
    let any: Rc<dyn Any> = Rc::clone(states) as Rc<dyn Any>;
    any.downcast().map_err(|_| EngineError::State { reason: "were made by another backend".to_owned() })
}

/// Checks the states of a run against a graph. Every backend calls this first, with `None` for a run without states.
///
/// # Errors
/// [`EngineError::State`] that names the first state that differs.
pub fn check_states(graph: &Graph, states: Option<&[StateSpec]>) -> Result<(), EngineError> {
    let wanted = StateSpec::of(graph);
    let fail = |reason: String| Err(EngineError::State { reason });
    let Some(given) = states else {
        return match wanted.first() {
            Some(first) => fail(format!("are missing: the program keeps {}, {:?} first", wanted.len(), first.name)),
            None => Ok(()),
        };
    };
    for (position, wanted) in wanted.iter().enumerate() {
        let StateSpec { name, dtype, shape } = wanted;
        match given.get(position) {
            None => return fail(format!("lack {name:?}, {dtype}{shape}")),
            Some(given) if given != wanted => {
                let StateSpec { name: other, dtype: is, shape: of } = given;
                return fail(format!("have {other:?}, {is}{of}, where the program keeps {name:?}, {dtype}{shape}"));
            }
            Some(_) => {}
        }
    }
    match given.get(wanted.len()) {
        Some(more) => fail(format!("have {:?}, which the program does not keep", more.name)),
        None => Ok(()),
    }
}

/// For a backend that keeps no states: refuses a program that has some.
///
/// # Errors
/// [`EngineError::Unsupported`] that names the first state.
pub fn refuse_states(api: &'static str, graph: &Graph) -> Result<(), EngineError> {
    match graph.states().first() {
        None => Ok(()),
        Some(state) => Err(EngineError::Unsupported {
            api,
            node: graph.value(state.value).name.clone(),
            op: "state",
            reason: "is kept between runs, which this backend does not do".to_owned(),
        }),
    }
}
