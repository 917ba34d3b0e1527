//! Watches: conditions on jobs that a primary answers when they hold, instead of being asked again and again.
//!
//! [`Until::judge`] says whether a watch is answered by a state, and [`Until::concerns`] whether an event may have made
//! it so. Both are functions of the replicated state alone. A node has one *session* with a quorum, however many of its
//! clients wait: [`WatchAsker`] decides what that node asks, [`WatchTable`] what the primary's node holds. None of it
//! is replicated.
//!
//! # The session
//! A request adds entries to its session and drops others, and is *parked* until an entry holds, its wait is over, or a
//! newer request of the session has come. An entry is answered by every request until it is dropped, so an answer that
//! is lost costs time and nothing else. What a request does to the session is a function of the newest request that the
//! primary has: each carries every change since the last one that was answered ([`WatchRequest::base`]), so requests
//! may be lost, repeated and reordered. A primary that lacks the base (it has just been elected, or was restarted) says
//! [`WatchAnswer::Reopen`], and is told all entries anew. The asker has at most two requests on their way: the parked
//! one, and one that changes the entries, at whose arrival the parked one returns.
//!
//! The primary enters entries before it confirms its lead, and judges them after that: an answer is as new as a
//! linearizable read, and no event falls between the two. It brings the record, and of a run that has succeeded its
//! outputs if they are short: whoever waited for the end asks nothing more.
//!
//! Whoever submits a job and waits for its end sends both at once: [`Until::EndedOnceSubmitted`] holds its entry until
//! the submit has come, whichever of the two arrives first.

mod asker;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::asker::WatchAsker;
pub use self::table::{Due, Entered, Judged, Seat, WatchKey, WatchTable, judge};
use crate::ids::{JobId, LogIndex, QuorumId, TaskIndex};
use crate::job::limits::{WATCH_CHANGES_MAX, WATCH_ENTRIES_PER_SESSION_MAX, WATCH_OUTPUT_BYTES_MAX, WATCH_OUTPUTS_MAX};
use crate::job::plan::Plan;
use crate::job::record::{JobRecord, RunState};
use crate::quorum::event::Event;
use crate::quorum::state::QuorumState;
use crate::task::message::OutputRef;

/// What a watch on a job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Until {
    /// The job has ended.
    Ended,
    /// A run that stores has this many columns with a holder, or its quorum expects no more of them, or it has ended.
    Holders { columns: u32 },
    /// The job's revision has passed this one.
    Changed { since: LogIndex },
    /// The same as `Ended`, of a job whose submit is on its way beside the watch: one that the quorum does not know
    /// yet is waited for.
    EndedOnceSubmitted,
}

/// What a state says of a watch that it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Watched {
    /// It holds.
    Met(Met),
    /// The quorum knows no such job.
    Unknown,
}

/// The job of a watch that holds, as it is then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Met {
    pub record: Box<JobRecord>,
    /// Of a run that has succeeded: the first outputs of its last step, `WATCH_OUTPUTS_MAX` of them at most, as
    /// `Query::Outputs` gives them. `None`: they are not here (longer than `WATCH_OUTPUT_BYTES_MAX` together, or not
    /// for this reader), and the query says more.
    pub outputs: Option<Vec<OutputRef>>,
}

impl Met {
    fn of(state: &QuorumState, record: &JobRecord) -> Self {
        Self { record: Box::new(record.without_rows()), outputs: short_outputs(state, record) }
    }
}

/// What a run that has succeeded came to, if it is short enough to travel with its record.
fn short_outputs(state: &QuorumState, record: &JobRecord) -> Option<Vec<OutputRef>> {
    let (spec, _) = record.batch().filter(|_| record.state == RunState::Succeeded)?;
    let outputs = state.outputs(record.job, Plan::of(spec).last(), TaskIndex(0))?;
    let outputs: Vec<_> = outputs.take(WATCH_OUTPUTS_MAX).collect();
    let bytes: usize = outputs.iter().filter_map(|output| output.bytes.as_ref()).map(|bytes| bytes.len()).sum();
    (bytes <= WATCH_OUTPUT_BYTES_MAX).then_some(outputs)
}

impl Watched {
    /// Whether it can be the answer to this watch: what a peer says is met must be.
    pub fn may_answer(&self, job: JobId, until: &Until) -> bool {
        match self {
            Self::Met(met) => met.record.job == job && until.holds(&met.record),
            Self::Unknown => until.is_of_known(),
        }
    }
}

/// Names an entry within its asker, which gives no name twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryId(pub u64);

/// One watch of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchEntry {
    pub id: EntryId,
    /// The job's own half of its id: the quorum is the session's.
    pub local: [u8; 16],
    pub until: Until,
}

/// Changes a session of watches, and waits for one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchRequest {
    pub quorum: QuorumId,
    /// Chosen at random when the session is opened.
    pub session: u64,
    /// Of this request within the session; from 1 on.
    pub number: u64,
    /// The newest request of the session that was answered: what follows are the changes since. 0: none was, and
    /// `added` are all entries of the session.
    pub base: u64,
    pub added: Vec<WatchEntry>,
    pub dropped: Vec<EntryId>,
    /// The primary parks the request for so long, capped by `limits::WATCH_WAIT_MAX`.
    pub wait_ms: u32,
}

impl WatchRequest {
    /// What is wrong with it, as far as it can be seen by itself.
    pub fn check(&self) -> Result<(), WatchFault> {
        let (added, dropped) = (self.added.len(), self.dropped.len());
        if added > WATCH_ENTRIES_PER_SESSION_MAX || dropped > WATCH_CHANGES_MAX {
            return Err(WatchFault::TooMany { added, dropped });
        }
        if self.base >= self.number {
            return Err(WatchFault::Base { number: self.number, base: self.base });
        }
        Ok(())
    }
    /// The same with no longer a wait than this.
    pub fn within(self, longest: Duration) -> Self {
        let longest = u32::try_from(longest.as_millis()).unwrap_or(u32::MAX);
        Self { wait_ms: self.wait_ms.min(longest), ..self }
    }
    pub fn job(&self, entry: &WatchEntry) -> JobId {
        JobId { quorum: self.quorum, local: entry.local }
    }
}

/// Why a request makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchFault {
    #[error(
        "a watch adds at most {WATCH_ENTRIES_PER_SESSION_MAX} entries and drops {WATCH_CHANGES_MAX}, not {added} and \
         {dropped}"
    )]
    TooMany { added: usize, dropped: usize },
    #[error("watch {number} follows an answer to watch {base}, which is not older")]
    Base { number: u64, base: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchAnswer {
    /// Entries that hold, as many as fit into an answer; the others come with the next. Those that are refused neither
    /// hold now nor are they held, because there are too many: whoever adds them again pauses before.
    Update { met: Vec<(EntryId, Watched)>, refused: Vec<EntryId> },
    /// There is no such session here, or it lacks the request's base.
    Reopen,
}

impl Until {
    /// What the state answers to the watch; `None` while it does not hold.
    pub fn judge(&self, state: &QuorumState, job: JobId) -> Option<Watched> {
        let Some(record) = state.jobs().get(&job) else {
            return self.is_of_known().then_some(Watched::Unknown);
        };
        self.holds(record).then(|| Watched::Met(Met::of(state, record)))
    }

    /// Whether a job that the quorum does not know is an answer by itself.
    const fn is_of_known(&self) -> bool {
        match self {
            Self::Ended | Self::Holders { .. } | Self::Changed { .. } => true,
            Self::EndedOnceSubmitted => false,
        }
    }

    pub fn holds(&self, record: &JobRecord) -> bool {
        match self {
            Self::Ended | Self::EndedOnceSubmitted => record.state.is_final(),
            // No other kind ever has holders: there is nothing to wait for.
            Self::Holders { columns } => record.store().is_none_or(|(_, run)| {
                let held = run.columns.iter().filter(|column| column.grant.is_some()).count();
                run.exhausted || held >= *columns as usize || record.state.is_final()
            }),
            Self::Changed { since } => record.revision > *since,
        }
    }

    /// Whether the event may have made it hold for the job that the event is about.
    pub fn concerns(&self, event: &Event) -> bool {
        match self {
            Self::Ended | Self::EndedOnceSubmitted => {
                matches!(event, Event::JobChanged { state, .. } if state.is_final())
            }
            Self::Holders { .. } => matches!(
                event,
                Event::JobChanged { .. } | Event::ColumnReassigned { .. } | Event::HoldersExhausted { .. }
            ),
            Self::Changed { .. } => !event.jobs().is_empty(),
        }
    }

    /// Whether an answer to one who asked earlier is as true for whoever asks later: the condition holds for ever once
    /// it does, and so does what the record then says of it. A job that has changed goes on changing: its record of
    /// then is old for whoever asks now.
    pub const fn is_lasting(&self) -> bool {
        match self {
            Self::Ended | Self::EndedOnceSubmitted => true,
            Self::Changed { .. } | Self::Holders { .. } => false,
        }
    }
}
