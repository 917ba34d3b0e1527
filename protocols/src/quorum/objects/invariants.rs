//! Invariants of the catalog.

use std::collections::BTreeSet;

use super::Catalog;
use crate::approval::Grant;
use crate::ids::{ManifestHash, PieceIndex};
use crate::job::store::ColumnState;
use crate::quorum::check::{Checked, ensure};
use crate::quorum::jobs::JobBook;
use crate::quorum::limits::{NAMES_MAX, OBJECTS_MAX, OWNERS_MAX};
use crate::quorum::object::{ObjectRecord, ObjectState};

impl Catalog {
    pub(in crate::quorum) fn check_index(&self, rebuilt: &Self) -> Checked {
        let (index, right) = (&self.index, &rebuilt.index);
        ensure(index == right, || format!("index {index:?} should be {right:?}"))
    }
}

impl Catalog {
    pub(in crate::quorum) fn check(&self, jobs: &JobBook) -> Checked {
        let Self { records, manifests, .. } = self;
        ensure(records.len() <= OBJECTS_MAX, || format!("{} objects", records.len()))?;
        for (manifest, object) in records.iter() {
            self.check_object(jobs, *manifest, object).map_err(|what| format!("object {manifest}: {what}"))?;
        }
        let orphan = manifests.keys().find(|hash| !records.contains_key(hash));
        ensure(orphan.is_none(), || format!("manifest {orphan:?} belongs to no object"))
    }

    fn check_object(&self, jobs: &JobBook, manifest: ManifestHash, object: &ObjectRecord) -> Checked {
        let columns = object.columns.len();
        ensure(columns == object.profile.columns() && columns == object.newest.len(), || format!("{columns} columns"))?;
        let claims = &object.claims;
        ensure(claims.owners() <= OWNERS_MAX, || format!("{} owners", claims.owners()))?;
        let named = claims.iter().filter(|claim| claim.name.is_some()).count();
        ensure(named <= NAMES_MAX + OWNERS_MAX, || format!("{named} names"))?;
        let distinct: BTreeSet<_> = claims.iter().map(|claim| (claim.owner, &claim.name)).collect();
        ensure(distinct.len() == claims.iter().count(), || "a claim is there twice".to_owned())?;
        ensure(claims.is_empty() == (object.state == ObjectState::Removing), || {
            "kept by nobody, or removed".to_owned()
        })?;
        let run = jobs.get(&object.job).and_then(|record| record.store()).map(|(_, run)| run);
        ensure(run.is_some_and(|run| run.manifest == Some(manifest)), || "its run is forgotten".to_owned())?;
        let live = object.state == ObjectState::Live;
        ensure(live == self.manifests.contains_key(&manifest), || "manifest and state differ".to_owned())?;
        let inside = |index: &PieceIndex| (index.0 as usize) < columns;
        ensure(object.owed.keys().all(inside) && object.repairs.keys().all(inside), || "no such column".to_owned())?;
        let mut peers = BTreeSet::new();
        for (index, column) in object.columns.iter().enumerate() {
            let index = PieceIndex(index as u8);
            ensure(column.stored.is_empty(), || "stored bits in an object".to_owned())?;
            let held = matches!(column.state, ColumnState::Sealed | ColumnState::Confirmed);
            ensure(column.grant.is_some() == held && column.state != ColumnState::Filling, || format!("{column:?}"))?;
            ensure(!live || held || object.owed.contains_key(&index), || format!("column {index} is owed to nobody"))?;
            ensure(live || !held, || format!("column {index} is held though removed"))?;
            let newest = object.newest[index.0 as usize];
            let rebuild = object.repairs.get(&index);
            ensure(column.attempt <= newest, || format!("column {index} is newer than its newest"))?;
            if let Some(repair) = rebuild {
                let newer = repair.attempt > column.attempt && repair.attempt <= newest;
                ensure(live && newer, || format!("column {index} is rebuilt under an old attempt"))?;
                ensure(object.owed.contains_key(&index), || format!("column {index} is rebuilt and not owed"))?;
            }
            // The same peer may rebuild its own column; no peer may have two.
            let peer = |grant: Grant| grant.holder.peer;
            let own: BTreeSet<_> = column.grant.map(peer).into_iter().chain(rebuild.map(|r| peer(r.grant))).collect();
            for peer in own {
                ensure(peers.insert(peer), || format!("{peer} has two columns"))?;
            }
        }
        Ok(())
    }
}
