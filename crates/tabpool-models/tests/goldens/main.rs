//! Programs against what PyTorch computes, through the engine's oracle; and folders and requests that are wrong.

mod broken;
mod fixture;
mod minilm;
mod programs;
mod requests;
mod sentences;
