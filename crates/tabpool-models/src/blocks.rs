//! Building blocks that families share: whatever is the same computation in more than one of them, under the names that
//! the family gives. Nothing here knows a family.

mod attention;
mod build;
mod decoder;
mod layer;
mod picture;
mod positions;
mod rotary;
mod sentence;
mod sound;

pub(crate) use attention::Heads;
pub(crate) use build::{Build, Built, malformed};
pub(crate) use decoder::{Context, Cross, counted};
pub(crate) use layer::{Layer, Names, Order};
pub(crate) use picture::Patches;
pub(crate) use positions::{Ends, distance_bias, resampled, stretched};
pub(crate) use rotary::Rotary;
pub(crate) use sentence::Embedder;
pub(crate) use sound::{convolve, convolve_with};
