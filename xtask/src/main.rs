//! Set-up, checks, tests and benchmarks of the tabpool workspace.
fn main() {}
