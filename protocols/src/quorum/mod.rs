//! The replicated state of one quorum: a pure function from committed commands to state, replies and events.
//!
//! A quorum owns many jobs and stewards many objects. Its log carries batches ([`Batch`]); applying one is
//! deterministic to the byte ([`QuorumState::apply`]), with time taken from the entry and never from a clock.
//! What must be *done* about the state (asking holders, confirming, releasing, repairing) is derived from the state by
//! the primary, again after every change of term: [`QuorumState::duties`].
//!
//! Raft itself is openraft's; its messages travel over `/quorate/raft/1` in [`message::RaftMessage`]. Which of them a
//! member takes is decided in [`door`], and who is wrong when states differ in [`agreement`].

pub mod agreement;
mod apply;
pub mod author;
pub mod authority;
mod check;
mod chunks;
pub mod claims;
pub mod clock;
#[cfg(test)]
mod clock_tests;
pub mod command;
pub mod door;
mod duties;
pub mod duty;
pub mod entry;
pub mod event;
mod fires;
mod invariants;
mod jobs;
pub mod kinds;
pub mod level;
pub mod limits;
pub mod message;
pub mod object;
mod objects;
mod precheck;
mod queries;
pub mod reading;
pub mod reply;
pub mod request;
pub mod rights;
mod shares;
pub mod snapshot;
pub mod state;
mod steps;
mod tasks;
#[cfg(test)]
mod tests;
mod triggers;
pub mod uses;
pub mod watch;

pub use crate::membership::Voters;
pub use agreement::{DigestPoll, DigestVerdict};
pub use author::Author;
pub use authority::{Authorship, Forbidden};
pub use chunks::SnapshotError;
pub use claims::{Claim, ClaimSelector, Claims};
pub use command::{Control, JobCommand, ObjectCommand, QuorumCommand, StoreCommand, TaskCommand, TriggerCommand};
pub use door::{Door, Invitation, RaftClaim, Refusal};
pub use duty::Duty;
pub use entry::{Batch, BatchReply, Command, GenuineSubmits};
pub use event::Event;
pub use jobs::JobBook;
pub use kinds::KindCommand;
pub use message::{Attestation, RaftAnswer, RaftMessage};
pub use object::{ObjectRecord, ObjectState};
pub use objects::Catalog;
pub use reading::Asker;
pub use reply::{CommandReply, Rejection};
pub use rights::{Party, Verb};
pub use snapshot::SnapshotView;
pub use state::QuorumState;
pub use tasks::{TaskPool, WorkerInstructions};
pub use triggers::{HeardEmitters, Triggers};
pub use uses::{ObjectUse, Part, Uses};
