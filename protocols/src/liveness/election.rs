//! Elections: when a voter runs for primary, and when it lets another run. One core per quorum that the node is a voter
//! of.
//!
//! openraft keeps the quorum safe whatever happens here; this core decides only *when* `trigger().elect()` is called.
//! A voter whose primary is suspected (or that has known no primary for [`LEADERLESS_MAX`]) waits for its turn by
//! rank, asks the other voters whether they miss the primary too (a pre-vote), and with a majority's yes elects. A
//! voter with a longer log answers no: openraft would refuse the vote after the term had been raised, for ever. So
//! terms rise only when somebody can win. A primary that a voter does not trust any more is missed like one that leads
//! nothing; there each round is counted to its end, for the primary itself, and voters that trust it, always say no.
//!
//! Promises: at most one candidacy of this node at a time; no election without a majority of every current
//! configuration; an answer that belongs to an earlier round is ignored. It does not promise that two nodes never run
//! at once, only that they rarely do: staggered starts, a granted pre-vote defers the granter's own candidacy, and
//! failures back off with jitter. All of its waits follow the latency of the voters that are needed: a voter never
//! tries anew before an election that is under way has had the time that its round trips and syncs take.

use std::collections::BTreeSet;
use std::time::Duration;

use super::latency::Latency;
use super::limits::{BACKOFF_MAX, CANDIDATE_STAGGER, ELECTION_MIN, LEADERLESS_MAX, PRE_VOTE_MIN, RETRY_MIN};
use super::message::{LivenessAnswer, LogPosition, PreVote};
use crate::backoff::Backoff;
use crate::ids::{MemberId, Millis, QuorumId, Term};
use crate::membership::Voters;

/// What this node believes about the quorum at the time of a call, read from raft and from the detector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The voters: one configuration, or both while a joint one lasts.
    pub configurations: Vec<Voters>,
    pub term: Term,
    pub primary: Option<MemberId>,
    /// False when the primary's node said that it does not lead this quorum (or, on the primary itself, when it no
    /// longer hears a majority).
    pub primary_leads: bool,
    /// This node does not trust the primary any more, which counts as one that leads nothing, whatever it says itself.
    pub distrusts_primary: bool,
    /// Voters whose nodes the detector suspects.
    pub suspected: BTreeSet<MemberId>,
    pub last_log: LogPosition,
    /// This member left and was taken in again, and its log is not as long again: it neither runs nor lets run.
    pub is_behind_promise: bool,
    /// Of the slowest voter that a majority needs, this one included.
    pub latency: Latency,
}

impl View {
    /// The primary, if it is a voter. Whoever else leads is followed by nobody: it was removed, or was never elected by
    /// those whose majority counts.
    fn primary(&self) -> Option<MemberId> {
        self.primary.filter(|primary| self.is_voter(*primary))
    }
    /// Whether this node follows the primary, unless it is suspected.
    fn primary_counts(&self) -> bool {
        self.primary_leads && !self.distrusts_primary
    }
    fn is_voter(&self, member: MemberId) -> bool {
        self.configurations.iter().any(|voters| voters.contains(member))
    }
    /// Whether this node's voice counts.
    fn has_voice(&self, me: MemberId) -> bool {
        self.is_voter(me) && !self.is_behind_promise
    }
    fn voters(&self) -> BTreeSet<MemberId> {
        self.configurations.iter().flat_map(Voters::iter).collect()
    }
    fn is_majority(&self, voices: &BTreeSet<MemberId>) -> bool {
        !self.configurations.is_empty() && self.configurations.iter().all(|voters| voters.is_majority(voices))
    }
    /// How far apart candidates start.
    fn stagger(&self) -> Duration {
        CANDIDATE_STAGGER.max(self.latency.round_trip)
    }
    /// How long a primary that nobody suspects may lead nothing. Two elections fit in it.
    fn leaderless_max(&self) -> Duration {
        LEADERLESS_MAX.max(2 * (self.latency.election() + self.latency.round_trip))
    }
}

/// After failures a candidate waits for up to so many times more.
const PATIENCE_GROWTH_MAX: u32 = 3;

/// A wait doubles this often: what keeps votes apart must not keep a quorum without a primary.
const DOUBLINGS_MAX: u32 = 6;

/// Names one round of pre-votes of one quorum on this node; its answers repeat it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PreVoteRound(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElectionInput {
    /// Time passed or the view changed. Due whenever the view changes and at `Election::wake_at`.
    Tick,
    /// A voter answered our pre-vote.
    Answered { round: PreVoteRound, from: MemberId, granted: bool, log: LogPosition, primary: Option<MemberId> },
    /// A voter could not be asked, or is no member.
    Unanswered { round: PreVoteRound, from: MemberId },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElectionEffect {
    Ask {
        to: MemberId,
        round: PreVoteRound,
        question: PreVote,
    },
    /// Call `trigger().elect()` now.
    Elect,
}

#[derive(Clone, Debug)]
enum Phase {
    /// The primary is known and, as far as we know, leads.
    Content,
    /// Nobody leads, and nobody is suspected: perhaps an election is under way.
    Leaderless {
        until: Millis,
    },
    /// Waiting for our turn.
    Waiting {
        until: Millis,
    },
    Asking {
        round: PreVoteRound,
        until: Millis,
        granted: BTreeSet<MemberId>,
        pending: BTreeSet<MemberId>,
    },
    /// A majority agreed.
    Granted,
    /// A vote of ours is under way.
    Electing {
        until: Millis,
    },
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Election {
    quorum: QuorumId,
    me: MemberId,
    phase: Phase,
    /// The primary that was lost, for ranking; openraft forgets it at the first higher term.
    lost: Option<MemberId>,
    round: PreVoteRound,
    failures: u32,
}

impl Election {
    pub fn new(quorum: QuorumId, me: MemberId) -> Self {
        Self { quorum, me, phase: Phase::Content, lost: None, round: PreVoteRound::default(), failures: 0 }
    }

    /// Contract: call for every input with a fresh view and perform the effects in order. `random` is 64 fresh random
    /// bits, used for jitter.
    pub fn step(&mut self, now: Millis, view: &View, random: u64, input: ElectionInput) -> Vec<ElectionEffect> {
        let mut effects = Vec::new();
        if !self.wants_primary(now, view) {
            return effects;
        }
        match input {
            ElectionInput::Tick => {}
            ElectionInput::Answered { round, from, granted: true, .. } => self.count(view, round, from),
            ElectionInput::Answered { round, from, granted: false, log, primary } => {
                self.note_refusal(now, view, random, round, from, log, primary);
            }
            ElectionInput::Unanswered { round, from } => {
                if let Phase::Asking { round: current, pending, .. } = &mut self.phase
                    && *current == round
                {
                    pending.remove(&from);
                }
            }
        }
        self.advance(now, view, random, &mut effects);
        effects
    }

    /// Answers another voter's pre-vote. A yes defers this node's own candidacy, so that the asker gets its chance.
    pub fn answer(&mut self, now: Millis, view: &View, question: &PreVote) -> LivenessAnswer {
        // Whoever is no voter cannot win, so its question changes nothing here.
        if !view.has_voice(self.me) || !view.is_voter(question.candidate) || question.quorum != self.quorum {
            return LivenessAnswer::NotMember;
        }
        // Of two beliefs about who leads, the one of the higher term counts.
        let believed = match question.missing {
            Some(missing) if question.term > view.term && view.is_voter(missing) => Some(missing),
            _ => view.primary(),
        };
        let missed = match believed {
            None => true,
            // A primary that asks has itself lost its lead, by a restart for example.
            Some(primary) => {
                primary == question.candidate
                    || view.suspected.contains(&primary)
                    || (Some(primary) == view.primary() && !view.primary_counts())
            }
        };
        // Of two that ask each other at the same moment one must insist, or both would yield, for ever.
        let insists = match self.phase {
            Phase::Electing { until } => now < until,
            Phase::Asking { until, .. } => now < until && self.distance(self.me) < self.distance(question.candidate),
            _ => false,
        };
        let busy = insists && question.last_log == view.last_log;
        let granted = missed && !busy && question.last_log >= view.last_log;
        if granted && !matches!(self.phase, Phase::Content | Phase::Electing { .. }) {
            // The answer's way back, the election, and the winner's first append.
            let until = now.plus(view.latency.election() + view.latency.round_trip + 2 * view.stagger());
            match &mut self.phase {
                Phase::Leaderless { until: own } => *own = (*own).max(now.plus(view.leaderless_max())),
                // A majority already agreed to ours; yielding now would let each wait for the other.
                Phase::Granted => {}
                Phase::Waiting { until: own } => *own = (*own).max(until),
                _ => self.phase = Phase::Waiting { until },
            }
        }
        // A refusal for the log's sake must not look like one for a primary's sake.
        let primary = if missed { None } else { believed };
        LivenessAnswer::PreVote { granted, my_log: view.last_log, primary }
    }

    /// When to tick next, if nothing happens before.
    pub fn wake_at(&self) -> Option<Millis> {
        match self.phase {
            Phase::Content | Phase::Granted => None,
            Phase::Leaderless { until }
            | Phase::Waiting { until }
            | Phase::Asking { until, .. }
            | Phase::Electing { until } => Some(until),
        }
    }

    /// Updates what we miss from the view; false when there is nothing to do.
    fn wants_primary(&mut self, now: Millis, view: &View) -> bool {
        let healthy = view.primary().is_some_and(|primary| view.primary_counts() && !view.suspected.contains(&primary));
        if healthy || !view.has_voice(self.me) {
            (self.phase, self.lost, self.failures) = (Phase::Content, None, 0);
            return false;
        }
        let suspected = view.primary().filter(|primary| view.suspected.contains(primary));
        if suspected.is_some() && self.lost != suspected {
            // Another loss than the one before, if there was one: turns are counted anew. A wait that was left over
            // from letting the primary run that is now lost would be the same at every voter.
            (self.phase, self.lost) = (Phase::Content, suspected);
        }
        match (&self.phase, suspected) {
            (Phase::Content | Phase::Leaderless { .. }, Some(_)) => {
                self.phase = Phase::Waiting { until: now.plus(self.turn(view)) };
            }
            (Phase::Content, None) => self.phase = Phase::Leaderless { until: now.plus(view.leaderless_max()) },
            _ => {}
        }
        true
    }

    fn advance(&mut self, now: Millis, view: &View, random: u64, effects: &mut Vec<ElectionEffect>) {
        if let Phase::Leaderless { until } = self.phase {
            if now < until {
                return;
            }
            self.phase = Phase::Waiting { until: until.plus(self.turn(view)) };
        }
        if let Phase::Waiting { until } = self.phase
            && now >= until
        {
            self.ask(now, view, effects);
        }
        if let Phase::Asking { until, pending, .. } = &self.phase
            && (now >= *until || pending.is_empty())
        {
            self.back_off(now, view, random);
        }
        match self.phase {
            Phase::Granted => {
                // To give up too soon would raise the term under a winner, for a sync may wait for another: twice what
                // an election usually takes, and more after each that came to nothing, for latencies may have grown
                // since.
                let usual = 2 * view.latency.election() + ELECTION_MIN;
                let patience = usual * (1 + self.failures.min(PATIENCE_GROWTH_MAX));
                self.phase = Phase::Electing { until: now.plus(patience) };
                effects.push(ElectionEffect::Elect);
            }
            // The view would have shown a primary by now.
            Phase::Electing { until } if now >= until => self.back_off(now, view, random),
            _ => {}
        }
    }

    fn ask(&mut self, now: Millis, view: &View, effects: &mut Vec<ElectionEffect>) {
        self.round.0 += 1;
        let others: BTreeSet<_> =
            view.voters().into_iter().filter(|&voter| voter != self.me && Some(voter) != self.lost).collect();
        // A primary whose own node denies that it leads is none, nor is one that was lost and is back since: voters who
        // never heard of its lead, and hear its node, would wait for it for ever.
        let missing = match view.primary() {
            Some(primary) => view.primary_counts().then_some(primary),
            None => self.lost.filter(|lost| view.suspected.contains(lost)),
        };
        let question =
            PreVote { quorum: self.quorum, term: view.term, candidate: self.me, missing, last_log: view.last_log };
        effects.extend(others.iter().map(|&to| ElectionEffect::Ask { to, round: self.round, question }));
        let until = now.plus(PRE_VOTE_MIN.max(2 * view.latency.round_trip));
        self.phase = Phase::Asking { round: self.round, until, granted: [self.me].into(), pending: others };
        // A quorum of one voter, or whose others are gone from the configuration: our own voice may be enough.
        self.settle(view);
    }

    fn count(&mut self, view: &View, answered: PreVoteRound, from: MemberId) {
        if let Phase::Asking { round, granted, pending, .. } = &mut self.phase
            && *round == answered
            && pending.remove(&from)
        {
            granted.insert(from);
            self.settle(view);
        }
    }

    fn settle(&mut self, view: &View) {
        if let Phase::Asking { granted, .. } = &self.phase
            && view.is_majority(granted)
        {
            self.phase = Phase::Granted;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one answer")]
    fn note_refusal(
        &mut self,
        now: Millis,
        view: &View,
        random: u64,
        answered: PreVoteRound,
        from: MemberId,
        log: LogPosition,
        primary: Option<MemberId>,
    ) {
        let Phase::Asking { round, pending, .. } = &mut self.phase else { return };
        if *round != answered || !pending.remove(&from) {
            return;
        }
        // Its own word that it leads, or of its longer log, is none to a voter that does not trust it.
        if view.distrusts_primary && view.primary() == Some(from) {
            return;
        }
        if log > view.last_log {
            // Only the longest log can win: let its owner run first, by as much as a whole election takes.
            let stagger = view.stagger();
            let patience = view.latency.election() + 3 * stagger + jitter(random, stagger);
            self.phase = Phase::Waiting { until: now.plus(patience) };
        } else if primary.is_some() && !view.distrusts_primary {
            // Somebody hears a primary that we do not: our own line may be the broken one, or the news is still on its
            // way there. So the first time it is asked again soon.
            self.back_off_from(RETRY_MIN.max(view.latency.round_trip / 2), now, view, random);
        }
    }

    fn back_off(&mut self, now: Millis, view: &View, random: u64) {
        self.back_off_from(view.stagger(), now, view, random);
    }

    /// Waits for `least`, twice as long with each failure.
    fn back_off_from(&mut self, least: Duration, now: Millis, view: &View, random: u64) {
        let most = BACKOFF_MAX.max(view.latency.election());
        let base = Backoff::new(least, most).pause(self.failures.min(DOUBLINGS_MAX));
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Waiting { until: now.plus(base + jitter(random, base)) };
    }

    /// From a member's peer to this quorum.
    fn distance(&self, member: MemberId) -> ([u8; 32], MemberId) {
        let mut distance = *member.peer.as_bytes();
        for (byte, id) in distance.iter_mut().zip(self.quorum.as_bytes().iter().cycle()) {
            *byte ^= id;
        }
        (distance, member)
    }

    /// How long after the loss this voter starts. Ranks follow the distance of peer and quorum id, so that a node that
    /// led many quorums is succeeded by many nodes; suspected voters take no turn.
    fn turn(&self, view: &View) -> Duration {
        let ours = self.distance(self.me);
        let ahead = view
            .voters()
            .into_iter()
            .filter(|&voter| {
                Some(voter) != self.lost && !view.suspected.contains(&voter) && self.distance(voter) < ours
            })
            .count();
        view.stagger() * ahead as u32
    }
}

fn jitter(random: u64, up_to: Duration) -> Duration {
    Duration::from_millis(random % (up_to.as_millis() as u64 + 1))
}
