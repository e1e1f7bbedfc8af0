//! Programs against what PyTorch computes, through the engine's oracle; and folders and requests that are wrong.

mod broken;
mod families;
mod fixture;
mod generation;
mod minilm;
mod programs;
mod requests;
mod sentences;
