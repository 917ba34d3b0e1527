//! The commit: manifest and receipts turn a run into an object.
//!
//! **The same content again.** An object is named by its manifest, so a second put of equal content in one quorum
//! names the object that is there already. It adds a claim of its owner and name ([`crate::quorum::claims`]), so that
//! nobody removes what another was promised. If the object there is whole, the second run's columns are
//! released. If it is owed repairs and the second run brings more columns, the object takes the new run's columns and
//! the old ones are released: the acknowledged put is never worse than its own receipts.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ids::PieceIndex;
use crate::ids::{Attempt, JobId, ManifestHash, PeerId};
use crate::job::record::{JobRecord, RunState};
use crate::job::store::{ColumnRecord, ColumnState, Grant};
use crate::job::transition::RunCommand;
use crate::object::layout::{Layout, Profile};
use crate::object::limits::MANIFEST_BYTES_MAX;
use crate::object::manifest::Manifest;
use crate::piece::message::{Receipt, Slot};
use crate::quorum::apply::{Applied, invalid};
use crate::quorum::command::{CommandReply, Rejection};
use crate::quorum::limits::{OBJECTS_MAX, OWNERS_MAX};
use crate::quorum::objects::claims::{Claim, Claims};
use crate::quorum::objects::record::{ObjectRecord, ObjectState};
use crate::quorum::state::{Event, QuorumState};

impl QuorumState {
    pub(in crate::quorum) fn commit_object(
        &mut self,
        worker: (PeerId, Attempt),
        job: JobId,
        encoded: &Bytes,
        receipts: &[Receipt],
        degraded: bool,
        events: &mut Vec<Event>,
    ) -> Applied {
        let hash = ManifestHash(*blake3::hash(encoded).as_bytes());
        let record = self.jobs.run_for(job, RunCommand::CommitObject)?;
        if record.state == RunState::Succeeded {
            // A repeat, unless it names something else.
            return if record.stored()?.manifest == Some(hash) {
                Ok(CommandReply::Committed { manifest: hash })
            } else {
                Err(record.refuses(RunCommand::CommitObject))
            };
        }
        record.check_uploader(worker)?;
        let manifest = check_manifest(record, encoded)?;
        let sealed = check_receipts(record, &manifest, receipts)?;
        let columns = record.stored()?.columns.len();
        let min = record.profile().map_or(columns, Profile::columns_min);
        if sealed.len() < min {
            return Err(invalid(format!("{} of {columns} columns have a receipt and {min} are needed", sealed.len())));
        }
        if sealed.len() < columns && !degraded {
            let missing: Vec<_> =
                (0..columns as u8).filter(|column| !sealed.contains_key(&PieceIndex(*column))).collect();
            return Err(invalid(format!("columns {missing:?} have no receipt: only a degraded commit may owe them")));
        }
        let (owner, existing) = (record.owner, self.objects.get(&hash));
        let existing = existing.filter(|object| object.state == ObjectState::Live);
        if existing.is_some_and(|object| !object.claims.admits(owner)) {
            return Err(Rejection::Full { what: "owners of this object".to_owned(), limit: OWNERS_MAX });
        }
        if !self.objects.contains_key(&hash) && self.objects.len() >= OBJECTS_MAX {
            return Err(Rejection::Full { what: "objects".to_owned(), limit: OBJECTS_MAX });
        }
        // Nothing is refused from here on.
        let owed = columns - sealed.len();
        let adopt = existing.is_none_or(|object| object.owed.len() > owed);
        if adopt {
            self.store_object(job, hash, &manifest, encoded, &sealed, events);
        }
        let name = self.jobs.get(&job).and_then(|record| record.spec.name()).filter(|name| !name.is_empty());
        let claim = Claim { owner, name: name.map(str::to_owned), job, at: self.time };
        if let Some(object) = self.objects.records.get_mut(&hash) {
            object.claims.add(claim);
        }
        let what = match (adopt, owed) {
            (false, _) => "the same content was stored here before: its columns are used".to_owned(),
            (true, 0) => format!("stored as {hash}"),
            (true, owed) => format!("stored as {hash}; {owed} columns are owed"),
        };
        if let Some((_, run)) = self.jobs.get_mut(&job).and_then(JobRecord::store_mut) {
            run.manifest = Some(hash);
            run.degraded = adopt && owed > 0;
        }
        // Columns that went into the object left the run above; what is left is released.
        self.end_run(job, RunState::Succeeded, None, what, events);
        self.objects.reindex(hash);
        events.push(Event::ObjectStored { manifest: hash, job, degraded: adopt && owed > 0 });
        Ok(CommandReply::Committed { manifest: hash })
    }

    /// Moves the sealed columns of the run into the object's record, new or already there.
    fn store_object(
        &mut self,
        job: JobId,
        hash: ManifestHash,
        manifest: &Manifest,
        encoded: &Bytes,
        sealed: &BTreeMap<PieceIndex, Receipt>,
        events: &mut Vec<Event>,
    ) {
        let Some((_, run)) = self.jobs.get_mut(&job).and_then(JobRecord::store_mut) else { return };
        let mut columns = Vec::with_capacity(run.columns.len());
        let mut owed = BTreeMap::new();
        for (index, column) in run.columns.iter_mut().enumerate() {
            let index = PieceIndex(index as u8);
            let (state, grant) = match sealed.contains_key(&index) {
                true => (ColumnState::Sealed, column.grant.take()),
                false => (ColumnState::Open, None),
            };
            if grant.is_none() {
                let reason = "its holder was not ready when the object was committed".to_owned();
                events.push(Event::ColumnOwed { manifest: hash, column: index, reason: reason.clone() });
                owed.insert(index, reason);
            }
            columns.push(ColumnRecord { grant, attempt: column.attempt, state, stored: Vec::new() });
        }
        let mut object = ObjectRecord {
            state: ObjectState::Live,
            size: manifest.size,
            profile: manifest.profile,
            claims: Claims::default(),
            job,
            created_at: self.wall(),
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
        if let Some((before, _)) = before {
            self.reindex_job(before);
        }
    }
}

fn check_manifest(record: &JobRecord, encoded: &Bytes) -> Result<Manifest, Rejection> {
    if encoded.len() > MANIFEST_BYTES_MAX {
        let (what, bytes) = ("manifest".to_owned(), encoded.len());
        return Err(Rejection::TooLarge { what, bytes, limit: MANIFEST_BYTES_MAX });
    }
    let manifest = Manifest::decode(encoded).map_err(|error| invalid(format!("manifest: {error}")))?;
    let Some((spec, run)) = record.store() else { return Err(invalid("the run stores nothing")) };
    if manifest.profile != spec.profile {
        return Err(invalid(format!("manifest has profile {}, the run {}", manifest.profile, spec.profile)));
    }
    if let Some(size) = spec.size.filter(|size| *size != manifest.size) {
        return Err(invalid(format!("the object has {} bytes, the run announced {size}", manifest.size)));
    }
    // One object has one manifest: other bytes that decode to the same would be another name for it.
    if manifest.encode() != encoded[..] {
        return Err(invalid("manifest is not in its canonical form"));
    }
    let columns = spec.profile.columns();
    for (index, known) in run.segments.iter().enumerate().filter(|(_, known)| !known.is_empty()) {
        if manifest.pieces.get(index * columns..(index + 1) * columns) != Some(&known[..]) {
            return Err(Rejection::DifferentContent { segment: crate::ids::SegmentIndex(index as u32) });
        }
    }
    Ok(manifest)
}

/// Each receipt must be the current holder's word for the whole of its column.
fn check_receipts(
    record: &JobRecord,
    manifest: &Manifest,
    receipts: &[Receipt],
) -> Result<BTreeMap<PieceIndex, Receipt>, Rejection> {
    let mut sealed = BTreeMap::new();
    for receipt in receipts {
        let index = receipt.statement.slot.column;
        let column =
            record.stored()?.columns.get(index.0 as usize).ok_or_else(|| invalid(format!("no column {index}")))?;
        let grant = column.grant.ok_or_else(|| invalid(format!("column {index} has no holder")))?;
        check_receipt(receipt, Slot { job: record.job, column: index, attempt: column.attempt }, grant, manifest)?;
        if sealed.insert(index, *receipt).is_some() {
            return Err(invalid(format!("column {index} has two receipts")));
        }
    }
    Ok(sealed)
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
