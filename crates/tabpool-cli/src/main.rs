//! The tabpool program.
fn main() {}
