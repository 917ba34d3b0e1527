//! What a primary has to bring about, derived from the state alone.

use super::state::{Duty, QuorumState};
use crate::ids::{Millis, PieceIndex};
use crate::job::limits::SPARES_WANTED;
use crate::job::store::{ColumnState, Releasing};
use crate::task::limits::SLOTS_SOUGHT_MAX;
use crate::trigger::spec::When;

impl QuorumState {
    /// What the primary has to bring about now, in order: confirmations first (they make a stored object safe), then
    /// holders for runs that wait, rebuilds, repairs, releases, and the watch over idle runs.
    pub fn duties(&self) -> Vec<Duty> {
        let mut duties = Vec::new();
        let tended = || self.index.tended.iter().filter_map(|hash| Some((*hash, self.objects.get(hash)?)));
        let storing = || self.index.storing.iter().filter_map(|job| self.jobs.get(job));
        for (manifest, object) in tended() {
            let sealed = object.columns.iter().enumerate().filter(|(_, column)| column.state == ColumnState::Sealed);
            duties.extend(sealed.filter_map(|(index, column)| {
                let index = PieceIndex(index as u8);
                // A column that is owed a repair is not worth confirming.
                let grant = column.grant.filter(|_| !object.owed.contains_key(&index))?;
                Some(Duty::Confirm { manifest, job: object.job, column: index, grant, attempt: column.attempt })
            }));
        }
        for record in storing() {
            let Some((_, run)) = record.store() else { continue };
            let open = run.open_columns();
            let spares = SPARES_WANTED.saturating_sub(run.spares.len());
            if open > 0 || spares > 0 {
                duties.push(Duty::FindHolders { job: record.job, open, spares });
            }
        }
        for (manifest, object) in tended() {
            duties.extend(object.repairs.iter().map(|(column, repair)| Duty::Rebuild {
                manifest,
                column: *column,
                grant: repair.grant,
                attempt: repair.attempt,
            }));
            let waiting = object.owed.keys().filter(|column| !object.repairs.contains_key(column));
            duties.extend(waiting.map(|column| Duty::Repair { manifest, column: *column }));
        }
        for record in self.index.releasing.iter().filter_map(|job| self.jobs.get(job)) {
            let run = record.store().map(|(_, run)| run);
            duties.extend(run.into_iter().flat_map(|run| &run.releasing).map(
                |Releasing { column, grant, attempt }| Duty::Release {
                    job: record.job,
                    column: *column,
                    grant: *grant,
                    attempt: *attempt,
                },
            ));
        }
        duties.extend(storing().filter_map(|record| {
            let (_, run) = record.store()?;
            let empty = run.segments.is_empty();
            Some(Duty::WatchIdle { job: record.job, fed: run.fed, since: run.fed_at, empty })
        }));
        self.work_duties(&mut duties);
        duties
    }

    /// What can change the duties without an event of its own: the earliest timer, and which sorts of tasks want
    /// workers.
    pub(super) fn quiet_duties(&self) -> (Option<Millis>, usize) {
        (self.next_timer(), self.index.work.queue.len())
    }

    /// Of jobs that compute. As many as there are workers and sorts of tasks, however many jobs there are.
    fn work_duties(&self, duties: &mut Vec<Duty>) {
        let work = &self.index.work;
        for (demand, turns) in &work.queue {
            let Some((_, job)) = turns.first() else { continue };
            let wanted = turns.iter().take(SLOTS_SOUGHT_MAX as usize).map(|(_, job)| self.slots_wanted(*job));
            let slots = wanted.fold(0u32, u32::saturating_add).min(SLOTS_SOUGHT_MAX);
            let (kind, resources) = (demand.kind, demand.resources.clone());
            duties.push(Duty::FindWorkers { job: *job, kind, resources, slots });
        }
        for (peer, worker) in &self.workers {
            let lease = worker.grant.lease;
            let wanted = || work.queue.keys().any(|demand| worker.suits(demand).is_ok());
            if work.used.contains_key(peer) {
                duties.push(Duty::Tend { worker: *peer, lease });
            } else if !wanted() {
                duties.push(Duty::ReleaseWorker { worker: *peer, lease });
            }
        }
        if let Some(due) = self.next_timer() {
            duties.push(Duty::Wake { due, after: due.since(self.time) });
        }
        let (wall, steady) = self.index.triggers.next_due();
        duties.extend(wall.map(|due| Duty::FireAt { due }));
        duties.extend(steady.map(|due| Duty::FireAfter { due, after: due.since(self.wall()) }));
        let looks = self.index.triggers.conditions.iter().filter_map(|job| Some((*job, self.trigger(*job)?.0)));
        duties.extend(looks.filter_map(|(job, spec)| match &spec.trigger.when {
            When::Condition(condition) => Some(Duty::Poll { job, every: condition.every }),
            _ => None,
        }));
    }
}
