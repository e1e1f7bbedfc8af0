//! The store as its users see it: files, locks, crashes, losses and odd text.

mod crash;
mod history;
mod losses;
mod opening;
mod reports;
mod samples;
mod text;
mod tunings;
