//! Reading the state.

use std::time::Duration;

use crate::ids::{JobId, ManifestHash, StepIndex, TaskIndex};
use crate::job::limits::{PAGE_BYTES_MAX, PAGE_MAX};
use crate::job::record::JobRecord;
use crate::quorum::object::ObjectRecord;
use crate::quorum::request::{ObjectView, Query, QueryAnswer};
use crate::quorum::state::QuorumState;
use crate::task::limits::WORKERS_MAX;
use crate::task::message::OutputRef;
use crate::task::record::{TaskRecord, TaskState};
use crate::task::table::{Blob, Tasks};
use crate::text::counted;
use crate::wire;

/// Workers that an answer to "why" names one by one.
const WORKERS_NAMED_MAX: usize = 16;

/// How long after a step of the clocks the answers to "why" tell of it.
const STEP_TOLD: Duration = Duration::from_secs(24 * 3600);

impl QuorumState {
    /// Answers every query but `Query::Quorum`, which asks about Raft as well: `None` for that one.
    ///
    /// Pages hold at most `PAGE_MAX` rows and end early past `PAGE_BYTES_MAX`; a page is the last when it is empty.
    /// Listed jobs come without history, piece hashes and stored bits, listed objects without their manifest.
    pub fn answer(&self, query: &Query) -> Option<QueryAnswer> {
        let known = |answer: Option<QueryAnswer>| answer.unwrap_or(QueryAnswer::Unknown);
        Some(match query {
            Query::Quorum => return None,
            Query::Job { job } => {
                known(self.jobs.get(job).map(|record| QueryAnswer::Job(Box::new(record.without_rows()))))
            }
            Query::History { job } => known(self.jobs.get(job).map(|job| QueryAnswer::History(job.history.clone()))),
            Query::Jobs { after, limit } => QueryAnswer::Jobs(page(self.jobs.newest(*after).map(listed), *limit)),
            Query::Object { manifest } => known(self.objects.get(manifest).map(|record| {
                let bytes = self.objects.manifest(manifest).map(|bytes| bytes.to_vec()).unwrap_or_default();
                QueryAnswer::Object(Box::new(view(*manifest, record, bytes)))
            })),
            Query::Objects { after, limit } => {
                let rows = self.objects.newest(*after);
                QueryAnswer::Objects(page(rows.map(|(hash, record)| view(*hash, record, Vec::new())), *limit))
            }
            Query::Why { job } => known(self.why(*job).map(QueryAnswer::Why)),
            Query::Tasks { job, step, from, limit } => known(self.tasks_of(*job, *step).map(|tasks| {
                let rows = tasks.into_iter().flat_map(|tasks| tasks.iter_from(*from));
                QueryAnswer::Tasks(page(rows.map(|(task, record)| (task, self.shown(record))), *limit))
            })),
            Query::Outputs { job, step, from, limit } => {
                known(self.outputs(*job, *step, *from).map(|rows| QueryAnswer::Outputs(page(rows, *limit))))
            }
            Query::Fires { job, from, limit } => known(self.trigger(*job).map(|(_, run)| {
                let rows = run.fires.iter().filter(|row| row.number >= *from);
                QueryAnswer::Fires(page(rows.cloned(), *limit))
            })),
            Query::Subscription { emitter } => QueryAnswer::Subscription {
                known: self.triggers.emitters().get(emitter).map(|emitter| emitter.sequence),
                names: self.event_names().map(str::to_owned).collect(),
            },
            Query::Uses { object } => QueryAnswer::Uses(self.uses_of(*object)),
            Query::Workers => QueryAnswer::Workers(self.tasks.workers().values().take(WORKERS_MAX).cloned().collect()),
        })
    }
}

impl QuorumState {
    /// Outputs of a step, with the bytes of those that are in the record; `None` when the tasks are not kept any more.
    pub(super) fn outputs(
        &self,
        job: JobId,
        step: StepIndex,
        from: TaskIndex,
    ) -> Option<impl Iterator<Item = OutputRef> + '_> {
        let table = self.tasks.table(&job)?;
        Some(table.tasks(step).iter_from(from).filter_map(move |(task, record)| {
            let bytes = table.blob((step, task, Blob::Output)).cloned();
            Some(OutputRef { task, output: *record.output()?, bytes })
        }))
    }

    /// Tasks of a step of a job that computes: none, when they are not kept any more.
    fn tasks_of(&self, job: JobId, step: StepIndex) -> Option<Option<&Tasks>> {
        self.jobs.get(&job)?.tasks()?;
        Some(self.tasks.table(&job).map(|table| table.tasks(step)))
    }

    /// A task with its times as the clocks say them.
    fn shown(&self, record: &TaskRecord) -> TaskRecord {
        let mut shown = record.clone();
        shown.live.iter_mut().for_each(|live| live.since = self.wall_at(live.since));
        if let TaskState::Delayed { until } = &mut shown.state {
            *until = self.wall_at(*until);
        }
        shown
    }

    /// Why a job is where it is, with what each worker has against it while it waits; `None` for a job that is not
    /// known.
    pub fn why(&self, job: JobId) -> Option<String> {
        let record = self.jobs.get(&job)?;
        let mut text = record.why(self.time, self.wall());
        if let Some(step) = self.stepped.filter(|step| self.wall().since(step.at) < STEP_TOLD)
            && record.trigger().is_some_and(|(spec, _)| spec.trigger.is_timed())
        {
            text.push_str(&format!("; {}", step.explain()));
        }
        if self.tasks.is_queued(job) {
            let reasons = self.pool().why_not(job);
            if reasons.is_empty() {
                text.push_str("; the quorum has no workers yet");
            }
            if let Some(unlisted) = self.pool().why_unlisted(job) {
                text.push_str("; ");
                text.push_str(&unlisted);
            }
            for reason in reasons.iter().take(WORKERS_NAMED_MAX) {
                text.push_str("; ");
                text.push_str(reason);
            }
            if let Some(more) = reasons.len().checked_sub(WORKERS_NAMED_MAX).filter(|more| *more > 0) {
                text.push_str(&format!("; and {}", counted(more, "more worker")));
            }
        }
        Some(text)
    }
}

fn view(hash: ManifestHash, record: &ObjectRecord, manifest: Vec<u8>) -> ObjectView {
    ObjectView { hash, manifest, record: record.clone() }
}

/// A job without what only its own page shows.
fn listed(record: &JobRecord) -> JobRecord {
    let (spec, run) = (record.spec.outline(), record.run.outline());
    JobRecord {
        job: record.job,
        spec,
        owner: record.owner,
        signed: record.signed,
        state: record.state,
        before_pause: record.before_pause,
        reason: record.reason.clone(),
        created_at: record.created_at,
        changed_at: record.changed_at,
        finished_at: record.finished_at,
        revision: record.revision,
        since: record.since,
        controlled: record.controlled.clone(),
        run,
        fired_by: record.fired_by,
        history: Vec::new(),
    }
}

fn page<T: serde::Serialize>(rows: impl Iterator<Item = T>, limit: u32) -> Vec<T> {
    let mut bytes = 0;
    let mut page = Vec::new();
    for row in rows.take(PAGE_MAX.min(limit as usize)) {
        bytes += wire::encode(&row).len();
        page.push(row);
        if bytes > PAGE_BYTES_MAX {
            break;
        }
    }
    page
}
