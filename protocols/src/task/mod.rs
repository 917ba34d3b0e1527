//! Tasks: what a quorum has workers do, and how it knows what they did.
//!
//! A run of a job that computes goes through steps; a step has tasks; a task has attempts. Which attempt of which task
//! runs where is decided inside the quorum's state machine ([`crate::quorum`]); this module has the records
//! ([`record`], [`table`]), the arithmetic of trying again ([`retry`]), of agreeing on results ([`vote`]), and the
//! messages between a quorum's primary and its workers ([`message`]).
//!
//! Wire: `/quorate/task/1`, one [`message::TaskMessage`] in, one [`message::TaskAnswer`] out, both at most
//! `limits::MESSAGE_BYTES_MAX`.
//!
//! ```text
//!   primary                                  worker (any peer with a lease)
//!     | Assign: steps, assignments  ------->  | durable inbox, then
//!     |  <------------------------  Accepted   | runs
//!     |  <--------------  Start (only tasks that must not begin twice, before they begin)
//!     |  <---------  Heartbeat: progress, not replicated
//!     |  <--------------  Report: from the durable outbox, until
//!     | Recorded: per report, committed  --->  | the outbox forgets
//!     | Stop  ------------------------------>  | kills, removes, reports Stopped
//!     | Reveal  ---------------------------->  | reports Reveal
//! ```
//!
//! Every message of a primary carries quorum and term, every attempt its number. A worker refuses an older term; the
//! quorum refuses an older attempt, says so, and counts it. A lease alone excludes nobody: two workers may run one task
//! at a time, and one of them is refused.

pub mod error_class;
pub mod inputs;
pub mod limits;
pub mod message;
pub mod record;
pub mod retry;
pub mod spec;
pub mod table;
pub mod terms;
pub mod vote;
