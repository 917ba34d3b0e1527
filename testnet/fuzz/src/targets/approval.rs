//! An approval round against peers that answer late, twice, wrongly or not at all: it ends, once; it counts a peer
//! once; and every promise that it took in is in its result or given back, never both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use quorate_protocols::approval::limits::ROUND_DEADLINE;
use quorate_protocols::approval::{
    Approval, ApprovalAnswer, Refusal, Round, RoundEffect, RoundInput, RoundSpec, Statement, Subject, Writer,
};
use quorate_protocols::capacity::{Capacity, Requirement};
use quorate_protocols::ids::{BootId, Incarnation, JobId, LeaseId, Millis, Nonce, PeerId, QuorumId};

use super::Target;
use crate::script::steps;
use crate::trail::Trail;

const PEERS: usize = 12;
/// Ways in which an approval can be wrong, and one in which it is right.
const FORMS: usize = 8;

static PEER_IDS: LazyLock<Vec<PeerId>> =
    LazyLock::new(|| (0..=PEERS as u8).map(|index| PeerId(key(index).verifying_key().to_bytes())).collect());

/// By peer, then by form: signing is slow.
static APPROVALS: LazyLock<Vec<Vec<Approval>>> =
    LazyLock::new(|| (0..PEERS).map(|peer| (0..FORMS).map(|form| approval(peer, form)).collect()).collect());

pub fn target() -> Target {
    Target::script("approval-round", run)
}

fn key(index: u8) -> SigningKey {
    SigningKey::from_bytes(&[index + 1; 32])
}

fn spec(needed: usize, wanted: usize) -> RoundSpec {
    RoundSpec {
        asker: PEER_IDS[PEERS],
        subject: Subject::Holder { job: JobId { quorum: QuorumId([1; 16]), local: [2; 16] }, writer: Writer::Quorum },
        requirement: Capacity::disk(10).into(),
        duration: Duration::from_secs(600),
        nonce: Nonce([3; 16]),
        needed,
        wanted,
        exclude: BTreeSet::new(),
        absent: BTreeSet::new(),
        // Every third is far away.
        round_trips: (0..PEERS)
            .map(|index| (PEER_IDS[index], Duration::from_millis(if index % 3 == 0 { 400 } else { 1 })))
            .collect(),
        volunteers: true,
    }
}

fn approval(peer: usize, form: usize) -> Approval {
    let spec = spec(0, 0);
    let mut statement = Statement {
        asker: spec.asker,
        approver: PEER_IDS[peer],
        incarnation: Incarnation(1),
        boot: BootId([peer as u8; 16]),
        subject: spec.subject,
        requirement: spec.requirement.digest(),
        nonce: spec.nonce,
        duration: spec.duration,
        lease: LeaseId([peer as u8; 16]),
    };
    match form {
        1 => statement.approver = PEER_IDS[(peer + 1) % PEERS],
        2 => statement.asker = PEER_IDS[peer],
        3 => statement.nonce = Nonce([4; 16]),
        4 => statement.subject = Subject::Member { quorum: QuorumId([1; 16]) },
        5 => statement.requirement = Requirement::default().digest(),
        6 => statement.duration = Duration::from_secs(601),
        _ => {}
    }
    let mut approval = Approval::sign(&key(peer as u8), statement);
    if form == 7 {
        approval.signature.0[0] ^= 1;
    }
    approval
}

/// What the round did, as its driver must see it.
#[derive(Default)]
struct Account {
    /// Whose question is under way or was answered.
    asked: BTreeSet<PeerId>,
    taken: BTreeSet<LeaseId>,
    released: BTreeMap<LeaseId, usize>,
    done: Vec<LeaseId>,
    endings: usize,
    calls_for_volunteers: usize,
    trail: Trail,
}

impl Account {
    fn note_effects(&mut self, spec: &RoundSpec, effects: Vec<RoundEffect>) {
        for effect in effects {
            self.trail.mark_variant("effect", &effect);
            match effect {
                RoundEffect::Ask { peer, request } => {
                    assert!(self.asked.insert(peer), "{peer} is asked again while it may still answer");
                    assert!(!spec.exclude.contains(&peer), "{peer} is excluded and asked");
                    assert_eq!((request.nonce, request.subject), (spec.nonce, spec.subject));
                    assert_eq!(self.endings, 0, "asked after the end");
                }
                RoundEffect::Release { lease, .. } => *self.released.entry(lease).or_default() += 1,
                RoundEffect::WantVolunteers => self.calls_for_volunteers += 1,
                RoundEffect::Done { granted, .. } => {
                    self.endings += 1;
                    self.done = granted.iter().map(|granted| granted.approval.statement.lease).collect();
                    let most = spec.wanted.max(spec.needed);
                    assert!((spec.needed..=most).contains(&granted.len()), "{} of {spec:?}", granted.len());
                    let peers: BTreeSet<_> =
                        granted.iter().map(|granted| granted.approval.statement.approver).collect();
                    assert_eq!(peers.len(), granted.len(), "one peer counts twice");
                }
                RoundEffect::Failed { .. } => self.endings += 1,
            }
        }
        assert!(self.endings <= 1 && self.calls_for_volunteers <= 1);
        if self.endings == 1 {
            for lease in &self.taken {
                let (kept, given_back) = (self.done.contains(lease), self.released.get(lease).copied().unwrap_or(0));
                assert_eq!(usize::from(kept) + given_back, 1, "{lease:?}: kept {kept}, given back {given_back} times");
            }
        }
        assert!(self.released.keys().all(|lease| self.taken.contains(lease)), "given back and never taken");
    }
}

fn run(bytes: &[u8]) -> Trail {
    let mut script = steps(bytes);
    let Some(first) = script.next() else { return Trail::default() };
    let mut spec = spec(first.below(0, 6), first.below(1, 8));
    spec.exclude = (0..PEERS).filter(|peer| first.is_set(2, *peer as u8)).take(3).map(|peer| PEER_IDS[peer]).collect();
    spec.absent = (0..PEERS).filter(|peer| first.is_set(5, *peer as u8)).map(|peer| PEER_IDS[peer]).collect();
    spec.volunteers = first.is_set(6, 0);
    let candidates = (0..first.below(3, 2 * PEERS)).map(|index| PEER_IDS[(index * 5) % PEERS]);
    let mut now = Millis(first.wide(4) >> 24);
    let (mut round, effects) = Round::start(now, spec.clone(), candidates);
    let mut account = Account::default();
    account.note_effects(&spec, effects);
    for step in script {
        now = Millis(now.0 + (step.wide(2) >> 40));
        let peer = PEER_IDS[step.below(1, PEERS)];
        let mut lease = None;
        let input = match step.below(0, 8) {
            0..=2 => {
                let form = if step.byte(3) < 200 { 0 } else { step.below(3, FORMS) };
                let approval = APPROVALS[step.below(1, PEERS)][form].clone();
                lease = Some(approval.statement.lease);
                RoundInput::Answered { peer, answer: ApprovalAnswer::Granted(approval) }
            }
            3 => RoundInput::Answered { peer, answer: ApprovalAnswer::Refused(Refusal::Draining) },
            4 if step.byte(3) > 200 => RoundInput::Answered { peer, answer: ApprovalAnswer::Acknowledged },
            4 => RoundInput::Silent { peer },
            5 => RoundInput::Volunteered { peer },
            6 => RoundInput::Absent { peer },
            _ => RoundInput::Tick,
        };
        // A question that came to nothing may be put again.
        if matches!(input, RoundInput::Silent { .. }) {
            account.asked.remove(&peer);
        }
        match round.step(now, input) {
            Ok(effects) => {
                account.taken.extend(lease);
                account.note_effects(&spec, effects);
            }
            Err(fault) => {
                account.trail.mark(fault.reason());
                let effects = round.step(now, RoundInput::Tick).expect("a tick is nobody's fault");
                account.note_effects(&spec, effects);
            }
        }
    }
    // Left alone, it ends by itself, when it says that it wants to be woken.
    let deadline = now.plus(ROUND_DEADLINE);
    for _ in 0..1_000 {
        let Some(wake) = round.wake_at() else { break };
        now = now.max(wake);
        let effects = round.step(now, RoundInput::Tick).expect("a tick is nobody's fault");
        account.note_effects(&spec, effects);
    }
    assert!(round.is_ended() && now <= deadline, "a round outlives its deadline, or wakes for nothing");
    assert_eq!(account.endings, 1);
    account.trail
}
