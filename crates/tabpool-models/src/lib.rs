//! Hugging Face model folders into tabpool graphs.
