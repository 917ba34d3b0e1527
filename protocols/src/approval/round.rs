//! One approval round: from ranked candidates to enough signed promises, or to the reasons why not.
//!
//! More peers are asked at once than are needed, and another whenever one refuses, fails or is slow, so that no single
//! peer sets the pace. An approval counts once per approver and only when everything in it is right: the signature,
//! the asker, the nonce, the subject, the digest of the requirement, the duration. A wrong one is that peer's fault and
//! excludes it from the round. When everybody else was asked and there are not enough, those whose question took long
//! and came to nothing are asked the same again: a machine that is busy is not one that will not, and the same question
//! gets the same promise. With `wanted` approvals the round ends at once; with `needed`, after a short wait for
//! the rest. What is won and not used is released, also when it comes after the end.
//!
//! Distant peers ([`distant_peers`]) are asked only when the nearer ones cannot be enough, and waited for then. How
//! long anybody is waited for follows the round trip that was measured to it.
//!
//! Nobody waits for a peer that is known to be absent, from the start or since ([`RoundInput::Absent`]): it is asked
//! only when the others cannot be enough, and the round ends as if it had said no. A round that ends with less than was
//! wanted says whether anybody who may come is left (`exhausted`).
//!
//! The asker trusts a promise for [`LEASE_TRUST_PERCENT`] of the time that an unused one lasts, counted from when it
//! *asked*: the approver's clock started later, so the approver lets go after the asker has stopped counting on it.
//!
//! Whoever drives the round performs the effects, reports every answer and every failure to answer, and ticks at
//! [`Round::wake_at`]. It stops when [`Round::is_idle`]; answers that it does not wait for end by themselves, as
//! leases.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::limits::{
    CANDIDATES_MAX, EXTRA_WAIT, LEASE_DURATION_MAX, OVER_ASK, ROUND_DEADLINE, UNUSED_LEASE_MAX, VOLUNTEERS_WAIT,
    deadline, slow_after,
};
use super::message::{Approval, ApprovalAnswer, ApprovalRequest, Refusal, Subject};
use crate::capacity::Requirement;
use crate::ids::{Digest, LeaseId, Millis, Nonce, PeerId};
use crate::liveness::distant_peers;
use crate::liveness::patience::LEASE_TRUST_PERCENT;

/// What a round is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundSpec {
    pub asker: PeerId,
    pub subject: Subject,
    pub requirement: Requirement,
    pub duration: Duration,
    /// Fresh for this round.
    pub nonce: Nonce,
    /// With fewer the round fails.
    pub needed: usize,
    /// With as many it ends at once. Taken as `needed` when it is less.
    pub wanted: usize,
    /// Never asked, whether they are candidates or volunteers.
    pub exclude: BTreeSet<PeerId>,
    /// Known to be absent: asked when the others cannot be enough, and not waited for.
    pub absent: BTreeSet<PeerId>,
    /// What answers of the peers take, as far as it was measured. The distant ones among them are asked when the others
    /// cannot be enough.
    pub round_trips: BTreeMap<PeerId, Duration>,
    /// Whether a round that lacks candidates asks for volunteers and waits for them.
    pub volunteers: bool,
}

/// What a promise must repeat to be one for what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub asker: PeerId,
    pub nonce: Nonce,
    pub subject: Subject,
    pub requirement: Digest,
    pub duration: Duration,
}

impl Asked {
    /// Whether `peer` promised exactly this.
    pub fn check(&self, peer: PeerId, approval: &Approval) -> Result<(), PeerFault> {
        let statement = &approval.statement;
        let parts = [
            ("approver", statement.approver == peer),
            ("asker", statement.asker == self.asker),
            ("nonce", statement.nonce == self.nonce),
            ("subject", statement.subject == self.subject),
            ("requirement", statement.requirement == self.requirement),
            ("duration", statement.duration == self.duration),
        ];
        if let Some((field, _)) = parts.into_iter().find(|(_, same)| !same) {
            return Err(PeerFault::Mismatch { peer, field });
        }
        // Last, because it costs the most.
        if approval.is_genuine() { Ok(()) } else { Err(PeerFault::Signature { peer }) }
    }
}

/// A checked promise, and until when to count on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    pub approval: Approval,
    /// On the asker's monotonic clock.
    pub trusted_until: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoundInput {
    Answered {
        peer: PeerId,
        answer: ApprovalAnswer,
    },
    /// The question failed; whether the peer promised is unknown.
    Silent {
        peer: PeerId,
    },
    /// A peer offered itself.
    Volunteered {
        peer: PeerId,
    },
    /// The peer is known to be absent from now on.
    Absent {
        peer: PeerId,
    },
    Tick,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoundEffect {
    Ask {
        peer: PeerId,
        request: ApprovalRequest,
    },
    /// Give the lease back; best effort, for it ends by itself.
    Release {
        peer: PeerId,
        lease: LeaseId,
    },
    /// Too few candidates are left: announce the job, and report those that offer themselves. At most once per round.
    WantVolunteers,
    /// The best first: in the order in which they answered. `exhausted`: fewer than wanted, and whoever may come has
    /// answered.
    Done {
        granted: Vec<Granted>,
        exhausted: bool,
    },
    /// Everything that was granted has been released.
    Failed {
        granted: usize,
        refusals: Vec<(PeerId, Refusal)>,
        silent: Vec<PeerId>,
        exhausted: bool,
    },
}

/// What a peer did that an honest one does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    #[error("{peer} answered a question that it was not asked")]
    NotAsked { peer: PeerId },
    #[error("{peer} answered with another sort of message")]
    WrongAnswer { peer: PeerId },
    #[error("the approval of {peer} names another {field} than was asked for")]
    Mismatch { peer: PeerId, field: &'static str },
    #[error("the signature on the approval of {peer} does not verify")]
    Signature { peer: PeerId },
}

impl PeerFault {
    /// The reason in the form in which the network layer counts it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotAsked { .. } => "approval: answer without a question",
            Self::WrongAnswer { .. } => "approval: wrong sort of answer",
            Self::Mismatch { .. } => "approval: promise for something else",
            Self::Signature { .. } => "approval: bad signature",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// `first`: when it was asked for the first time, from which the promise is trusted.
    Asked {
        first: Millis,
        at: Millis,
        slow: bool,
    },
    Granted,
    Refused,
    /// Given up; its question may still be under way.
    Silent {
        first: Millis,
        at: Millis,
    },
    /// Its question failed. `again`: it took so long that asking once more may help.
    Unanswered {
        first: Millis,
        again: bool,
    },
    Faulty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Volunteers {
    NotWanted,
    AwaitedUntil(Millis),
    /// Whoever would come has had the time to.
    Over,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Round {
    spec: RoundSpec,
    digest: Digest,
    started: Millis,
    queue: VecDeque<PeerId>,
    /// Distant candidates, asked after the nearer ones, and absent ones, asked after all others.
    distant: VecDeque<PeerId>,
    last: VecDeque<PeerId>,
    /// Who is distant among those whose round trip is known.
    far: BTreeSet<PeerId>,
    /// Every candidate ever taken up, so that none is asked twice.
    known: BTreeSet<PeerId>,
    asked: BTreeMap<PeerId, Standing>,
    granted: Vec<Granted>,
    refusals: Vec<(PeerId, Refusal)>,
    /// When the count first reached `needed`.
    enough_since: Option<Millis>,
    volunteers: Volunteers,
    ended: bool,
}

impl Round {
    /// Starts a round over `candidates`, best first.
    pub fn start(
        now: Millis,
        mut spec: RoundSpec,
        candidates: impl IntoIterator<Item = PeerId>,
    ) -> (Self, Vec<RoundEffect>) {
        spec.wanted = spec.wanted.max(spec.needed);
        spec.duration = spec.duration.min(LEASE_DURATION_MAX);
        let mut round = Self {
            far: distant_peers(&spec.round_trips),
            distant: VecDeque::new(),
            digest: spec.requirement.digest(),
            spec,
            started: now,
            queue: VecDeque::new(),
            last: VecDeque::new(),
            known: BTreeSet::new(),
            asked: BTreeMap::new(),
            granted: Vec::new(),
            refusals: Vec::new(),
            enough_since: None,
            volunteers: Volunteers::NotWanted,
            ended: false,
        };
        for peer in candidates {
            round.take_up(peer);
        }
        let mut effects = Vec::new();
        round.advance(now, &mut effects);
        (round, effects)
    }

    /// Contract: call for every input and perform the effects in order, also those that come after `Done` or `Failed`.
    /// On a fault the peer is out of the round; call once more with `Tick` to go on without it.
    pub fn step(&mut self, now: Millis, input: RoundInput) -> Result<Vec<RoundEffect>, PeerFault> {
        let mut effects = Vec::new();
        match input {
            RoundInput::Answered { peer, answer } => self.note_answer(now, peer, answer, &mut effects)?,
            RoundInput::Silent { peer } => {
                let slow = slow_after(self.round_trip(peer));
                if let Some(standing) = self.asked.get_mut(&peer)
                    && let Standing::Asked { first, at, .. } | Standing::Silent { first, at } = *standing
                {
                    // Only now: while the question is under way, a second answer would look like one unasked for.
                    *standing = Standing::Unanswered { first, again: now.since(at) >= slow };
                }
            }
            RoundInput::Volunteered { peer } => {
                // Whoever offers itself is there.
                self.spec.absent.remove(&peer);
                self.take_up(peer);
            }
            RoundInput::Absent { peer } => {
                self.spec.absent.insert(peer);
                for queue in [&mut self.queue, &mut self.distant] {
                    let before = queue.len();
                    queue.retain(|queued| *queued != peer);
                    self.last.extend((queue.len() < before).then_some(peer));
                }
            }
            RoundInput::Tick => {}
        }
        self.advance(now, &mut effects);
        Ok(effects)
    }

    /// When to tick next; `None` once ended.
    pub fn wake_at(&self) -> Option<Millis> {
        if self.ended {
            return None;
        }
        let questions = self.asked.iter().filter_map(|(peer, standing)| match standing {
            Standing::Asked { at, slow: false, .. } => Some(at.plus(slow_after(self.round_trip(*peer)))),
            Standing::Asked { at, slow: true, .. } => Some(at.plus(deadline(self.round_trip(*peer)))),
            _ => None,
        });
        let extra = self.enough_since.map(|since| since.plus(self.extra_wait()));
        let trust = self.granted.iter().map(|granted| granted.trusted_until);
        let volunteers = match self.volunteers {
            // With enough promises nobody waits for volunteers any more, and their time may long be up.
            Volunteers::AwaitedUntil(until) if self.enough_since.is_none() => Some(until),
            _ => None,
        };
        questions.chain(trust).chain(extra).chain(volunteers).chain([self.started.plus(ROUND_DEADLINE)]).min()
    }

    /// Whether `Done` or `Failed` was emitted.
    pub fn is_ended(&self) -> bool {
        self.ended
    }
    /// Whether the round ended and no answer is outstanding, so that nothing is left to release.
    pub fn is_idle(&self) -> bool {
        self.ended && !self.asked.values().any(|standing| matches!(standing, Standing::Asked { .. }))
    }
    /// Peers whose answer the round waits for.
    pub fn awaited(&self) -> impl Iterator<Item = PeerId> + '_ {
        let asked = self.asked.iter().filter(|(_, standing)| matches!(standing, Standing::Asked { .. }));
        let queued = self.queue.iter().chain(&self.distant).copied();
        asked.map(|(peer, _)| *peer).chain(queued).filter(|peer| !self.spec.absent.contains(peer))
    }

    fn take_up(&mut self, peer: PeerId) {
        if self.known.len() < CANDIDATES_MAX && !self.spec.exclude.contains(&peer) && self.known.insert(peer) {
            let queue = match (self.spec.absent.contains(&peer), self.far.contains(&peer)) {
                (true, _) => &mut self.last,
                (false, true) => &mut self.distant,
                (false, false) => &mut self.queue,
            };
            queue.push_back(peer);
        }
    }

    fn note_answer(
        &mut self,
        now: Millis,
        peer: PeerId,
        answer: ApprovalAnswer,
        effects: &mut Vec<RoundEffect>,
    ) -> Result<(), PeerFault> {
        // A peer given up as silent may still answer; one that answered before may not answer again.
        let standing = self.asked.get(&peer);
        let Some(Standing::Asked { .. } | Standing::Silent { .. } | Standing::Unanswered { .. }) = standing else {
            return Err(PeerFault::NotAsked { peer });
        };
        let standing = match answer {
            ApprovalAnswer::Granted(approval) => {
                if let Err(fault) = self.check(peer, &approval) {
                    self.asked.insert(peer, Standing::Faulty);
                    return Err(fault);
                }
                let trusted_until = self.trusted_until(peer, now);
                if self.ended || trusted_until <= now {
                    effects.push(RoundEffect::Release { peer, lease: approval.statement.lease });
                } else {
                    self.granted.push(Granted { approval, trusted_until });
                }
                Standing::Granted
            }
            ApprovalAnswer::Refused(refusal) => {
                self.refusals.push((peer, refusal));
                Standing::Refused
            }
            ApprovalAnswer::Acknowledged => {
                self.asked.insert(peer, Standing::Faulty);
                return Err(PeerFault::WrongAnswer { peer });
            }
        };
        self.asked.insert(peer, standing);
        Ok(())
    }

    fn check(&self, peer: PeerId, approval: &Approval) -> Result<(), PeerFault> {
        let RoundSpec { asker, subject, nonce, duration, .. } = self.spec;
        Asked { asker, nonce, subject, requirement: self.digest, duration }.check(peer, approval)
    }

    fn trusted_until(&self, peer: PeerId, now: Millis) -> Millis {
        let asked_at = match self.asked.get(&peer) {
            Some(
                Standing::Asked { first, .. } | Standing::Silent { first, .. } | Standing::Unanswered { first, .. },
            ) => *first,
            // Nothing was asked before the round began.
            _ => self.started.min(now),
        };
        // Nobody uses it yet.
        let trusted = self.spec.duration.min(UNUSED_LEASE_MAX);
        let trusted_ms = trusted.as_millis() as u64 / 100 * LEASE_TRUST_PERCENT;
        asked_at.plus(Duration::from_millis(trusted_ms))
    }

    /// Peers that were asked and may be waited for.
    fn in_flight(&self, with_slow: bool) -> usize {
        let counts = |(peer, standing): &(&PeerId, &Standing)| {
            matches!(standing, Standing::Asked { slow, .. } if with_slow || !slow) && !self.spec.absent.contains(peer)
        };
        self.asked.iter().filter(counts).count()
    }

    fn advance(&mut self, now: Millis, effects: &mut Vec<RoundEffect>) {
        for (peer, standing) in &mut self.asked {
            if let Standing::Asked { first, at, slow } = *standing {
                let (age, round_trip) = (now.since(at), measured(&self.spec, *peer));
                if age >= deadline(round_trip) {
                    *standing = Standing::Silent { first, at };
                } else {
                    *standing = Standing::Asked { first, at, slow: slow || age >= slow_after(round_trip) };
                }
            }
        }
        if self.ended {
            return;
        }
        self.drop_expired(now, effects);
        if self.granted.len() >= self.spec.wanted {
            return self.finish(false, effects);
        }
        self.ask_more(now, effects);
        self.ask_again(now, effects);
        let enough = self.granted.len() >= self.spec.needed;
        self.enough_since = enough.then(|| self.enough_since.unwrap_or(now));
        let nothing_to_come = self.in_flight(true) == 0 && self.queue.is_empty();
        let overdue = now.since(self.started) >= ROUND_DEADLINE;
        if let Some(since) = self.enough_since {
            if nothing_to_come || overdue || now.since(since) >= self.extra_wait() {
                self.finish(nothing_to_come, effects);
            }
            return;
        }
        // Those that could still say yes. When they cannot be enough, somebody new must be found; ask while they
        // answer.
        let possible = self.granted.len() + self.in_flight(false) + self.queue.len() + self.distant.len();
        match self.volunteers {
            Volunteers::NotWanted if possible < self.spec.needed && !self.spec.volunteers => {
                self.volunteers = Volunteers::Over;
            }
            Volunteers::NotWanted if possible < self.spec.needed => {
                self.volunteers = Volunteers::AwaitedUntil(now.plus(VOLUNTEERS_WAIT));
                effects.push(RoundEffect::WantVolunteers);
            }
            Volunteers::AwaitedUntil(until) if now >= until => self.volunteers = Volunteers::Over,
            _ => {}
        }
        if overdue || (nothing_to_come && self.volunteers == Volunteers::Over) {
            self.fail(nothing_to_come, effects);
        }
    }

    fn ask_more(&mut self, now: Millis, effects: &mut Vec<RoundEffect>) {
        let target = self.spec.wanted.max(self.spec.needed + OVER_ASK);
        while self.granted.len() + self.in_flight(false) < target
            && let Some(peer) = self.queue.pop_front()
        {
            self.ask(now, peer, effects);
        }
        if self.granted.len() + self.in_flight(false) < self.spec.needed {
            while self.granted.len() + self.in_flight(false) < target
                && let Some(peer) = self.distant.pop_front()
            {
                self.ask(now, peer, effects);
            }
        }
        // An absent peer may be back before anybody knows.
        while self.granted.len() + self.in_flight(false) + self.queue.len() < self.spec.needed
            && let Some(peer) = self.last.pop_front()
        {
            self.ask(now, peer, effects);
        }
    }

    fn ask(&mut self, now: Millis, peer: PeerId, effects: &mut Vec<RoundEffect>) {
        self.asked.insert(peer, Standing::Asked { first: now, at: now, slow: false });
        effects.push(RoundEffect::Ask { peer, request: self.request() });
    }

    /// When those that may yet say yes are too few, asks those again that were too busy to answer.
    fn ask_again(&mut self, now: Millis, effects: &mut Vec<RoundEffect>) {
        if self.granted.len() + self.in_flight(true) >= self.spec.needed || !self.queue.is_empty() {
            return;
        }
        let request = self.request();
        for (&peer, standing) in &mut self.asked {
            if let Standing::Unanswered { first, again: true } = *standing
                && !self.spec.absent.contains(&peer)
            {
                *standing = Standing::Asked { first, at: now, slow: false };
                effects.push(RoundEffect::Ask { peer, request: request.clone() });
            }
        }
    }

    fn round_trip(&self, peer: PeerId) -> Duration {
        measured(&self.spec, peer)
    }

    /// How long a round with enough promises waits for more: as long as answers under way may differ from those that
    /// have come.
    fn extra_wait(&self) -> Duration {
        let awaited = self.asked.iter().filter(|(_, standing)| matches!(standing, Standing::Asked { .. }));
        let longest = awaited.map(|(peer, _)| self.round_trip(*peer)).max().unwrap_or_default();
        EXTRA_WAIT + Duration::from_millis(longest.as_millis() as u64 / 2)
    }

    fn request(&self) -> ApprovalRequest {
        ApprovalRequest {
            subject: self.spec.subject,
            requirement: self.spec.requirement.clone(),
            nonce: self.spec.nonce,
            duration: self.spec.duration,
        }
    }

    /// Lets go of promises that can no longer be counted on.
    fn drop_expired(&mut self, now: Millis, effects: &mut Vec<RoundEffect>) {
        self.granted.retain(|granted| {
            let alive = granted.trusted_until > now;
            if !alive {
                effects.push(release(granted));
            }
            alive
        });
    }

    fn finish(&mut self, exhausted: bool, effects: &mut Vec<RoundEffect>) {
        self.ended = true;
        let surplus = self.granted.split_off(self.granted.len().min(self.spec.wanted));
        effects.extend(surplus.iter().map(release));
        effects.push(RoundEffect::Done { granted: std::mem::take(&mut self.granted), exhausted });
    }

    fn fail(&mut self, exhausted: bool, effects: &mut Vec<RoundEffect>) {
        self.ended = true;
        effects.extend(self.granted.iter().map(release));
        let silent = |(peer, standing): (&PeerId, &Standing)| {
            (!matches!(standing, Standing::Granted | Standing::Refused)).then_some(*peer)
        };
        effects.push(RoundEffect::Failed {
            granted: std::mem::take(&mut self.granted).len(),
            refusals: std::mem::take(&mut self.refusals),
            silent: self.asked.iter().filter_map(silent).chain(self.last.iter().copied()).collect(),
            exhausted,
        });
    }
}

/// What answers of the peer take; nothing while it was not measured. In whole milliseconds, as the round's clock
/// counts: a timer that ends between two of them would wake the round before anything is due.
fn measured(spec: &RoundSpec, peer: PeerId) -> Duration {
    let round_trip = spec.round_trips.get(&peer).copied().unwrap_or_default();
    Duration::from_millis(round_trip.as_millis() as u64)
}

fn release(granted: &Granted) -> RoundEffect {
    let statement = &granted.approval.statement;
    RoundEffect::Release { peer: statement.approver, lease: statement.lease }
}
