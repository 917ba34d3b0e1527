//! Directory protocol: peers announce themselves and the quorums that they lead, and each node keeps the announcements
//! of the others.
//!
//! Announcements travel by gossip, on change and every few minutes, and expire. Each has at most
//! [`limits::ADVERT_BYTES_MAX`] bytes: counts and not lists. Nothing depends on their delivery: a stale directory costs
//! a wasted question.

pub mod budget;
pub mod limits;
pub mod message;
pub mod state;

pub use budget::{AnnouncementBudgets, Excess};
pub use message::{JobAnnouncement, PeerAdvert, QuorumAdvert};
pub use state::{AdvertFault, AdvertOutcome, DirectoryState, PeerEntry, check_name, check_quorum, misfit};

#[cfg(test)]
mod tests;
