//! The detector and the election on virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::limits::*;
use super::*;
use crate::ids::{BootId, Incarnation, LogIndex, MemberId, Millis, PeerId, QuorumId, Term};
use crate::membership::{VOTERS_MAX, Voters};
use crate::quorum::limits::TERM_JUMP_MAX;

const A: PeerId = PeerId([1; 32]);
const B: PeerId = PeerId([2; 32]);

fn boot(n: u8) -> BootId {
    BootId([n; 16])
}

/// A detector driven as a node drives it: a tick per heartbeat interval, heartbeats as given.
struct Watch {
    detector: Detector,
    now: Millis,
    effects: Vec<DetectorEffect>,
}

impl Watch {
    fn new() -> Self {
        let mut watch = Self { detector: Detector::new(Millis(0)), now: Millis(0), effects: Vec::new() };
        watch.input(DetectorInput::Watch { peer: A });
        watch.input(DetectorInput::Watch { peer: B });
        watch
    }
    fn input(&mut self, input: DetectorInput) {
        self.effects.extend(self.detector.step(self.now, input));
    }
    /// Lets `ms` pass in steps of the heartbeat interval; `beating` peers beat at every step.
    fn run(&mut self, ms: u64, beating: &[PeerId]) {
        for _ in 0..ms / 100 {
            self.now.0 += 100;
            for &peer in beating {
                self.input(DetectorInput::Heartbeat { peer, boot: boot(1) });
            }
            self.input(DetectorInput::Tick);
        }
    }
    fn suspected(&self) -> Vec<PeerId> {
        self.detector.suspected().into_iter().collect()
    }
}

#[test]
fn silence_of_about_a_second_is_suspected_and_a_beat_forgiven() {
    let mut watch = Watch::new();
    watch.run(2_000, &[A, B]);
    watch.run(1_000, &[B]);
    assert_eq!(watch.suspected(), []);
    watch.run(100, &[B]);
    assert_eq!(watch.suspected(), [A]);
    assert!(!watch.detector.heard_within(watch.now, A, Duration::from_millis(1_000)));
    watch.effects.clear();
    watch.input(DetectorInput::Heartbeat { peer: A, boot: boot(1) });
    assert_eq!(watch.effects, [DetectorEffect::Recovered { peer: A }]);
    assert_eq!(watch.suspected(), []);
}

#[test]
fn a_closed_connection_and_a_refused_dial_are_proof() {
    let mut watch = Watch::new();
    watch.run(500, &[A, B]);
    watch.effects.clear();
    watch.input(DetectorInput::Disconnected { peer: A });
    assert_eq!(watch.effects, [DetectorEffect::Dial { peer: A }]);
    assert_eq!(watch.suspected(), [], "a closed connection alone proves nothing");
    watch.now.0 += 5;
    watch.input(DetectorInput::Refused { peer: A });
    assert_eq!(watch.effects[1..], [DetectorEffect::Suspected { peer: A, cause: Cause::Gone }]);
}

/// Goal: a dial that a dying process takes and resets is followed by others, until one is refused or time is up.
#[test]
fn a_lost_peer_is_dialled_until_it_refuses() {
    let dials = |refuse_after: Option<u64>| {
        let mut watch = Watch::new();
        watch.run(500, &[A, B]);
        watch.effects.clear();
        watch.input(DetectorInput::Disconnected { peer: A });
        while let Some(at) = watch.detector.wake_at() {
            watch.now = at;
            watch.input(DetectorInput::Tick);
            if refuse_after.is_some_and(|ms| watch.now >= Millis(500 + ms)) {
                watch.input(DetectorInput::Refused { peer: A });
            }
        }
        let dials = watch.effects.iter().filter(|effect| **effect == DetectorEffect::Dial { peer: A }).count();
        (dials, watch.suspected(), watch.detector.lost_at(A))
    };
    assert_eq!(dials(Some(30)), (4, vec![A], Some(Millis(500))), "it was lost when its connection closed");
    let (unanswered, suspected, _) = dials(None);
    assert!((40..=51).contains(&unanswered) && suspected.is_empty(), "{unanswered} dials");
}

#[test]
fn a_refused_dial_of_a_peer_that_still_beats_is_no_proof() {
    let mut watch = Watch::new();
    watch.run(500, &[A, B]);
    watch.input(DetectorInput::Refused { peer: A });
    watch.input(DetectorInput::Disconnected { peer: A });
    watch.input(DetectorInput::Connected { peer: A });
    watch.input(DetectorInput::Heartbeat { peer: A, boot: boot(1) });
    watch.input(DetectorInput::Refused { peer: A });
    assert_eq!(watch.suspected(), []);
}

/// Goal: over a slow link an answer may still be on its way when its sender is gone. It refutes nothing, and brings
/// nobody back.
#[test]
fn a_beat_that_was_sent_before_the_connection_closed_does_not_refute_the_evidence() {
    let mut watch = Watch::new();
    watch.run(500, &[A, B]);
    watch.input(DetectorInput::Disconnected { peer: A });
    watch.input(DetectorInput::Heartbeat { peer: A, boot: boot(1) });
    watch.input(DetectorInput::Refused { peer: A });
    assert_eq!(watch.suspected(), [A]);
    watch.input(DetectorInput::Heartbeat { peer: A, boot: boot(1) });
    assert_eq!(watch.suspected(), [A]);
    // Another life of it is news, and so is this one once it has connected.
    watch.input(DetectorInput::Heartbeat { peer: A, boot: boot(2) });
    assert_eq!(watch.suspected(), []);
    watch.input(DetectorInput::Disconnected { peer: A });
    watch.input(DetectorInput::Refused { peer: A });
    watch.input(DetectorInput::Connected { peer: A });
    watch.input(DetectorInput::Heartbeat { peer: A, boot: boot(2) });
    assert_eq!(watch.suspected(), []);
}

#[test]
fn a_pause_of_this_node_makes_nobody_suspect() {
    for heartbeat_first in [false, true] {
        let mut watch = Watch::new();
        watch.run(2_000, &[A, B]);
        // The laptop sleeps for an hour.
        watch.now.0 += 3_600_000;
        if heartbeat_first {
            watch.input(DetectorInput::Heartbeat { peer: B, boot: boot(1) });
        }
        watch.input(DetectorInput::Tick);
        assert_eq!(watch.suspected(), []);
        watch.run(1_500, &[B]);
        assert_eq!(watch.suspected(), [A], "who stays silent afterwards is suspected as ever");
    }
}

#[test]
fn late_beats_stretch_patience_up_to_a_ceiling() {
    let mut watch = Watch::new();
    for _ in 0..40 {
        watch.run(800, &[]);
        watch.input(DetectorInput::Heartbeat { peer: A, boot: boot(1) });
    }
    watch.run(1_500, &[]);
    assert!(!watch.detector.is_suspected(A), "such gaps are usual for this peer");
    watch.run(SUSPICION_MAX.as_millis() as u64, &[]);
    assert!(watch.detector.is_suspected(A));
}

#[test]
fn another_boot_is_seen() {
    let mut watch = Watch::new();
    watch.run(200, &[A]);
    watch.effects.clear();
    watch.input(DetectorInput::Heartbeat { peer: A, boot: boot(2) });
    assert_eq!(watch.effects, [DetectorEffect::Restarted { peer: A, boot: boot(2) }]);
}

proptest! {
    /// Whatever happens, a peer heard less than the least suspicion ago is not suspected for its silence, and one
    /// silent for longer than the ceiling is, as long as this node itself runs.
    #[test]
    fn suspicion_keeps_to_its_bounds(gaps in proptest::collection::vec(1u64..80, 1..60)) {
        let mut watch = Watch::new();
        for gap in gaps {
            let heard = watch.now;
            for _ in 0..gap {
                watch.run(100, &[]);
                let silence = watch.now.since(heard);
                prop_assert!(!(watch.detector.is_suspected(A) && silence <= SUSPICION_MIN));
                prop_assert!(watch.detector.is_suspected(A) || silence <= SUSPICION_MAX);
            }
            watch.input(DetectorInput::Heartbeat { peer: A, boot: boot(1) });
        }
    }
}

const QUORUM: QuorumId = QuorumId([9; 16]);

fn member(n: u8) -> MemberId {
    MemberId { peer: PeerId([n; 32]), incarnation: Incarnation(1) }
}

fn log(index: u64) -> LogPosition {
    LogPosition { term: Term(1), index: LogIndex(index) }
}

/// A whole quorum of election cores, with a model of raft's voting behind them: an instant network, one vote per
/// term, only for logs that are not shorter, and not within the lease of a primary that was just heard.
struct Quorum {
    now: Millis,
    nodes: BTreeMap<MemberId, Node>,
    alive: BTreeSet<MemberId>,
    elections: Vec<(Millis, MemberId)>,
    primary: Option<MemberId>,
    /// Votes get lost, so that every election fails.
    loses_votes: bool,
    random: u64,
}

struct Node {
    election: Election,
    view: View,
    voted: Term,
}

impl Quorum {
    fn new(logs: &[u64]) -> Self {
        let members: Vec<_> = (1..=logs.len() as u8).map(member).collect();
        let voters = Voters::new(members.clone());
        let node = |(&me, &index): (&MemberId, &u64)| {
            let view = View {
                configurations: vec![voters.clone()],
                term: Term(1),
                primary: Some(members[0]),
                primary_leads: true,
                distrusts_primary: false,
                suspected: BTreeSet::new(),
                last_log: log(index),
                is_behind_promise: false,
                latency: Latency::default(),
            };
            let election = Election::new(QUORUM, me);
            (me, Node { election, view, voted: Term(1) })
        };
        let nodes = members.iter().zip(logs).map(node).collect();
        let alive = members.iter().copied().collect();
        let primary = Some(members[0]);
        Self { now: Millis(1_000), nodes, alive, elections: Vec::new(), primary, loses_votes: false, random: 1 }
    }
    fn kill(&mut self, lost: MemberId) {
        self.alive.remove(&lost);
        for (me, node) in &mut self.nodes {
            if *me != lost {
                node.view.suspected.insert(lost);
            }
        }
        if self.primary == Some(lost) {
            self.primary = None;
        }
    }
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 16
    }
    /// Runs for `ms`, one millisecond at a time.
    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now.0 += 1;
            for me in self.alive.clone() {
                self.tick(me, ElectionInput::Tick);
            }
        }
    }
    fn tick(&mut self, me: MemberId, input: ElectionInput) {
        let random = self.draw();
        let node = self.nodes.get_mut(&me).unwrap();
        let effects = node.election.step(self.now, &node.view, random, input);
        for effect in effects {
            match effect {
                ElectionEffect::Ask { to, round, question } => {
                    let input = if self.alive.contains(&to) {
                        let other = self.nodes.get_mut(&to).unwrap();
                        match other.election.answer(self.now, &other.view, &question) {
                            LivenessAnswer::PreVote { granted, my_log, primary } => {
                                ElectionInput::Answered { round, from: to, granted, log: my_log, primary }
                            }
                            _ => ElectionInput::Unanswered { round, from: to },
                        }
                    } else {
                        ElectionInput::Unanswered { round, from: to }
                    };
                    self.tick(me, input);
                }
                ElectionEffect::Elect => self.elect(me),
            }
        }
    }
    fn elect(&mut self, me: MemberId) {
        self.elections.push((self.now, me));
        let candidate = self.nodes.get_mut(&me).unwrap();
        candidate.view.term.0 += 1;
        let (term, last_log) = (candidate.view.term, candidate.view.last_log);
        candidate.voted = term;
        let mut votes: BTreeSet<_> = [me].into();
        for &other in self.alive.iter().filter(|other| **other != me) {
            let node = self.nodes.get_mut(&other).unwrap();
            if term > node.voted && last_log >= node.view.last_log {
                (node.voted, node.view.term, node.view.primary) = (term, term, None);
                if !self.loses_votes {
                    votes.insert(other);
                }
            }
        }
        if self.nodes[&me].view.configurations[0].is_majority(&votes) {
            self.primary = Some(me);
            for node in self.alive.iter().copied().collect::<Vec<_>>() {
                let node = self.nodes.get_mut(&node).unwrap();
                (node.view.term, node.view.primary, node.view.primary_leads) = (term, Some(me), true);
                node.view.distrusts_primary = false;
            }
        } else {
            self.nodes.get_mut(&me).unwrap().view.primary = None;
        }
    }
}

#[test]
fn a_lost_primary_is_replaced_at_the_first_try_within_a_tenth_of_a_second_or_so() {
    for size in [3, 5, 7] {
        let mut quorum = Quorum::new(&vec![10; size]);
        quorum.run(500);
        assert_eq!(quorum.elections, [], "nobody runs while the primary is fine");
        let lost_at = quorum.now;
        quorum.kill(member(1));
        quorum.run(300);
        assert!(quorum.primary.is_some());
        assert_eq!(quorum.elections.len(), 1, "one election for one loss");
        assert!(quorum.elections[0].0.since(lost_at) < Duration::from_millis(100));
    }
}

#[test]
fn only_the_longest_log_runs_whatever_its_rank() {
    for longest in 1..5 {
        let mut logs = [10; 5];
        // Two with the longest log, so that the loss of the primary leaves a majority that needs one of them.
        (logs[0], logs[longest]) = (12, 12);
        let mut quorum = Quorum::new(&logs);
        quorum.kill(member(1));
        quorum.run(2_000);
        let winner = quorum.primary.expect("somebody can win");
        let last = quorum.nodes[&winner].view.last_log;
        assert!(quorum.elections.len() <= 2, "{:?}", quorum.elections);
        assert!(last >= log(10));
    }
}

#[test]
fn a_shorter_log_steps_aside_for_a_longer_one() {
    // Of three, the two that are left need each other: only the longer log can win.
    for longer in [2, 3] {
        let mut logs = [12, 10, 10];
        logs[longer - 1] = 11;
        let mut quorum = Quorum::new(&logs);
        quorum.kill(member(1));
        quorum.run(1_500);
        assert_eq!(quorum.primary, Some(member(longer as u8)));
        assert!(quorum.elections.iter().all(|(_, who)| *who == member(longer as u8)), "{:?}", quorum.elections);
    }
}

#[test]
fn without_a_majority_no_term_is_raised() {
    let mut quorum = Quorum::new(&[10; 5]);
    for lost in [1, 2, 3] {
        quorum.kill(member(lost));
    }
    quorum.run(20_000);
    assert_eq!(quorum.elections, []);
}

#[test]
fn one_that_alone_misses_the_primary_disturbs_nobody() {
    let mut quorum = Quorum::new(&[10; 3]);
    quorum.nodes.get_mut(&member(2)).unwrap().view.suspected.insert(member(1));
    quorum.run(20_000);
    assert_eq!(quorum.elections, []);
    assert_eq!(quorum.primary, Some(member(1)));
}

#[test]
fn a_quorum_that_knows_no_primary_elects_one_after_a_while() {
    let mut quorum = Quorum::new(&[10; 3]);
    quorum.primary = None;
    quorum.nodes.values_mut().for_each(|node| node.view.primary = None);
    let began = quorum.now;
    quorum.run(3_000);
    assert!(quorum.primary.is_some());
    assert!(quorum.elections[0].0.since(began) >= LEADERLESS_MAX);
    assert_eq!(quorum.elections.len(), 1);
}

#[test]
fn a_primary_that_lives_but_leads_nothing_is_replaced() {
    let mut quorum = Quorum::new(&[10; 3]);
    quorum.nodes.values_mut().for_each(|node| node.view.primary_leads = false);
    quorum.run(3_000);
    assert_eq!(quorum.elections.len(), 1);
}

/// Goal: a primary that leads, and that a majority does not trust any more, is replaced by one of them, although it and
/// the others say no and its log is the longest; without a majority nothing happens. Method: it answers first.
#[test]
fn a_primary_that_a_majority_distrusts_is_replaced_and_one_that_a_minority_distrusts_is_not() {
    for (size, distrusting) in [(3, 2), (5, 3), (5, 4), (7, 4)] {
        for is_majority in [true, false] {
            let mut logs = vec![10; size];
            logs[0] = 12;
            let mut quorum = Quorum::new(&logs);
            let last = if is_majority { distrusting } else { distrusting.min(size / 2) };
            // The first voter is the primary, and those that trust it come next: they are asked first.
            let distrusts = |n: usize| n > size - last;
            for n in (1..=size).filter(|n| distrusts(*n)) {
                quorum.nodes.get_mut(&member(n as u8)).unwrap().view.distrusts_primary = true;
            }
            quorum.run(20_000);
            match is_majority {
                true => {
                    assert_eq!(quorum.elections.len(), 1, "{size} {distrusting}");
                    assert!(quorum.primary.is_some_and(|primary| distrusts(primary.peer.as_bytes()[0].into())));
                }
                false => assert_eq!((&quorum.elections[..], quorum.primary), (&[][..], Some(member(1))), "{size}"),
            }
        }
    }
}

/// Goal: whoever came to lead without being a voter is followed by nobody, however alive it is: the voters elect one of
/// their own, and believe no question about it.
#[test]
fn a_primary_that_is_no_voter_counts_as_none() {
    let mut quorum = Quorum::new(&[10; 3]);
    quorum.primary = None;
    quorum.nodes.values_mut().for_each(|node| node.view.primary = Some(member(9)));
    let node = quorum.nodes.get_mut(&member(2)).unwrap();
    node.view.primary = Some(member(1));
    let question =
        PreVote { quorum: QUORUM, term: Term(9), candidate: member(3), missing: Some(member(9)), last_log: log(10) };
    let answer = node.election.answer(quorum.now, &node.view, &question);
    assert!(matches!(answer, LivenessAnswer::PreVote { granted: false, .. }), "it hears a true primary: {answer:?}");
    node.view.primary = Some(member(9));
    quorum.run(3_000);
    assert!(quorum.primary.is_some_and(|primary| primary != member(9)));
    assert_eq!(quorum.elections.len(), 1);
}

/// Goal: a member that was away may believe a term that is as far above its own as elections can have taken it. Method:
/// no election of the largest quorum ever succeeds, and those are counted. A quorum that elects raises one per lost
/// primary, and voters that hear one raise none.
#[test]
fn terms_rise_too_slowly_to_shut_a_member_out() {
    let mut quorum = Quorum::new(&[10; VOTERS_MAX]);
    quorum.kill(member(1));
    quorum.loses_votes = true;
    const SECONDS: u64 = 300;
    quorum.run(SECONDS * 1_000);
    let raised = quorum.nodes.values().map(|node| node.view.term.0).max().unwrap() - 1;
    assert!(raised > 10, "they tried {raised} times");
    let lasts = Duration::from_secs(TERM_JUMP_MAX / raised * SECONDS);
    assert!(lasts > Duration::from_secs(2 * 24 * 3600), "{raised} terms in {SECONDS} s: {lasts:?} without a primary");
}

/// Goal: a primary that came and lost its disk while a voter was cut off does not leave the others without one. Method:
/// its node answers, as a new member; one voter was told that it leads nothing, the other never heard of its term.
#[test]
fn a_voter_that_missed_the_last_primary_does_not_wait_for_it() {
    let mut quorum = Quorum::new(&[12, 11, 10]);
    quorum.alive.remove(&member(1));
    quorum.primary = None;
    let informed = quorum.nodes.get_mut(&member(2)).unwrap();
    (informed.view.term, informed.voted, informed.view.primary_leads) = (Term(2), Term(2), false);
    quorum.nodes.get_mut(&member(3)).unwrap().view.primary = None;
    quorum.run(5_000);
    assert_eq!(quorum.primary, Some(member(2)));
    assert_eq!(quorum.elections.len(), 1);
}

/// Goal: the same when its loss was noticed first, before its node came back on an empty disk. Method: a voter waits
/// for the lost primary's successor with nobody to ask until the node is back and denies that it leads.
#[test]
fn a_primary_that_was_lost_and_is_back_without_its_disk_is_not_waited_for() {
    let mut quorum = Quorum::new(&[12, 11, 10]);
    quorum.kill(member(1));
    quorum.alive.remove(&member(3));
    let informed = quorum.nodes.get_mut(&member(2)).unwrap();
    (informed.view.term, informed.voted) = (Term(2), Term(2));
    quorum.nodes.get_mut(&member(3)).unwrap().view.primary = None;
    quorum.run(5_000);
    assert_eq!(quorum.elections.len(), 0);
    quorum.alive.insert(member(3));
    for node in quorum.nodes.values_mut() {
        node.view.suspected.clear();
    }
    quorum.nodes.get_mut(&member(2)).unwrap().view.primary_leads = false;
    quorum.run(5_000);
    assert_eq!(quorum.primary, Some(member(2)));
    assert_eq!(quorum.elections.len(), 1);
}

#[test]
fn a_joint_configuration_needs_a_majority_of_both() {
    let mut quorum = Quorum::new(&[10; 5]);
    let (old, new) = (Voters::new([1, 2, 3].map(member)), Voters::new([3, 4, 5].map(member)));
    quorum.nodes.values_mut().for_each(|node| node.view.configurations = vec![old.clone(), new.clone()]);
    for lost in [1, 4, 5] {
        quorum.kill(member(lost));
    }
    quorum.run(10_000);
    assert_eq!(quorum.elections, [], "2 and 3 are a majority of the old voters only");
}

#[test]
fn answers_of_an_earlier_round_are_not_counted() {
    let mut election = Election::new(QUORUM, member(2));
    let view = View {
        configurations: vec![Voters::new([1, 2, 3].map(member))],
        term: Term(1),
        primary: Some(member(1)),
        primary_leads: true,
        distrusts_primary: false,
        suspected: [member(1)].into(),
        last_log: log(1),
        is_behind_promise: false,
        latency: Latency::default(),
    };
    let mut effects = Vec::new();
    for ms in 0..400 {
        effects.extend(election.step(Millis(ms), &view, 0, ElectionInput::Tick));
    }
    let round = match effects[..] {
        [ElectionEffect::Ask { to, round, .. }] if to == member(3) => round,
        ref other => panic!("expected one question, found {other:?}"),
    };
    let answer = |round| ElectionInput::Answered { round, from: member(3), granted: true, log: log(1), primary: None };
    let stale = election.step(Millis(400), &view, 0, answer(PreVoteRound(round.0 - 1)));
    assert_eq!(stale, []);
    assert_eq!(election.step(Millis(401), &view, 0, answer(round)), [ElectionEffect::Elect]);
}

#[test]
fn strangers_and_other_quorums_get_no_say() {
    let mut quorum = Quorum::new(&[10; 3]);
    quorum.kill(member(1));
    let node = quorum.nodes.get_mut(&member(2)).unwrap();
    let question =
        PreVote { quorum: QUORUM, term: Term(1), candidate: member(8), missing: Some(member(1)), last_log: log(99) };
    let answer = node.election.answer(quorum.now, &node.view, &question);
    assert_eq!(answer, LivenessAnswer::NotMember);
    let elsewhere = PreVote { quorum: QuorumId([1; 16]), candidate: member(3), ..question };
    assert_eq!(node.election.answer(quorum.now, &node.view, &elsewhere), LivenessAnswer::NotMember);
}

proptest! {
    /// With a majority alive somebody leads within a few seconds, whatever the logs, the losses and the jitter.
    #[test]
    fn a_majority_always_gets_a_primary(
        logs in proptest::collection::vec(1u64..4, 3..8),
        lost in proptest::collection::btree_set(1u8..8, 0..3),
        seed: u64,
    ) {
        let mut quorum = Quorum::new(&logs);
        quorum.random = seed;
        let size = logs.len();
        quorum.kill(member(1));
        for n in lost.into_iter().filter(|n| usize::from(*n) <= size && *n != 1) {
            if quorum.alive.len() > size / 2 + 1 {
                quorum.kill(member(n));
            }
        }
        let began = quorum.now;
        while quorum.primary.is_none() && quorum.now.since(began) < Duration::from_secs(8) {
            quorum.run(50);
        }
        // Whoever else had begun must now leave it at that.
        quorum.run(300);
        prop_assert!(quorum.primary.is_some(), "{:?}", quorum.elections);
        prop_assert!(quorum.elections.len() <= 3, "{:?}", quorum.elections);
    }
}

/// Goal: a member that left and came back has no voice before its log is as long as the one that it had: it answers no
/// candidate and never runs.
#[test]
fn who_is_behind_its_promise_has_no_voice() {
    let mut election = Election::new(QUORUM, member(2));
    let ready = View {
        configurations: vec![Voters::new([1, 2, 3].map(member))],
        term: Term(1),
        primary: Some(member(1)),
        primary_leads: true,
        suspected: [member(1)].into(),
        last_log: log(10),
        ..View::default()
    };
    let behind = View { is_behind_promise: true, ..ready.clone() };
    let question =
        PreVote { quorum: QUORUM, term: Term(1), candidate: member(3), missing: Some(member(1)), last_log: log(10) };
    let now = Millis(1_000);
    assert_eq!(election.answer(now, &behind, &question), LivenessAnswer::NotMember);
    for ms in 0..60_000 {
        assert_eq!(election.step(now.plus(Duration::from_millis(ms)), &behind, 0, ElectionInput::Tick), []);
    }
    let granted = election.answer(now, &ready, &question);
    assert!(matches!(granted, LivenessAnswer::PreVote { granted: true, .. }), "{granted:?}");
}
