//! Downloads of model folders from a Hugging Face compatible hub.
