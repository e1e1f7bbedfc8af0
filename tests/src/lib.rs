//! End-to-end suites of tabpool on real browsers.
