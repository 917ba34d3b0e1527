//! Commands on objects: confirmation, removal (of claims, and with the last of the object), repair.
//!
//! While a column is rebuilt its old holder, if there is one, stays in the record and readable; only `FinishRepair`
//! swaps the two. Every rebuild has an attempt that no assignment of the column ever had.

use super::CatalogCx;
use crate::approval::Grant;
use crate::ids::PieceIndex;
use crate::ids::{Attempt, JobId, LogIndex, ManifestHash};
use crate::job::limits::RELEASING_MAX;
use crate::job::store::{ColumnRecord, ColumnState, Releasing};
use crate::object::manifest::Manifest;
use crate::piece::message::{Receipt, Slot};
use crate::quorum::claims::ClaimSelector;
use crate::quorum::event::Event;
use crate::quorum::object::{ObjectRecord, ObjectState, Repair};
use crate::quorum::reply::{Applied, invalid, releasing, short, unknown};
use crate::quorum::reply::{CommandReply, Rejection};
use crate::quorum::uses::Uses;

impl CatalogCx<'_> {
    fn live_object(&mut self, manifest: ManifestHash) -> Result<&mut ObjectRecord, Rejection> {
        self.objects
            .records
            .get_mut(&manifest)
            .filter(|object| object.state == ObjectState::Live)
            .ok_or_else(|| unknown(manifest))
    }

    pub(super) fn confirmed(&mut self, manifest: ManifestHash, column: PieceIndex, attempt: Attempt) -> Applied {
        let record = column_of(self.live_object(manifest)?, column)?;
        if record.attempt != attempt {
            return Err(Rejection::StaleAttempt { given: attempt, current: record.attempt });
        }
        if record.state == ColumnState::Sealed {
            record.state = ColumnState::Confirmed;
        }
        self.objects.reindex(manifest);
        Ok(CommandReply::Done)
    }

    /// Gives up claims. With the last one the object goes, unless live jobs need it.
    pub(super) fn remove_object(
        &mut self,
        manifest: ManifestHash,
        (selector, seen): (&ClaimSelector, LogIndex),
        uses: Uses,
        events: &mut Vec<Event>,
    ) -> Applied {
        let object = self.objects.get(&manifest).ok_or_else(|| unknown(manifest))?;
        let (removed, kept) = object.claims.part(selector, seen);
        let reply = CommandReply::Removed { removed, kept: kept.clone().into_vec() };
        if object.state == ObjectState::Removing {
            return Ok(reply);
        }
        if kept.is_empty() && uses.total > 0 {
            return Err(Rejection::InUse { manifest, uses });
        }
        let object = self.objects.records.get_mut(&manifest).ok_or_else(|| unknown(manifest))?;
        object.claims = kept;
        if !object.claims.is_empty() {
            self.objects.reindex(manifest);
            return Ok(reply);
        }
        object.state = ObjectState::Removing;
        let job = object.job;
        self.release_columns(manifest);
        if let Some(bytes) = self.objects.manifests.remove(&manifest) {
            self.objects.index.manifest_bytes -= bytes.len();
        }
        events.push(Event::ObjectRemoved { manifest });
        if self.jobs.releasing_of(&job) == 0 {
            self.forget_removed(job, manifest);
        }
        self.objects.reindex(manifest);
        Ok(reply)
    }

    /// Hands every holder of the object, and every rebuild of it, to the run that stored it, to be told to let go.
    pub(super) fn release_columns(&mut self, manifest: ManifestHash) {
        let Some(object) = self.objects.records.get_mut(&manifest) else { return };
        let mut leaving = Vec::new();
        for (index, column) in object.columns.iter_mut().enumerate() {
            if let Some(grant) = column.grant.take() {
                leaving.push(releasing(index, grant, column.attempt));
            }
            column.state = ColumnState::Open;
        }
        let repairs = std::mem::take(&mut object.repairs);
        leaving.extend(repairs.into_iter().map(|(column, Repair { grant, attempt })| Releasing {
            column,
            grant,
            attempt,
        }));
        let job = object.job;
        self.jobs.release(&job, leaving);
    }

    /// Forgets an object that was removed, once the run that stored it has nobody left to release.
    pub(in crate::quorum) fn forget_removed(&mut self, job: JobId, manifest: ManifestHash) {
        let removed = |object: &&ObjectRecord| object.state == ObjectState::Removing && object.job == job;
        if self.objects.get(&manifest).filter(removed).is_some() {
            self.objects.remove(manifest);
        }
    }

    pub(super) fn owe_repair(
        &mut self,
        manifest: ManifestHash,
        column: PieceIndex,
        attempt: Attempt,
        reason: &str,
        events: &mut Vec<Event>,
    ) -> Applied {
        let object = self.live_object(manifest)?;
        let current = column_of(object, column)?.attempt;
        if attempt != current {
            return Err(Rejection::StaleAttempt { given: attempt, current });
        }
        if object.owed.insert(column, short(reason)).is_none() {
            events.push(Event::ColumnOwed { manifest, column, reason: short(reason) });
        }
        self.objects.reindex(manifest);
        Ok(CommandReply::Done)
    }

    pub(super) fn start_repair(
        &mut self,
        manifest: ManifestHash,
        column: PieceIndex,
        attempt: Attempt,
        grant: Grant,
        reason: &str,
        events: &mut Vec<Event>,
    ) -> Applied {
        let job = self.live_object(manifest)?.job;
        let waiting = self.jobs.releasing_of(&job);
        let object = self.live_object(manifest)?;
        column_of(object, column)?;
        let newest = object.newest[column.0 as usize];
        if object.repairs.get(&column).is_some_and(|repair| repair.grant == grant) {
            return Ok(CommandReply::Done);
        }
        if attempt != newest {
            return Err(Rejection::StaleAttempt { given: attempt, current: newest });
        }
        if object.repairs.contains_key(&column) {
            return Err(invalid(format!("column {column} is being rebuilt already")));
        }
        if object.holders_except(column).any(|peer| peer == grant.holder.peer) {
            return Err(invalid(format!("{} has another column of this object", grant.holder.peer)));
        }
        if waiting >= RELEASING_MAX {
            return Err(Rejection::Full { what: "holders to release".to_owned(), limit: RELEASING_MAX });
        }
        let next = Attempt(newest.0.saturating_add(1));
        object.newest[column.0 as usize] = next;
        object.repairs.insert(column, Repair { grant, attempt: next });
        if object.owed.insert(column, short(reason)).is_none() {
            events.push(Event::ColumnOwed { manifest, column, reason: short(reason) });
        }
        self.objects.reindex(manifest);
        Ok(CommandReply::Done)
    }

    pub(super) fn finish_repair(
        &mut self,
        manifest: ManifestHash,
        column: PieceIndex,
        receipt: &Receipt,
        events: &mut Vec<Event>,
    ) -> Applied {
        let job = self.live_object(manifest)?.job;
        let object = self.live_object(manifest)?;
        let current = column_of(object, column)?.attempt;
        let given = receipt.statement.slot.attempt;
        let Some(Repair { grant, attempt }) = object.repairs.get(&column).cloned() else {
            // A repeat of what is done is fine; anything else comes too late.
            return if given == current {
                Ok(CommandReply::Done)
            } else {
                Err(Rejection::StaleAttempt { given, current })
            };
        };
        let encoded = self.objects.manifests.get(&manifest).ok_or_else(|| unknown(manifest))?;
        let decoded = Manifest::decode(encoded).map_err(|error| invalid(format!("manifest: {error}")))?;
        super::commit::check_receipt(receipt, Slot { job, column, attempt }, grant, &decoded)?;
        let object = self.live_object(manifest)?;
        object.repairs.remove(&column);
        object.owed.remove(&column);
        let record = column_of(object, column)?;
        let before = record.grant.replace(grant).map(|grant| Releasing { column, grant, attempt: record.attempt });
        record.attempt = attempt;
        record.state = ColumnState::Sealed;
        let from = before.map(|before| before.grant);
        self.jobs.release(&job, before);
        events.push(Event::ColumnReassigned { job, column, from, to: Some(grant) });
        events.push(Event::ColumnRepaired { manifest, column });
        self.objects.reindex(manifest);
        Ok(CommandReply::Done)
    }

    pub(super) fn fail_repair(
        &mut self,
        manifest: ManifestHash,
        column: PieceIndex,
        attempt: Attempt,
        reason: &str,
    ) -> Applied {
        let object = self.live_object(manifest)?;
        column_of(object, column)?;
        match object.repairs.get(&column) {
            Some(repair) if repair.attempt == attempt => (),
            Some(repair) => return Err(Rejection::StaleAttempt { given: attempt, current: repair.attempt }),
            None => return Ok(CommandReply::Done),
        }
        let job = object.job;
        let failed = object.repairs.remove(&column);
        object.owed.insert(column, short(&format!("the last rebuild failed: {reason}")));
        self.jobs.release(&job, failed.map(|Repair { grant, attempt }| Releasing { column, grant, attempt }));
        self.objects.reindex(manifest);
        Ok(CommandReply::Done)
    }
}

fn column_of(object: &mut ObjectRecord, column: PieceIndex) -> Result<&mut ColumnRecord, Rejection> {
    object.columns.get_mut(column.0 as usize).ok_or_else(|| invalid(format!("no column {column}")))
}
