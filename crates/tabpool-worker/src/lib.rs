//! What a worker does with frames, whatever it runs on.
