//! Invariants: true of every state, whatever commands made it. Tests check them after every command, and a snapshot is
//! held to them when it is read, so that the rest of the core may rely on them. Each sub-state has its own in its
//! folder.

use super::limits::STANDBYS_MAX;
use super::state::QuorumState;

pub(super) type Checked = Result<(), String>;

pub(super) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(what()) }
}

impl QuorumState {
    /// The first invariant that does not hold, in words. Looks at everything: not for every entry.
    pub fn check_invariants(&self) -> Checked {
        let mut rebuilt = self.clone();
        rebuilt.rebuild_index();
        self.jobs.check_index(&rebuilt.jobs)?;
        self.objects.check_index(&rebuilt.objects)?;
        self.tasks.check_index(&rebuilt.tasks)?;
        self.triggers.check_index(&rebuilt.triggers)?;
        ensure(self.standbys.len() <= STANDBYS_MAX, || format!("{} standbys", self.standbys.len()))?;
        self.check_jobs()?;
        self.check_objects()?;
        self.check_tasks()?;
        self.triggers.check()
    }
}
