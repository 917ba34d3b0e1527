//! The quorum's core: scenarios by name. Random histories against the invariants are in [`histories`].

use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use crate::approval::Grant;
use crate::approval::{Approval, Statement, Subject};
use crate::capacity::Requirement;
use crate::ids::*;
use crate::job::limits::{
    JOBS_ENDED_MAX, JOBS_ENDED_RETENTION, JOBS_LIVE_MAX, OWNER_JOBS_MAX, PAGE_MAX, UPLOAD_SILENT_MAX,
};
use crate::job::record::RunState;
use crate::job::spec::{JobSpec, StoreSpec};
use crate::job::store::ColumnState;
use crate::job::store::SegmentProgress;
use crate::object::layout::{Layout, Profile};
use crate::object::limits::SEGMENT_BYTES;
use crate::object::manifest::Manifest;
use crate::piece::message::{Receipt, ReceiptStatement, Slot};
use crate::quorum::claims::{Claim, ClaimSelector};
use crate::quorum::command::{Control, JobCommand, ObjectCommand, QuorumCommand, StoreCommand};
use crate::quorum::duty::Duty;
use crate::quorum::entry::{Batch, Command};
use crate::quorum::event::Event;
use crate::quorum::object::ObjectState;
use crate::quorum::reply::{CommandReply, Rejection};
use crate::quorum::request::{Query, QueryAnswer};
use crate::quorum::state::QuorumState;

mod histories;
mod late;
mod orders;
mod redaction;
mod removal;
mod shares;
mod snapshots;
mod submits;

const QUORUM: QuorumId = QuorumId([1; 16]);
const PROFILE: Profile = Profile { data: 2, parity: 1 };
const SEGMENTS: u32 = 2;

fn key(peer: u8) -> SigningKey {
    SigningKey::from_bytes(&[peer + 1; 32])
}

fn peer(index: u8) -> PeerId {
    PeerId(key(index).verifying_key().to_bytes())
}

fn grant(index: u8) -> Grant {
    Grant { holder: MemberId { peer: peer(index), incarnation: Incarnation(7) }, lease: LeaseId([index; 16]) }
}

fn standby(index: u8) -> Approval {
    let statement = Statement {
        asker: peer(0),
        approver: peer(index),
        incarnation: Incarnation(7),
        boot: BootId([index; 16]),
        subject: Subject::Member { quorum: QUORUM },
        requirement: Requirement::default().digest(),
        nonce: Nonce([index; 16]),
        duration: Duration::from_secs(60),
        lease: LeaseId([index; 16]),
    };
    Approval::sign(&key(index), statement)
}

fn job(index: u8) -> JobId {
    JobId { quorum: QUORUM, local: [index; 16] }
}

fn spec() -> JobSpec {
    JobSpec::store(StoreSpec { name: Some("file".to_owned()), size: None, profile: PROFILE })
}

fn hashes(content: u8, segment: u32) -> Vec<PieceHash> {
    (0..PROFILE.columns() as u8).map(|column| PieceHash([content * 16 + column + segment as u8 * 64; 32])).collect()
}

fn manifest(content: u8) -> Manifest {
    let pieces = (0..SEGMENTS).flat_map(|segment| hashes(content, segment)).collect();
    Manifest { size: SEGMENTS as u64 * SEGMENT_BYTES as u64 - 5, profile: PROFILE, pieces }
}

fn encoded(content: u8) -> Bytes {
    Bytes::from(manifest(content).encode())
}

/// A receipt of the holder with that index; `None` for peers that the tests have no key of.
fn receipt(holder: PeerId, lease: LeaseId, slot: Slot, content: u8) -> Option<Receipt> {
    let index = (0..PEERS).find(|index| peer(*index) == holder)?;
    let column = manifest(content).column_digest(slot.column);
    Some(Receipt::sign(&key(index), ReceiptStatement { slot, holder, lease, column, segments: SEGMENTS }))
}

const PEERS: u8 = 9;

/// A state with a log in front of it.
struct Quorum {
    state: QuorumState,
    index: u64,
    events: Vec<Event>,
}

impl Quorum {
    fn new() -> Self {
        Self { state: QuorumState::new(QUORUM), index: 0, events: Vec::new() }
    }
    fn apply(&mut self, by: PeerId, command: Command) -> Result<CommandReply, Rejection> {
        self.apply_at(by, command, self.state.time.0 + 1)
    }
    fn apply_at(&mut self, by: PeerId, command: Command, now: u64) -> Result<CommandReply, Rejection> {
        self.index += 1;
        let foretold = self.state.foretell_reply(by, &command);
        let batch = Batch::at(Millis(now), vec![(by, command)]);
        let (reply, events) = self.state.apply(LogIndex(self.index), &batch);
        self.state.check_invariants().unwrap();
        self.events = events;
        let reply = reply.replies.into_iter().next().unwrap();
        assert!(foretold.is_none_or(|foretold| foretold == reply), "what was foretold is not what came: {reply:?}");
        reply
    }
    fn submit(&mut self, index: u8) {
        self.apply(peer(0), Command::submit(&key(0), job(index), spec())).unwrap();
    }
    fn add(&mut self, index: u8, holders: &[u8]) -> Result<CommandReply, Rejection> {
        let grants = holders.iter().map(|holder| grant(*holder)).collect();
        self.apply(peer(0), Command::store(job(index), StoreCommand::AddHolders { grants, exhausted: false }))
    }
    fn receipts(&self, index: u8, content: u8) -> Vec<Receipt> {
        let run = self.state.jobs[&job(index)].store().unwrap().1;
        let held = run.columns.iter().enumerate().filter_map(|(column, record)| Some((column, record, record.grant?)));
        held.filter_map(|(column, record, grant)| {
            let slot = Slot { job: job(index), column: PieceIndex(column as u8), attempt: record.attempt };
            receipt(grant.holder.peer, grant.lease, slot, content)
        })
        .collect()
    }
    fn commit(
        &mut self,
        index: u8,
        content: u8,
        receipts: Vec<Receipt>,
        degraded: bool,
    ) -> Result<CommandReply, Rejection> {
        let upload_attempt = self.state.jobs[&job(index)].store().unwrap().1.upload_attempt;
        let worker = self.state.jobs[&job(index)].store().unwrap().1.uploader;
        let manifest = encoded(content);
        self.apply(
            worker,
            Command::store(job(index), StoreCommand::Commit { upload_attempt, manifest, receipts, degraded }),
        )
    }
    fn stored(holders: &[u8]) -> Self {
        let mut quorum = Self::new();
        quorum.submit(1);
        quorum.add(1, holders).unwrap();
        let receipts = quorum.receipts(1, 1);
        quorum.commit(1, 1, receipts, holders.len() < 3).unwrap();
        quorum
    }
    fn release_all(&mut self) {
        for duty in self.state.duties() {
            if let Duty::Release { job, column, grant, attempt } = duty {
                self.apply(peer(0), Command::store(job, StoreCommand::Released { column, grant, attempt })).unwrap();
            }
        }
    }
    fn job_state(&self, index: u8) -> RunState {
        self.state.jobs[&job(index)].state
    }
}

fn progress(segment: u32, content: u8, stored: &[(u8, u32)]) -> SegmentProgress {
    let stored = stored.iter().map(|(column, attempt)| (PieceIndex(*column), Attempt(*attempt))).collect();
    SegmentProgress { segment: SegmentIndex(segment), pieces: hashes(content, segment), stored }
}

fn failed(index: u8, column: u8, attempt: u32) -> Command {
    Command::store(
        job(index),
        StoreCommand::ColumnFailed {
            upload_attempt: Attempt(1),
            column: PieceIndex(column),
            attempt: Attempt(attempt),
            reason: "stalled".to_owned(),
        },
    )
}

#[test]
fn holders_fill_open_columns_then_wait_as_spares_and_one_peer_gets_one_column() {
    let mut quorum = Quorum::new();
    quorum.submit(1);
    assert!(quorum.state.duties().contains(&Duty::FindHolders { job: job(1), open: 3, spares: 2 }));
    quorum.add(1, &[1, 1, 2]).unwrap();
    assert_eq!(quorum.job_state(1), RunState::Pending);
    quorum.add(1, &[1, 2, 3, 4]).unwrap();
    assert_eq!(quorum.job_state(1), RunState::Running);
    let run = quorum.state.jobs[&job(1)].store().unwrap().1;
    let holders: Vec<_> = run.columns.iter().map(|column| (column.grant, column.attempt)).collect();
    assert_eq!(holders, [1, 2, 3].map(|holder| (Some(grant(holder)), Attempt(1))));
    assert_eq!(run.spares, [grant(4)]);
    // A second promise of the same peer is given back, not kept.
    let again = Grant { lease: LeaseId([99; 16]), ..grant(2) };
    quorum
        .apply(peer(0), Command::store(job(1), StoreCommand::AddHolders { grants: vec![again], exhausted: false }))
        .unwrap();
    let release = Duty::Release { job: job(1), column: PieceIndex(0), grant: again, attempt: Attempt(0) };
    assert!(quorum.state.duties().contains(&release));
}

#[test]
fn a_failed_column_goes_to_the_next_spare_under_a_new_attempt_and_the_old_holder_is_fenced() {
    let mut quorum = Quorum::new();
    quorum.submit(1);
    quorum.add(1, &[1, 2, 3, 4]).unwrap();
    let report = |stored: &[(u8, u32)]| {
        Command::store(
            job(1),
            StoreCommand::Progress { upload_attempt: Attempt(1), segments: vec![progress(0, 1, stored)] },
        )
    };
    quorum.apply(peer(0), report(&[(0, 1), (1, 1), (2, 1)])).unwrap();
    assert_eq!(quorum.events, [Event::JobProgressed { job: job(1), segments: 1 }]);
    quorum.apply(peer(0), failed(1, 1, 1)).unwrap();
    let column = quorum.state.jobs[&job(1)].store().unwrap().1.columns[1].clone();
    assert_eq!((column.grant, column.attempt, column.stored), (Some(grant(4)), Attempt(2), vec![false]));
    // News of the old holder changes nothing; nor does the same report again.
    quorum.apply(peer(0), report(&[(1, 1)])).unwrap();
    quorum.apply(peer(0), failed(1, 1, 1)).unwrap();
    let column = quorum.state.jobs[&job(1)].store().unwrap().1.columns[1].clone();
    assert_eq!((column.grant, column.attempt, column.stored), (Some(grant(4)), Attempt(2), vec![false]));
    // No spare is left: the column waits, and a peer that failed is not taken again.
    quorum.apply(peer(0), failed(1, 1, 2)).unwrap();
    quorum.add(1, &[2, 4]).unwrap();
    let renewed = [2, 4].map(|index| Grant { lease: LeaseId([77; 16]), ..grant(index) });
    quorum
        .apply(peer(0), Command::store(job(1), StoreCommand::AddHolders { grants: renewed.to_vec(), exhausted: false }))
        .unwrap();
    assert_eq!(quorum.state.jobs[&job(1)].store().unwrap().1.columns[1].state, ColumnState::Open);
    quorum.add(1, &[5]).unwrap();
    let column = &quorum.state.jobs[&job(1)].store().unwrap().1.columns[1];
    assert_eq!((column.grant, column.attempt), (Some(grant(5)), Attempt(3)));
}

#[test]
fn progress_needs_the_current_worker_and_the_same_content() {
    let mut quorum = Quorum::new();
    quorum.submit(1);
    quorum.add(1, &[1, 2, 3]).unwrap();
    let report = |upload_attempt, segments| Command::store(job(1), StoreCommand::Progress { upload_attempt, segments });
    quorum.apply(peer(0), report(Attempt(1), vec![progress(0, 1, &[(0, 1)])])).unwrap();
    // While the upload goes on nobody else breaks it off. Whoever submitted it may, and others once it is silent.
    let attach = || Command::store(job(1), StoreCommand::Attach);
    let heard = quorum.state.time.0;
    let refused = quorum.apply_at(peer(5), attach(), heard + UPLOAD_SILENT_MAX.as_millis() as u64 - 1);
    assert!(matches!(&refused, Err(Rejection::Invalid { reason }) if reason.contains("takes over")), "{refused:?}");
    let attached = quorum.apply_at(peer(5), attach(), heard + UPLOAD_SILENT_MAX.as_millis() as u64).unwrap();
    let CommandReply::Attached(attached) = attached else { panic!("{attached:?}") };
    assert_eq!((attached.upload_attempt, attached.segments.len()), (Attempt(2), 1));
    assert_eq!(attached.columns[0].stored, [true]);
    let old = quorum.apply(peer(0), report(Attempt(1), vec![]));
    assert_eq!(old, Err(Rejection::NotUploader { job: job(1), by: peer(0) }));
    let old = quorum.apply(peer(5), report(Attempt(1), vec![]));
    assert_eq!(old, Err(Rejection::StaleAttempt { given: Attempt(1), current: Attempt(2) }));
    // Nothing of a refused command stays: segment 1 came before the one that differs.
    let other = quorum.apply(peer(5), report(Attempt(2), vec![progress(1, 1, &[]), progress(0, 2, &[])]));
    assert_eq!(other, Err(Rejection::DifferentContent { segment: SegmentIndex(0) }));
    assert_eq!(quorum.state.jobs[&job(1)].store().unwrap().1.segments.len(), 1);
    let far = quorum.apply(peer(5), report(Attempt(2), vec![progress(1 << 20, 1, &[])]));
    assert!(matches!(far, Err(Rejection::Invalid { .. })), "{far:?}");
}

#[test]
fn a_commit_needs_genuine_receipts_of_the_current_assignment() {
    let mut quorum = Quorum::new();
    quorum.submit(1);
    quorum.add(1, &[1, 2, 3, 4]).unwrap();
    let good = quorum.receipts(1, 1);
    let with = |change: &dyn Fn(&mut ReceiptStatement), signer: u8| {
        let mut statement = good[0].statement;
        change(&mut statement);
        let mut receipts = good.clone();
        receipts[0] = Receipt::sign(&key(signer), statement);
        receipts
    };
    type Change = (&'static str, Vec<Receipt>);
    let bad: Vec<Change> = vec![
        ("attempt", with(&|statement| statement.slot.attempt = Attempt(2), 1)),
        ("job", with(&|statement| statement.slot.job = job(2), 1)),
        ("lease", with(&|statement| statement.lease = LeaseId([9; 16]), 1)),
        ("holder", with(&|statement| statement.holder = peer(4), 4)),
        ("digest", with(&|statement| statement.column = Digest([0; 32]), 1)),
        ("segments", with(&|statement| statement.segments = 1, 1)),
        ("signature", with(&|_| (), 2)),
        ("other content", quorum.receipts(1, 2)),
        ("column twice", [&good[..], &good[..1]].concat()),
        ("too few", good[..1].to_vec()),
        ("missing without degraded", good[..2].to_vec()),
    ];
    for (what, receipts) in bad {
        assert!(quorum.commit(1, 1, receipts, false).is_err(), "{what}");
        assert_eq!(quorum.job_state(1), RunState::Running, "{what}");
    }
    let hash = manifest(1).hash();
    assert_eq!(quorum.commit(1, 1, good.clone(), false), Ok(CommandReply::Committed { manifest: hash }));
    assert_eq!(quorum.commit(1, 1, good, false), Ok(CommandReply::Committed { manifest: hash }));
    let duties = quorum.state.duties();
    assert_eq!(duties.iter().filter(|duty| matches!(duty, Duty::Confirm { .. })).count(), 3);
    // The spare is let go.
    assert_eq!(duties.iter().filter(|duty| matches!(duty, Duty::Release { .. })).count(), 1);
    for column in 0..3 {
        let confirmed =
            Command::Object(hash, ObjectCommand::Confirmed { column: PieceIndex(column), attempt: Attempt(1) });
        quorum.apply(peer(0), confirmed).unwrap();
    }
    quorum.release_all();
    assert_eq!(quorum.state.duties(), []);
}

#[test]
fn a_commit_of_another_file_than_was_reported_is_refused() {
    let mut quorum = Quorum::new();
    quorum.submit(1);
    quorum.add(1, &[1, 2, 3]).unwrap();
    let segments = vec![progress(1, 2, &[])];
    quorum
        .apply(peer(0), Command::store(job(1), StoreCommand::Progress { upload_attempt: Attempt(1), segments }))
        .unwrap();
    let receipts = quorum.receipts(1, 1);
    let refused = quorum.commit(1, 1, receipts, false);
    assert_eq!(refused, Err(Rejection::DifferentContent { segment: SegmentIndex(1) }));
}

#[test]
fn a_degraded_commit_owes_the_missing_column_until_it_is_rebuilt() {
    let profile = Profile { data: 1, parity: 2 };
    assert_eq!(profile.columns_min(), 2);
    let mut quorum = Quorum::new();
    let spec = JobSpec::store(StoreSpec { name: None, size: None, profile });
    quorum.apply(peer(0), Command::submit(&key(0), job(1), spec)).unwrap();
    quorum.add(1, &[1, 2]).unwrap();
    let manifest = Manifest { profile, ..manifest(1) };
    let hash = manifest.hash();
    let sign = |holder: u8, column: u8, attempt: u32| {
        let slot = Slot { job: job(1), column: PieceIndex(column), attempt: Attempt(attempt) };
        let column = manifest.column_digest(PieceIndex(column));
        let (holder_id, lease) = (peer(holder), grant(holder).lease);
        Receipt::sign(&key(holder), ReceiptStatement { slot, holder: holder_id, lease, column, segments: SEGMENTS })
    };
    let commit = Command::store(
        job(1),
        StoreCommand::Commit {
            upload_attempt: Attempt(1),
            manifest: Bytes::from(manifest.encode()),
            receipts: vec![sign(1, 0, 1), sign(2, 1, 1)],
            degraded: true,
        },
    );
    quorum.apply(peer(0), commit).unwrap();
    assert!(quorum.state.duties().contains(&Duty::Repair { manifest: hash, column: PieceIndex(2) }));
    let start = |attempt, holder, column| {
        Command::Object(
            hash,
            ObjectCommand::StartRepair {
                column: PieceIndex(column),
                attempt: Attempt(attempt),
                grant: grant(holder),
                reason: "owed".to_owned(),
            },
        )
    };
    let taken = quorum.apply(peer(0), start(0, 1, 2));
    assert!(matches!(taken, Err(Rejection::Invalid { .. })), "a holder of another column: {taken:?}");
    quorum.apply(peer(0), start(0, 3, 2)).unwrap();
    let rebuild = Duty::Rebuild { manifest: hash, column: PieceIndex(2), grant: grant(3), attempt: Attempt(1) };
    assert!(quorum.state.duties().contains(&rebuild));
    let (column, attempt) = (PieceIndex(2), Attempt(1));
    let fail = Command::Object(hash, ObjectCommand::FailRepair { column, attempt, reason: "sources".to_owned() });
    quorum.apply(peer(0), fail).unwrap();
    assert!(quorum.state.duties().contains(&Duty::Repair { manifest: hash, column }));
    // The next try is fenced from the one that failed.
    quorum.apply(peer(0), start(1, 4, 2)).unwrap();
    let stale = Command::Object(hash, ObjectCommand::FinishRepair { column, receipt: sign(3, 2, 1) });
    assert!(quorum.apply(peer(0), stale).is_err());
    let finish = Command::Object(hash, ObjectCommand::FinishRepair { column, receipt: sign(4, 2, 2) });
    quorum.apply(peer(0), finish.clone()).unwrap();
    quorum.apply(peer(0), finish).unwrap();
    let object = &quorum.state.objects[&hash];
    assert_eq!((object.columns[2].grant, object.degraded()), (Some(grant(4)), false));
    // A damaged column stays readable while another peer rebuilds it, and is released afterwards.
    quorum.apply(peer(0), start(1, 5, 0)).unwrap();
    assert_eq!(quorum.state.objects[&hash].columns[0].grant, Some(grant(1)));
    let finish = Command::Object(hash, ObjectCommand::FinishRepair { column: PieceIndex(0), receipt: sign(5, 0, 2) });
    quorum.apply(peer(0), finish).unwrap();
    assert_eq!(quorum.state.objects[&hash].columns[0].grant, Some(grant(5)));
    let release = Duty::Release { job: job(1), column: PieceIndex(0), grant: grant(1), attempt: Attempt(1) };
    assert!(quorum.state.duties().contains(&release));
}

#[test]
fn an_object_goes_with_its_last_owner_and_its_run_with_its_last_holder() {
    let mut quorum = Quorum::stored(&[1, 2, 3]);
    let hash = manifest(1).hash();
    let spec = spec();
    quorum.apply(peer(8), Command::submit(&key(8), job(2), spec)).unwrap();
    quorum.add(2, &[4, 5, 6]).unwrap();
    let receipts = quorum.receipts(2, 1);
    quorum.commit(2, 1, receipts, false).unwrap();
    // The object was whole: it keeps its columns, and the second run's are let go.
    assert_eq!((quorum.job_state(2), quorum.state.objects[&hash].job), (RunState::Succeeded, job(1)));
    assert_eq!(quorum.state.jobs[&job(2)].store().unwrap().1.releasing.len(), 3);
    let remove = |owner| {
        Command::Object(
            hash,
            ObjectCommand::Remove {
                claims: ClaimSelector::OwnedBy(peer(owner)),
                seen: LogIndex(u64::MAX),
                force: false,
            },
        )
    };
    let said = |reply: Result<CommandReply, Rejection>| match reply {
        Ok(CommandReply::Removed { removed, kept }) => {
            let owners = |claims: Vec<Claim>| claims.iter().map(|claim| claim.owner).collect::<Vec<_>>();
            (owners(removed), owners(kept))
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(said(quorum.apply(peer(0), remove(0))), (vec![peer(0)], vec![peer(8)]));
    assert_eq!(said(quorum.apply(peer(0), remove(0))), (vec![], vec![peer(8)]), "a repeat takes nobody else's");
    assert_eq!(quorum.state.objects[&hash].state, ObjectState::Live);
    assert!(quorum.state.objects[&hash].owned_by(peer(8)) && !quorum.state.objects[&hash].owned_by(peer(0)));
    assert_eq!(said(quorum.apply(peer(8), remove(8))), (vec![peer(8)], vec![]));
    assert_eq!(quorum.events, [Event::ObjectRemoved { manifest: hash }]);
    assert_eq!(said(quorum.apply(peer(8), remove(8))), (vec![], vec![]));
    assert_eq!(quorum.state.objects.manifest(&hash), None);
    quorum.release_all();
    assert_eq!(quorum.apply(peer(8), remove(8)), Err(Rejection::UnknownObject { manifest: hash }));
    assert_eq!(quorum.state.duties(), []);
}

#[test]
fn a_whole_put_replaces_the_columns_of_a_degraded_object() {
    let mut quorum = Quorum::stored(&[1, 2, 3]);
    let hash = manifest(1).hash();
    let (column, attempt) = (PieceIndex(1), Attempt(1));
    let owe = Command::Object(
        hash,
        ObjectCommand::OweRepair { column, attempt, reason: "two pieces are damaged".to_owned() },
    );
    quorum.apply(peer(0), owe).unwrap();
    quorum.submit(2);
    quorum.add(2, &[4, 5, 6]).unwrap();
    let receipts = quorum.receipts(2, 1);
    quorum.commit(2, 1, receipts, false).unwrap();
    let object = &quorum.state.objects[&hash];
    assert_eq!((object.job, object.degraded(), object.claims.owners()), (job(2), false, 1));
    assert_eq!(object.columns[0].grant, Some(grant(4)));
    assert_eq!(quorum.state.jobs[&job(1)].store().unwrap().1.releasing.len(), 3);
}

#[test]
fn cancel_releases_every_holder_and_is_final() {
    let mut quorum = Quorum::new();
    quorum.submit(1);
    quorum.add(1, &[1, 2, 3, 4]).unwrap();
    quorum.apply(peer(0), Command::control(job(1), LogIndex(u64::MAX), Control::Cancel)).unwrap();
    quorum.apply(peer(0), Command::control(job(1), LogIndex(u64::MAX), Control::Cancel)).unwrap();
    assert_eq!(quorum.state.duties().len(), 4);
    let late = quorum.apply(peer(0), Command::store(job(1), StoreCommand::Attach));
    let refused = Rejection::IllegalState { job: job(1), state: RunState::Cancelled, command: "attach".to_owned() };
    assert_eq!(late, Err(refused));
    quorum.release_all();
    assert_eq!(quorum.state.duties(), []);
}

#[test]
fn a_run_that_was_fed_is_not_abandoned_even_when_time_stands_still() {
    let mut quorum = Quorum::new();
    quorum.submit(1);
    quorum.add(1, &[1, 2, 3]).unwrap();
    let idle = quorum.state.duties().into_iter().find_map(|duty| match duty {
        Duty::WatchIdle { upload_seq, .. } => Some(upload_seq),
        _ => None,
    });
    let segments = vec![progress(0, 1, &[])];
    let now = quorum.state.time.0;
    quorum
        .apply_at(peer(0), Command::store(job(1), StoreCommand::Progress { upload_attempt: Attempt(1), segments }), now)
        .unwrap();
    let refused = quorum.apply(peer(0), Command::store(job(1), StoreCommand::Abandon { upload_seq: idle.unwrap() }));
    assert!(matches!(refused, Err(Rejection::Invalid { .. })), "{refused:?}");
    quorum.apply(peer(0), Command::store(job(1), StoreCommand::Abandon { upload_seq: idle.unwrap() + 1 })).unwrap();
    assert_eq!(quorum.job_state(1), RunState::Failed);
}

#[test]
fn time_never_runs_backwards() {
    let mut quorum = Quorum::new();
    quorum.apply_at(peer(0), Command::Quorum(QuorumCommand::Noop), 5_000).unwrap();
    quorum.apply_at(peer(0), Command::Quorum(QuorumCommand::Noop), 10).unwrap();
    assert_eq!(quorum.state.time, Millis(5_000));
}

#[test]
fn ended_jobs_are_forgotten_by_age_and_number_but_not_while_their_object_lives() {
    let mut quorum = Quorum::stored(&[1, 2, 3]);
    let commands = |range: std::ops::Range<u32>| {
        range.flat_map(|number| {
            let mut local = [0xee; 16];
            local[..4].copy_from_slice(&number.to_be_bytes());
            let job = JobId { quorum: QUORUM, local };
            [
                (peer(0), Command::submit(&key(0), job, spec())),
                (peer(0), Command::control(job, LogIndex(u64::MAX), Control::Cancel)),
            ]
        })
    };
    let batch = Batch::at(Millis(10), commands(0..JOBS_ENDED_MAX as u32 + 5).collect());
    quorum.state.apply(LogIndex(100), &batch);
    quorum.state.check_invariants().unwrap();
    assert_eq!(quorum.state.counts(), (0, JOBS_ENDED_MAX as u32 + 1, 1));
    let later = 11 + JOBS_ENDED_RETENTION.as_millis() as u64;
    quorum.apply_at(peer(0), Command::Quorum(QuorumCommand::Noop), later).unwrap();
    assert_eq!(quorum.state.jobs.keys().collect::<Vec<_>>(), [&job(1)]);
}

/// Goal: lists have the newest first, whatever the order of ids, each row once however short the pages, and nothing
/// that is gone.
#[test]
fn lists_have_the_newest_first_and_nothing_that_is_gone() {
    fn jobs(state: &QuorumState) -> Vec<JobId> {
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let Some(QueryAnswer::Jobs(page)) = state.answer(&Query::Jobs { after, limit: 2 }) else { panic!() };
            let Some(last) = page.last() else { return seen };
            after = Some((last.created_at, last.job));
            seen.extend(page.iter().map(|record| record.job));
        }
    }
    fn objects(state: &QuorumState) -> Vec<ManifestHash> {
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let Some(QueryAnswer::Objects(page)) = state.answer(&Query::Objects { after, limit: 1 }) else { panic!() };
            let Some(last) = page.last() else { return seen };
            after = Some(last.age());
            seen.extend(page.iter().map(|view| view.hash));
        }
    }
    let mut quorum = Quorum::stored(&[1, 2, 3]);
    for (index, content) in [(9, 2), (5, 3), (7, 4)] {
        quorum.submit(index);
        quorum.add(index, &[1, 2, 3]).unwrap();
        let receipts = quorum.receipts(index, content);
        quorum.commit(index, content, receipts, false).unwrap();
    }
    assert_eq!(jobs(&quorum.state), [7, 5, 9, 1].map(job));
    assert_eq!(objects(&quorum.state), [4, 3, 2, 1].map(|content| manifest(content).hash()));

    let hash = manifest(3).hash();
    quorum
        .apply(
            peer(0),
            Command::Object(
                hash,
                ObjectCommand::Remove { claims: ClaimSelector::All, seen: LogIndex(u64::MAX), force: false },
            ),
        )
        .unwrap();
    quorum.release_all();
    quorum.apply(peer(0), Command::Quorum(QuorumCommand::Noop)).unwrap();
    assert_eq!(objects(&quorum.state), [4, 2, 1].map(|content| manifest(content).hash()));
    let later = quorum.state.time.0 + JOBS_ENDED_RETENTION.as_millis() as u64 + 1;
    quorum.apply_at(peer(0), Command::Quorum(QuorumCommand::Noop), later).unwrap();
    assert_eq!(jobs(&quorum.state), [7, 9, 1].map(job), "a job stays while its object does");
}

#[test]
fn every_live_run_has_a_duty_and_every_state_says_why() {
    let mut quorum = Quorum::new();
    let check = |quorum: &Quorum| {
        let mentions = quorum.state.duties().into_iter().filter(
            |duty| matches!(duty, Duty::FindHolders { job, .. } | Duty::WatchIdle { job, .. } if *job == self::job(1)),
        );
        assert!(mentions.count() > 0);
    };
    quorum.submit(1);
    check(&quorum);
    quorum.add(1, &[1, 2, 3, 4, 5]).unwrap();
    assert_eq!(quorum.job_state(1), RunState::Running);
    check(&quorum);
    let mut record = quorum.state.jobs[&job(1)].clone();
    for state in RunState::ALL {
        record.state = state;
        assert!(!record.why(Millis(60_000), Millis(60_000)).is_empty(), "{state:?}");
    }
    record.state = RunState::Running;
    assert!(
        record.why(Millis(60_000), Millis(60_000)).contains("; no upload progress for 59 s"),
        "{}",
        record.why(Millis(60_000), Millis(60_000))
    );
}

#[test]
fn a_snapshot_changes_only_where_the_state_did() {
    let mut state = QuorumState::new(QUORUM);
    let commands = (0..3_000u32).map(|number| {
        let local = blake3::hash(&number.to_be_bytes()).as_bytes()[..16].try_into().unwrap();
        (peer(0), Command::submit(&key(0), JobId { quorum: QUORUM, local }, spec()))
    });
    let commands: Vec<_> = commands.collect();
    let job_of = |index: usize| match &commands[index].1 {
        Command::Job(job, JobCommand::Submit { .. }) => *job,
        _ => unreachable!(),
    };
    state.apply(LogIndex(1), &Batch::at(Millis(1), commands.clone()));
    let before: std::collections::BTreeSet<_> = state.encode_snapshot().into_iter().map(|(hash, _)| hash).collect();
    assert!(before.len() > 10, "{} chunks", before.len());
    let cancel = Command::control(job_of(1_234), LogIndex(u64::MAX), Control::Cancel);
    state.apply(LogIndex(2), &Batch::at(Millis(2), vec![(peer(0), cancel)]));
    let after: std::collections::BTreeSet<_> = state.encode_snapshot().into_iter().map(|(hash, _)| hash).collect();
    // The head and the chunk of that job.
    assert_eq!(after.difference(&before).count(), 2);
}

#[test]
fn an_empty_object_is_stored_like_any_other() {
    let mut quorum = Quorum::new();
    quorum.submit(1);
    quorum.add(1, &[1, 2, 3]).unwrap();
    let manifest = Manifest { size: 0, profile: PROFILE, pieces: Vec::new() };
    assert_eq!(Layout::new(0, PROFILE).segments(), 0);
    let receipts = (0..3u8).map(|column| {
        let slot = Slot { job: job(1), column: PieceIndex(column), attempt: Attempt(1) };
        let (holder, lease) = (peer(column + 1), grant(column + 1).lease);
        let column = manifest.column_digest(PieceIndex(column));
        let statement = ReceiptStatement { slot, holder, lease, column, segments: 0 };
        Receipt::sign(&key(slot.column.0 + 1), statement)
    });
    let receipts = receipts.collect();
    let manifest = Bytes::from(manifest.encode());
    let upload_attempt = Attempt(1);
    let commit = Command::store(job(1), StoreCommand::Commit { upload_attempt, manifest, receipts, degraded: false });
    assert!(quorum.apply(peer(0), commit).is_ok());
}
