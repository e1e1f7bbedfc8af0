//! The worker's side of its lanes: the context in this worker, and those in workers nested in it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use futures::channel::oneshot;
use js_sys::{Array, Object};
use tabpool_engine::EngineError;
use wasm_bindgen::closure::Closure;
use wasm_bindgen::prelude::{JsCast, JsValue};
use web_sys::{ErrorEvent, MessageEvent, Worker, WorkerOptions, WorkerType};

use crate::message;
use crate::ml::{get, object, set, thrown};

/// A nested worker with a context of its own. Dropping it ends the worker and everything on its context.
pub(crate) struct Nested {
    worker: Worker,
    calls: Rc<Calls>,
    next: Cell<u32>,
    _listener: Closure<dyn Fn(MessageEvent)>,
    _failed: Closure<dyn Fn(ErrorEvent)>,
}

/// Calls that were not answered yet.
#[derive(Default)]
struct Calls {
    waiting: RefCell<HashMap<u32, oneshot::Sender<JsValue>>>,
    /// Why this lane answers no more.
    dead: RefCell<Option<String>>,
}

impl Calls {
    /// Nothing is answered from now on: those who wait are told by their senders' end.
    fn end(&self, reason: String) {
        self.dead.borrow_mut().get_or_insert(reason);
        self.waiting.borrow_mut().clear();
    }

    fn lost(&self) -> EngineError {
        let reason = self.dead.borrow().clone().unwrap_or_else(|| "a lane ended".to_owned());
        EngineError::DeviceLost { reason }
    }
}

impl Nested {
    /// Starts the script at this address and opens a context in it.
    ///
    /// # Errors
    /// What the browser says; nothing stays behind.
    pub(crate) async fn open(script: &str, module: &JsValue) -> Result<Self, EngineError> {
        let failed = |e: JsValue| EngineError::Device { doing: "starting a lane".to_owned(), reason: thrown(&e) };
        let options = WorkerOptions::new();
        options.set_type(WorkerType::Module);
        let worker = Worker::new_with_options(script, &options).map_err(failed)?;
        let calls = Rc::new(Calls::default());
        let answered = Rc::clone(&calls);
        let listener = Closure::<dyn Fn(MessageEvent)>::new(move |event: MessageEvent| {
            let message = event.data();
            if let Some(reason) = get(&message, "died").as_string() {
                answered.end(format!("a lane died: {reason}"));
                return;
            }
            let call = get(&message, "call").as_f64().unwrap_or(-1.0) as u32;
            let waiting = answered.waiting.borrow_mut().remove(&call);
            if let Some(waiting) = waiting {
                // A call whose future was dropped is answered to nobody.
                let _ = waiting.send(message);
            }
        });
        let broken = Rc::clone(&calls);
        let on_error = Closure::<dyn Fn(ErrorEvent)>::new(move |event: ErrorEvent| {
            broken.end(format!("a lane's script failed: {}", event.message()));
        });
        worker.set_onmessage(Some(listener.as_ref().unchecked_ref()));
        worker.set_onerror(Some(on_error.as_ref().unchecked_ref()));
        let nested = Self { worker, calls, next: Cell::new(0), _listener: listener, _failed: on_error };
        nested.worker.post_message(&object([("module", module.clone())])).map_err(failed)?;
        nested.call("open", 0, &Object::new(), &Array::new())?.await?;
        Ok(nested)
    }

    /// Posts a call now; the future gives its answer.
    ///
    /// # Errors
    /// [`EngineError`] where it cannot be posted, or as the lane says.
    pub(crate) fn call(
        &self,
        kind: &str,
        graph: u32,
        members: &Object,
        transfer: &Array,
    ) -> Result<impl Future<Output = Result<JsValue, EngineError>> + use<>, EngineError> {
        if self.calls.dead.borrow().is_some() {
            return Err(self.calls.lost());
        }
        let number = self.next.replace(self.next.get().wrapping_add(1));
        set(members, "kind", &kind.into());
        set(members, "call", &number.into());
        set(members, "graph", &graph.into());
        let (sender, receiver) = oneshot::channel();
        self.calls.waiting.borrow_mut().insert(number, sender);
        if let Err(e) = self.worker.post_message_with_transfer(members, transfer) {
            self.calls.waiting.borrow_mut().remove(&number);
            return Err(EngineError::Device { doing: format!("calling {kind} in a lane"), reason: thrown(&e) });
        }
        let calls = Rc::clone(&self.calls);
        Ok(async move {
            let answer = receiver.await.map_err(|_| calls.lost())?;
            message::answer(answer)
        })
    }

    /// Frees the graph or the states of this number. A lane that is gone holds none.
    pub(crate) fn forget(&self, number: u32) {
        let message = object([("kind", "drop".into()), ("graph", number.into())]);
        let _ = self.worker.post_message(&message);
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        self.worker.set_onmessage(None);
        self.worker.set_onerror(None);
        self.worker.terminate();
    }
}
