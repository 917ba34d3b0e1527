//! Triggers in a snapshot: how far the quorum has come with each emitter of events. The rest is in the records of jobs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Triggers;
use crate::ids::PeerId;
use crate::quorum::chunks::{Chunks, Section, SnapshotError, append, check_count};
use crate::trigger::event::Emitter;
use crate::wire;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::quorum) struct Head {
    emitters: u64,
}

#[derive(Clone, Debug)]
pub(in crate::quorum) struct View(BTreeMap<PeerId, Emitter>);

/// What has been read.
#[derive(Default)]
pub(in crate::quorum) struct Rows(BTreeMap<PeerId, Emitter>);

impl Triggers {
    pub(in crate::quorum) fn view(&self) -> View {
        View(self.emitters.clone())
    }
}

impl View {
    pub(in crate::quorum) fn head(&self) -> Head {
        Head { emitters: self.0.len() as u64 }
    }

    pub(in crate::quorum) fn write(&self, chunks: &mut Chunks) {
        chunks.write(Section::Emitters, self.0.iter().map(|row| (&row.0.0[..], wire::encode(&row))));
    }
}

impl Rows {
    /// `None` when the rows are out of order.
    pub(in crate::quorum) fn append(&mut self, rows: Vec<(PeerId, Emitter)>) -> Option<()> {
        append(&mut self.0, rows)
    }

    pub(in crate::quorum) fn read(self, head: &Head) -> Result<Triggers, SnapshotError> {
        check_count("emitters", head.emitters, self.0.len())?;
        Ok(Triggers::from_emitters(self.0))
    }
}
