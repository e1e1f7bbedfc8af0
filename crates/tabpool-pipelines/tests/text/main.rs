//! Tokenizers and encoders against what the Python libraries give.

mod encoder;
mod folder;
mod minilm;
mod tokenizers;
