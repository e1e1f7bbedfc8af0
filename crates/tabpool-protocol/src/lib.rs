//! Frames and sans-IO session state of the link between a tabpool host and its workers.
