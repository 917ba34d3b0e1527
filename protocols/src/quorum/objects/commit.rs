//! The commit: sealed columns become an object, or add a claim to the one that is there.
//!
//! **The same content again.** An object is named by its manifest, so a second put of equal content in one quorum
//! names the object that is there already. It adds a claim of its owner and name ([`crate::quorum::claims`]), so that
//! nobody removes what another was promised. If the object there is whole, the second run's columns are
//! released. If it is owed repairs and the second run brings more columns, the object takes the new run's columns and
//! the old ones are released: the acknowledged put is never worse than its own receipts.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::CatalogCx;
use crate::approval::Grant;
use crate::ids::{JobId, ManifestHash, PieceIndex};
use crate::job::store::ColumnRecord;
use crate::object::layout::Layout;
use crate::object::manifest::Manifest;
use crate::piece::message::{Receipt, Slot};
use crate::quorum::claims::{Claim, Claims};
use crate::quorum::event::Event;
use crate::quorum::limits::OWNERS_MAX;
use crate::quorum::object::{ObjectRecord, ObjectState};
use crate::quorum::reply::Rejection;
use crate::quorum::reply::invalid;

/// What a run brings to the catalog.
pub(in crate::quorum) struct Commit<'m> {
    pub(in crate::quorum) hash: ManifestHash,
    pub(in crate::quorum) manifest: &'m Manifest,
    pub(in crate::quorum) encoded: &'m Bytes,
    /// One per column of the profile: sealed with its holder, or open and owed a repair.
    pub(in crate::quorum) columns: Vec<ColumnRecord>,
    /// The claim's.
    pub(in crate::quorum) name: Option<String>,
}

/// What became of it.
pub(in crate::quorum) struct Committed {
    /// The object has these columns now; else those that it had are as good, and the run's are not needed.
    pub(in crate::quorum) adopted: bool,
    /// The run whose columns it had until now.
    pub(in crate::quorum) before: Option<JobId>,
}

impl CatalogCx<'_> {
    pub(in crate::quorum) fn commit_object(
        &mut self,
        job: JobId,
        commit: Commit<'_>,
        events: &mut Vec<Event>,
    ) -> Result<Committed, Rejection> {
        let hash = commit.hash;
        let owner = self.jobs.get(&job).map(|record| record.owner).ok_or(Rejection::UnknownJob { job })?;
        let existing = self.objects.get(&hash).filter(|object| object.state == ObjectState::Live);
        if existing.is_some_and(|object| !object.claims.admits(owner)) {
            return Err(Rejection::Full { what: "owners of this object".to_owned(), limit: OWNERS_MAX });
        }
        if !self.objects.contains_key(&hash) {
            self.objects.check_object_room()?;
        }
        if existing.is_none_or(|object| object.claims.of(owner).next().is_none()) {
            self.objects.check_owner_room(owner)?;
        }
        // Nothing is refused from here on.
        let owed = commit.columns.iter().filter(|column| column.grant.is_none()).count();
        let adopted = existing.is_none_or(|object| object.owed.len() > owed);
        let claim = Claim { owner, name: commit.name.clone(), job, at: self.now.time, since: self.now.entry };
        let before = if adopted { self.store_object(job, commit, events) } else { None };
        if let Some(object) = self.objects.records.get_mut(&hash) {
            object.claims.add(claim);
        }
        self.objects.reindex(hash);
        Ok(Committed { adopted, before })
    }

    /// Moves the columns into the object's record, new or already there. The run whose columns it had.
    fn store_object(&mut self, job: JobId, commit: Commit<'_>, events: &mut Vec<Event>) -> Option<JobId> {
        let Commit { hash, manifest, encoded, columns, .. } = commit;
        let mut owed = BTreeMap::new();
        for (index, _) in columns.iter().enumerate().filter(|(_, column)| column.grant.is_none()) {
            let index = PieceIndex(index as u8);
            let reason = "its holder was not ready when the object was committed".to_owned();
            events.push(Event::ColumnOwed { manifest: hash, column: index, reason: reason.clone() });
            owed.insert(index, reason);
        }
        let mut object = ObjectRecord {
            state: ObjectState::Live,
            size: manifest.size,
            profile: manifest.profile,
            claims: Claims::default(),
            job,
            created_at: self.now.wall,
            newest: columns.iter().map(|column| column.attempt).collect(),
            columns,
            owed,
            repairs: BTreeMap::new(),
        };
        let before = self.objects.get(&hash).map(|object| (object.job, object.state));
        if let Some((_, ObjectState::Live)) = before {
            self.release_columns(hash);
        }
        if let Some(before) = self.objects.get(&hash).filter(|object| object.state == ObjectState::Live) {
            // The claims and the age are the object's, whoever's columns it has.
            object.claims.clone_from(&before.claims);
            object.created_at = before.created_at;
        }
        self.objects.insert(hash, object);
        if self.objects.manifests.insert(hash, encoded.clone()).is_none() {
            self.objects.index.manifest_bytes += encoded.len();
        }
        before.map(|(job, _)| job)
    }
}

pub(in crate::quorum) fn check_receipt(
    receipt: &Receipt,
    slot: Slot,
    grant: Grant,
    manifest: &Manifest,
) -> Result<(), Rejection> {
    let statement = &receipt.statement;
    let column = slot.column;
    if statement.slot.attempt != slot.attempt && statement.slot.job == slot.job && statement.slot.column == column {
        return Err(Rejection::StaleAttempt { given: statement.slot.attempt, current: slot.attempt });
    }
    if statement.slot != slot {
        return Err(invalid(format!("the receipt for column {column} is of another job or column")));
    }
    if statement.holder != grant.holder.peer || statement.lease != grant.lease {
        return Err(invalid(format!("the receipt for column {column} is not its holder's, under its lease")));
    }
    let segments = Layout::new(manifest.size, manifest.profile).segments();
    if statement.segments != segments || statement.column != manifest.column_digest(column) {
        return Err(invalid(format!("the receipt for column {column} is for other pieces")));
    }
    if !receipt.is_genuine() {
        return Err(invalid(format!("the receipt for column {column} is not signed by {}", statement.holder)));
    }
    Ok(())
}
