//! Data types, shapes and tensors of tabpool.
