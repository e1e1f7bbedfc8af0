//! Who makes callbacks of the device happen: in a browser the event loop does. Firefox however looks at pending maps on
//! a timer of 100 ms, or when something is submitted; where asked to, an empty list is submitted every 2 ms while a
//! callback is awaited. The timer is the worker's own, which browsers do not throttle in hidden tabs.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use wasm_bindgen::prelude::{Closure, wasm_bindgen};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setInterval)]
    fn set_interval(callback: &Closure<dyn FnMut()>, milliseconds: i32) -> f64;
    #[wasm_bindgen(js_name = clearInterval)]
    fn clear_interval(id: f64);
}

const NUDGE_EVERY_MS: i32 = 2;

/// Nudges the queue while a callback is awaited.
pub(crate) struct Pump(Option<Rc<Nudge>>);

struct Nudge {
    submit: Closure<dyn FnMut()>,
    pending: Cell<usize>,
    timer: RefCell<Option<f64>>,
}

impl Pump {
    /// Makes the timer's callback where nudging is asked for.
    ///
    /// # Errors
    /// None; the signature is the native one.
    pub(crate) fn new(_device: &wgpu::Device, queue: &wgpu::Queue, nudge: bool) -> std::io::Result<Self> {
        let queue = queue.clone();
        Ok(Self(nudge.then(|| {
            let submit = Closure::<dyn FnMut()>::new(move || {
                queue.submit(None);
            });
            Rc::new(Nudge { submit, pending: Cell::new(0), timer: RefCell::new(None) })
        })))
    }

    /// Says that a callback is awaited until the result is dropped, which the callback does.
    pub(crate) fn begin(&self) -> Pending {
        if let Some(nudge) = &self.0 {
            nudge.pending.set(nudge.pending.get() + 1);
            nudge.timer.borrow_mut().get_or_insert_with(|| set_interval(&nudge.submit, NUDGE_EVERY_MS));
        }
        Pending(self.0.clone())
    }

    /// Nothing to wait for: a loss is announced before anything fails of it.
    pub(crate) fn settle(&self, _device: &wgpu::Device, _announced: impl Fn() -> bool) {}
}

impl Drop for Nudge {
    fn drop(&mut self) {
        if let Some(id) = self.timer.take() {
            clear_interval(id);
        }
    }
}

/// A callback that is awaited.
pub(crate) struct Pending(Option<Rc<Nudge>>);

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(nudge) = &self.0 {
            nudge.pending.set(nudge.pending.get() - 1);
            if nudge.pending.get() == 0
                && let Some(id) = nudge.timer.take()
            {
                clear_interval(id);
            }
        }
    }
}
