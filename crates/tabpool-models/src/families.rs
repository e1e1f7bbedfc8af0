//! The families of models, a file or a folder each.

pub(crate) mod bert;
pub(crate) mod clip;
pub(crate) mod gpt2;
pub(crate) mod llama;
pub(crate) mod vit;
