//! The duties of a primary: what a quorum's state asks whoever leads it to bring about.
//!
//! One actor per node ([`actor`]). For every quorum that this node leads it derives the duties from the state
//! ([`quorate_protocols::quorum::QuorumState::duties`]), when it gains the lead and after entries were applied, and
//! performs each in a task of its own:
//!
//! - *find holders* for a run, and give the run up, with the reason, when there are too few for too long ([`holders`]);
//! - *confirm* the columns of a committed object, *release* columns that are not wanted ([`columns`]);
//! - *repair*: win a new holder for a column, have it rebuild the column from the others, seal it ([`repair`]);
//! - *abandon* a run whose uploader has gone;
//! - *find workers* for tasks that wait, and *release* those that nothing waits for ([`recruiter`]);
//! - *wake* the state when its earliest timer has run out;
//! - *fire* the triggers that are due by the clock ([`triggers`]), *poll* the conditions of others ([`conditions`]).
//!
//! Beside that, per led quorum, an [`auditor`] looks for what the state cannot know: holders that are gone, or not
//! trusted, past a grace, and pieces that rot, at once where a reader found one ([`audit_hints`]). It owes each of them
//! a repair. The [`worker_sessions`] send workers what they are assigned, keep their leases, and end those of workers
//! that are not trusted any more: applied entries wake them directly, so between a result and the next task there is no
//! derivation and no wait. Other tasks keep the leases of live runs ([`leases`]) and raise the state level when every
//! member is ready for it ([`levels`]). Workers' reports come in through [`report_intake`], emitted events through
//! [`event_intake`], and [`watches`] answers who waits for a job; [`services`] is how clients and servers reach them.
//!
//! Promises: a duty is performed by at most one task at a time; failing ones are tried again with backoff and jitter;
//! at most [`actor::DUTIES_MAX`] run at once; all of a quorum's tasks end when this node stops leading it. Nothing is
//! stored: duties are idempotent, and a new primary derives the same ones. What is *not* promised: that two primaries
//! never perform the same duty, while one does not yet know that it was replaced. Attempts fence what they do.

mod actor;
mod audit_hints;
mod auditor;
mod columns;
mod conditions;
mod context;
mod event_intake;
mod heartbeats;
mod holders;
mod leases;
mod levels;
mod metrics;
mod recruiter;
mod repair;
mod report_intake;
mod services;
mod triggers;
mod wait_reasons;
mod watches;
mod worker_sessions;

use std::sync::Arc;
use std::time::Duration;

use quorate_protocols::approval::limits::REPLACE_GRACE;
use quorate_protocols::job::limits::{STORE_EMPTY_MAX, STORE_IDLE_MAX};
use tokio::sync::broadcast;

pub use audit_hints::AuditHints;
pub use context::DriverEnv;
pub use event_intake::EventIntake;
pub use heartbeats::WorkerHeartbeats;
pub use metrics::DriverMetrics;
pub use report_intake::ReportIntake;
pub use services::PrimaryServices;
pub use triggers::DueSpans;
pub use wait_reasons::WaitReasons;
pub use watches::Watches;

use crate::quorums::ports::LocalQuorums;
use crate::raft::HostEvent;

/// How patient the driver is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverSettings {
    /// A store run that nobody feeds for this long is abandoned.
    pub store_idle: Duration,
    /// The same for a run that has stored nothing yet.
    pub store_empty: Duration,
    /// A run that finds too few holders for this long fails, and says how many there are.
    pub holders_wait: Duration,
    /// A holder must be gone this long before its columns are rebuilt elsewhere, so that a restart moves nothing.
    pub repair_grace: Duration,
    /// A holder must not be trusted for this long before its columns are rebuilt elsewhere, so that a clock that is set
    /// moves nothing.
    pub trust_grace: Duration,
    /// A holder that never answers a release is given up after this long: it collects on its own when it returns.
    pub release_wait: Duration,
    /// Between two rounds of the auditor, each over a page of objects.
    pub round_interval: Duration,
    /// Between two audits of a column, per quorum.
    pub audit_interval: Duration,
    /// A worker promises itself for this long and is asked again several times in it. One that neither renews nor says
    /// anything for as long is lost, and its attempts go to others.
    pub worker_lease: Duration,
    /// A worker that has nothing to do and that nothing waits for is let go after this.
    pub worker_idle: Duration,
}

impl Default for DriverSettings {
    fn default() -> Self {
        Self {
            store_idle: STORE_IDLE_MAX,
            store_empty: STORE_EMPTY_MAX,
            holders_wait: Duration::from_secs(30),
            repair_grace: Duration::from_secs(300),
            trust_grace: REPLACE_GRACE,
            release_wait: Duration::from_secs(3600),
            round_interval: Duration::from_secs(10),
            audit_interval: Duration::from_secs(600),
            worker_lease: Duration::from_secs(16),
            worker_idle: Duration::from_secs(10),
        }
    }
}

/// What the driver is built from.
pub struct DriverParts {
    pub quorums: Arc<dyn LocalQuorums>,
    /// Subscribed before the quorums were started, or duties of the first lead would wait for the next event.
    pub events: broadcast::Receiver<HostEvent>,
    pub env: DriverEnv,
}

/// Starts the driver; it ends with its task group.
pub fn start(parts: DriverParts) {
    actor::start(parts);
}

#[cfg(test)]
mod event_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trigger_tests;
#[cfg(test)]
mod work_tests;
