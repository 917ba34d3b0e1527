//! The driver: performs what a quorum's state asks its primary to bring about.

mod notes;

pub use notes::Notes;
