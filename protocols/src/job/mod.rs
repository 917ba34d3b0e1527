//! Jobs: what a person submits, the states a run goes through, and the messages that reach the owning quorum.
//!
//! Wire: `/quorate/job/1`, one [`message::JobMessage`] in, one [`message::JobAnswer`] out. Any node sends it to the
//! members of the owning quorum; only the primary acts, the others say who it is.

pub mod compute;
pub mod limits;
pub mod message;
pub mod plan;
pub mod record;
pub mod replicate;
pub mod spec;
pub mod store;
pub mod transition;
pub mod watch;
pub mod why;

pub use compute::ComputeSpec;
pub use message::{JobAnswer, JobMessage, ObjectView, Query, QueryAnswer, QuorumView};
pub use record::{JobRecord, Run, RunState};
pub use spec::{JobSpec, Kind, StoreSpec};
pub use store::{ColumnRecord, ColumnState, Grant, StoreRun};
pub use watch::{Until, WatchAnswer, WatchRequest, Watched};
