//! Each rule of the scheduler on its own, seen from outside: events in, actions out.

mod hedging;
mod memory;
mod placing;
mod pool;
mod requests;
mod routing;
