//! The failure detector and the election under any order of heartbeats, silences, answers and changing views.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_protocols::ids::{BootId, Incarnation, LogIndex, MemberId, Millis, PeerId, QuorumId, Term};
use quorate_protocols::liveness::limits::{HEARTBEAT_INTERVAL, SUSPICION_MAX};
use quorate_protocols::liveness::{
    Detector, DetectorEffect, DetectorInput, Election, ElectionEffect, ElectionInput, Latency, LivenessAnswer,
    LogPosition, PreVote, PreVoteRound, View,
};
use quorate_protocols::quorum::Voters;

use super::Target;
use crate::script::{Step, steps};
use crate::trail::Trail;

const PEERS: u8 = 5;

pub fn detector_target() -> Target {
    Target::script("detector", run_detector)
}

pub fn election_target() -> Target {
    Target::script("election", run_election)
}

/// A detector and who was last said to be suspected.
struct Watch {
    detector: Detector,
    suspected: BTreeSet<PeerId>,
    trail: Trail,
}

impl Watch {
    fn step(&mut self, now: Millis, input: DetectorInput) {
        for effect in self.detector.step(now, input) {
            self.trail.mark_variant("effect", &effect);
            let (peer, news) = match effect {
                DetectorEffect::Suspected { peer, .. } => (peer, self.suspected.insert(peer)),
                DetectorEffect::Recovered { peer } => (peer, self.suspected.remove(&peer)),
                DetectorEffect::Restarted { peer, .. } | DetectorEffect::Dial { peer } => (peer, true),
            };
            assert!(news && self.detector.is_watched(peer), "{effect:?} is no news, or nobody asked");
        }
        self.suspected.retain(|peer| self.detector.is_watched(*peer));
        assert_eq!(self.suspected, self.detector.suspected(), "a suspicion changed and nobody was told");
        for &peer in &self.suspected {
            let (since, lost) = (self.detector.suspected_since(peer), self.detector.lost_at(peer));
            assert!(
                lost <= since && since <= Some(now),
                "{peer} was lost at {lost:?}, suspected at {since:?}, now {now:?}"
            );
        }
    }
}

fn run_detector(bytes: &[u8]) -> Trail {
    let mut now = Millis(0);
    let mut watch = Watch { detector: Detector::new(now), suspected: BTreeSet::new(), trail: Trail::default() };
    for step in steps(bytes) {
        let (peer, boot) = (PeerId([step.byte(1) % PEERS; 32]), BootId([step.byte(2) % 3; 16]));
        now = Millis(now.0 + (step.wide(3) >> 40));
        watch.step(
            now,
            match step.below(0, 10) {
                0 => DetectorInput::Watch { peer },
                1 if step.byte(2) > 200 => DetectorInput::Unwatch { peer },
                1..=3 => DetectorInput::Heartbeat { peer, boot },
                4 => DetectorInput::Connected { peer },
                5 => DetectorInput::Disconnected { peer },
                6 => DetectorInput::Refused { peer },
                _ => DetectorInput::Tick,
            },
        );
    }
    // In silence all are suspected, whatever went before; then one sign of life each is enough.
    for _ in 0..=SUSPICION_MAX.as_millis() / HEARTBEAT_INTERVAL.as_millis() + 1 {
        now = now.plus(HEARTBEAT_INTERVAL);
        watch.step(now, DetectorInput::Tick);
    }
    let watched: BTreeSet<_> = watch.detector.watched().collect();
    assert_eq!(watch.suspected, watched, "a silent peer is never suspected");
    for peer in watched {
        watch.step(now, DetectorInput::Heartbeat { peer, boot: BootId([9; 16]) });
    }
    assert_eq!(watch.suspected, BTreeSet::new());
    watch.trail
}

fn member(index: u8) -> MemberId {
    MemberId { peer: PeerId([index; 32]), incarnation: Incarnation(1) }
}

fn members(step: Step<'_>, at: usize) -> BTreeSet<MemberId> {
    (0..PEERS).filter(|index| step.is_set(at, *index)).map(member).collect()
}

fn log(step: Step<'_>, at: usize) -> LogPosition {
    LogPosition { term: Term(u64::from(step.byte(at) >> 4)), index: LogIndex(u64::from(step.byte(at) & 15)) }
}

fn run_election(bytes: &[u8]) -> Trail {
    let (me, quorum) = (member(0), QuorumId([7; 16]));
    let (mut election, mut trail) = (Election::new(quorum, me), Trail::default());
    let mut view = View { configurations: vec![Voters::new((0..3).map(member))], ..View::default() };
    let mut now = Millis(1_000);
    // The round under way: whom it asked, who said yes, and whether they were once a majority.
    let (mut round, mut asked, mut granted, mut is_won) = (PreVoteRound(0), BTreeSet::new(), BTreeSet::new(), false);
    let majority = |view: &View, voices: &BTreeSet<MemberId>| {
        !view.configurations.is_empty() && view.configurations.iter().all(|voters| voters.is_majority(voices))
    };
    // Whoever leads without being a voter is followed by nobody.
    let followed =
        |view: &View| view.primary.filter(|primary| view.configurations.iter().any(|voters| voters.contains(*primary)));
    for step in steps(bytes) {
        now = Millis(now.0 + (step.wide(7) >> 40));
        let from = member(step.byte(1) % PEERS);
        let input = match step.below(0, 10) {
            0 => {
                view.configurations = vec![Voters::new(members(step, 1))];
                if step.is_set(2, 7) {
                    view.configurations.push(Voters::new(members(step, 2)));
                }
                ElectionInput::Tick
            }
            1 | 2 => {
                view.primary = (step.byte(1) % 8 < PEERS).then(|| member(step.byte(1) % PEERS));
                view.primary_leads = step.is_set(2, 0);
                view.suspected = members(step, 3);
                let of = |byte| Duration::from_millis(4 * u64::from(byte));
                view.latency = Latency { round_trip: of(step.byte(4)), sync: of(step.byte(2)) };
                (view.term, view.last_log) = (Term(u64::from(step.byte(5) % 8)), log(step, 6));
                ElectionInput::Tick
            }
            3..=5 => {
                let round = PreVoteRound(round.0.saturating_sub(u64::from(step.byte(2) > 230)));
                let (granted, primary) = (step.byte(3) < 170, step.is_set(4, 0).then(|| member(step.byte(4) % PEERS)));
                ElectionInput::Answered { round, from, granted, log: log(step, 5), primary }
            }
            6 => ElectionInput::Unanswered { round, from },
            7 => {
                let question = PreVote {
                    quorum,
                    term: Term(u64::from(step.byte(2) % 8)),
                    candidate: from,
                    missing: step.is_set(3, 0).then(|| member(step.byte(3) % PEERS)),
                    last_log: log(step, 4),
                };
                let answer = election.answer(now, &view, &question);
                trail.mark_variant("answer", &answer);
                if let LivenessAnswer::PreVote { granted: true, .. } = answer {
                    let sees = followed(&view).is_some_and(|primary| {
                        primary != from && view.primary_leads && !view.suspected.contains(&primary)
                    });
                    assert!(!sees || question.term > view.term, "let go of a primary that it sees");
                    assert!(question.last_log >= view.last_log, "let a shorter log run");
                }
                continue;
            }
            _ => ElectionInput::Tick,
        };
        let healthy = followed(&view).is_some_and(|primary| view.primary_leads && !view.suspected.contains(&primary));
        let is_voter = view.configurations.iter().any(|voters| voters.contains(me));
        // A quorum of one asks nobody; a win outlives a change of the voters until it is used.
        is_won |= majority(&view, &BTreeSet::from([me]));
        if let ElectionInput::Answered { round: of, from, granted: true, .. } = input
            && of == round
            && asked.contains(&from)
        {
            granted.insert(from);
            is_won |= majority(&view, &granted);
        }
        for effect in election.step(now, &view, u64::from(step.byte(6)), input) {
            trail.mark_variant("effect", &effect);
            assert!(!healthy && is_voter, "{effect:?} though nothing is missing, or without a vote");
            match effect {
                ElectionEffect::Ask { to, round: of, question } => {
                    assert!(to != me && of >= round && question.candidate == me);
                    if of > round {
                        (round, asked, granted) = (of, BTreeSet::new(), BTreeSet::from([me]));
                        is_won = majority(&view, &granted);
                    }
                    assert!(asked.insert(to), "{to:?} is asked twice");
                }
                ElectionEffect::Elect => {
                    assert!(is_won, "runs without a majority's yes");
                    is_won = false;
                }
            }
        }
        // Whoever misses a primary has a time at which it goes on.
        let waits = election.wake_at().is_some_and(|wake| wake > now);
        assert!(healthy || !is_voter || waits, "nothing will happen any more: {election:?} at {now:?}");
    }
    trail
}
