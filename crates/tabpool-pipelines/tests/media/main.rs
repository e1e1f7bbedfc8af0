//! Pictures, sounds and what goes with them, against what the Python libraries give.

mod golden;
mod images;
mod sounds;
