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
pub mod clock;
#[cfg(test)]
mod clock_tests;
pub mod command;
mod duties;
mod invariants;
mod jobs;
pub mod kinds;
pub mod level;
pub mod limits;
pub mod message;
mod objects;
mod queries;
pub mod request;
pub mod snapshot;
pub mod state;
mod steps;
mod tasks;
#[cfg(test)]
mod tests;
mod triggers;
pub mod watch;

pub use crate::membership::Voters;
pub use authority::{Author, Authorship, Forbidden};
pub use command::{
    Batch, BatchReply, Command, CommandReply, JobCommand, ObjectCommand, QuorumCommand, Rejection, StoreCommand,
    TaskCommand, TriggerCommand,
};
pub use jobs::JobBook;
pub use kinds::KindCommand;
pub use message::{RaftAnswer, RaftMessage};
pub use objects::Catalog;
pub use objects::claims::{self, Claim, ClaimSelector, Claims};
pub use objects::record::{self as object, ObjectRecord, ObjectState};
pub use objects::uses::{self, ObjectUse, Part, Uses};
pub use snapshot::{SnapshotError, SnapshotView};
pub use state::{Duty, Event, QuorumState};
pub use tasks::{TaskPool, WorkerInstructions};
pub use triggers::Triggers;
