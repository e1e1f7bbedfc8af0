//! The program as a person runs it, on real browsers.
