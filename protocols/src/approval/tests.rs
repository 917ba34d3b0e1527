//! The round on virtual time, and the choices that follow it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::formation::{self, TooFewApprovals, Volunteer};
use super::limits::*;
use super::replacement::{self, Decision, Situation};
use super::standby::{AWAY_MAX, Pool, PoolEffect, Renewed, Sight};
use super::*;
use crate::approval::limits::STANDBYS;
use crate::capacity::{Capacity, Requirement};
use crate::ids::{BootId, Incarnation, JobId, LeaseId, MemberId, Millis, Nonce, PeerId, QuorumId};
use crate::membership::Voters;

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn peer(n: u8) -> PeerId {
    PeerId(key(n).verifying_key().to_bytes())
}

fn subject() -> Subject {
    Subject::Holder { job: JobId { quorum: QuorumId([1; 16]), local: [2; 16] }, writer: Writer::Quorum }
}

fn spec(needed: usize, wanted: usize) -> RoundSpec {
    RoundSpec {
        asker: peer(200),
        subject: subject(),
        requirement: Capacity::disk(10).into(),
        duration: Duration::from_secs(600),
        nonce: Nonce([3; 16]),
        needed,
        wanted,
        exclude: BTreeSet::new(),
        absent: BTreeSet::new(),
        round_trips: BTreeMap::new(),
        volunteers: true,
    }
}

fn statement(n: u8) -> Statement {
    let spec = spec(0, 0);
    Statement {
        asker: spec.asker,
        approver: peer(n),
        incarnation: Incarnation(1),
        boot: BootId([n; 16]),
        subject: spec.subject,
        requirement: spec.requirement.digest(),
        nonce: spec.nonce,
        duration: spec.duration,
        lease: LeaseId([n; 16]),
    }
}

fn approval(n: u8) -> Approval {
    Approval::sign(&key(n), statement(n))
}

/// A round in the hands of a test: time moves when told, effects are kept.
struct TestRound {
    round: Round,
    now: Millis,
    effects: Vec<RoundEffect>,
}

impl TestRound {
    fn new(spec: RoundSpec, candidates: impl IntoIterator<Item = u8>) -> Self {
        let now = Millis(1_000);
        let (round, effects) = Round::start(now, spec, candidates.into_iter().map(peer));
        Self { round, now, effects }
    }
    fn input(&mut self, input: RoundInput) -> Result<(), PeerFault> {
        self.effects.extend(self.round.step(self.now, input)?);
        Ok(())
    }
    fn approve(&mut self, n: u8) {
        self.input(RoundInput::Answered { peer: peer(n), answer: ApprovalAnswer::Granted(approval(n)) }).unwrap();
    }
    fn refuse(&mut self, n: u8) {
        let answer = ApprovalAnswer::Refused(Refusal::Draining);
        self.input(RoundInput::Answered { peer: peer(n), answer }).unwrap();
    }
    fn pass(&mut self, ms: u64) {
        self.now.0 += ms;
        self.input(RoundInput::Tick).unwrap();
    }
    /// Follows the round's own timers to its end.
    fn run_to_end(&mut self) {
        while let Some(at) = self.round.wake_at() {
            assert!(at > self.now, "a timer that is already over would spin");
            self.now = at;
            self.input(RoundInput::Tick).unwrap();
        }
    }
    fn asked(&self) -> usize {
        self.effects.iter().filter(|effect| matches!(effect, RoundEffect::Ask { .. })).count()
    }
    fn released(&self) -> Vec<u8> {
        let lease = |effect: &RoundEffect| match effect {
            RoundEffect::Release { lease, .. } => Some(lease.0[0]),
            _ => None,
        };
        self.effects.iter().filter_map(lease).collect()
    }
    fn done(&self) -> Option<Vec<u8>> {
        self.effects.iter().find_map(|effect| match effect {
            RoundEffect::Done { granted, .. } => {
                Some(granted.iter().map(|g| g.approval.statement.lease.0[0]).collect())
            }
            _ => None,
        })
    }
}

#[test]
fn more_are_asked_than_needed_and_the_round_stops_at_as_many_as_wanted() {
    let mut round = TestRound::new(spec(3, 3), 1..=10);
    assert_eq!(round.asked(), 3 + OVER_ASK);
    (1..=3).for_each(|n| round.approve(n));
    assert_eq!(round.done(), Some(vec![1, 2, 3]));
    assert!(!round.round.is_idle(), "answers are outstanding");
    (4..=6).for_each(|n| round.approve(n));
    assert_eq!(round.released(), [4, 5, 6], "what comes too late is given back");
    assert!(round.round.is_idle());
}

/// Goal: on a machine so busy that answers do not come in time, a round that has nobody else to ask does not give up.
#[test]
fn those_too_busy_to_answer_are_asked_the_same_again_when_nobody_else_is_left() {
    let mut round = TestRound::new(spec(2, 2), 1..=2);
    round.approve(1);
    round.pass(DEADLINE.as_millis() as u64);
    round.input(RoundInput::Silent { peer: peer(2) }).unwrap();
    let questions: Vec<_> = round
        .effects
        .iter()
        .filter_map(|effect| match effect {
            RoundEffect::Ask { peer: asked, request } if *asked == peer(2) => Some(request),
            _ => None,
        })
        .collect();
    assert_eq!(questions.len(), 2);
    assert_eq!(questions[0], questions[1], "the same question gets the same promise");
    round.approve(2);
    assert_eq!(round.done(), Some(vec![1, 2]));
    // One that cannot be reached said so at once: asking it again at once would say no more.
    let mut round = TestRound::new(spec(2, 2), 1..=2);
    round.input(RoundInput::Silent { peer: peer(2) }).unwrap();
    assert_eq!(round.asked(), 2);
    round.run_to_end();
    assert_eq!(round.done(), None);
}

#[test]
fn with_enough_it_waits_a_little_for_the_spares() {
    let mut round = TestRound::new(spec(2, 4), 1..=10);
    round.approve(1);
    round.approve(2);
    assert_eq!(round.done(), None);
    round.pass(50);
    round.approve(3);
    round.pass(EXTRA_WAIT.as_millis() as u64);
    assert_eq!(round.done(), Some(vec![1, 2, 3]));
}

#[test]
fn a_refusal_is_made_good_by_another_candidate_at_once() {
    let mut round = TestRound::new(spec(2, 2), 1..=8);
    let asked = round.asked();
    round.refuse(1);
    assert_eq!(round.asked(), asked + 1);
}

#[test]
fn slow_peers_are_topped_up_but_may_still_answer() {
    let mut round = TestRound::new(spec(2, 2), 1..=10);
    let asked = round.asked();
    round.pass(SLOW.as_millis() as u64);
    assert_eq!(round.asked(), 2 * asked);
    round.approve(1);
    round.approve(2);
    assert_eq!(round.done(), Some(vec![1, 2]));
}

#[test]
fn one_peer_is_one_voice_however_often_it_speaks() {
    let mut round = TestRound::new(spec(2, 2), [1, 1, 1, 2]);
    assert_eq!(round.asked(), 2);
    round.approve(1);
    let answer = ApprovalAnswer::Granted(approval(1));
    let repeated = round.input(RoundInput::Answered { peer: peer(1), answer });
    assert_eq!(repeated, Err(PeerFault::NotAsked { peer: peer(1) }));
    assert_eq!(round.done(), None);
}

#[test]
fn a_promise_for_anything_else_is_the_peers_fault() {
    type Change = (&'static str, fn(&mut Statement));
    let change: [Change; 6] = [
        ("approver", |s| s.approver = peer(9)),
        ("asker", |s| s.asker = peer(9)),
        ("nonce", |s| s.nonce = Nonce([9; 16])),
        ("subject", |s| s.subject = Subject::Member { quorum: QuorumId([9; 16]) }),
        ("requirement", |s| s.requirement = Requirement::default().digest()),
        ("duration", |s| s.duration = Duration::from_secs(1)),
    ];
    for (field, change) in change {
        let mut round = TestRound::new(spec(1, 1), [1, 2]);
        let mut wrong = statement(1);
        change(&mut wrong);
        let answer = ApprovalAnswer::Granted(Approval::sign(&key(1), wrong));
        let fault = round.input(RoundInput::Answered { peer: peer(1), answer });
        assert_eq!(fault, Err(PeerFault::Mismatch { peer: peer(1), field }));
        assert_eq!(round.done(), None);
        round.approve(2);
        assert_eq!(round.done(), Some(vec![2]), "the round goes on with the honest");
    }
}

#[test]
fn a_signature_by_another_key_or_over_other_words_is_refused() {
    let forged = Approval::sign(&key(9), statement(1));
    let mut altered = approval(1);
    altered.statement.lease = LeaseId([7; 16]);
    for bad in [forged, altered] {
        let mut round = TestRound::new(spec(1, 1), [1]);
        let fault = round.input(RoundInput::Answered { peer: peer(1), answer: ApprovalAnswer::Granted(bad) });
        assert_eq!(fault, Err(PeerFault::Signature { peer: peer(1) }));
    }
}

#[test]
fn too_few_candidates_call_for_volunteers_and_volunteers_count() {
    let mut round = TestRound::new(spec(3, 3), [1, 2]);
    assert!(round.effects.contains(&RoundEffect::WantVolunteers));
    round.approve(1);
    round.approve(2);
    for n in [2, 3] {
        round.input(RoundInput::Volunteered { peer: peer(n) }).unwrap();
    }
    assert_eq!(round.asked(), 3, "who was asked before is not asked again");
    round.approve(3);
    assert_eq!(round.done(), Some(vec![1, 2, 3]));
}

#[test]
fn a_round_that_cannot_win_says_who_refused_and_who_was_silent_and_lets_go() {
    let mut round = TestRound::new(spec(3, 3), [1, 2, 3]);
    round.approve(1);
    round.refuse(2);
    round.run_to_end();
    let failed = RoundEffect::Failed {
        granted: 1,
        refusals: vec![(peer(2), Refusal::Draining)],
        silent: vec![peer(3)],
        exhausted: true,
    };
    assert_eq!(round.effects.last(), Some(&failed));
    assert_eq!(round.released(), [1]);
    assert!(round.now.since(Millis(1_000)) <= ROUND_DEADLINE);
    // The silent one answers after all.
    round.approve(3);
    assert_eq!(round.released(), [1, 3]);
}

#[test]
fn excluded_peers_are_never_asked() {
    let exclude = BTreeSet::from([peer(1), peer(3)]);
    let mut round = TestRound::new(RoundSpec { exclude, ..spec(2, 2) }, [1, 2]);
    round.input(RoundInput::Volunteered { peer: peer(3) }).unwrap();
    assert_eq!(round.asked(), 1);
}

#[test]
fn a_promise_is_trusted_for_less_than_it_lasts_from_when_it_was_asked() {
    let mut round = TestRound::new(spec(1, 1), [1]);
    round.pass(400);
    round.approve(1);
    let Some(RoundEffect::Done { granted, .. }) = round.effects.last() else { panic!("the round is done") };
    assert_eq!(granted[0].trusted_until, Millis(1_000 + 27_000));
}

#[test]
fn promises_that_run_out_while_the_round_lasts_are_not_counted() {
    let spec = RoundSpec { duration: Duration::from_secs(1), ..spec(2, 2) };
    let mut round = TestRound::new(spec, [1, 2]);
    let short = Approval::sign(&key(1), Statement { duration: Duration::from_secs(1), ..statement(1) });
    round.input(RoundInput::Answered { peer: peer(1), answer: ApprovalAnswer::Granted(short) }).unwrap();
    round.run_to_end();
    assert_eq!(round.done(), None);
    assert_eq!(round.released(), [1]);
}

/// Goal: a round never asks to be woken for something that waking does not settle. Method: the wait for volunteers runs
/// out while a round that has enough waits for more.
#[test]
fn a_round_that_has_enough_does_not_wake_for_volunteers_it_no_longer_awaits() {
    let mut round = TestRound::new(spec(1, 2), [1]);
    round.pass(SLOW.as_millis() as u64);
    assert!(round.effects.contains(&RoundEffect::WantVolunteers));
    round.pass(VOLUNTEERS_WAIT.as_millis() as u64 - 1);
    round.input(RoundInput::Volunteered { peer: peer(2) }).unwrap();
    round.approve(1);
    round.pass(2);
    assert!(!round.round.is_ended());
    assert!(round.round.wake_at().is_some_and(|at| at > round.now), "it would be woken for nothing, over and over");
}

fn without(absent: &[u8], spec: RoundSpec) -> RoundSpec {
    RoundSpec { absent: absent.iter().map(|n| peer(*n)).collect(), ..spec }
}

/// Whether the round said, when it ended, that nobody who may come is left.
fn exhausted(round: &TestRound) -> Option<bool> {
    round.effects.iter().find_map(|effect| match effect {
        RoundEffect::Done { exhausted, .. } | RoundEffect::Failed { exhausted, .. } => Some(*exhausted),
        _ => None,
    })
}

#[test]
fn an_absent_peer_is_not_asked_while_others_are_enough_and_not_waited_for() {
    let mut round = TestRound::new(without(&[5], spec(4, 7)), 1..=5);
    assert_eq!(round.asked(), 4);
    (1..=4).for_each(|n| round.approve(n));
    assert_eq!(round.done(), Some(vec![1, 2, 3, 4]), "at once, without a timer");
    assert_eq!((round.now, exhausted(&round)), (Millis(1_000), Some(true)));
}

#[test]
fn an_absent_peer_is_asked_when_the_others_are_too_few_and_its_answer_counts() {
    let mut round = TestRound::new(without(&[3], spec(3, 3)), 1..=3);
    assert_eq!(round.asked(), 3);
    (1..=3).for_each(|n| round.approve(n));
    assert_eq!(round.done(), Some(vec![1, 2, 3]), "it was back before anybody knew");
}

/// Round trips of 1 ms, but 400 ms to those.
fn with_distant(distant: &[u8], candidates: u8, spec: RoundSpec) -> RoundSpec {
    let round_trip = |n| Duration::from_millis(if distant.contains(&n) { 400 } else { 1 });
    RoundSpec { round_trips: (1..=candidates).map(|n| (peer(n), round_trip(n))).collect(), ..spec }
}

#[test]
fn a_distant_peer_is_not_asked_while_nearer_ones_are_enough() {
    let mut round = TestRound::new(with_distant(&[1], 5, spec(4, 5)), 1..=5);
    assert_eq!(round.asked(), 4);
    (2..=5).for_each(|n| round.approve(n));
    assert_eq!(round.done(), Some(vec![2, 3, 4, 5]), "at once, though one more was wished for");
    assert_eq!((round.now, exhausted(&round)), (Millis(1_000), Some(true)));
}

#[test]
fn distant_peers_are_asked_and_waited_for_when_nearer_ones_are_too_few() {
    let mut round = TestRound::new(with_distant(&[1, 2], 5, spec(4, 5)), 1..=5);
    assert_eq!(round.asked(), 5);
    (3..=5).for_each(|n| round.approve(n));
    round.pass(1_200);
    assert_eq!(round.done(), None);
    round.approve(1);
    round.pass(EXTRA_WAIT.as_millis() as u64 + 150);
    assert_eq!(round.done(), None, "the other one's answer may take half a round trip longer");
    round.approve(2);
    assert_eq!(round.done(), Some(vec![3, 4, 5, 1, 2]));
    // The last one that is left is asked however far it is.
    assert_eq!(TestRound::new(with_distant(&[1], 1, spec(1, 1)), [1]).asked(), 1);
}

#[test]
fn a_peer_at_the_end_of_a_slow_link_is_not_taken_for_a_slow_one() {
    let far = with_distant(&[1, 2, 3], 3, RoundSpec { volunteers: false, ..spec(2, 2) });
    let mut round = TestRound::new(far, 1..=3);
    round.pass(SLOW.as_millis() as u64 + 700);
    assert_eq!((round.asked(), round.done()), (3, None));
    round.pass((DEADLINE.as_millis() - SLOW.as_millis()) as u64);
    round.approve(1);
    round.approve(2);
    assert_eq!(round.done(), Some(vec![1, 2]), "answers that came after the deadline of a quick link count");
    assert_eq!(deadline(Duration::from_secs(60)), DEADLINE_MAX);
}

#[test]
fn a_peer_that_turns_out_to_be_absent_ends_the_wait_for_it() {
    let mut round = TestRound::new(spec(2, 3), 1..=3);
    round.approve(1);
    round.approve(2);
    assert_eq!(round.round.awaited().collect::<Vec<_>>(), [peer(3)]);
    round.input(RoundInput::Absent { peer: peer(3) }).unwrap();
    assert_eq!((round.done(), exhausted(&round)), (Some(vec![1, 2]), Some(true)));
    // Its promise may still come, and is given back.
    assert!(!round.round.is_idle());
    round.approve(3);
    assert_eq!(round.released(), [3]);
}

#[test]
fn a_round_without_volunteers_fails_as_soon_as_everybody_present_has_answered() {
    let alone = RoundSpec { volunteers: false, ..spec(1, 3) };
    let mut round = TestRound::new(without(&[9], alone.clone()), [9]);
    assert_eq!(exhausted(&round), Some(true), "nobody but an absent peer");
    assert!(matches!(round.effects.last(), Some(RoundEffect::Failed { silent, .. }) if *silent == [peer(9)]));
    round.approve(9);
    assert_eq!(round.released(), [9], "it is back: the next round asks it first");
    let mut round = TestRound::new(alone, [1]);
    assert_eq!(exhausted(&round), None, "somebody may still answer");
    round.refuse(1);
    assert_eq!(exhausted(&round), Some(true));
    assert_eq!(round.now, Millis(1_000));
}

#[test]
fn a_round_that_stops_waiting_for_a_slow_peer_does_not_call_itself_exhausted() {
    let mut round = TestRound::new(spec(2, 3), 1..=3);
    round.approve(1);
    round.approve(2);
    round.pass(EXTRA_WAIT.as_millis() as u64);
    assert_eq!((round.done(), exhausted(&round)), (Some(vec![1, 2]), Some(false)));
}

proptest! {
    // Every case signs and verifies dozens of times, slowly without optimisation.
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever the peers do, a round ends by its deadline, with distinct approvers between `needed` and `wanted` or
    /// not at all, and every promise won is either handed out or released, once.
    #[test]
    fn every_promise_is_used_or_released(
        needed in 1usize..5,
        extra in 0usize..4,
        fates in proptest::collection::vec((0u8..4, 0u64..6_000), 0..14),
        round_trips in proptest::collection::vec(0u64..2_000, 0..14),
    ) {
        let wanted = needed + extra;
        let round_trips = (1..).map(peer).zip(round_trips.iter().map(|ms| Duration::from_millis(*ms))).collect();
        let spec = RoundSpec { round_trips, ..spec(needed, wanted) };
        let mut round = TestRound::new(spec, 1..=fates.len() as u8);
        let mut answers: BTreeMap<u64, Vec<(u8, u8)>> = BTreeMap::new();
        let peers: Vec<_> = (1..=fates.len() as u8).map(peer).collect();
        let mut seen = 0;
        let mut promised = BTreeSet::new();
        for _ in 0..30_000 {
            for effect in &round.effects[seen..] {
                if let RoundEffect::Ask { peer: asked, .. } = effect {
                    let index = peers.iter().position(|peer| peer == asked).unwrap();
                    let (fate, delay) = fates[index];
                    answers.entry(round.now.0 + delay).or_default().push((index as u8 + 1, fate));
                }
            }
            seen = round.effects.len();
            let timer = round.round.wake_at().map(|at| at.0);
            let answer = answers.first_key_value().map(|(at, _)| *at);
            let Some(next) = timer.into_iter().chain(answer).min() else { break };
            round.now.0 = round.now.0.max(next);
            for (n, fate) in answers.remove(&next).unwrap_or_default() {
                match fate {
                    0 | 1 => {
                        promised.insert(n);
                        round.approve(n);
                    }
                    2 => round.refuse(n),
                    _ => round.input(RoundInput::Silent { peer: peer(n) }).unwrap(),
                }
            }
            round.input(RoundInput::Tick).unwrap();
        }
        prop_assert!(round.round.is_idle());
        let done = round.done().unwrap_or_default();
        if !done.is_empty() {
            prop_assert!((needed..=wanted).contains(&done.len()));
        }
        let mut accounted: Vec<u8> = round.released().into_iter().chain(done).collect();
        accounted.sort_unstable();
        prop_assert_eq!(accounted, promised.into_iter().collect::<Vec<_>>());
    }
}

fn volunteer(n: u8, zone: Option<&str>) -> Volunteer {
    Volunteer { approval: approval(n), zone: zone.map(str::to_owned) }
}

fn names(approvals: &[Approval]) -> Vec<u8> {
    approvals.iter().map(|approval| approval.statement.lease.0[0]).collect()
}

#[test]
fn members_are_spread_over_zones_before_one_zone_gives_two() {
    let volunteers =
        vec![volunteer(1, Some("a")), volunteer(2, Some("a")), volunteer(3, Some("b")), volunteer(4, None)];
    let formation = formation::choose(volunteers, 3).unwrap();
    assert_eq!(names(&formation.members), [1, 3, 4]);
    assert_eq!(names(&formation.unused), [2]);
}

#[test]
fn two_approvals_of_one_peer_make_one_member() {
    let twice = vec![volunteer(1, None), volunteer(1, None), volunteer(2, None)];
    assert_eq!(formation::choose(twice, 3), Err(TooFewApprovals { distinct: 2, needed: 3 }));
    let more = vec![volunteer(1, None), volunteer(1, None), volunteer(2, None), volunteer(3, None)];
    let formation = formation::choose(more, 2).unwrap();
    assert_eq!((names(&formation.members), names(&formation.unused)), (vec![1, 2], vec![3, 1]));
}

fn member(n: u8) -> MemberId {
    MemberId { peer: PeerId([n; 32]), incarnation: Incarnation(1) }
}

#[test]
fn a_member_is_replaced_after_its_grace_by_a_standby_that_is_there() {
    let mut situation = Situation {
        configurations: vec![Voters::new([1, 2, 3].map(member))],
        suspected: [(member(2), Millis(100)), (member(4), Millis(100))].into(),
        standbys: vec![member(4), member(5)],
        ..Situation::default()
    };
    let grace = Duration::from_secs(60);
    let decide = |at, situation: &Situation| replacement::decide(Millis(at), situation, grace);
    assert_eq!(decide(200, &situation), Decision::WaitUntil(Millis(60_100)));
    assert_eq!(decide(60_100, &situation), Decision::Replace { lost: member(2), with: member(5) });
    situation.standbys = vec![member(4), member(1)];
    assert_eq!(decide(60_100, &situation), Decision::FindStandby { lost: member(2) });
    situation.suspected.clear();
    assert_eq!(decide(60_100, &situation), Decision::Nothing);
}

#[test]
fn nothing_is_replaced_without_a_majority_and_a_joint_configuration_is_finished_first() {
    let (old, new) = (Voters::new([1, 2, 3].map(member)), Voters::new([1, 2, 4].map(member)));
    let mut situation = Situation {
        configurations: vec![old, new],
        suspected: [(member(3), Millis(0))].into(),
        standbys: vec![member(5)],
        ..Situation::default()
    };
    let decide = |situation: &Situation| replacement::decide(Millis(1_000_000), situation, Duration::ZERO);
    assert_eq!(decide(&situation), Decision::FinishJoint);
    situation.suspected.insert(member(2), Millis(0));
    assert_eq!(decide(&situation), Decision::NoMajority);
}

#[test]
fn a_wiped_node_may_take_its_own_place_and_nobody_elses() {
    let reborn = MemberId { incarnation: Incarnation(2), ..member(2) };
    let mut situation = Situation {
        configurations: vec![Voters::new([1, 2, 3].map(member))],
        suspected: [(member(2), Millis(0))].into(),
        standbys: vec![reborn],
        ..Situation::default()
    };
    let decide = |situation: &Situation| replacement::decide(Millis(1_000), situation, Duration::ZERO);
    assert_eq!(decide(&situation), Decision::Replace { lost: member(2), with: reborn });
    situation.suspected = [(member(3), Millis(0))].into();
    assert_eq!(decide(&situation), Decision::FindStandby { lost: member(3) });
}

/// Goal: voters that are not trusted any more go one after the other, to standbys that are, and none while another
/// voter is missing.
#[test]
fn distrusted_voters_are_replaced_one_at_a_time_when_nobody_is_missing() {
    let mut situation = Situation {
        configurations: vec![Voters::new([1, 2, 3].map(member))],
        standbys: vec![member(4), member(5)],
        distrusted: [(member(3), Millis(60_000)), (member(2), Millis(70_000)), (member(4), Millis(90_000))].into(),
        ..Situation::default()
    };
    let decide = |at, situation: &Situation| replacement::decide(Millis(at), situation, Duration::from_secs(60));
    assert_eq!(decide(50_000, &situation), Decision::WaitUntil(Millis(60_000)));
    // A standby that is distrusted is none, however short the time.
    assert_eq!(decide(60_000, &situation), Decision::Replace { lost: member(3), with: member(5) });
    situation.began_at = Some(Millis(60_000));
    assert_eq!(decide(61_000, &situation), Decision::WaitUntil(Millis(75_000)));
    // The next one, once the first has gone; with nobody at hand somebody is to be won.
    situation.configurations = vec![Voters::new([1, 2, 5].map(member))];
    assert_eq!(decide(75_000, &situation), Decision::FindStandby { lost: member(2) });
    // Whoever is missing comes first, and keeps the others waiting.
    situation.suspected.insert(member(5), Millis(70_000));
    assert_eq!(decide(75_000, &situation), Decision::WaitUntil(Millis(130_000)));
    situation.standbys.push(member(6));
    assert_eq!(decide(130_000, &situation), Decision::Replace { lost: member(5), with: member(6) });
    situation.suspected.insert(member(1), Millis(70_000));
    assert_eq!(decide(130_000, &situation), Decision::NoMajority);
}

/// Goal: a distrusted peer does not come back in another life of its disk either.
#[test]
fn a_distrusted_peer_takes_no_place_in_another_incarnation() {
    let reborn = MemberId { incarnation: Incarnation(2), ..member(2) };
    let situation = Situation {
        configurations: vec![Voters::new([1, 2, 3].map(member))],
        standbys: vec![reborn],
        distrusted: [(member(2), Millis(0)), (reborn, Millis(0))].into(),
        ..Situation::default()
    };
    let decision = replacement::decide(Millis(1_000), &situation, Duration::ZERO);
    assert_eq!(decision, Decision::FindStandby { lost: member(2) });
}

/// A pool over a world of peers: what it asks for is done at once, as the peers answer.
struct TestPool {
    pool: Pool,
    now: Millis,
    voters: Vec<MemberId>,
    recorded: Vec<Approval>,
    founding: Vec<Approval>,
    present: BTreeSet<PeerId>,
    /// Peers that keep their promise when asked, and those to be won.
    faithful: BTreeSet<PeerId>,
    winnable: Vec<u8>,
    returned: Vec<u8>,
    sought: usize,
}

impl TestPool {
    /// Members 1 to 3; peers 4 and 5 are the standbys of the founding, 6 and 7 can be won.
    fn new() -> Self {
        Self {
            pool: Pool::new(Millis(0)),
            now: Millis(0),
            voters: (1..=3).map(voter).collect(),
            recorded: Vec::new(),
            founding: vec![approval(4), approval(5)],
            present: (1..=7).map(peer).collect(),
            faithful: (4..=7).map(peer).collect(),
            winnable: vec![6, 7],
            returned: Vec::new(),
            sought: 0,
        }
    }
    fn review_pool(&mut self) {
        let sight =
            Sight { voters: &self.voters, recorded: &self.recorded, founding: &self.founding, present: &self.present };
        for effect in self.pool.review_pool(self.now, 0, sight) {
            match effect {
                PoolEffect::Record { standbys } => self.recorded = standbys,
                PoolEffect::Renew { standby } => {
                    let peer = standby.statement.approver;
                    let renewed = match (self.present.contains(&peer), self.faithful.contains(&peer)) {
                        (false, _) => Renewed::Unsure,
                        (true, true) => Renewed::Stands,
                        (true, false) => Renewed::Gone,
                    };
                    self.pool.renewed(self.now, peer, renewed);
                }
                PoolEffect::GiveBack { standby } => self.returned.extend(names(&[standby])),
                PoolEffect::Seek { exclude } => {
                    self.sought += 1;
                    let won = self.winnable.iter().position(|n| !exclude.contains(&peer(*n)));
                    let won = won.map(|index| approval(self.winnable.remove(index)));
                    self.pool.sought(self.now, won);
                }
            }
        }
    }
    fn run(&mut self, span: Duration) {
        let end = self.now.plus(span);
        while self.now < end {
            self.review_pool();
            self.now = self.now.plus(Duration::from_secs(5));
        }
    }
    fn standbys(&self) -> Vec<u8> {
        let mut names = names(&self.recorded);
        names.sort_unstable();
        names
    }
}

fn voter(n: u8) -> MemberId {
    MemberId { peer: peer(n), incarnation: Incarnation(1) }
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn standbys_of_the_founding_are_kept_for_as_long_as_they_keep_their_promise() {
    let mut pool = TestPool::new();
    pool.run(60 * MINUTE);
    assert_eq!(pool.standbys(), [4, 5]);
    assert_eq!((pool.sought, pool.returned.len()), (0, 0));
    // One whose node forgot is replaced, with nothing to give back there.
    pool.faithful.remove(&peer(4));
    pool.run(10 * MINUTE);
    assert_eq!(pool.standbys(), [5, 6]);
    assert_eq!(pool.returned, [0; 0]);
}

#[test]
fn a_standby_that_stays_away_is_replaced_and_a_blip_replaces_nobody() {
    let mut pool = TestPool::new();
    pool.run(MINUTE);
    pool.present.remove(&peer(5));
    pool.run(AWAY_MAX / 2);
    pool.present.insert(peer(5));
    pool.run(10 * MINUTE);
    assert_eq!((pool.standbys(), pool.sought), (vec![4, 5], 0));
    pool.present.remove(&peer(5));
    pool.run(AWAY_MAX + MINUTE);
    assert_eq!(pool.standbys(), [4, 6]);
    assert_eq!(pool.returned, [5], "told that it is not needed, should it hear");
    // Back again it is a stranger, although the founding named it.
    pool.present.insert(peer(5));
    pool.run(10 * MINUTE);
    assert_eq!(pool.standbys(), [4, 6]);
}

#[test]
fn a_standby_that_became_a_voter_is_no_standby_and_keeps_what_it_set_aside() {
    let mut pool = TestPool::new();
    pool.run(MINUTE);
    pool.voters[2] = voter(4);
    pool.run(5 * MINUTE);
    assert_eq!(pool.standbys(), [5, 6]);
    assert_eq!(pool.returned, [0; 0]);
}

/// Goal: a new primary knows nothing but the record, and takes over every standby that still stands.
#[test]
fn a_new_primary_takes_the_recorded_standbys_over() {
    let mut pool = TestPool::new();
    pool.run(MINUTE);
    (pool.pool, pool.founding) = (Pool::new(pool.now), Vec::new());
    pool.faithful.remove(&peer(5));
    pool.run(5 * MINUTE);
    assert_eq!(pool.standbys(), [4, 6]);
}

#[test]
fn peers_are_asked_less_and_less_often_when_nobody_can_be_won() {
    let mut pool = TestPool::new();
    (pool.founding, pool.winnable) = (Vec::new(), Vec::new());
    pool.run(240 * MINUTE);
    assert!((10..=30).contains(&pool.sought), "{} times in four hours", pool.sought);
    pool.winnable = vec![6, 7];
    pool.run(60 * MINUTE);
    assert_eq!(pool.standbys(), [6, 7]);
}

#[test]
fn more_standbys_than_wanted_are_told_so() {
    let mut pool = TestPool::new();
    pool.recorded = vec![approval(6)];
    pool.run(MINUTE);
    assert_eq!((pool.recorded.len(), pool.returned.len()), (STANDBYS, 1));
    assert!(pool.standbys().contains(&6), "the recorded one stays");
}
