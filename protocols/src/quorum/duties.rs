//! Duties of the primary, derived from the state alone.

use super::duty::Duty;
use super::state::QuorumState;
use crate::ids::Millis;

impl QuorumState {
    /// What the primary has to bring about now, in order: confirmations first (they make a stored object safe), then
    /// holders for runs that wait, rebuilds, repairs, releases, and the watch over idle runs; then workers and timers.
    pub fn duties(&self) -> Vec<Duty> {
        let mut duties = Vec::new();
        self.objects.confirm_duties(&mut duties);
        self.objects.repair_duties(&mut duties);
        self.jobs.duties(&mut duties);
        self.pool().duties(&mut duties);
        self.triggers.duties(&self.jobs, self.wall(), &mut duties);
        duties.sort_by_key(Duty::urgency);
        duties
    }

    /// What can change the duties without an event of its own: the earliest timer, and which sorts of tasks want
    /// workers.
    pub(super) fn quiet_duties(&self) -> (Option<Millis>, usize) {
        (self.tasks.next_timer(), self.tasks.sorts_wanted())
    }
}
