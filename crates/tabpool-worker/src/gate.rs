//! A gate that lets a fixed number of tasks of this thread pass at a time, in the order they came.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use futures::channel::oneshot;

/// Lets `width` holders through at once.
pub(crate) struct Gate {
    state: RefCell<State>,
}

struct State {
    free: usize,
    waiting: VecDeque<oneshot::Sender<Pass>>,
}

/// The right to be inside; dropping it lets the next one in.
pub(crate) struct Pass {
    gate: Option<Rc<Gate>>,
}

impl Gate {
    pub(crate) fn new(width: usize) -> Rc<Self> {
        Rc::new(Self { state: RefCell::new(State { free: width, waiting: VecDeque::new() }) })
    }

    /// Waits for a place inside. Dropping the future gives up the place in the queue, which it takes when it is first polled.
    pub(crate) async fn pass(self: &Rc<Self>) -> Pass {
        self.queue().await
    }

    /// Takes a place inside or in the queue, now; the future waits for it, and dropping it gives the place up.
    pub(crate) fn queue(self: &Rc<Self>) -> impl Future<Output = Pass> + use<> {
        let gate = Rc::clone(self);
        let mut state = self.state.borrow_mut();
        let turn = if state.free > 0 {
            state.free -= 1;
            Ok(Pass { gate: Some(Rc::clone(&gate)) })
        } else {
            let (sender, receiver) = oneshot::channel();
            state.waiting.push_back(sender);
            Err(receiver)
        };
        drop(state);
        async move {
            // The sender is only dropped with the gate, which is kept alive here.
            let _gate = gate;
            match turn {
                Ok(pass) => pass,
                Err(turn) => turn.await.unwrap_or(Pass { gate: None }),
            }
        }
    }

    fn leave(self: Rc<Self>) {
        loop {
            let next = {
                let mut state = self.state.borrow_mut();
                let Some(next) = state.waiting.pop_front() else {
                    state.free += 1;
                    return;
                };
                next
            };
            match next.send(Pass { gate: Some(Rc::clone(&self)) }) {
                Ok(()) => return,
                // That one gave up; its pass must not free the place a second time.
                Err(mut pass) => pass.gate = None,
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::Gate;

    #[test]
    fn places_are_taken_when_asked_for_whoever_is_polled_first() {
        let gate = Gate::new(1);
        let (first, second, third) = (gate.queue(), gate.queue(), gate.queue());
        let mut third = Box::pin(third);
        assert!((&mut third).now_or_never().is_none());
        drop(second.now_or_never());
        assert!((&mut third).now_or_never().is_none());
        drop(first.now_or_never().expect("free"));
        drop(third.now_or_never().expect("the second gave up"));
        drop(gate.queue());
        assert!(gate.pass().now_or_never().is_some(), "a place that nobody waited for is free again");
    }

    #[test]
    fn places_go_in_order_and_those_who_gave_up_are_skipped() {
        let gate = Gate::new(1);
        let first = gate.pass().now_or_never().expect("free");
        let mut second = Box::pin(gate.pass());
        let mut third = Box::pin(gate.pass());
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        drop(second);
        drop(first);
        let third = third.now_or_never().expect("the second gave up");
        assert!(gate.pass().now_or_never().is_none());
        drop(third);
        assert!(gate.pass().now_or_never().is_some());
    }
}
