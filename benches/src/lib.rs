//! Benchmarks of tabpool beside its named peers.
