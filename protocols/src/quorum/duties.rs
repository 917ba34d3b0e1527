//! Duties of the primary, derived from the state alone.

use super::state::{Duty, QuorumState};
use crate::ids::Millis;

impl QuorumState {
    /// What the primary has to bring about now, in order: confirmations first (they make a stored object safe), then
    /// holders for runs that wait, rebuilds, repairs, releases, and the watch over idle runs; then workers and timers.
    pub fn duties(&self) -> Vec<Duty> {
        let mut duties = Vec::new();
        self.objects.confirm_duties(&mut duties);
        self.objects.repair_duties(&mut duties);
        self.kind_duties(&mut duties);
        self.task_duties(&mut duties);
        self.trigger_duties(&mut duties);
        duties.sort_by_key(Duty::urgency);
        duties
    }

    /// What can change the duties without an event of its own: the earliest timer, and which sorts of tasks want
    /// workers.
    pub(super) fn quiet_duties(&self) -> (Option<Millis>, usize) {
        (self.tasks.next_timer(), self.tasks.sorts_wanted())
    }
}

impl Duty {
    /// The place of a duty among the others: the least is first.
    const fn urgency(&self) -> u8 {
        match self {
            // It makes a stored object safe.
            Self::Confirm { .. } => 0,
            Self::FindHolders { .. } => 1,
            Self::Rebuild { .. } => 2,
            Self::Repair { .. } => 3,
            Self::Release { .. } => 4,
            Self::WatchIdle { .. } => 5,
            Self::FindWorkers { .. } | Self::Tend { .. } | Self::ReleaseWorker { .. } => 6,
            Self::Wake { .. } | Self::FireAt { .. } | Self::FireAfter { .. } | Self::Poll { .. } => 7,
        }
    }
}
