//! Submit: a specification becomes a job, once.

use crate::approval::Signature;
use crate::ids::{JobId, PeerId};
use crate::job::limits::SPEC_BYTES_MAX;
use crate::job::record::{JobRecord, Run, RunState};
use crate::job::spec::JobSpec;
use crate::job::submission::Submission;
use crate::quorum::event::Event;
use crate::quorum::reply::{Applied, invalid};
use crate::quorum::reply::{CommandReply, Rejection};
use crate::quorum::state::QuorumState;
use crate::wire;

/// A submit as an entry has it.
pub(super) struct Submit<'a> {
    pub by: PeerId,
    pub job: JobId,
    pub spec: &'a JobSpec,
    pub signature: &'a Signature,
    /// It is known to be signed by its author.
    pub is_genuine: bool,
}

/// Refuses what no run could do, before anything is recorded.
fn check_spec(spec: &JobSpec, bytes: usize) -> Result<(), Rejection> {
    if let JobSpec::Triggered(spec) = spec {
        spec.trigger.check().map_err(|fault| invalid(fault.to_string()))?;
        spec.work.check_triggered()?;
    }
    spec.work().check()?;
    if bytes > SPEC_BYTES_MAX {
        return Err(Rejection::TooLarge { what: "specification".to_owned(), bytes, limit: SPEC_BYTES_MAX });
    }
    Ok(())
}

impl QuorumState {
    /// The reply to the submit of a job that is there already; or why it cannot be taken.
    pub(in crate::quorum) fn check_submit(
        &self,
        by: PeerId,
        job: JobId,
        spec: &JobSpec,
    ) -> Result<Option<CommandReply>, Rejection> {
        if let Some(record) = self.jobs.get(&job) {
            let same = record.spec == *spec && (record.owner == by || !spec.is_of_its_submitter());
            return match same {
                true => Ok(Some(CommandReply::Submitted { existed: true, state: record.state })),
                false => Err(Rejection::Conflict { job }),
            };
        }
        if job.quorum != self.quorum {
            return Err(invalid(format!("job {job} belongs to another quorum than {}", self.quorum)));
        }
        let bytes = wire::encode(spec).len();
        check_spec(spec, bytes)?;
        match spec {
            JobSpec::Once(work) => {
                self.jobs.check_live_room(by)?;
                self.check_kind_room(by, work, bytes)?;
            }
            JobSpec::Triggered(spec) => {
                self.check_trigger_room(by, spec)?;
                self.tasks.check_bytes(by, bytes)?;
            }
        }
        Ok(None)
    }

    pub(super) fn submit(&mut self, submit: Submit<'_>, events: &mut Vec<Event>) -> Applied {
        let Submit { by, job, spec, signature, is_genuine } = submit;
        if let Some(reply) = self.check_submit(by, job, spec)? {
            return Ok(reply);
        }
        // A primary may put whom it likes beside a command. Nobody else's name comes into the record by that. Last: it
        // costs more than all before it, and only what is taken needs it.
        if !is_genuine && Submission::new(by, job, spec, signature).verify().is_none() {
            return Err(Rejection::NotSigned { job, by });
        }
        let run = match spec {
            JobSpec::Once(work) => self.new_run(job, work, by),
            JobSpec::Triggered(_) => Run::Trigger(Box::default()),
        };
        let signed = spec.keep_signature(*signature);
        let what = format!("submitted through {by}");
        let record = JobRecord::begin((job, by, signed), self.wall(), spec.clone(), run, what);
        self.open_job(record, events);
        if self.trigger(job).is_some() {
            self.begin_trigger(job, events);
        }
        let state = self.jobs.get(&job).map(|record| record.state).unwrap_or(RunState::Pending);
        Ok(CommandReply::Submitted { existed: false, state })
    }
}
