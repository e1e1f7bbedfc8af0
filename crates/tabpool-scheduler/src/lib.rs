//! Placement, replay and recovery decisions as a pure state machine.
