//! The cost of an approval round to the asker. Nearly all of it is checking signatures, so what it needs beside them is
//! measured apart: a full round over candidates that all refuse.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ed25519_dalek::SigningKey;
use quorate_protocols::approval::limits::CANDIDATES_MAX;
use quorate_protocols::approval::*;
use quorate_protocols::capacity::Capacity;
use quorate_protocols::ids::*;
use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::time::Duration;

const DURATION: Duration = Duration::from_secs(600);
/// Holders of the default profile.
const WANTED: usize = 6;

fn key(number: usize) -> SigningKey {
    SigningKey::from_bytes(blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn peer(number: usize) -> PeerId {
    PeerId(key(number).verifying_key().to_bytes())
}

fn spec() -> RoundSpec {
    RoundSpec {
        asker: peer(usize::MAX),
        subject: Subject::Holder { job: JobId { quorum: QuorumId([1; 16]), local: [2; 16] }, writer: Writer::Quorum },
        requirement: Capacity::disk(1 << 30).into(),
        duration: DURATION,
        nonce: Nonce([3; 16]),
        needed: WANTED,
        wanted: WANTED,
        exclude: BTreeSet::new(),
        absent: BTreeSet::new(),
        round_trips: BTreeMap::new(),
        volunteers: true,
    }
}

fn approval(number: usize) -> Approval {
    let spec = spec();
    let statement = Statement {
        asker: spec.asker,
        approver: peer(number),
        incarnation: Incarnation(1),
        boot: BootId([4; 16]),
        subject: spec.subject,
        requirement: spec.requirement.digest(),
        nonce: spec.nonce,
        duration: spec.duration,
        lease: LeaseId([5; 16]),
    };
    Approval::sign(&key(number), statement)
}

/// Answers every question of the round until it ends, one after another.
fn drive(candidates: &[PeerId], answers: &BTreeMap<PeerId, ApprovalAnswer>) -> Vec<RoundEffect> {
    let (mut round, mut effects) = Round::start(Millis(1), spec(), candidates.iter().copied());
    while !round.is_ended() {
        let asked: Vec<PeerId> = effects
            .iter()
            .filter_map(|effect| match effect {
                RoundEffect::Ask { peer, .. } => Some(*peer),
                _ => None,
            })
            .collect();
        effects.clear();
        // Nobody is left to ask: the round waits for volunteers, which is the end of its work here.
        if asked.is_empty() {
            break;
        }
        for peer in asked {
            let answered = RoundInput::Answered { peer, answer: answers[&peer].clone() };
            effects.extend(round.step(Millis(2), answered).expect("the answers are honest"));
        }
    }
    effects
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("approval");
    let candidates: Vec<PeerId> = (0..CANDIDATES_MAX).map(peer).collect();

    let grants = (0..CANDIDATES_MAX).map(|number| (peer(number), ApprovalAnswer::Granted(approval(number)))).collect();
    let done = |effects: &[RoundEffect]| effects.iter().any(|effect| matches!(effect, RoundEffect::Done { .. }));
    assert!(done(&drive(&candidates, &grants)), "the round wins its approvals");
    group.bench_function("a round that six approve", |bencher| bencher.iter(|| black_box(drive(&candidates, &grants))));

    let refusals = candidates.iter().map(|peer| (*peer, ApprovalAnswer::Refused(Refusal::Draining))).collect();
    group.bench_function("a round that all candidates refuse", |bencher| {
        bencher.iter(|| black_box(drive(&candidates, &refusals)))
    });

    group.bench_function("one approval signed", |bencher| {
        let (key, statement) = (key(0), approval(0).statement);
        bencher.iter_batched(
            || statement.clone(),
            |statement| black_box(Approval::sign(&key, statement)),
            BatchSize::SmallInput,
        )
    });
    let approval = approval(0);
    group.bench_function("one approval checked", |bencher| bencher.iter(|| black_box(approval.is_genuine())));
    group.finish();
}

criterion_group!(rounds, benches);
criterion_main!(rounds);
