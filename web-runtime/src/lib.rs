//! The browser shell of a tabpool worker.
