//! AI models on a pool of web browsers.
