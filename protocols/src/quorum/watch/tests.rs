//! Tests of watches.

mod sessions;

use super::*;
use crate::approval::Grant;
use crate::capacity::Capacity;
use crate::engine::Engine;
use crate::ids::{Attempt, Digest, LeaseId, MemberId, Millis, PeerId, QuorumId, StepIndex};
use crate::job::batch::{BatchSpec, Map};
use crate::job::spec::{JobSpec, StoreSpec};
use crate::object::Profile;
use crate::quorum::{Batch, Command, Control, StoreCommand, TaskCommand};
use crate::task::message::{Report, TaskResult};
use crate::task::record::{Output, Place, TaskAttempt, TaskId, WorkerRecord};
use crate::task::spec::{Call, OutputPlace, Program};
use bytes::Bytes;
use ed25519_dalek::SigningKey;

const QUORUM: QuorumId = QuorumId([1; 16]);
const JOB: JobId = JobId { quorum: QUORUM, local: [2; 16] };
const OTHER: JobId = JobId { quorum: QUORUM, local: [3; 16] };
const PROFILE: Profile = Profile { data: 2, parity: 1 };

struct Log(QuorumState, u64);

impl Log {
    fn new() -> Self {
        let mut log = Self(QuorumState::new(QUORUM), 0);
        for job in [JOB, OTHER] {
            let spec = JobSpec::store(StoreSpec { name: None, size: None, profile: PROFILE });
            log.commit(Command::submit(&SigningKey::from_bytes(&[9; 32]), job, spec));
        }
        log
    }
    fn commit(&mut self, command: Command) -> Vec<Event> {
        self.1 += 1;
        let batch = Batch::at(
            Millis(self.1),
            vec![(PeerId(SigningKey::from_bytes(&[9; 32]).verifying_key().to_bytes()), command)],
        );
        let (reply, events) = self.0.apply(LogIndex(self.1), &batch);
        reply.replies.into_iter().for_each(|reply| drop(reply.unwrap()));
        events
    }
    fn add(&mut self, holders: &[u8], exhausted: bool) -> Vec<Event> {
        let grant = |n: &u8| Grant {
            holder: MemberId { peer: PeerId([*n; 32]), ..MemberId::default() },
            lease: LeaseId([*n; 16]),
        };
        let grants = holders.iter().map(grant).collect();
        self.commit(Command::store(JOB, StoreCommand::AddHolders { grants, exhausted }))
    }
    fn judge(&self, until: Until) -> Option<Watched> {
        until.judge(&self.0, JOB)
    }
    fn is_met(&self, until: Until) -> bool {
        matches!(self.judge(until), Some(Watched::Met(_)))
    }
    fn revision(&self, job: JobId) -> LogIndex {
        self.0.jobs.get(&job).unwrap().revision
    }
}

#[test]
fn a_watch_for_the_end_is_met_by_every_end_and_by_nothing_before() {
    let mut log = Log::new();
    assert_eq!(log.judge(Until::Ended), None);
    log.add(&[1, 2, 3], false);
    assert!(!log.is_met(Until::Ended));
    let events = log.commit(Command::control(JOB, LogIndex(u64::MAX), Control::Cancel));
    assert!(log.is_met(Until::Ended));
    assert!(events.iter().any(|event| Until::Ended.concerns(event)));
    assert_eq!(Until::Ended.judge(&log.0, JobId { local: [7; 16], ..JOB }), Some(Watched::Unknown));
}

/// Goal: whoever submits a job and waits for its end in one breath hears of it, whichever of the two came first.
#[test]
fn a_watch_that_comes_before_its_submit_waits_for_it_and_then_for_the_end() {
    let (mut log, until) = (Log::new(), Until::EndedOnceSubmitted);
    let late = JobId { local: [7; 16], ..JOB };
    assert_eq!(until.judge(&log.0, late), None);
    assert!(!Watched::Unknown.may_answer(late, &until) && Watched::Unknown.may_answer(late, &Until::Ended));
    let spec = JobSpec::store(StoreSpec { name: None, size: None, profile: PROFILE });
    log.commit(Command::submit(&SigningKey::from_bytes(&[9; 32]), late, spec));
    assert_eq!(until.judge(&log.0, late), None);
    let events = log.commit(Command::control(late, LogIndex(u64::MAX), Control::Cancel));
    assert!(events.iter().any(|event| until.concerns(event)) && until.is_lasting());
    let Some(Watched::Met(met)) = until.judge(&log.0, late) else { panic!("it has ended") };
    assert_eq!((met.record.job, met.outputs), (late, None), "a job that stores has no outputs");
}

/// The run of two tasks that put out so many bytes each, as a watch for its end finds it.
fn ended_with(bytes: usize) -> Met {
    let (mut log, job) = (Log::new(), JobId { local: [8; 16], ..JOB });
    let spec = BatchSpec {
        map: Map::Count(2),
        output: OutputPlace::Inline,
        ..BatchSpec::new(Call::new(Program::Command { name: "work".to_owned() }))
    };
    let peer = PeerId(SigningKey::from_bytes(&[9; 32]).verifying_key().to_bytes());
    let grant = Grant { holder: MemberId { peer, ..MemberId::default() }, lease: LeaseId([4; 16]) };
    let capacity = Capacity { slots: 2, memory_bytes: 1 << 30, disk_bytes: 0 };
    let worker = WorkerRecord { grant, capacity, engines: vec![Engine::Command], labels: Default::default() };
    log.commit(Command::submit(&SigningKey::from_bytes(&[9; 32]), job, JobSpec::batch(spec)));
    log.commit(Command::Task(TaskCommand::SetWorker { worker }));
    let report = |task| {
        let bytes = Bytes::from(vec![task as u8; bytes]);
        let digest = Digest(*blake3::hash(&bytes).as_bytes());
        let id = TaskId { job, step: StepIndex(0), task: TaskIndex(task) };
        let output = Output { digest, bytes: bytes.len() as u64, place: Place::Record };
        let task = TaskAttempt { id, attempt: Attempt(1) };
        Report { task, result: TaskResult::Done { output, bytes: Some(bytes) } }
    };
    assert_eq!(Until::Ended.judge(&log.0, job), None);
    log.commit(Command::Task(TaskCommand::Report { reports: vec![report(0), report(1)] }));
    let Some(Watched::Met(met)) = Until::Ended.judge(&log.0, job) else { panic!("it has ended") };
    assert_eq!(met.record.state, RunState::Succeeded);
    met
}

/// Goal: whoever waited for a small job asks nothing more, and a large one is no burden to all other watches.
#[test]
fn the_end_of_a_run_brings_its_outputs_if_they_are_short() {
    let outputs = ended_with(10).outputs.expect("they are short");
    let found: Vec<_> =
        outputs.iter().map(|output| (output.task.0, output.bytes.as_deref().map(<[u8]>::len))).collect();
    assert_eq!(found, [(0, Some(10)), (1, Some(10))]);
    assert!(ended_with(WATCH_OUTPUT_BYTES_MAX / 2).outputs.is_some());
    assert!(ended_with(WATCH_OUTPUT_BYTES_MAX / 2 + 1).outputs.is_none());
}

#[test]
fn a_watch_for_holders_is_met_by_enough_of_them_or_when_no_more_are_expected() {
    let mut log = Log::new();
    let three = Until::Holders { columns: 3 };
    log.add(&[1, 2], false);
    assert!(log.is_met(Until::Holders { columns: 2 }) && !log.is_met(three));
    // Nothing but the expectation changes, and it is told all the same.
    let events = log.add(&[], true);
    assert!(log.is_met(three));
    assert!(events.iter().any(|event| three.concerns(event)), "{events:?}");
    assert!(log.add(&[], true).iter().all(|event| !three.concerns(event)), "it is no news");
    // A peer that turned up takes it back: the condition is not a lasting one.
    log.add(&[], false);
    assert!(!log.is_met(three) && !three.is_lasting());
    let events = log.add(&[3], false);
    assert!(log.is_met(three) && events.iter().any(|event| three.concerns(event)));
}

#[test]
fn a_revision_passes_when_the_job_changes_and_not_when_another_does() {
    let mut log = Log::new();
    let (one, other) = (log.revision(JOB), log.revision(OTHER));
    assert!(one < other, "that of the entry that submitted it");
    log.add(&[1], false);
    assert!(log.is_met(Until::Changed { since: one }));
    let now = log.revision(JOB);
    assert_eq!((now, log.revision(OTHER)), (LogIndex(3), other));
    log.commit(Command::control(OTHER, LogIndex(u64::MAX), Control::Cancel));
    assert!(!log.is_met(Until::Changed { since: now }));
    let Some(Watched::Met(met)) = log.judge(Until::Changed { since: one }) else { panic!("it changed") };
    let answer = Watched::Met(met);
    assert!(answer.may_answer(JOB, &Until::Changed { since: one }));
    for (job, until) in
        [(OTHER, Until::Changed { since: one }), (JOB, Until::Changed { since: now }), (JOB, Until::Ended)]
    {
        assert!(!answer.may_answer(job, &until), "{until:?}");
    }
    // A repetition that changes nothing tells nothing.
    log.add(&[1], false);
    assert_eq!(log.revision(JOB), now);
}

#[test]
fn a_revision_survives_a_snapshot() {
    let mut log = Log::new();
    log.add(&[1, 2, 3], false);
    let chunks = log.0.encode_snapshot();
    let read = QuorumState::decode_snapshot(chunks.iter().map(|(_, bytes)| bytes)).unwrap();
    assert_eq!(read.jobs.get(&JOB).unwrap().revision, log.revision(JOB));
}
