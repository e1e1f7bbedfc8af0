//! Calls into libraries that read what came from outside, with their panics turned into errors.
//!
//! A decoder or a tokenizer that panics on a damaged file must not end a host. What such a call was working on is dropped
//! with it, or is left whole, as each caller says.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls, and gives the message of a panic as the error.
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
    })
}
