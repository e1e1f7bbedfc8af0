//! The families of models, a file or a folder each.

pub(crate) mod bert;
pub(crate) mod clap;
pub(crate) mod clip;
pub(crate) mod gpt2;
pub(crate) mod llama;
pub(crate) mod siglip;
pub(crate) mod t5;
pub(crate) mod vit;
pub(crate) mod wav2vec2;
pub(crate) mod whisper;
