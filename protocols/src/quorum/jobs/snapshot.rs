//! The job book in a snapshot: its records.

use serde::{Deserialize, Serialize};

use super::JobBook;
use crate::ids::JobId;
use crate::job::record::JobRecord;
use crate::quorum::chunks::{Chunks, Section, SnapshotError, append_shared, check_count};
use crate::shared_map::SharedMap;
use crate::wire;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::quorum) struct Head {
    jobs: u64,
}

/// Shared with the book, not copied.
#[derive(Clone, Debug)]
pub(in crate::quorum) struct View(SharedMap<JobId, JobRecord>);

/// What has been read.
#[derive(Default)]
pub(in crate::quorum) struct Rows(SharedMap<JobId, JobRecord>);

impl JobBook {
    pub(in crate::quorum) fn view(&self) -> View {
        View(self.records.clone())
    }
}

impl View {
    pub(in crate::quorum) fn head(&self) -> Head {
        Head { jobs: self.0.len() as u64 }
    }

    pub(in crate::quorum) fn write(&self, chunks: &mut Chunks) {
        chunks.write(Section::Jobs, self.0.iter().map(|(job, record)| (&job.local[..], wire::encode(record))));
    }
}

impl Rows {
    /// `None` when the rows are out of order.
    pub(in crate::quorum) fn append(&mut self, rows: Vec<JobRecord>) -> Option<()> {
        append_shared(&mut self.0, rows.into_iter().map(|row| (row.job, row)))
    }

    /// The book, without its index.
    pub(in crate::quorum) fn read(self, head: &Head) -> Result<JobBook, SnapshotError> {
        check_count("jobs", head.jobs, self.0.len())?;
        Ok(JobBook::from_records(self.0))
    }
}
