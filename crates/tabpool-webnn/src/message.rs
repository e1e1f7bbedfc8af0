//! What a worker and its lanes say to each other: plain objects with a number that ties an answer to its call.
//!
//! | member | in a call | in an answer |
//! |---|---|---|
//! | `call` | the call's number | the same |
//! | `kind` | `open`, `build`, `keep`, `run` or `drop` | |
//! | `graph` | which graph, or to `keep` and `drop` which set of states, is meant: the worker numbers both in one row | |
//! | `program`, `weights` | `build`: the encoded program, and buffers by the weights' positions | |
//! | `numbers` | `build`: what the worker calls each weight, so that tables are shared | |
//! | `specs` | `keep`: what states there are, each with the code of its `dtype` and its `shape` | |
//! | `inputs` | `run`: buffers by the inputs' positions | |
//! | `states` | `run`: the set it runs on, `undefined` for a graph that keeps none | |
//! | `outputs`, `ms` | | `run`: buffers in the outputs' order, and how long the run took once begun |
//! | `bytes` | | `build`: the bytes of the graph's tensors |
//! | `error`, `reason`, `doing` | | what went wrong instead: `lost`, `memory` or `device` |
//!
//! Buffers are transferred, except those that are shared.

use js_sys::Object;
use tabpool_engine::EngineError;
use wasm_bindgen::prelude::JsValue;

use crate::ml::{get, object, set};

/// An error as an answer carries it.
pub(crate) fn refusal(call: &JsValue, error: &EngineError) -> Object {
    let (kind, doing, reason) = match error {
        EngineError::DeviceLost { reason } => ("lost", "", reason.clone()),
        EngineError::OutOfMemory { doing, reason } => ("memory", doing.as_str(), reason.clone()),
        EngineError::Device { doing, reason } => ("device", doing.as_str(), reason.clone()),
        other => ("device", "working in a lane", other.to_string()),
    };
    let answer = object([("error", kind.into()), ("doing", doing.into()), ("reason", reason.into())]);
    set(&answer, "call", call);
    answer
}

/// The answer, or the error it carries.
///
/// # Errors
/// What the lane says.
pub(crate) fn answer(message: JsValue) -> Result<JsValue, EngineError> {
    let text = |key| get(&message, key).as_string().unwrap_or_default();
    let (doing, reason) = (text("doing"), text("reason"));
    match get(&message, "error").as_string().as_deref() {
        None => Ok(message),
        Some("lost") => Err(EngineError::DeviceLost { reason }),
        Some("memory") => Err(EngineError::OutOfMemory { doing, reason }),
        Some(_) => Err(EngineError::Device { doing, reason }),
    }
}
