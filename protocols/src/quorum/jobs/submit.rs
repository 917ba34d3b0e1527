//! Submit: a specification becomes a job, once.

use crate::ids::{JobId, PeerId};
use crate::job::limits::{JOBS_LIVE_MAX, SPEC_BYTES_MAX};
use crate::job::record::{JobRecord, Run};
use crate::job::spec::{JobSpec, Kind};
use crate::job::store::StoreRun;
use crate::object::layout::Profile;
use crate::object::limits::NAME_BYTES_MAX;
use crate::quorum::apply::{Applied, invalid};
use crate::quorum::command::{CommandReply, Rejection};
use crate::quorum::state::{Event, QuorumState};
use crate::wire;

/// Refuses what no run could do, before anything is recorded.
fn check_spec(spec: &JobSpec, encoded_bytes: usize) -> Result<(), Rejection> {
    let store = match spec {
        JobSpec::Store(store) => store,
        JobSpec::Compute(spec) => {
            spec.check().map_err(|fault| invalid(fault.to_string()))?;
            return check_size(encoded_bytes);
        }
        JobSpec::Triggered(spec) => {
            spec.check().map_err(|fault| invalid(fault.to_string()))?;
            return check_size(encoded_bytes);
        }
    };
    let name = store.name.as_deref().unwrap_or_default().len();
    if name > NAME_BYTES_MAX {
        return Err(Rejection::TooLarge { what: "name".to_owned(), bytes: name, limit: NAME_BYTES_MAX });
    }
    check_size(encoded_bytes)?;
    let Profile { data, parity } = store.profile;
    let profile =
        Profile::new(data, parity).ok_or_else(|| invalid(format!("profile {data}+{parity} is not possible")))?;
    match store.size {
        Some(size) if size > profile.bytes_max() => {
            Err(invalid(format!("an object of {size} bytes is larger than the {} allowed", profile.bytes_max())))
        }
        _ => Ok(()),
    }
}

fn check_size(bytes: usize) -> Result<(), Rejection> {
    if bytes > SPEC_BYTES_MAX {
        return Err(Rejection::TooLarge { what: "specification".to_owned(), bytes, limit: SPEC_BYTES_MAX });
    }
    Ok(())
}

impl QuorumState {
    pub(in crate::quorum) fn submit(
        &mut self,
        by: PeerId,
        job: JobId,
        spec: &JobSpec,
        events: &mut Vec<Event>,
    ) -> Applied {
        if let Some(record) = self.jobs.get(&job) {
            // Work is the same through whichever peer it came; a file is on one of them.
            return if record.spec == *spec && (record.owner == by || spec.kind() != Kind::Store) {
                Ok(CommandReply::Submitted { existed: true, state: record.state })
            } else {
                Err(Rejection::Conflict { job })
            };
        }
        if job.quorum != self.quorum {
            return Err(invalid(format!("job {job} belongs to another quorum than {}", self.quorum)));
        }
        let bytes = wire::encode(spec).len();
        check_spec(spec, bytes)?;
        if self.jobs.live_len() >= JOBS_LIVE_MAX && !matches!(spec, JobSpec::Triggered(_)) {
            return Err(Rejection::Full { what: "live jobs".to_owned(), limit: JOBS_LIVE_MAX });
        }
        let run = match spec {
            JobSpec::Store(spec) => Run::Store(Box::new(StoreRun::new(by, spec.profile.columns(), self.wall()))),
            JobSpec::Compute(spec) => {
                self.check_room(spec, bytes)?;
                self.new_compute_run(spec)
            }
            JobSpec::Triggered(spec) => {
                self.check_trigger_room(spec)?;
                self.check_bytes(bytes)?;
                Run::Trigger(Box::default())
            }
        };
        let record = JobRecord::begin((job, by), self.wall(), spec.clone(), run, format!("submitted through {by}"));
        let state = record.state;
        self.jobs.insert(job, record);
        events.push(Event::JobChanged { job, state });
        match spec {
            JobSpec::Store(_) => self.reindex_job(job),
            JobSpec::Compute(_) => {
                self.begin_compute(job);
                self.reindex_job(job);
            }
            JobSpec::Triggered(_) => {
                self.reindex_job(job);
                self.begin_trigger(job, events);
            }
        }
        let state = self.jobs.get(&job).map_or(state, |record| record.state);
        Ok(CommandReply::Submitted { existed: false, state })
    }
}
