//! Pictures, sounds and what goes with them, against what the Python libraries give.

mod chats;
mod golden;
mod images;
mod sounds;
mod texts;
