//! Jobs: what a user submits, and the states that a run goes through. The messages that reach the owning quorum are in
//! [`crate::quorum::request`].

pub mod batch;
#[cfg(test)]
pub(crate) mod counter;
pub mod kind;
pub mod limits;
pub mod plan;
pub mod record;
pub mod signed;
pub mod spec;
pub mod store;
pub mod submission;
pub mod transition;
pub mod why;

pub use batch::BatchSpec;
pub use kind::{Kind, WorkSpec};
pub use record::{JobRecord, Run, RunState};
pub use spec::{JobSpec, StoreSpec};
pub use store::{ColumnRecord, ColumnState, StoreRun};
