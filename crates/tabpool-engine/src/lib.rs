//! The Backend trait, memory planning, the conformance suite and the CPU backend.
