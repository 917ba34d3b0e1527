//! The catalog: the objects that a quorum is the steward of, and which of them need the primary's attention.
//!
//! [`Catalog`] has the records and the encoded manifests of live objects, with an index of those that have a column to
//! confirm, to repair or under repair. `commit` turns a run into an object, `commands` is what becomes of it later;
//! [`super::claims`] says who keeps it and [`super::uses`] which live jobs need it.

mod commands;
pub(super) mod commit;
mod invariants;
pub(super) mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Index};

use bytes::Bytes;

use super::claims::ClaimSelector;
use super::command::ObjectCommand;
use super::duty::Duty;
use super::event::Event;
use super::jobs::{JobBook, check_room, set_member};
use super::limits::{OBJECTS_MAX, OWNER_OBJECTS_MAX};
use super::object::{ObjectRecord, ObjectState};
use super::reply::{Applied, Rejection};
use super::uses::Uses;
use crate::ids::{LogIndex, ManifestHash, Millis, PeerId, PieceIndex};
use crate::job::store::ColumnState;
use crate::shared_map::SharedMap;

/// The objects of a quorum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    records: SharedMap<ManifestHash, ObjectRecord>,
    /// Encoded manifests of the live objects.
    manifests: SharedMap<ManifestHash, Bytes>,
    index: ObjectIndex,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ObjectIndex {
    /// All objects, by their age: lists have the newest first.
    by_age: BTreeSet<(Millis, ManifestHash)>,
    /// Live objects with a column to confirm, to repair or under repair.
    with_duties: BTreeSet<ManifestHash>,
    manifest_bytes: usize,
    /// Owners with a claim on each object, beside the bytes of its manifest; and what each owner has a claim on.
    claimants: BTreeMap<ManifestHash, (BTreeSet<PeerId>, usize)>,
    claimed: BTreeMap<PeerId, Claimed>,
}

/// What an owner has a claim on: objects, and the bytes of their manifests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Claimed {
    objects: usize,
    manifest_bytes: usize,
}

impl ObjectIndex {
    /// `bytes` are those of the object's manifest, which never change.
    fn set_claimants(&mut self, manifest: ManifestHash, owners: BTreeSet<PeerId>, bytes: usize) {
        if self.claimants.get(&manifest).map_or(owners.is_empty(), |(before, _)| *before == owners) {
            return;
        }
        for owner in &owners {
            let claimed = self.claimed.entry(*owner).or_default();
            claimed.objects += 1;
            claimed.manifest_bytes += bytes;
        }
        let before = match owners.is_empty() {
            true => self.claimants.remove(&manifest),
            false => self.claimants.insert(manifest, (owners, bytes)),
        };
        let (before, bytes) = before.unwrap_or_default();
        for owner in before {
            if let Some(claimed) = self.claimed.get_mut(&owner) {
                claimed.objects -= 1;
                claimed.manifest_bytes -= bytes;
                if claimed.objects == 0 {
                    self.claimed.remove(&owner);
                }
            }
        }
    }
}

// ---- reading, for everybody ----

impl Catalog {
    pub fn get(&self, manifest: &ManifestHash) -> Option<&ObjectRecord> {
        self.records.get(manifest)
    }
    pub fn contains_key(&self, manifest: &ManifestHash) -> bool {
        self.records.contains_key(manifest)
    }
    /// The encoded manifest of a live object.
    pub fn manifest(&self, manifest: &ManifestHash) -> Option<&Bytes> {
        self.manifests.get(manifest)
    }
    pub fn len(&self) -> usize {
        self.records.len()
    }
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
    pub fn iter(&self) -> impl Iterator<Item = (&ManifestHash, &ObjectRecord)> + Clone {
        self.records.iter()
    }
    pub fn values(&self) -> impl Iterator<Item = &ObjectRecord> {
        self.records.values()
    }
    /// Records behind this one, the newest first; of one instant the greater name.
    pub fn newest(
        &self,
        after: Option<(Millis, ManifestHash)>,
    ) -> impl Iterator<Item = (&ManifestHash, &ObjectRecord)> {
        let end = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.index.by_age.range((Bound::Unbounded, end)).rev();
        rows.filter_map(|(_, hash)| Some((hash, self.records.get(hash)?)))
    }
}

impl Index<&ManifestHash> for Catalog {
    type Output = ObjectRecord;
    fn index(&self, manifest: &ManifestHash) -> &ObjectRecord {
        &self.records[manifest]
    }
}

// ---- for the other sub-states ----

impl Catalog {
    /// As a snapshot keeps them: without an index.
    pub(super) fn from_rows(
        records: SharedMap<ManifestHash, ObjectRecord>,
        manifests: SharedMap<ManifestHash, Bytes>,
    ) -> Self {
        Self { records, manifests, index: ObjectIndex::default() }
    }

    /// Whether nobody keeps the object once these claims are given up.
    pub(super) fn loses_last_claim(&self, manifest: &ManifestHash, claims: &ClaimSelector, seen: LogIndex) -> bool {
        let live = self.get(manifest).filter(|object| object.state == ObjectState::Live);
        live.is_some_and(|object| object.claims.part(claims, seen).1.is_empty())
    }

    pub(super) fn manifest_bytes(&self) -> usize {
        self.index.manifest_bytes
    }

    /// In place of what had its name before.
    fn insert(&mut self, manifest: ManifestHash, object: ObjectRecord) {
        self.index.by_age.insert((object.created_at, manifest));
        let (before, now) = (self.records.get(&manifest).map(|before| before.created_at), object.created_at);
        if let Some(before) = before.filter(|before| *before != now) {
            self.index.by_age.remove(&(before, manifest));
        }
        self.records.insert(manifest, object);
    }

    fn remove(&mut self, manifest: ManifestHash) {
        if let Some(object) = self.records.remove(&manifest) {
            self.index.by_age.remove(&(object.created_at, manifest));
        }
        self.index.set_claimants(manifest, BTreeSet::new(), 0);
    }

    /// Stamps of a future that did not come become the moment of the correction.
    pub(super) fn withdraw_stamps(&mut self, at: Millis) {
        let ahead: Vec<_> = self.iter().filter(|(_, object)| object.created_at > at).map(|(hash, _)| *hash).collect();
        for hash in ahead {
            if let Some(object) = self.records.get_mut(&hash) {
                self.index.by_age.remove(&(object.created_at, hash));
                object.created_at = at;
                self.index.by_age.insert((at, hash));
            }
        }
    }

    /// Builds the index from the records alone.
    pub(super) fn rebuild_index(&mut self) {
        let by_age = self.records.iter().map(|(hash, object)| (object.created_at, *hash)).collect();
        self.index = ObjectIndex { by_age, ..ObjectIndex::default() };
        for manifest in self.records.keys().copied().collect::<Vec<_>>() {
            self.reindex(manifest);
        }
        self.index.manifest_bytes = self.manifests.values().map(Bytes::len).sum();
    }

    /// Called after every change to an object.
    fn reindex(&mut self, manifest: ManifestHash) {
        let with_duties = self.records.get(&manifest).is_some_and(|object| {
            let unconfirmed = object.columns.iter().any(|column| column.state != ColumnState::Confirmed);
            object.state == ObjectState::Live && (unconfirmed || !object.owed.is_empty() || !object.repairs.is_empty())
        });
        set_member(&mut self.index.with_duties, manifest, with_duties);
        let claims = self.records.get(&manifest).map(|object| object.claims.iter().map(|claim| claim.owner).collect());
        let bytes = self.manifests.get(&manifest).map_or(0, Bytes::len);
        self.index.set_claimants(manifest, claims.unwrap_or_default(), bytes);
    }

    fn claimed_by(&self, owner: PeerId) -> Claimed {
        self.index.claimed.get(&owner).copied().unwrap_or_default()
    }

    /// Bytes of the manifests of the objects on which the owner has a claim.
    pub(super) fn manifest_bytes_of_owner(&self, owner: PeerId) -> usize {
        self.claimed_by(owner).manifest_bytes
    }

    /// Room for one more object on which this owner has a claim.
    pub(super) fn check_owner_room(&self, owner: PeerId) -> Result<(), Rejection> {
        check_room("objects of one owner", self.claimed_by(owner).objects + 1, OWNER_OBJECTS_MAX)
    }

    /// Room for one more object.
    pub(super) fn check_object_room(&self) -> Result<(), Rejection> {
        check_room("objects", self.len() + 1, OBJECTS_MAX)
    }

    fn with_duties(&self) -> impl Iterator<Item = (ManifestHash, &ObjectRecord)> {
        self.index.with_duties.iter().filter_map(|hash| Some((*hash, self.records.get(hash)?)))
    }

    /// Columns to confirm: they make a stored object safe.
    pub(super) fn confirm_duties(&self, duties: &mut Vec<Duty>) {
        for (manifest, object) in self.with_duties() {
            let sealed = object.columns.iter().enumerate().filter(|(_, column)| column.state == ColumnState::Sealed);
            duties.extend(sealed.filter_map(|(index, column)| {
                let index = PieceIndex(index as u8);
                // A column that is owed a repair is not worth confirming.
                let grant = column.grant.filter(|_| !object.owed.contains_key(&index))?;
                Some(Duty::Confirm { manifest, job: object.job, column: index, grant, attempt: column.attempt })
            }));
        }
    }

    /// Rebuilds under way, and columns that wait for one.
    pub(super) fn repair_duties(&self, duties: &mut Vec<Duty>) {
        for (manifest, object) in self.with_duties() {
            duties.extend(object.repairs.iter().map(|(column, repair)| Duty::Rebuild {
                manifest,
                column: *column,
                grant: repair.grant,
                attempt: repair.attempt,
            }));
            let waiting = object.owed.keys().filter(|column| !object.repairs.contains_key(column));
            duties.extend(waiting.map(|column| Duty::Repair { manifest, column: *column }));
        }
    }
}

/// The catalog beside the records of the runs that stored its objects, to change: holders that an object lets go of are
/// handed to its run. The frame brings the index of that run up to date afterwards.
pub(super) struct CatalogCx<'s> {
    objects: &'s mut Catalog,
    jobs: &'s mut JobBook,
    now: Now,
}

/// Where in the log, and what time it is.
#[derive(Clone, Copy)]
pub(super) struct Now {
    /// The entry that is applied.
    pub(super) entry: LogIndex,
    /// Record time.
    pub(super) time: Millis,
    /// What the clocks say.
    pub(super) wall: Millis,
}

impl<'s> CatalogCx<'s> {
    pub(super) fn new(objects: &'s mut Catalog, jobs: &'s mut JobBook, now: Now) -> Self {
        Self { objects, jobs, now }
    }

    /// `uses`: of live jobs, counted when the command takes the last claim ([`Catalog::loses_last_claim`]).
    pub(super) fn apply(
        &mut self,
        manifest: ManifestHash,
        command: &ObjectCommand,
        uses: Uses,
        events: &mut Vec<Event>,
    ) -> Applied {
        match command {
            ObjectCommand::Confirmed { column, attempt } => self.confirmed(manifest, *column, *attempt),
            ObjectCommand::Remove { claims, seen, .. } => self.remove_object(manifest, (claims, *seen), uses, events),
            ObjectCommand::OweRepair { column, attempt, reason } => {
                self.owe_repair(manifest, *column, *attempt, reason, events)
            }
            ObjectCommand::StartRepair { column, attempt, grant, reason } => {
                self.start_repair(manifest, *column, *attempt, *grant, reason, events)
            }
            ObjectCommand::FinishRepair { column, receipt } => self.finish_repair(manifest, *column, receipt, events),
            ObjectCommand::FailRepair { column, attempt, reason } => {
                self.fail_repair(manifest, *column, *attempt, reason)
            }
        }
    }
}
