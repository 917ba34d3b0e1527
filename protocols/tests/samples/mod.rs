//! One value of every variant of everything that travels or is kept, for the tests of its bytes.

mod tasks;
mod triggers;

use quorate_protocols::capacity::{Capacity, Requirement, Resource, Shortage, Unmet};
use quorate_protocols::quorum::watch::EntryId;
use quorate_protocols::quorum::watch::Met;
use quorate_protocols::quorum::watch::Until;
use quorate_protocols::quorum::watch::WatchAnswer;
use quorate_protocols::quorum::watch::WatchEntry;
use quorate_protocols::quorum::watch::WatchRequest;
use quorate_protocols::quorum::watch::Watched;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use quorate_protocols::approval::Grant;
use quorate_protocols::approval::{
    Approval, ApprovalAnswer, ApprovalMessage, ApprovalRequest, Refusal, Signature, Statement, Subject, Writer,
};
use quorate_protocols::certificate::{CertificatePart, Founding, Link};
use quorate_protocols::directory::{JobAnnouncement, PeerAdvert, QuorumAdvert};
use quorate_protocols::engine::{Engine, NodeRole};
use quorate_protocols::ids::*;
use quorate_protocols::job::Kind;
use quorate_protocols::job::batch::{BatchRun, Ending};
use quorate_protocols::job::batch::{BatchSpec, Map, OnFailure, Reduce, Timeouts};
use quorate_protocols::job::record::{Controlled, HistoryEntry, JobRecord, Run, RunState};
use quorate_protocols::job::signed::OwnerSignature;
use quorate_protocols::job::spec::TriggeredSpec;
use quorate_protocols::job::spec::{JobSpec, StoreSpec};
use quorate_protocols::job::store::SegmentProgress;
use quorate_protocols::job::store::{ColumnRecord, ColumnState, Releasing, StoreRun};
use quorate_protocols::liveness::{Heartbeat, LivenessAnswer, LivenessMessage, LogPosition, PreVote};
use quorate_protocols::object::{Manifest, Profile};
use quorate_protocols::piece::{
    HeldPiece, PieceAnswer, PieceMessage, PieceRefusal, RebuildPart, Receipt, ReceiptStatement, Slot,
};
use quorate_protocols::quorum::clock::ClockStep;
use quorate_protocols::quorum::command::Resolution;
use quorate_protocols::quorum::object::{ObjectRecord, ObjectState, Repair};
use quorate_protocols::quorum::reply::Attached;
use quorate_protocols::quorum::request::{
    JobAnswer, JobMessage, MembershipStatement, ObjectView, Query, QueryAnswer, QuorumView, SignedMembership,
};
use quorate_protocols::quorum::{
    Attestation, Batch, BatchReply, Claim, ClaimSelector, Command, CommandReply, Control, JobCommand, KindCommand,
    ObjectCommand, ObjectUse, Part, QuorumCommand, QuorumState, RaftAnswer, RaftMessage, Rejection, StoreCommand,
    TaskCommand, TriggerCommand, Uses,
};
use quorate_protocols::task::error_class::ErrorClass;
use quorate_protocols::task::message::{
    Assignment, FireProof, LogStream, OutputRef, OwnerProof, Progress, Report, ReportRefusal, StepContext, TaskAnswer,
    TaskMessage, TaskResult,
};
use quorate_protocols::task::record::{
    AttemptRecord, Failure, Output, Phase, Place, RunTasks, Settings, Tally, TaskAttempt, TaskExtras, TaskId,
    TaskRecord, TaskState, Won, WorkerRecord, WorkerRefusal,
};
use quorate_protocols::task::spec::TaskInput;
use quorate_protocols::task::spec::{Call, Content, OutputPlace, Program, RetryPolicy, Split, Stragglers, Verify};
use quorate_protocols::task::vote::{ResultReceipt, ResultStatement, Verdict, Vote};
use quorate_protocols::trigger::condition::{ConditionState, Observation, Seen};
use quorate_protocols::trigger::event::{Delivery, DeliveryAck, Dispatch, Dispatched, Emitter, Event, Match};
use quorate_protocols::trigger::record::{
    Cause, Clock, Debounced, Due, Ended, FireRow, Fired, FiredBy, SeenId, SkipReason, Skipped, Span, TriggerRun,
    Waiting,
};
use quorate_protocols::trigger::spec::{
    After, AfterJob, Bounds, ConditionSpec, EventSpec, Missed, MissedPolicy, Overlap, Source, TriggerSpec, When,
};
use quorate_protocols::wire::{self, DECODE_BYTES_MAX, DecodeError, Record};
use quorate_protocols::{approval, job, liveness, piece, quorum, task};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::tasks::{
    STEP, TASK, call, compute, compute_record, inline, output, output_ref, reference, report_refusals, resources,
    results, stored, task, task_record, task_samples, worker,
};
use self::triggers::{
    delivery, dispatch, fire_rows, observation, schedules, span, trigger_record, trigger_samples, triggered,
};

/// Reads the bytes as the sample's type and writes them again.
type Reread = fn(&[u8]) -> Result<Vec<u8>, DecodeError>;

pub struct Sample {
    /// The fixture file, by protocol.
    pub file: &'static str,
    pub name: String,
    pub bytes: Vec<u8>,
    pub reread: Reread,
    /// Size cap of the message on its way in.
    pub limit: usize,
}

fn reread<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    Ok(wire::encode(&wire::decode::<T>(bytes, DECODE_BYTES_MAX)?))
}

struct Samples(Vec<Sample>);

impl Samples {
    /// All variants of an enum: serde's own error for the first unknown index says how many there are.
    fn all<T: Serialize + DeserializeOwned>(&mut self, file: &'static str, name: &str, limit: usize, values: Vec<T>) {
        let encoded: Vec<_> = values.iter().map(|value| wire::encode(value)).collect();
        let mut tags: Vec<_> = encoded.iter().map(|bytes| bytes[0]).collect();
        tags.dedup();
        let count = tags.len();
        assert!(
            tags.iter().enumerate().all(|(index, tag)| index == *tag as usize),
            "{name}: {tags:?} are not in order"
        );
        let beyond = match wire::decode::<T>(&[count as u8; 64], DECODE_BYTES_MAX) {
            Err(DecodeError::Malformed { reason }) => reason,
            _ => panic!("{name}: variant {count} exists and has no sample"),
        };
        assert!(beyond.contains(&format!("variant index 0 <= i < {count}")), "{name}: {count} sampled, but {beyond}");
        for (index, bytes) in encoded.into_iter().enumerate() {
            self.0.push(Sample { file, name: format!("{name}.{index}"), bytes, reread: reread::<T>, limit });
        }
    }
    fn one<T: Serialize + DeserializeOwned>(&mut self, file: &'static str, name: &str, limit: usize, value: &T) {
        let (name, bytes) = (name.to_owned(), wire::encode(value));
        self.0.push(Sample { file, name, bytes, reread: reread::<T>, limit });
    }
    /// One that stands behind the number of its version.
    fn record<T: Record>(&mut self, file: &'static str, name: &str, limit: usize, value: &T) {
        let reread: Reread = |bytes| Ok(wire::encode_record(&wire::decode_record::<T>(bytes)?));
        self.0.push(Sample { file, name: name.to_owned(), bytes: wire::encode_record(value), reread, limit });
    }
}

fn key(index: u8) -> SigningKey {
    SigningKey::from_bytes(&[index; 32])
}
fn peer(index: u8) -> PeerId {
    PeerId(key(index).verifying_key().to_bytes())
}
fn member(index: u8) -> MemberId {
    MemberId { peer: peer(index), incarnation: Incarnation(0x0102_0304_0506_0708) }
}
const QUORUM: QuorumId = QuorumId([0x11; 16]);
const JOB: JobId = JobId { quorum: QUORUM, local: [0x22; 16] };
const PROFILE: Profile = Profile { data: 1, parity: 2 };
const LEASE: LeaseId = LeaseId([0x33; 16]);
const COLUMN: PieceIndex = PieceIndex(2);
const ATTEMPT: Attempt = Attempt(300);
const SEGMENT: SegmentIndex = SegmentIndex(70_000);

fn text() -> String {
    "a reason, für people".to_owned()
}
fn grant(index: u8) -> Grant {
    Grant { holder: member(index), lease: LEASE }
}
fn slot() -> Slot {
    Slot { job: JOB, column: COLUMN, attempt: ATTEMPT }
}
fn requirement() -> Requirement {
    let labels = BTreeMap::from([("zone".to_owned(), "attic".to_owned())]);
    Requirement { capacity: Capacity { disk_bytes: 1 << 33, memory_bytes: 1 << 22, slots: 1 }, labels }
}
fn founding() -> Founding {
    Founding::new(peer(1), Nonce([0x5a; 16]), [member(1), member(2), member(3)])
}

fn link() -> Link {
    let signature = Signature([0x11; 32], [0x22; 32]);
    let signatures = vec![(member(1).peer, signature), (member(3).peer, signature)];
    Link { number: 5, voters: vec![member(1), member(3)], signatures }
}

fn approval_of(index: u8, subject: Subject) -> Approval {
    let statement = Statement {
        asker: peer(9),
        approver: peer(index),
        incarnation: Incarnation(5),
        boot: BootId([0x44; 16]),
        subject,
        requirement: requirement().digest(),
        nonce: Nonce([0x55; 16]),
        duration: Duration::from_millis(600_250),
        lease: LEASE,
    };
    Approval::sign(&key(index), statement)
}
fn receipt() -> Receipt {
    let statement =
        ReceiptStatement { slot: slot(), holder: peer(3), lease: LEASE, column: Digest([0x66; 32]), segments: 2 };
    Receipt::sign(&key(3), statement)
}
pub fn manifest() -> Manifest {
    let pieces = (0..6).map(|index| PieceHash([index; 32])).collect();
    Manifest { size: 20_000_000, profile: PROFILE, pieces }
}
fn spec() -> JobSpec {
    JobSpec::store(StoreSpec { name: Some("holiday.tar".to_owned()), size: Some(20_000_000), profile: PROFILE })
}
fn columns() -> Vec<ColumnRecord> {
    let column =
        |state, grant, attempt| ColumnRecord { state, grant, attempt: Attempt(attempt), stored: vec![true, false] };
    vec![
        column(ColumnState::Filling, Some(grant(1)), 1),
        column(ColumnState::Filling, Some(grant(2)), 2),
        column(ColumnState::Open, None, 3),
    ]
}
fn owner_signature() -> OwnerSignature {
    OwnerSignature { signature: spec().sign(&key(1), JOB), trigger: Some(Digest([0x77; 32])) }
}

fn record() -> JobRecord {
    let run = StoreRun {
        columns: columns(),
        spares: vec![grant(4)],
        failed: vec![(grant(5), text())],
        segments: vec![vec![PieceHash([1; 32]); 3], Vec::new()],
        releasing: vec![Releasing { column: COLUMN, grant: grant(5), attempt: Attempt(3) }],
        upload_seq: 7,
        ..StoreRun::new(peer(1), 3, Millis(1_700_000_000_500))
    };
    let line = HistoryEntry { at: Millis(1_700_000_000_000), state: RunState::Pending, what: text() };
    JobRecord {
        job: JOB,
        spec: spec(),
        owner: peer(1),
        signed: owner_signature(),
        state: RunState::Running,
        before_pause: None,
        reason: Some(text()),
        created_at: Millis(1_700_000_000_000),
        changed_at: Millis(1_700_000_000_400),
        finished_at: None,
        revision: LogIndex(1_000),
        since: LogIndex(900),
        controlled: Some(Box::new(Controlled { at: LogIndex(800), digest: Digest([4; 32]) })),
        run: Run::Store(Box::new(run)),
        fired_by: None,
        history: vec![line],
    }
}

fn object() -> ObjectRecord {
    let sealed = |state, index| ColumnRecord { grant: Some(grant(index)), attempt: Attempt(1), state, stored: vec![] };
    ObjectRecord {
        state: ObjectState::Live,
        size: 20_000_000,
        profile: PROFILE,
        claims: claims().into(),
        job: JOB,
        created_at: Millis(1_700_000_001_000),
        columns: vec![sealed(ColumnState::Confirmed, 1), sealed(ColumnState::Sealed, 2), ColumnRecord::open()],
        owed: BTreeMap::from([(COLUMN, text())]),
        repairs: BTreeMap::from([(COLUMN, Repair { grant: grant(6), attempt: Attempt(4) })]),
        newest: vec![Attempt(1), Attempt(1), Attempt(4)],
    }
}

fn claims() -> Vec<Claim> {
    let at = Millis(1_700_000_001_000);
    let other = JobId { quorum: QUORUM, local: [0x23; 16] };
    vec![
        Claim { owner: peer(1), name: Some("holiday.tar".to_owned()), job: JOB, at, since: LogIndex(300) },
        Claim { owner: peer(2), name: None, job: other, at, since: LogIndex(301) },
    ]
}

fn uses() -> Uses {
    let used = |trigger, part| ObjectUse { job: JOB, name: Some("nightly".to_owned()), trigger, part };
    Uses {
        total: 300,
        first: vec![
            used(true, Part::Module),
            used(false, Part::Input),
            used(true, Part::Source),
            ObjectUse { job: JOB, name: None, trigger: false, part: Part::Output },
        ],
    }
}

fn commands() -> Vec<Command> {
    let hash = manifest().hash();
    let progress = SegmentProgress {
        segment: SEGMENT,
        pieces: vec![PieceHash([1; 32]), PieceHash([2; 32])],
        stored: vec![(COLUMN, ATTEMPT)],
    };
    vec![
        Command::Quorum(QuorumCommand::Noop),
        Command::Quorum(QuorumCommand::Elapsed { until: Millis(1_700_000_000_000) }),
        Command::Quorum(QuorumCommand::SetStandbys {
            standbys: vec![approval_of(4, Subject::Member { quorum: QUORUM })],
        }),
        Command::Quorum(QuorumCommand::RaiseLevel { level: 2 }),
        Command::Quorum(QuorumCommand::RecordFounding { founding: founding() }),
        Command::Quorum(QuorumCommand::DecideVoters { voters: link().voters }),
        Command::Quorum(QuorumCommand::CertifyVoters { number: 5, base: 3, signatures: link().signatures }),
        Command::submit(&key(9), JOB, spec()),
        Command::control(JOB, LogIndex(300), Control::Cancel),
        Command::control(JOB, LogIndex(300), Control::Pause),
        Command::control(JOB, LogIndex(300), Control::Resume),
        Command::control(JOB, LogIndex(300), Control::Retry),
        Command::control(JOB, LogIndex(300), Control::Resolve { resolution: Resolution::Skip }),
        Command::control(
            JOB,
            LogIndex(300),
            Control::Update { priority: Some(9), parallelism: Some(300), resources: Some(resources()) },
        ),
        Command::control(JOB, LogIndex(300), Control::Suspend),
        Command::control(JOB, LogIndex(300), Control::Unsuspend),
        Command::store(JOB, StoreCommand::AddHolders { grants: vec![grant(1), grant(2)], exhausted: true }),
        Command::store(JOB, StoreCommand::Attach),
        Command::store(JOB, StoreCommand::Progress { upload_attempt: Attempt(1), segments: vec![progress] }),
        Command::store(
            JOB,
            StoreCommand::ColumnFailed { upload_attempt: Attempt(1), column: COLUMN, attempt: ATTEMPT, reason: text() },
        ),
        Command::store(
            JOB,
            StoreCommand::Commit {
                upload_attempt: Attempt(1),
                manifest: Bytes::from(manifest().encode()),
                receipts: vec![receipt()],
                degraded: true,
            },
        ),
        Command::store(JOB, StoreCommand::Fail { upload_attempt: Some(Attempt(1)), reason: text() }),
        Command::store(JOB, StoreCommand::Abandon { upload_seq: 9 }),
        Command::store(JOB, StoreCommand::Released { column: COLUMN, grant: grant(3), attempt: ATTEMPT }),
        Command::Task(TaskCommand::SetWorker { worker: worker(3) }),
        Command::Task(TaskCommand::LoseWorker { peer: peer(3), lease: LEASE, reason: text() }),
        Command::Task(TaskCommand::ReleaseWorker { peer: peer(3), lease: LEASE }),
        Command::Task(TaskCommand::Start { tasks: vec![task()] }),
        Command::Task(TaskCommand::Report {
            reports: results().into_iter().map(|result| Report { task: task(), result }).collect(),
        }),
        Command::Task(TaskCommand::SaveCheckpoint { task: task(), checkpoint: output(), bytes: output_ref().bytes }),
        Command::Object(hash, ObjectCommand::Confirmed { column: COLUMN, attempt: ATTEMPT }),
        Command::Object(
            hash,
            ObjectCommand::Remove {
                claims: ClaimSelector::Named { owner: peer(1), name: Some("holiday.tar".to_owned()) },
                seen: LogIndex(300),
                force: false,
            },
        ),
        Command::Object(
            hash,
            ObjectCommand::Remove { claims: ClaimSelector::OwnedBy(peer(2)), seen: LogIndex(300), force: false },
        ),
        Command::Object(hash, ObjectCommand::Remove { claims: ClaimSelector::All, seen: LogIndex(300), force: true }),
        Command::Object(hash, ObjectCommand::OweRepair { column: COLUMN, attempt: ATTEMPT, reason: text() }),
        Command::Object(
            hash,
            ObjectCommand::StartRepair { column: COLUMN, attempt: ATTEMPT, grant: grant(4), reason: text() },
        ),
        Command::Object(hash, ObjectCommand::FinishRepair { column: COLUMN, receipt: receipt() }),
        Command::Object(hash, ObjectCommand::FailRepair { column: COLUMN, attempt: ATTEMPT, reason: text() }),
        Command::Trigger(TriggerCommand::Due { spans: vec![span()] }),
        Command::Trigger(TriggerCommand::Fire {
            job: JOB,
            seen: LogIndex(300),
            nonce: Nonce([0x44; 16]),
            respect_overlap: true,
        }),
        Command::Trigger(TriggerCommand::Deliver {
            emitter: peer(6),
            follows: 300,
            reaches: 302,
            lost: 1,
            deliveries: vec![delivery()],
        }),
        Command::Trigger(TriggerCommand::Observe { job: JOB, observation: observation() }),
    ]
}

fn rejections() -> Vec<Rejection> {
    let hash = manifest().hash();
    vec![
        Rejection::UnknownJob { job: JOB },
        Rejection::UnknownObject { manifest: hash },
        Rejection::IllegalState { job: JOB, state: RunState::Cancelled, command: "attach".to_owned() },
        Rejection::Superseded { job: JOB, controlled: true },
        Rejection::Conflict { job: JOB },
        Rejection::StaleAttempt { given: Attempt(1), current: ATTEMPT },
        Rejection::NotUploader { job: JOB, by: peer(2) },
        Rejection::Full { what: "live jobs".to_owned(), limit: 10_000 },
        Rejection::DifferentContent { segment: SEGMENT },
        Rejection::TooLarge { what: "name".to_owned(), bytes: 600, limit: 512 },
        Rejection::Invalid { reason: text() },
        Rejection::Level { needed: 2, level: 1 },
        Rejection::WrongKind { kind: Kind::Batch, command: "attach".to_owned() },
        Rejection::UnknownWorker { peer: peer(3) },
        Rejection::NoTrigger { job: JOB, command: "suspend".to_owned() },
        Rejection::HasTrigger { job: JOB, command: "pause".to_owned() },
        Rejection::EventGap { known: 7, follows: 300 },
        Rejection::InUse { manifest: hash, uses: uses() },
        Rejection::NotSigned { job: JOB, by: peer(2) },
    ]
}

fn replies() -> Vec<CommandReply> {
    let attached = Attached {
        upload_attempt: Attempt(2),
        spec: spec(),
        columns: columns(),
        segments: vec![vec![PieceHash([1; 32]); 3], Vec::new()],
    };
    vec![
        CommandReply::Done,
        CommandReply::Submitted { existed: true, state: RunState::Running },
        CommandReply::Attached(Box::new(attached)),
        CommandReply::Columns(columns()),
        CommandReply::Decided { number: 5 },
        CommandReply::Committed { manifest: manifest().hash() },
        CommandReply::Recorded([Ok(())].into_iter().chain(report_refusals().into_iter().map(Err)).collect()),
        CommandReply::Fired(Box::new(fire_rows().remove(0))),
        CommandReply::Delivered { reaches: 302 },
        CommandReply::Removed { removed: claims(), kept: claims() },
    ]
}

fn approval_samples(samples: &mut Samples) {
    let limit = approval::limits::MESSAGE_BYTES_MAX;
    let member = Subject::Member { quorum: QUORUM };
    let holder = Subject::Holder { job: JOB, writer: Writer::Uploader(peer(2)) };
    let founded = Subject::Founding { nonce: founding().nonce };
    let duration = Duration::from_secs(600);
    let request = ApprovalRequest { subject: holder, requirement: requirement(), nonce: Nonce([0x55; 16]), duration };
    samples.all("approval", "subject", limit, vec![member, holder, Subject::Worker { quorum: QUORUM }, founded]);
    let writers = vec![Writer::Uploader(peer(2)), Writer::Streamer(peer(2)), Writer::Quorum];
    samples.all("approval", "writer", limit, writers);
    let messages = vec![
        ApprovalMessage::Ask(request),
        ApprovalMessage::Offer { subject: member },
        ApprovalMessage::Renew { lease: LEASE, duration },
        ApprovalMessage::Release { lease: LEASE },
    ];
    samples.all("approval", "message", limit, messages);
    let answers = vec![
        ApprovalAnswer::Granted(approval_of(1, holder)),
        ApprovalAnswer::Refused(Refusal::Draining),
        ApprovalAnswer::Acknowledged,
    ];
    samples.all("approval", "answer", limit, answers);
    let refusals = vec![
        Refusal::Resources {
            scope: "system".to_owned(),
            resource: Resource::DiskBytes,
            needed: 9,
            available: 8,
            limit: 1 << 40,
        },
        Refusal::Unmet(Unmet::Role(NodeRole::Wasm)),
        Refusal::Unmet(Unmet::Label { key: "zone".to_owned(), wanted: "attic".to_owned() }),
        Refusal::Unmet(Unmet::Capacity(Shortage { what: Resource::MemoryBytes, has: 1 << 20, needs: 1 << 22 })),
        Refusal::Draining,
        Refusal::TooManyLeases { held: 1_024 },
        Refusal::AlreadyPromised,
        Refusal::UnknownLease,
        Refusal::NotAllowed,
        Refusal::Unfit { reason: text() },
        Refusal::Untrusted { reason: text() },
    ];
    samples.all("approval", "refusal", limit, refusals);
}

fn job_samples(samples: &mut Samples) {
    let limit = job::limits::MESSAGE_BYTES_MAX;
    let hash = manifest().hash();
    let messages = vec![
        JobMessage::Membership { quorum: QUORUM },
        JobMessage::Certificate { quorum: QUORUM, since: Some(3) },
        JobMessage::Propose { quorum: QUORUM, command: Command::control(JOB, LogIndex(u64::MAX), Control::Cancel) },
        JobMessage::Query { quorum: QUORUM, query: Query::Job { job: JOB }, stale: true },
        JobMessage::Suspect { quorum: QUORUM, manifest: hash, column: PieceIndex(2) },
        JobMessage::Dispatch { quorum: QUORUM, dispatch: dispatch() },
        JobMessage::ProbeCondition { quorum: QUORUM, job: JOB },
        JobMessage::Watch(WatchRequest {
            quorum: QUORUM,
            session: 7,
            number: 3,
            base: 2,
            added: [
                Until::Ended,
                Until::Holders { columns: 6 },
                Until::Changed { since: LogIndex(1_000) },
                Until::EndedOnceSubmitted,
            ]
            .map(|until| WatchEntry { id: EntryId(9), local: JOB.local, until })
            .to_vec(),
            dropped: vec![EntryId(8)],
            wait_ms: 5_000,
        }),
    ];
    samples.all("job", "message", limit, messages);
    let queries = vec![
        Query::Quorum,
        Query::Job { job: JOB },
        Query::Jobs { after: Some((Millis(5), JOB)), limit: 500 },
        Query::Object { manifest: hash },
        Query::Objects { after: Some((Millis(5), hash)), limit: 1 },
        Query::History { job: JOB },
        Query::Why { job: JOB },
        Query::Tasks { job: JOB, step: STEP, from: TASK, limit: 500 },
        Query::Outputs { job: JOB, step: STEP, from: TASK, limit: 500 },
        Query::Workers,
        Query::Fires { job: JOB, from: 300, limit: 500 },
        Query::Subscription { emitter: peer(4) },
        Query::Uses { object: ObjectId { quorum: QUORUM, manifest: hash } },
    ];
    samples.all("job", "query", limit, queries);
    let statement = MembershipStatement {
        quorum: QUORUM,
        by: member(1),
        term: Term(7),
        voters: vec![member(1), member(2), member(3)],
        primary: Some(member(2)),
    };
    let voters = vec![member(2), member(3)];
    let answers = vec![
        JobAnswer::Membership(SignedMembership::sign(&key(1), statement)),
        JobAnswer::Certificate(CertificatePart { founding: Some(founding()), links: vec![link()], more: true }),
        JobAnswer::Reply(Err(Rejection::UnknownJob { job: JOB })),
        JobAnswer::Answer(QueryAnswer::Unknown),
        JobAnswer::NotPrimary { primary: Some(member(2)), voters: voters.clone() },
        JobAnswer::Moved { voters },
        JobAnswer::NotMember,
        JobAnswer::Paused { reason: text() },
        JobAnswer::Busy,
        JobAnswer::Unknown { reason: Some(text()) },
        JobAnswer::Forbidden { reason: text() },
        JobAnswer::Malformed { reason: text() },
        JobAnswer::Acknowledged,
        JobAnswer::DeliveryAck(DeliveryAck { reaches: 9, recorded: Some(8) }),
        JobAnswer::ConditionProbed(Err(text())),
        JobAnswer::Watched(WatchAnswer::Update {
            met: vec![
                (EntryId(9), Watched::Met(Met { record: Box::new(record()), outputs: Some(vec![output_ref()]) })),
                (EntryId(10), Watched::Unknown),
            ],
            refused: vec![EntryId(11)],
        }),
        JobAnswer::Watched(WatchAnswer::Reopen),
    ];
    samples.all("job", "answer", limit, answers);
    let view = QuorumView {
        quorum: QUORUM,
        term: Term(7),
        primary: Some(member(2)),
        voters: vec![member(1), member(2), member(3)],
        learners: vec![member(4)],
        standbys: vec![member(5)],
        committed: LogIndex(1_001),
        applied: LogIndex(1_000),
        digest: (LogIndex(1_000), Digest([0x77; 32])),
        jobs_live: 1,
        jobs_ended: 2,
        objects: 3,
        room: 4,
        level: 1,
        time: Millis(1_700_000_000_000),
        clock_apart_ms: Some(-300),
        clock_step: Some(ClockStep { at: Millis(1_700_000_000_000), by_ms: -3_600_000, reopened: 300 }),
        paused: Some(text()),
    };
    let object = ObjectView { hash, manifest: manifest().encode(), record: object() };
    let answers = vec![
        QueryAnswer::Quorum(view),
        QueryAnswer::Job(Box::new(record())),
        QueryAnswer::Jobs(vec![record(), compute_record(), trigger_record()]),
        QueryAnswer::Object(Box::new(object.clone())),
        QueryAnswer::Objects(vec![object]),
        QueryAnswer::History(record().history),
        QueryAnswer::Unknown,
        QueryAnswer::Why(text()),
        QueryAnswer::Tasks(vec![(TASK, task_record())]),
        QueryAnswer::Outputs(vec![output_ref()]),
        QueryAnswer::Workers(vec![worker(3)]),
        QueryAnswer::Fires(fire_rows()),
        QueryAnswer::Subscription { known: Some(8), names: vec![text()] },
        QueryAnswer::Uses(uses()),
    ];
    samples.all("job", "query-answer", limit, answers);
    samples.all("job", "run-state", limit, {
        use RunState::*;
        vec![
            Pending,
            Running,
            Pausing,
            Paused,
            Cancelling,
            Reverting,
            Succeeded,
            Failed,
            Reverted,
            Cancelled,
            AwaitingResolution,
        ]
    });
    samples.all("job", "kind", limit, vec![Kind::Store, Kind::Batch]);
    samples.all("task", "engine", limit, Engine::ALL.to_vec());
    samples.all("directory", "role", limit, NodeRole::ALL.to_vec());
    samples.all("job", "spec", limit, vec![spec(), JobSpec::batch(compute()), triggered()]);
    let maps = vec![Map::Single, Map::Count(300), Map::Items(vec![inline(), stored()]), compute().map];
    samples.all("job", "map", limit, maps);
    samples.all("job", "program", limit, vec![call().program, Program::Command { name: "ffmpeg".to_owned() }]);
    samples.all("job", "content", limit, vec![inline(), stored()]);
    samples.all("job", "split", limit, vec![Split::Exact, Split::Lines, Split::Words]);
    samples.all("job", "on-failure", limit, vec![OnFailure::Fail, OnFailure::Revert, OnFailure::Park]);
    samples.all("job", "output-place", limit, vec![OutputPlace::Inline, OutputPlace::Object]);
    use ColumnState::{Confirmed, Filling, Open, Sealed};
    samples.all("job", "column-state", limit, vec![Open, Filling, Sealed, Confirmed]);
}

fn quorum_samples(samples: &mut Samples) {
    let head = quorum::limits::RAFT_HEAD_BYTES_MAX;
    let body = vec![1, 2, 3];
    let messages = vec![
        RaftMessage::Append { quorum: QUORUM, to: member(2), body: body.clone() },
        RaftMessage::Vote { quorum: QUORUM, to: member(2), body: body.clone() },
        RaftMessage::Snapshot { quorum: QUORUM, to: member(2), body: body.clone() },
        RaftMessage::Chunk { quorum: QUORUM, hash: Digest([0x88; 32]) },
        RaftMessage::Found {
            founding: founding(),
            members: vec![approval_of(1, Subject::Founding { nonce: founding().nonce })],
            standbys: vec![approval_of(2, Subject::Member { quorum: QUORUM })],
            initialize: true,
        },
        RaftMessage::SignLink { quorum: QUORUM, to: member(2), base: 3, number: 5 },
        RaftMessage::Attest { quorum: QUORUM, index: LogIndex(9) },
        RaftMessage::Copy { quorum: QUORUM, least: LogIndex(9) },
    ];
    samples.all("quorum", "raft-message", head, messages);
    let answers = vec![
        RaftAnswer::Ok { body },
        RaftAnswer::Chunk,
        RaftAnswer::Founded,
        RaftAnswer::NotMember { incarnation: Incarnation(5) },
        RaftAnswer::Failed { reason: text() },
        RaftAnswer::Signed(Signature([0x11; 32], [0x22; 32])),
        RaftAnswer::Attested(Attestation {
            applied: LogIndex(9),
            voters: vec![member(2)],
            digest: Some(Digest([7; 32])),
        }),
    ];
    samples.all("quorum", "raft-answer", head, answers);
    let limit = job::limits::MESSAGE_BYTES_MAX;
    samples.all("quorum", "command", limit, commands());
    let group = commands().into_iter().filter_map(|command| match command {
        Command::Quorum(command) => Some(command),
        _ => None,
    });
    samples.all("quorum", "command.quorum", limit, group.collect());
    let group = commands().into_iter().filter_map(|command| match command {
        Command::Job(_, command) => Some(command),
        _ => None,
    });
    samples.all("quorum", "command.job", limit, group.collect());
    let group = commands().into_iter().filter_map(|command| match command {
        Command::Job(_, JobCommand::Control { control, .. }) => Some(control),
        _ => None,
    });
    samples.all("quorum", "control", limit, group.collect());
    let group = commands().into_iter().filter_map(|command| match command {
        Command::Kind(_, KindCommand::Store(command)) => Some(command),
        _ => None,
    });
    samples.all("quorum", "command.store", limit, group.collect());
    let group = commands().into_iter().filter_map(|command| match command {
        Command::Task(command) => Some(command),
        _ => None,
    });
    samples.all("quorum", "command.task", limit, group.collect());
    let group = commands().into_iter().filter_map(|command| match command {
        Command::Object(_, command) => Some(command),
        _ => None,
    });
    samples.all("quorum", "command.object", limit, group.collect());
    let group = commands().into_iter().filter_map(|command| match command {
        Command::Trigger(command) => Some(command),
        _ => None,
    });
    samples.all("quorum", "command.trigger", limit, group.collect());
    samples.all("quorum", "reply", limit, replies());
    samples.all("quorum", "rejection", limit, rejections());
    samples.all("quorum", "resolution", limit, vec![Resolution::Skip, Resolution::Fail, Resolution::Revert]);
    samples.all("quorum", "object-state", limit, vec![ObjectState::Live, ObjectState::Removing]);
    let commands = commands().into_iter().map(|command| (peer(1), command)).collect();
    let batch = Batch {
        since: Some(Duration::from_millis(1_600)),
        passed: Duration::from_millis(1_500),
        ..Batch::at(Millis(1_700_000_000_000), commands)
    };
    samples.one("quorum", "batch", head, &batch);
    let all = replies().into_iter().map(Ok).chain(rejections().into_iter().map(Err));
    samples.one("quorum", "batch-reply", head, &BatchReply { replies: all.collect() });
}

fn piece_samples(samples: &mut Samples) {
    let limit = piece::limits::HEAD_BYTES_MAX;
    let hash = PieceHash([0x99; 32]);
    let part =
        RebuildPart { segment: SEGMENT, hash, piece_bytes: 4 << 20, sources: vec![(PieceIndex(0), hash, peer(1))] };
    let messages = vec![
        PieceMessage::Put { slot: slot(), lease: LEASE, segment: SEGMENT, hash },
        PieceMessage::Get { hash, offset: 1 << 20, length: 4 << 20 },
        PieceMessage::ListPieces { slot: slot(), from: SEGMENT },
        PieceMessage::Seal { slot: slot(), lease: LEASE, pieces: vec![hash, hash] },
        PieceMessage::Rebuild { slot: slot(), lease: LEASE, profile: PROFILE, parts: vec![part] },
        PieceMessage::Confirm { slot: slot(), lease: LEASE, manifest: manifest().hash() },
        PieceMessage::Release { slot: slot() },
        PieceMessage::Audit { slot: slot(), from: SEGMENT },
    ];
    samples.all("piece", "message", limit, messages);
    let answers = vec![
        PieceAnswer::Stored,
        PieceAnswer::Piece { total: 4 << 20 },
        PieceAnswer::Pieces(vec![HeldPiece { segment: SEGMENT, hash }]),
        PieceAnswer::Sealed(receipt()),
        PieceAnswer::Rebuilt(vec![SEGMENT]),
        PieceAnswer::Acknowledged,
        PieceAnswer::Audited { next: Some(SEGMENT), damaged: vec![SegmentIndex(1)] },
        PieceAnswer::Refused(PieceRefusal::Busy),
    ];
    samples.all("piece", "answer", limit, answers);
    let refusals = vec![
        PieceRefusal::UnknownLease,
        PieceRefusal::StaleAttempt { given: Attempt(1), newest: ATTEMPT },
        PieceRefusal::NotHeld,
        PieceRefusal::WrongHash { expected: hash },
        PieceRefusal::Incomplete { missing: 3, first: SEGMENT },
        PieceRefusal::DiskFull,
        PieceRefusal::NotAllowed,
        PieceRefusal::Sources { reason: text() },
        PieceRefusal::Busy,
        PieceRefusal::Failed { reason: text() },
        PieceRefusal::Settled,
        PieceRefusal::OverLease,
    ];
    samples.all("piece", "refusal", limit, refusals);
}

fn liveness_samples(samples: &mut Samples) {
    let limit = liveness::limits::MESSAGE_BYTES_MAX;
    let (sequence, wall) = (70_000, Millis(1_700_000_000_000));
    let beat = Heartbeat { boot: BootId([0x44; 16]), sequence, wall, leading: u64::MAX, sync_us: 1_500 };
    let last_log = LogPosition { term: Term(7), index: LogIndex(1_000_000) };
    let vote = PreVote { quorum: QUORUM, term: Term(7), candidate: member(1), missing: Some(member(2)), last_log };
    let messages = vec![LivenessMessage::Heartbeat(beat), LivenessMessage::PreVote(vote), LivenessMessage::Leading];
    samples.all("liveness", "message", limit, messages);
    let answers = vec![
        LivenessAnswer::Heartbeat(beat),
        LivenessAnswer::PreVote { granted: true, my_log: last_log, primary: None },
        LivenessAnswer::Leading(vec![(QUORUM, Term(7))]),
        LivenessAnswer::NotMember,
    ];
    samples.all("liveness", "answer", limit, answers);
}

fn directory_samples(samples: &mut Samples) {
    let limit = quorate_protocols::directory::limits::ADVERT_BYTES_MAX;
    let peer_advert = PeerAdvert {
        incarnation: Incarnation(5),
        boot: BootId([0x44; 16]),
        boot_number: 12,
        sequence: 9,
        roles: vec![NodeRole::Store],
        name: "attic".to_owned(),
        labels: BTreeMap::from([("zone".to_owned(), "attic".to_owned())]),
        free: Capacity { disk_bytes: 1 << 40, memory_bytes: 1 << 30, slots: 4 },
        load_permille: 125,
        quorums: 3,
        draining: false,
        level: 1,
        admission: None,
    };
    samples.record("directory", "peer", limit, &peer_advert);
    let members = vec![member(1), member(2), member(3)];
    let quorum_advert =
        QuorumAdvert { quorum: QUORUM, term: Term(7), members, standbys: 2, jobs: 1, objects: 2, room: 9_999 };
    samples.record("directory", "quorum", limit, &quorum_advert);
    let subject = Subject::Holder { job: JOB, writer: Writer::Uploader(peer(2)) };
    let announcement = JobAnnouncement { subject, role: NodeRole::Store, requirement: requirement() };
    samples.record("directory", "job", limit, &announcement);
}

/// What is kept: manifests, and a snapshot of a state with something in every section.
fn record_samples(samples: &mut Samples) {
    let manifest_again: Reread = |bytes| match Manifest::decode(bytes) {
        Ok(manifest) => Ok(manifest.encode()),
        Err(error) => Err(DecodeError::Malformed { reason: error.to_string() }),
    };
    let (file, limit) = ("records", quorate_protocols::object::limits::MANIFEST_BYTES_MAX);
    let bytes = manifest().encode();
    samples.0.push(Sample { file, name: "manifest".to_owned(), bytes, reread: manifest_again, limit });
    let chunk_again: Reread = |bytes| {
        // A chunk of a snapshot is only ever read as part of one; the head alone says whether the others may follow.
        match QuorumState::decode_snapshot([bytes]) {
            Ok(state) => Ok(state.encode_snapshot()[0].1.to_vec()),
            Err(error) => Err(DecodeError::Malformed { reason: error.to_string() }),
        }
    };
    let limit = quorum::limits::SNAPSHOT_CHUNK_BYTES;
    let bytes = QuorumState::new(QUORUM).encode_snapshot()[0].1.to_vec();
    samples.0.push(Sample { file, name: "snapshot.empty".to_owned(), bytes, reread: chunk_again, limit });
}

/// Commands that leave a running job of each sort, an object and a manifest, a task's output and checkpoint, a worker
/// and an attempt that is being stopped, triggers that fired and that wait; each with its sender.
pub fn history() -> Vec<(PeerId, Command)> {
    let hash = manifest();
    let (kept, running) = (JobId { quorum: QUORUM, local: [1; 16] }, JOB);
    let receipt = |index: u8| {
        let column = PieceIndex(index - 1);
        let slot = Slot { job: kept, column, attempt: Attempt(1) };
        let column = hash.column_digest(column);
        let statement = ReceiptStatement { slot, holder: peer(index), lease: LEASE, column, segments: 2 };
        Receipt::sign(&key(index), statement)
    };
    let grants: Vec<_> = (1..=4).map(grant).collect();
    let commands = vec![
        Command::submit(&key(9), kept, spec()),
        Command::store(kept, StoreCommand::AddHolders { grants: grants.clone(), exhausted: false }),
        Command::store(
            kept,
            StoreCommand::Commit {
                upload_attempt: Attempt(1),
                manifest: Bytes::from(hash.encode()),
                receipts: vec![receipt(1), receipt(2)],
                degraded: true,
            },
        ),
        Command::submit(&key(9), running, spec()),
        Command::store(running, StoreCommand::AddHolders { grants, exhausted: true }),
        Command::Quorum(QuorumCommand::SetStandbys {
            standbys: vec![approval_of(5, Subject::Member { quorum: QUORUM })],
        }),
    ];
    let [counting, cancelled] = [3, 4].map(|local| JobId { quorum: QUORUM, local: [local; 16] });
    let first = |task| TaskId { job: counting, step: StepIndex(0), task: TaskIndex(task) };
    let first = |task| TaskAttempt { id: first(task), attempt: Attempt(1) };
    let result = TaskResult::Done { output: output(), bytes: output_ref().bytes };
    let single = BatchSpec::new(Call::new(Program::Command { name: "ffmpeg".to_owned() }));
    let spec = BatchSpec { map: Map::Items(vec![inline(), stored(), inline()]), ..single.clone() };
    let [beat, door] = [5, 6].map(|local| JobId { quorum: QUORUM, local: [local; 16] });
    let submit = |job, when, overlap| {
        let job_spec = BatchSpec::new(Call::new(Program::Command { name: "ffmpeg".to_owned() }));
        let trigger = TriggerSpec { overlap, ..TriggerSpec::new(when) };
        let spec = JobSpec::Triggered(Box::new(TriggeredSpec::new(trigger, job_spec)));
        Command::submit(&key(9), job, spec)
    };
    let begun = Span { expected: None, skipped: None, fault: None, named: vec![Millis(1_700_000_010_000)], ..span() };
    let debounce = Duration::from_secs(2);
    let heard = Delivery { matches: vec![Match { job: door, fault: None }], ..delivery() };
    let computing = vec![
        (peer(9), Command::Task(TaskCommand::SetWorker { worker: worker(1) })),
        (peer(9), Command::submit(&key(9), counting, JobSpec::batch(spec))),
        (peer(1), Command::Task(TaskCommand::Report { reports: vec![Report { task: first(0), result }] })),
        (
            peer(1),
            Command::Task(TaskCommand::SaveCheckpoint {
                task: first(1),
                checkpoint: output(),
                bytes: output_ref().bytes,
            }),
        ),
        (peer(9), Command::submit(&key(9), cancelled, JobSpec::batch(single))),
        (peer(9), Command::control(cancelled, LogIndex(u64::MAX), Control::Cancel)),
        (peer(9), submit(beat, schedules().remove(1), Overlap::Forbid)),
        (peer(9), Command::Trigger(TriggerCommand::Due { spans: vec![Span { job: beat, ..begun }] })),
        (peer(9), submit(door, When::Event(EventSpec { debounce, ..EventSpec::new("door.open") }), Overlap::Queue(2))),
        (
            peer(9),
            Command::Trigger(TriggerCommand::Fire {
                job: door,
                seen: LogIndex(u64::MAX),
                nonce: Nonce([0x44; 16]),
                respect_overlap: true,
            }),
        ),
        (
            peer(9),
            Command::Trigger(TriggerCommand::Deliver {
                emitter: peer(6),
                follows: 300,
                reaches: 301,
                lost: 0,
                deliveries: vec![heard],
            }),
        ),
    ];
    commands.into_iter().map(|command| (peer(9), command)).chain(computing).collect()
}

/// The state that `history` leads to.
pub fn state() -> QuorumState {
    let mut state = QuorumState::at_level(QUORUM, quorum::limits::LEVEL_TRIGGERS);
    // An entry each: attempts are handed out at the end of one.
    for (index, command) in (1..).zip(history()) {
        let batch = Batch::at(Millis(1_700_000_000_000), vec![command]);
        for reply in state.apply(LogIndex(index), &batch).0.replies {
            let refused = match &reply {
                Ok(CommandReply::Recorded(answers)) => answers.iter().any(Result::is_err),
                reply => reply.is_err(),
            };
            assert!(!refused, "{reply:?}");
        }
    }
    state
}

pub fn samples() -> Vec<Sample> {
    let mut samples = Samples(Vec::new());
    approval_samples(&mut samples);
    directory_samples(&mut samples);
    job_samples(&mut samples);
    liveness_samples(&mut samples);
    piece_samples(&mut samples);
    quorum_samples(&mut samples);
    record_samples(&mut samples);
    task_samples(&mut samples);
    trigger_samples(&mut samples);
    samples.0
}
