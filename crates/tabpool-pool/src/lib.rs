//! The actor that joins browsers, workers, scheduler, content and metrics.
