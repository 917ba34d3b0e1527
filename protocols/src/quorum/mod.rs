//! The replicated state of one quorum: a pure function from committed commands to state, replies and events.
//!
//! A quorum owns many jobs and stewards many objects. Its log carries batches ([`command::Batch`]); applying one is
//! deterministic to the byte ([`state::QuorumState::apply`]), with time taken from the entry and never from a clock.
//! What must be *done* about the state (asking holders, confirming, releasing, repairing) is derived from the state by
//! the primary, again after every change of term: [`state::QuorumState::duties`].
//!
//! Raft itself is openraft's; its messages travel over `/quorate/raft/1` in [`message::RaftMessage`].

mod apply;
pub mod authority;
pub mod claims;
pub mod clock;
#[cfg(test)]
mod clock_tests;
pub mod command;
mod duties;
mod invariants;
pub mod level;
pub mod limits;
pub mod message;
pub mod object;
mod pace;
mod queries;
mod schedule;
pub mod snapshot;
pub mod state;
mod steps;
mod timers;
mod triggers;
pub mod uses;
mod work;

pub use crate::membership::Voters;
pub use authority::{Author, Authorship, Forbidden};
pub use claims::{Claim, ClaimSelector, Claims};
pub use command::{
    Batch, BatchReply, Command, CommandReply, JobCommand, ObjectCommand, QuorumCommand, Rejection, StoreCommand,
    TaskCommand, TriggerCommand,
};
pub use message::{RaftAnswer, RaftMessage};
pub use object::{ObjectRecord, ObjectState};
pub use snapshot::SnapshotError;
pub use state::{Duty, Event, QuorumState};
pub use uses::{ObjectUse, Part, Uses};
pub use work::Errands;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod trigger_model;
#[cfg(test)]
mod trigger_tests;
#[cfg(test)]
mod work_tests;
