//! Readers: the parts of an answer that a peer may see, decided by the member that answers.
//!
//! States are for everybody: a job can be followed from any peer. Results are refused to peers that may not read them.
//! From every answer one pass takes out, for its reader, the arguments, environment and inline contents of
//! specifications, and the ids of leases ([`super::rights`] has the table for all three). In a lease's place the same
//! record stands with an id that names no lease: `LeaseId::default()`. An answer is judged once it is there, by the
//! state that it came from or a newer one: who owns a job and whom it names never changes.
//!
//! Every type that is answered is gone through by name, so that one that gets a lease later is found by the compiler.

use crate::approval::Grant;
use crate::ids::{JobId, LeaseId, PeerId};
use crate::job::record::{JobRecord, Run};
use crate::job::store::{ColumnRecord, StoreRun};
use crate::quorum::authority::Forbidden;
use crate::quorum::object::ObjectRecord;
use crate::quorum::request::{JobAnswer, Query, QueryAnswer};
use crate::quorum::rights::{Party, Verb};
use crate::quorum::state::QuorumState;
use crate::quorum::watch::{Met, WatchAnswer, Watched};

/// The peer that asks, as the answering member's transport authenticated it, and what that member knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    pub by: PeerId,
    /// The member's settings name it as an operator of the network.
    pub is_operator: bool,
    /// It is a voter or learner of the quorum.
    pub is_member: bool,
}

impl Asker {
    fn may(self, verb: Verb, record: &JobRecord, is_worker: bool) -> bool {
        verb.allows(&[
            (Party::Owner, record.owner == self.by),
            (Party::Operator, self.is_operator),
            (Party::Reader, record.spec.names_reader(self.by)),
            (Party::Worker, is_worker),
            (Party::Member, self.is_member),
        ])
    }

    /// Takes out of an answer what the asker may not read.
    pub fn redact(self, answer: &mut JobAnswer) {
        match answer {
            JobAnswer::Answer(answer) => self.redact_answer(answer),
            JobAnswer::Watched(WatchAnswer::Update { met, refused: _ }) => {
                for (_, watched) in met {
                    match watched {
                        Watched::Met(met) => self.redact_met(met),
                        Watched::Unknown => (),
                    }
                }
            }
            // Columns are told in reply to the commands of the run's uploader alone: to attach makes one.
            JobAnswer::Reply(_) => (),
            JobAnswer::Membership(_)
            | JobAnswer::Certificate(_)
            | JobAnswer::NotPrimary { .. }
            | JobAnswer::Moved { .. }
            | JobAnswer::NotMember
            | JobAnswer::Paused { .. }
            | JobAnswer::Busy
            | JobAnswer::Unknown { .. }
            | JobAnswer::Forbidden { .. }
            | JobAnswer::Malformed { .. }
            | JobAnswer::Acknowledged
            | JobAnswer::DeliveryAck(_)
            | JobAnswer::ConditionProbed(_)
            | JobAnswer::Watched(WatchAnswer::Reopen) => (),
        }
    }

    fn redact_answer(self, answer: &mut QueryAnswer) {
        match answer {
            QueryAnswer::Job(record) => self.redact_job(record),
            QueryAnswer::Jobs(records) => records.iter_mut().for_each(|record| self.redact_job(record)),
            QueryAnswer::Object(view) => self.redact_object(&mut view.record),
            QueryAnswer::Objects(views) => views.iter_mut().for_each(|view| self.redact_object(&mut view.record)),
            QueryAnswer::Workers(workers) => {
                workers.iter_mut().for_each(|worker| self.redact_grant(&mut worker.grant, false));
            }
            QueryAnswer::Quorum(_)
            | QueryAnswer::History(_)
            | QueryAnswer::Unknown
            | QueryAnswer::Why(_)
            | QueryAnswer::Tasks(_)
            | QueryAnswer::Outputs(_)
            | QueryAnswer::Fires(_)
            | QueryAnswer::Subscription { .. }
            | QueryAnswer::Uses(_) => (),
        }
    }

    /// Outputs are left out for whoever has to be looked up as a worker of the job: a query for them says.
    fn redact_met(self, met: &mut Met) {
        let Met { record, outputs } = met;
        if !self.may(Verb::ReadResults, record, false) {
            *outputs = None;
        }
        self.redact_job(record);
    }

    fn redact_job(self, record: &mut JobRecord) {
        if !self.may(Verb::ReadSpec, record, false) {
            record.spec = record.spec.redacted();
        }
        let is_over = record.state.is_final();
        match &mut record.run {
            Run::Store(run) => self.redact_run(run, is_over),
            Run::Trigger(_) | Run::Batch(_) => (),
            #[cfg(test)]
            Run::Counter(_) => (),
        }
    }

    fn redact_run(self, run: &mut StoreRun, is_over: bool) {
        let StoreRun {
            uploader,
            columns,
            spares,
            failed,
            releasing,
            upload_attempt: _,
            segments: _,
            exhausted: _,
            manifest: _,
            degraded: _,
            upload_seq: _,
            upload_seen_at: _,
        } = run;
        self.redact_columns(columns, !is_over && *uploader == self.by);
        spares.iter_mut().for_each(|grant| self.redact_grant(grant, false));
        failed.iter_mut().for_each(|(grant, _)| self.redact_grant(grant, false));
        releasing.iter_mut().for_each(|releasing| self.redact_grant(&mut releasing.grant, false));
    }

    fn redact_object(self, record: &mut ObjectRecord) {
        let ObjectRecord {
            columns,
            repairs,
            state: _,
            size: _,
            profile: _,
            claims: _,
            job: _,
            created_at: _,
            owed: _,
            newest: _,
        } = record;
        self.redact_columns(columns, false);
        repairs.values_mut().for_each(|repair| self.redact_grant(&mut repair.grant, false));
    }

    fn redact_columns(self, columns: &mut [ColumnRecord], is_uploader: bool) {
        let grants = columns.iter_mut().filter_map(|column| column.grant.as_mut());
        grants.for_each(|grant| self.redact_grant(grant, is_uploader));
    }

    fn redact_grant(self, grant: &mut Grant, is_uploader: bool) {
        let is = [
            (Party::Member, self.is_member),
            (Party::Grantor, grant.holder.peer == self.by),
            (Party::Uploader, is_uploader),
        ];
        if !Verb::ReadLease.allows(&is) {
            grant.lease = LeaseId::default();
        }
    }
}

/// The job whose results a query asks for, if it does.
const fn asks_for_results(query: &Query) -> Option<JobId> {
    match query {
        Query::Tasks { job, .. } | Query::Outputs { job, .. } => Some(*job),
        Query::Quorum
        | Query::Job { .. }
        | Query::Jobs { .. }
        | Query::Object { .. }
        | Query::Objects { .. }
        | Query::History { .. }
        | Query::Why { .. }
        | Query::Workers
        | Query::Fires { .. }
        | Query::Subscription { .. }
        | Query::Uses { .. } => None,
    }
}

impl QuorumState {
    /// Whether the asker may have an answer to the query at all.
    pub fn check_asker(&self, asker: Asker, query: &Query) -> Result<(), Forbidden> {
        let Some(job) = asks_for_results(query) else { return Ok(()) };
        let record = self.jobs().get(&job).ok_or(Forbidden::UnknownJob { job })?;
        let mut attempts = self.attempts_of(asker.by).map(|(task, _)| task.id.job);
        let is_worker = attempts.any(|of| of == job);
        match asker.may(Verb::ReadResults, record, is_worker) {
            true => Ok(()),
            false => Err(Forbidden::NotReader { job, owner: record.owner, verb: Verb::ReadResults }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::capacity::Capacity;
    use crate::engine::Engine;
    use crate::ids::{Digest, Incarnation, LogIndex, MemberId, Millis, QuorumId, StepIndex, TaskIndex};
    use crate::job::batch::BatchSpec;
    use crate::job::spec::JobSpec;
    use crate::quorum::command::TaskCommand;
    use crate::quorum::entry::{Batch, Command};
    use crate::quorum::watch::EntryId;
    use crate::task::message::OutputRef;
    use crate::task::record::{Output, Place, WorkerRecord};
    use crate::task::spec::{Call, Content, Program};

    const QUORUM: QuorumId = QuorumId([1; 16]);
    const JOB: JobId = JobId { quorum: QUORUM, local: [2; 16] };
    const OWNER: u8 = 2;
    const READER: u8 = 3;
    const WORKER: u8 = 4;
    const MEMBER: u8 = 5;
    const OPERATOR: u8 = 8;
    const STRANGER: u8 = 9;
    const ALL: [u8; 6] = [OWNER, OPERATOR, READER, WORKER, MEMBER, STRANGER];

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn peer(number: u8) -> PeerId {
        PeerId(key(number).verifying_key().to_bytes())
    }

    fn asker(number: u8) -> Asker {
        Asker { by: peer(number), is_operator: number == OPERATOR, is_member: number == MEMBER }
    }

    /// A job with something to hide, which names a reader and has an attempt at a worker.
    fn state() -> QuorumState {
        let mut call = Call::new(Program::Command { name: "work".to_owned() });
        call.args = vec!["secret".to_owned()];
        call.env.insert("TOKEN".to_owned(), "secret".to_owned());
        call.inputs.insert("key".to_owned(), Content::Inline(Bytes::from_static(b"secret")));
        let spec = BatchSpec { readers: BTreeSet::from([peer(READER)]), ..BatchSpec::new(call) };
        let worker = WorkerRecord {
            grant: Grant {
                holder: MemberId { peer: peer(WORKER), incarnation: Incarnation(1) },
                lease: LeaseId([4; 16]),
            },
            capacity: Capacity { slots: 2, memory_bytes: 1 << 30, disk_bytes: 0 },
            engines: vec![Engine::Command],
            labels: Default::default(),
        };
        let mut state = QuorumState::new(QUORUM);
        let commands = vec![
            (peer(1), Command::Task(TaskCommand::SetWorker { worker })),
            (peer(OWNER), Command::submit(&key(OWNER), JOB, JobSpec::batch(spec))),
        ];
        for reply in state.apply(LogIndex(1), &Batch::at(Millis(1), commands)).0.replies {
            reply.unwrap();
        }
        state
    }

    fn redacted(asker: Asker, answer: &JobAnswer) -> JobAnswer {
        let mut redacted = answer.clone();
        asker.redact(&mut redacted);
        redacted
    }

    /// Those who see the secret in the answer as it leaves.
    fn seeing(answer: &JobAnswer) -> Vec<u8> {
        let sees = |number: &u8| format!("{:?}", redacted(asker(*number), answer)).contains("secret");
        ALL.into_iter().filter(sees).collect()
    }

    #[test]
    fn a_specification_is_shown_whole_to_those_who_may_read_it() {
        let state = state();
        let may = [OWNER, OPERATOR, READER, MEMBER];
        for query in [Query::Job { job: JOB }, Query::Jobs { after: None, limit: 9 }] {
            let answer = JobAnswer::Answer(state.answer(&query).unwrap());
            assert_eq!(seeing(&answer), may, "{query:?}");
        }
        assert_eq!(seeing(&watched(&state, None)), may);
    }

    #[test]
    fn outputs_come_with_a_watch_for_those_who_may_read_them_whoever_runs_the_job() {
        let state = state();
        let output = || OutputRef {
            task: TaskIndex(0),
            output: Output { digest: Digest([1; 32]), bytes: 1, place: Place::Record },
            bytes: Some(Bytes::from_static(b"!")),
        };
        let shown = |number: &u8| {
            let answer = redacted(asker(*number), &watched(&state, Some(vec![output()])));
            let JobAnswer::Watched(WatchAnswer::Update { met, .. }) = answer else { panic!("{answer:?}") };
            matches!(&met[..], [(_, Watched::Met(met))] if met.outputs.is_some())
        };
        assert_eq!(ALL.into_iter().filter(shown).collect::<Vec<_>>(), [OWNER, OPERATOR, READER, MEMBER]);
    }

    /// The answer to a watch of the job.
    fn watched(state: &QuorumState, outputs: Option<Vec<OutputRef>>) -> JobAnswer {
        let met = Met { record: Box::new(state.jobs()[&JOB].clone()), outputs };
        JobAnswer::Watched(WatchAnswer::Update { met: vec![(EntryId(1), Watched::Met(met))], refused: Vec::new() })
    }

    #[test]
    fn what_is_hidden_leaves_the_state_and_the_plan() {
        let state = state();
        let Some(QueryAnswer::Job(shown)) = state.answer(&Query::Job { job: JOB }) else { panic!("no job") };
        let answer = redacted(asker(STRANGER), &JobAnswer::Answer(QueryAnswer::Job(shown.clone())));
        let JobAnswer::Answer(QueryAnswer::Job(hidden)) = answer else { panic!("{answer:?}") };
        assert_eq!((hidden.state, hidden.owner, &hidden.history), (shown.state, shown.owner, &shown.history));
        let spec = hidden.spec.as_batch().unwrap();
        assert_eq!(spec.call.env.keys().collect::<Vec<_>>(), ["TOKEN"], "that there is one is no secret");
        assert_eq!(spec.programs().collect::<Vec<_>>(), ["work"]);
    }

    #[test]
    fn results_are_for_those_who_may_read_them_and_for_the_jobs_workers() {
        let state = state();
        let (job, step, from, limit) = (JOB, StepIndex(0), TaskIndex(0), 9);
        for query in [Query::Outputs { job, step, from, limit }, Query::Tasks { job, step, from, limit }] {
            let may = |number: &u8| state.check_asker(asker(*number), &query).is_ok();
            let allowed: Vec<u8> = ALL.into_iter().filter(may).collect();
            assert_eq!(allowed, [OWNER, OPERATOR, READER, WORKER, MEMBER], "{query:?}");
        }
        let query = Query::Outputs { job, step, from, limit };
        let refusal = state.check_asker(asker(STRANGER), &query).unwrap_err().to_string();
        assert!(refusal.contains("names in `readers`"), "{refusal}");
        let unknown = Query::Outputs { job: JobId { local: [7; 16], ..JOB }, step, from, limit };
        assert!(matches!(state.check_asker(asker(OWNER), &unknown), Err(Forbidden::UnknownJob { .. })));
    }

    #[test]
    fn the_state_of_a_job_is_for_everybody() {
        let state = state();
        for query in [
            Query::Job { job: JOB },
            Query::Jobs { after: None, limit: 9 },
            Query::History { job: JOB },
            Query::Why { job: JOB },
            Query::Fires { job: JOB, from: 0, limit: 9 },
        ] {
            assert_eq!(state.check_asker(asker(STRANGER), &query), Ok(()), "{query:?}");
        }
    }
}
