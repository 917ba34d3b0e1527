//! What peers announce, and what a node makes of it: who is there, what they can do, which quorums exist.
//!
//! Announcements travel by gossip, at most [`limits::ADVERT_BYTES_MAX`] each, counts and not lists, on change and
//! every few minutes, and expire. Nothing depends on their delivery: a stale directory costs a wasted question.

pub mod limits;
pub mod message;
pub mod state;

pub use crate::capacity::Capacity;
pub use message::{JobAnnouncement, PeerAdvert, QuorumAdvert};
pub use state::{AdvertFault, DirectoryState, Noted, PeerEntry, check_name, misfit};

#[cfg(test)]
mod tests;
