//! The catalog in a snapshot: records and manifests.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Catalog;
use crate::ids::ManifestHash;
use crate::quorum::chunks::{Chunks, Section, SnapshotError, append_shared, check_count};
use crate::quorum::object::ObjectRecord;
use crate::shared_map::SharedMap;
use crate::wire;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::quorum) struct Head {
    objects: u64,
    manifests: u64,
}

/// Shared with the catalog, not copied.
#[derive(Clone, Debug)]
pub(in crate::quorum) struct View {
    objects: SharedMap<ManifestHash, ObjectRecord>,
    manifests: SharedMap<ManifestHash, Bytes>,
}

/// What has been read.
#[derive(Default)]
pub(in crate::quorum) struct Rows {
    objects: SharedMap<ManifestHash, ObjectRecord>,
    manifests: SharedMap<ManifestHash, Bytes>,
}

impl Catalog {
    pub(in crate::quorum) fn view(&self) -> View {
        View { objects: self.records.clone(), manifests: self.manifests.clone() }
    }
}

impl View {
    pub(in crate::quorum) fn head(&self) -> Head {
        Head { objects: self.objects.len() as u64, manifests: self.manifests.len() as u64 }
    }

    pub(in crate::quorum) fn write(&self, chunks: &mut Chunks) {
        let objects = self.objects.iter().map(|(hash, record)| (&hash.0[..], wire::encode(&(hash, record))));
        chunks.write(Section::Objects, objects);
        let manifests = self.manifests.iter().map(|(hash, bytes)| (&hash.0[..], wire::encode(&(hash, bytes))));
        chunks.write(Section::Manifests, manifests);
    }
}

impl Rows {
    /// `None` when the rows are out of order.
    pub(in crate::quorum) fn append_objects(&mut self, rows: Vec<(ManifestHash, ObjectRecord)>) -> Option<()> {
        append_shared(&mut self.objects, rows)
    }

    pub(in crate::quorum) fn append_manifests(&mut self, rows: Vec<(ManifestHash, Bytes)>) -> Option<()> {
        append_shared(&mut self.manifests, rows)
    }

    /// The catalog, without its index.
    pub(in crate::quorum) fn read(self, head: &Head) -> Result<Catalog, SnapshotError> {
        check_count("objects", head.objects, self.objects.len())?;
        check_count("manifests", head.manifests, self.manifests.len())?;
        for (hash, bytes) in self.manifests.iter() {
            if hash.0 != *blake3::hash(bytes).as_bytes() {
                return Err(SnapshotError::Invariant { what: format!("manifest {hash} has other bytes") });
            }
        }
        Ok(Catalog::from_rows(self.objects, self.manifests))
    }
}
