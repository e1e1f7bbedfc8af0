//! The order in which runs of one executable are answered: that in which they were started, whichever lane is done first.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use futures::channel::oneshot;

/// Runs that were started and are not over.
#[derive(Default)]
pub(crate) struct Order {
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// The number of the next run.
    next: u64,
    /// Every run below this one is over.
    turn: u64,
    /// Runs from `turn` on that are over, dropped ones among them.
    over: BTreeSet<u64>,
    /// Runs that are done and wait for earlier ones.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A run's place. Dropping it says that the run is over.
pub(crate) struct Ticket {
    order: Rc<Order>,
    number: u64,
}

impl Order {
    /// The next place.
    pub(crate) fn ticket(self: &Rc<Self>) -> Ticket {
        let mut state = self.state.borrow_mut();
        state.next += 1;
        Ticket { order: Rc::clone(self), number: state.next - 1 }
    }
}

impl Ticket {
    /// Waits until every earlier run is over.
    pub(crate) async fn turn(&self) {
        let receiver = {
            let mut state = self.order.state.borrow_mut();
            if state.turn == self.number {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.insert(self.number, sender);
            receiver
        };
        // The sender stays in the order, which this ticket keeps alive, until it is used.
        let _ = receiver.await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let woken = {
            let mut state = self.order.state.borrow_mut();
            state.waiting.remove(&self.number);
            state.over.insert(self.number);
            while state.over.contains(&state.turn) {
                let over = state.turn;
                state.over.remove(&over);
                state.turn += 1;
            }
            let turn = state.turn;
            state.waiting.remove(&turn)
        };
        if let Some(sender) = woken {
            // A run that no longer waits was dropped, and its own ticket with it.
            let _ = sender.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use futures::FutureExt;

    use super::Order;

    #[test]
    fn runs_are_answered_in_the_order_they_started() {
        let order = Rc::new(Order::default());
        let (first, second, third) = (order.ticket(), order.ticket(), order.ticket());
        let mut early = Box::pin(third.turn());
        assert!((&mut early).now_or_never().is_none(), "the third run overtook two others");
        drop(first);
        assert!((&mut early).now_or_never().is_none(), "the third run overtook the second");
        assert!(second.turn().now_or_never().is_some());
        drop(second);
        assert!((&mut early).now_or_never().is_some());
    }

    #[test]
    fn a_run_that_was_dropped_is_not_waited_for_and_lets_nobody_past_an_earlier_one() {
        let order = Rc::new(Order::default());
        let (first, second, third) = (order.ticket(), order.ticket(), order.ticket());
        drop(second);
        assert!(third.turn().now_or_never().is_none(), "the first run is not over");
        drop(first);
        assert!(third.turn().now_or_never().is_some());
    }
}
