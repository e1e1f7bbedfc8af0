//! The conformance suite on every level of instructions this machine has, with one thread and with several.

use std::num::NonZeroUsize;

use super::{CpuBackend, CpuOptions, Isa};
use crate::backend::Backend;
use crate::conformance;

fn conforms(isa: Isa, threads: usize) {
    let options = CpuOptions::new().threads(NonZeroUsize::new(threads).expect("at least one"));
    let backend = CpuBackend::with_isa(&options, isa).expect("threads");
    let results = pollster::block_on(conformance::run(&backend));
    let wrong: Vec<_> = results.iter().filter(|r| !r.passed()).map(ToString::to_string).collect();
    assert!(
        wrong.is_empty(),
        "{}: {} of {} cases:\n{}",
        backend.info().device,
        wrong.len(),
        results.len(),
        wrong.join("\n")
    );
    assert!(results.len() > 500, "only {} cases ran", results.len());
}

#[test]
fn one_thread_conforms_with_every_instruction_set() {
    for isa in Isa::all() {
        conforms(isa, 1);
    }
}

#[test]
fn three_threads_conform() {
    conforms(Isa::detect(), 3);
}
