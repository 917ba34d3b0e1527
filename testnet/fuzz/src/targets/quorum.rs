//! A quorum's state under hostile histories: two ways of making them.
//!
//! *bytes*: the log as a faulty member could send it, commands as they are encoded, beginning with those that the
//! samples know. *commands*: commands made around the state as it is, by a worker and a primary that are mostly right,
//! so that histories go deep: objects are stored, lost, repaired, shared and removed.
//!
//! After every command: the state's own invariants, what must hold between two states, and a refusal changes nothing.
//! A second member that goes through a snapshot now and then must give the same replies and end in the same bytes.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use quorate_protocols::approval::Grant;
use quorate_protocols::approval::{Approval, Statement, Subject};
use quorate_protocols::capacity::Requirement;
use quorate_protocols::ids::{
    Attempt, BootId, Incarnation, JobId, LeaseId, LogIndex, MemberId, Millis, Nonce, PeerId, PieceHash, PieceIndex,
    QuorumId, SegmentIndex,
};
use quorate_protocols::job::store::SegmentProgress;
use quorate_protocols::job::{ColumnRecord, JobSpec, StoreRun, StoreSpec};
use quorate_protocols::object::{Manifest, Profile};
use quorate_protocols::piece::{Receipt, ReceiptStatement, Slot};
use quorate_protocols::quorum::limits::LEVEL_TRIGGERS;
use quorate_protocols::quorum::{
    Batch, ClaimSelector, Command, Control, Duty, Event, ObjectCommand, QuorumCommand, QuorumState, StoreCommand,
};
use quorate_protocols::trigger::record::FireRow;
use quorate_protocols::wire::{self, DECODE_BYTES_MAX};

use super::Target;
use super::snapshot::{frame, frames};
use crate::samples;
use crate::script::{Step, steps};
use crate::trail::Trail;

/// Commands of one history of bytes.
const COMMANDS_MAX: usize = 24;

pub fn bytes_target() -> Target {
    let commands: Vec<_> = sample_commands().iter().map(wire::encode).collect();
    let all = frame(commands.iter().map(Vec::as_slice));
    Target::bytes("quorum-bytes", run_bytes).with_seeds([all])
}

pub fn commands_target() -> Target {
    Target::script("quorum-commands", run_commands)
}

/// Commands that bring a job through its life, each with its sender.
pub fn sample_commands() -> Vec<(PeerId, Command)> {
    samples::history()
}

/// The state's own invariants.
pub fn check(state: &QuorumState) {
    if let Err(what) = state.check_invariants() {
        panic!("{what}");
    }
}

/// Two members with one log: one follows it whole, the other from snapshot to snapshot.
pub(super) struct Members {
    pub(super) whole: QuorumState,
    hopping: QuorumState,
    index: u64,
    trail: Trail,
}

impl Members {
    pub(super) fn new(quorum: QuorumId) -> Self {
        // As high as commands go, so that none is refused for its level alone.
        let whole = QuorumState::at_level(quorum, LEVEL_TRIGGERS);
        Self { hopping: whole.clone(), whole, index: 0, trail: Trail::default() }
    }

    /// The rows of triggers that the command wrote or changed.
    pub(super) fn apply(&mut self, now: Millis, by: PeerId, command: Command) -> Vec<(JobId, FireRow)> {
        let before = self.whole.clone();
        let batch = Batch {
            passed: Duration::from_millis(now.0.saturating_sub(self.whole.time().0)),
            ..Batch::at(now, vec![(by, command)])
        };
        let (reply, events) = self.whole.apply(LogIndex(self.index), &batch);
        check(&self.whole);
        let command = &batch.commands[0].1;
        if let Err(what) = before.check_step(&self.whole, command, &reply.replies[0]) {
            panic!("{what}, by {command:?}");
        }
        match &reply.replies[0] {
            Ok(done) => {
                self.trail.mark_variant("done", command);
                self.trail.mark_variant("reply", done);
            }
            Err(rejection) => {
                self.trail.mark_variant("refused", command);
                self.trail.mark_words("rejection", &rejection.to_string());
            }
        }
        for event in &events {
            self.trail.mark_variant("event", event);
        }
        if self.index % 7 == 3 {
            self.hopping = reread(&self.hopping);
        }
        let other = self.hopping.apply(LogIndex(self.index), &batch);
        assert_eq!((&reply, &events), (&other.0, &other.1), "two members answered differently");
        self.index += 1;
        let row = |event| match event {
            Event::Fired { job, row } => Some((job, row)),
            _ => None,
        };
        events.into_iter().filter_map(row).collect()
    }

    pub(super) fn finish(mut self) -> Trail {
        assert!(self.whole.encode_snapshot() == self.hopping.encode_snapshot(), "two members ended differently");
        assert!(reread(&self.whole) == self.whole, "a snapshot reads back as another state");
        self.trail.mark(("counts", self.whole.counts()));
        self.whole.duties().iter().for_each(|duty| self.trail.mark_variant("duty", duty));
        self.trail
    }
}

fn reread(state: &QuorumState) -> QuorumState {
    let chunks = state.encode_snapshot();
    QuorumState::decode_snapshot(chunks.iter().map(|(_, chunk)| chunk)).expect("a snapshot of a sound state is sound")
}

fn run_bytes(bytes: &[u8]) -> Trail {
    let mut members = Members::new(samples::state().quorum());
    for (index, part) in frames(bytes).into_iter().take(COMMANDS_MAX).enumerate() {
        if let Ok((by, command)) = wire::decode::<(PeerId, Command)>(part, DECODE_BYTES_MAX) {
            members.apply(Millis(index as u64), by, command);
        }
    }
    members.finish()
}

// ---- made around the state ----

const QUORUM: QuorumId = QuorumId([1; 16]);
const PROFILE: Profile = Profile { data: 2, parity: 1 };
const SEGMENTS: u32 = 2;
const PEERS: usize = 8;
const CONTENTS: usize = 2;

static KEYS: LazyLock<Vec<(SigningKey, PeerId)>> = LazyLock::new(|| {
    let keys = (0..PEERS as u8).map(|index| SigningKey::from_bytes(&[index + 1; 32]));
    keys.map(|key| (PeerId(key.verifying_key().to_bytes()), key)).map(|(peer, key)| (key, peer)).collect()
});

static MANIFESTS: LazyLock<Vec<Manifest>> = LazyLock::new(|| {
    (0..CONTENTS as u8)
        .map(|content| {
            let pieces = (0..SEGMENTS).flat_map(|segment| hashes(content, segment)).collect();
            Manifest { size: 20_000_000, profile: PROFILE, pieces }
        })
        .collect()
});

fn hashes(content: u8, segment: u32) -> Vec<PieceHash> {
    (0..PROFILE.columns() as u8).map(|column| PieceHash([16 * content + 8 * segment as u8 + column; 32])).collect()
}

/// What each peer promises as a standby. Signed once: the state does not look at signatures.
static STANDBYS: LazyLock<Vec<Approval>> = LazyLock::new(|| {
    let promise = |index: usize| {
        let Grant { holder, lease } = grant(index, 0);
        let statement = Statement {
            asker: KEYS[0].1,
            approver: holder.peer,
            incarnation: holder.incarnation,
            boot: BootId([7; 16]),
            subject: Subject::Member { quorum: QUORUM },
            requirement: Requirement::default().digest(),
            nonce: Nonce([7; 16]),
            duration: Duration::from_secs(600),
            lease,
        };
        Approval::sign(&KEYS[index].0, statement)
    };
    (0..PEERS).map(promise).collect()
});

fn grant(index: usize, lease: u8) -> Grant {
    Grant {
        holder: MemberId { peer: KEYS[index].1, incarnation: Incarnation(7) },
        lease: LeaseId([16 * lease + index as u8; 16]),
    }
}

/// What the holder would sign for the content; `None` for a holder whose key we do not have.
fn receipt(grant: Grant, slot: Slot, content: usize) -> Option<Receipt> {
    let (key, holder) = KEYS.iter().find(|(_, peer)| *peer == grant.holder.peer)?;
    let column = MANIFESTS[content].column_digest(slot.column);
    let statement = ReceiptStatement { slot, holder: *holder, lease: grant.lease, column, segments: SEGMENTS };
    Some(Receipt::sign(key, statement))
}

/// Mostly the attempt as it is; sometimes one beside it.
fn skewed(step: Step<'_>, attempt: Attempt) -> Attempt {
    match step.byte(7) {
        0..=223 => attempt,
        224..=239 => Attempt(attempt.0.wrapping_add(1)),
        _ => Attempt(attempt.0.wrapping_sub(1)),
    }
}

fn run_commands(bytes: &[u8]) -> Trail {
    let mut members = Members::new(QUORUM);
    let mut now = Millis(0);
    for step in steps(bytes) {
        now = Millis(now.0.saturating_add(step.wide(6) >> 8));
        let (by, command) = command(&members.whole, step);
        members.apply(now, by, command);
    }
    members.finish()
}

fn command(state: &QuorumState, step: Step<'_>) -> (PeerId, Command) {
    let job = JobId { quorum: QUORUM, local: [step.below(1, 3) as u8; 16] };
    let (key, anybody) = &KEYS[step.below(2, PEERS)];
    let anybody = *anybody;
    let content = step.below(3, CONTENTS);
    let manifest = MANIFESTS[content].hash();
    let column = PieceIndex(step.byte(4) % 4);
    let reason = "reason".to_owned();
    let run = state.jobs().get(&job).and_then(|record| record.store()).map(|(_, run)| run);
    let worker = run.map_or(anybody, |run| run.uploader);
    // Now and then by who has not seen the last of it.
    let older = u64::from(step.byte(7) > 239);
    let seen = |newest: Option<LogIndex>| LogIndex(newest.unwrap_or_default().0.saturating_sub(older));
    let seen_job = seen(state.jobs().get(&job).map(|record| record.seen()));
    let upload_attempt = skewed(step, run.map_or(Attempt(1), |run| run.upload_attempt));
    let current = |run: &StoreRun| run.columns.get(usize::from(column.0)).map(|column| column.attempt);
    let object = state.objects().get(&manifest);
    let held = object.and_then(|object| object.columns.get(usize::from(column.0))).map_or(Attempt(1), |c| c.attempt);
    match step.below(0, 16) {
        0 => {
            let name = step.is_set(5, 0).then(|| "name".to_owned());
            let profile =
                if step.byte(5) > 250 { Profile { data: step.byte(4), parity: step.byte(3) } } else { PROFILE };
            (anybody, Command::submit(key, job, JobSpec::store(StoreSpec { name, size: None, profile })))
        }
        1..=4 => (anybody, duty(state, step).unwrap_or(Command::Quorum(QuorumCommand::Noop))),
        5 | 6 => {
            let stored = run.map(|run| stored(run, step)).unwrap_or_default();
            let segment = u32::from(step.byte(4)) % (SEGMENTS + u32::from(step.byte(7) > 250));
            let pieces = hashes(content as u8, segment);
            let segments = vec![SegmentProgress { segment: SegmentIndex(segment), pieces, stored }];
            (worker, Command::store(job, StoreCommand::Progress { upload_attempt, segments }))
        }
        7 => {
            let attempt = skewed(step, run.and_then(current).unwrap_or_default());
            (worker, Command::store(job, StoreCommand::ColumnFailed { upload_attempt, column, attempt, reason }))
        }
        8 | 9 => {
            let receipts = run.map(|run| receipts(job, run, step, content)).unwrap_or_default();
            let (manifest, degraded) = (Bytes::from(MANIFESTS[content].encode()), step.is_set(5, 7));
            (worker, Command::store(job, StoreCommand::Commit { upload_attempt, manifest, receipts, degraded }))
        }
        10 => (anybody, Command::store(job, StoreCommand::Attach)),
        11 => match step.below(5, 4) {
            0 => (anybody, Command::store(job, StoreCommand::Fail { upload_attempt: None, reason })),
            1 => (worker, Command::store(job, StoreCommand::Fail { upload_attempt: Some(upload_attempt), reason })),
            2 => (worker, Command::control(job, seen_job, Control::Cancel)),
            _ => (anybody, Command::control(job, seen_job, Control::Cancel)),
        },
        12 => {
            let claims = match step.below(6, 3) {
                0 => ClaimSelector::Named { owner: anybody, name: None },
                1 => ClaimSelector::OwnedBy(anybody),
                _ => ClaimSelector::All,
            };
            let seen = seen(object.map(|object| object.claims.seen()));
            (anybody, Command::Object(manifest, ObjectCommand::Remove { claims, seen, force: step.is_set(7, 0) }))
        }
        13 => (
            anybody,
            Command::Object(manifest, ObjectCommand::OweRepair { column, attempt: skewed(step, held), reason }),
        ),
        14 => {
            let attempt =
                object.and_then(|object| object.newest.get(usize::from(column.0))).copied().unwrap_or_default();
            let grant = grant(step.below(5, PEERS), 1);
            (
                anybody,
                Command::Object(
                    manifest,
                    ObjectCommand::StartRepair { column, attempt: skewed(step, attempt), grant, reason },
                ),
            )
        }
        _ => match step.below(5, 3) {
            0 => {
                let standbys = (0..step.below(4, 20)).map(|index| STANDBYS[index % PEERS].clone()).collect();
                (anybody, Command::Quorum(QuorumCommand::SetStandbys { standbys }))
            }
            1 => (anybody, Command::Quorum(QuorumCommand::RaiseLevel { level: u16::from(step.byte(4) % 3) })),
            _ => (anybody, Command::Quorum(QuorumCommand::Noop)),
        },
    }
}

fn stored(run: &StoreRun, step: Step<'_>) -> Vec<(PieceIndex, Attempt)> {
    let columns = run.columns.iter().enumerate().filter(|(index, _)| step.is_set(5, *index as u8));
    columns.map(|(index, column)| (PieceIndex(index as u8), skewed(step, column.attempt))).collect()
}

fn receipts(job: JobId, run: &StoreRun, step: Step<'_>, content: usize) -> Vec<Receipt> {
    let columns = run.columns.iter().enumerate().filter(|(index, _)| step.is_set(5, *index as u8));
    let sign = |(index, column): (usize, &ColumnRecord)| {
        let slot = Slot { job, column: PieceIndex(index as u8), attempt: skewed(step, column.attempt) };
        receipt(column.grant?, slot, content)
    };
    columns.filter_map(sign).collect()
}

/// What a primary says when it has done one of its duties, or failed at it.
fn duty(state: &QuorumState, step: Step<'_>) -> Option<Command> {
    let duties = state.duties();
    let duty = duties.get(step.below(1, duties.len().max(1)))?;
    let reason = "reason".to_owned();
    Some(match *duty {
        Duty::FindHolders { job, .. } => {
            let lease = step.byte(3) % 3;
            let grants =
                (0..PEERS).filter(|index| step.is_set(5, *index as u8)).map(|index| grant(index, lease)).collect();
            Command::store(job, StoreCommand::AddHolders { grants, exhausted: step.is_set(6, 0) })
        }
        Duty::Confirm { manifest, column, attempt, .. } => {
            Command::Object(manifest, ObjectCommand::Confirmed { column, attempt: skewed(step, attempt) })
        }
        Duty::Release { job, column, grant, attempt } => {
            Command::store(job, StoreCommand::Released { column, grant, attempt: skewed(step, attempt) })
        }
        Duty::Repair { manifest, column } => {
            let attempt = state.objects().get(&manifest)?.newest.get(usize::from(column.0)).copied()?;
            let grant = grant(step.below(2, PEERS), 1);
            Command::Object(
                manifest,
                ObjectCommand::StartRepair { column, attempt: skewed(step, attempt), grant, reason },
            )
        }
        Duty::Rebuild { manifest, column, attempt, .. } if step.byte(4) > 200 => {
            Command::Object(manifest, ObjectCommand::FailRepair { column, attempt: skewed(step, attempt), reason })
        }
        Duty::Rebuild { manifest, column, grant, attempt } => {
            let slot = Slot { job: state.objects().get(&manifest)?.job, column, attempt: skewed(step, attempt) };
            Command::Object(
                manifest,
                ObjectCommand::FinishRepair { column, receipt: receipt(grant, slot, step.below(3, CONTENTS))? },
            )
        }
        Duty::WatchIdle { job, upload_seq, .. } => Command::store(job, StoreCommand::Abandon { upload_seq }),
        Duty::Wake { due, .. } => Command::Quorum(QuorumCommand::Elapsed { until: due }),
        Duty::FindWorkers { .. } | Duty::HoldSession { .. } | Duty::ReleaseWorker { .. } => return None,
        Duty::FireAt { .. } | Duty::FireAfter { .. } | Duty::Poll { .. } => return None,
    })
}
