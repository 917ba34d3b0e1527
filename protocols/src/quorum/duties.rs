//! What a primary has to bring about, derived from the state alone.

use super::state::{Duty, QuorumState};
use crate::ids::PieceIndex;
use crate::job::limits::SPARES_WANTED;
use crate::job::store::{ColumnState, Releasing};

impl QuorumState {
    /// What the primary has to bring about now, in order: confirmations first (they make a stored object safe), then
    /// holders for runs that wait, rebuilds, repairs, releases, and the watch over idle runs.
    pub fn duties(&self) -> Vec<Duty> {
        let mut duties = Vec::new();
        let tended = || self.index.tended.iter().filter_map(|hash| Some((*hash, self.objects.get(hash)?)));
        let live = || self.index.live.iter().filter_map(|job| self.jobs.get(job));
        for (manifest, object) in tended() {
            let sealed = object.columns.iter().enumerate().filter(|(_, column)| column.state == ColumnState::Sealed);
            duties.extend(sealed.filter_map(|(index, column)| {
                let index = PieceIndex(index as u8);
                // A column that is owed a repair is not worth confirming.
                let grant = column.grant.filter(|_| !object.owed.contains_key(&index))?;
                Some(Duty::Confirm { manifest, job: object.job, column: index, grant, attempt: column.attempt })
            }));
        }
        for record in live() {
            let open = record.run.open_columns();
            let spares = SPARES_WANTED.saturating_sub(record.run.spares.len());
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
            duties.extend(record.run.releasing.iter().map(|Releasing { column, grant, attempt }| Duty::Release {
                job: record.job,
                column: *column,
                grant: *grant,
                attempt: *attempt,
            }));
        }
        duties.extend(live().map(|record| Duty::WatchIdle {
            job: record.job,
            fed: record.run.fed,
            since: record.run.fed_at,
        }));
        duties
    }
}
