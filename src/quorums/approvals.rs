//! Gathering signed promises from peers: performs what the pure round of [`quorate_protocols::approval::round`]
//! decides.
//!
//! Each gathering runs in a task of the node and outlives its caller: answers that come after the end are promises that
//! somebody holds room for, and are given back. The same happens with everything that was won when the caller went
//! away. This node itself is asked in process, like any other candidate.
//!
//! Peers that the network knows to be absent ([`Net::is_absent`]) are told to the round, at its start and while it
//! waits; what round trips to the candidates take ([`Net::round_trip`]) is told at its start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use quorate_protocols::admission::Distrust;
use quorate_protocols::approval::limits::{LEASE_DURATION_MAX, MESSAGE_BYTES_MAX, deadline};
use quorate_protocols::approval::round::{Asked, PeerFault, Round, RoundEffect, RoundInput, RoundSpec};
use quorate_protocols::approval::standby::Renewed;
use quorate_protocols::approval::{Approval, ApprovalAnswer, ApprovalMessage, ApprovalRequest, Refusal, Subject};
use quorate_protocols::capacity::Requirement;
use quorate_protocols::engine::NodeRole;
use quorate_protocols::ids::{LeaseId, Nonce, PeerId};
use quorate_protocols::wire;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::RoundError;
use super::ports::{Knowledge, LocalApprover};
use crate::seams::{Frame, Net, Protocol, Seams};

/// Gathers approvals: asks more peers than needed at once, stops early, releases what it does not use.
#[derive(Clone)]
pub struct Approvals(Arc<ApprovalsParts>);

/// What the gathering is built from.
pub struct ApprovalsParts {
    pub seams: Seams,
    pub net: Arc<dyn Net>,
    pub knowledge: Arc<dyn Knowledge>,
    /// Answers in place of the network when this node itself is asked.
    pub local: Arc<dyn LocalApprover>,
}

/// What a round won.
#[derive(Clone, Debug)]
pub struct Gathered {
    pub approvals: Vec<Approval>,
    /// Fewer than wanted, and whoever may come has answered: waiting for more is of no use just now.
    pub exhausted: bool,
}

/// Whether a round waits for peers that are no candidates yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volunteers {
    /// Asked for when there are too few candidates.
    Wanted,
    /// As above, but only while peers are connected that have not announced themselves yet: what is won is enough to go
    /// on with, and whoever can serve is known otherwise.
    FromStrangers,
}

/// While answers are awaited, how often the network is asked whether their peers are absent by now.
const ABSENCE_INTERVAL: Duration = Duration::from_millis(100);

impl Approvals {
    pub fn new(parts: ApprovalsParts) -> Self {
        Self(Arc::new(parts))
    }

    /// At least `needed` and at most `wanted` approvals from distinct peers other than `exclude`, each genuine, each
    /// trusted for its remaining time. Volunteers are asked for when the directory offers too few.
    pub async fn gather(
        &self,
        subject: Subject,
        requirement: Requirement,
        needed: usize,
        wanted: usize,
        exclude: Vec<PeerId>,
        duration: Duration,
    ) -> Result<Vec<Approval>, RoundError> {
        let bounds = (needed, wanted);
        let gathered = self.gather_from(subject, requirement, bounds, exclude, duration, Volunteers::Wanted).await?;
        Ok(gathered.approvals)
    }

    /// As [`Self::gather`], and whether more may come. `bounds`: the approvals needed and wanted.
    pub async fn gather_from(
        &self,
        subject: Subject,
        requirement: Requirement,
        bounds: (usize, usize),
        exclude: Vec<PeerId>,
        duration: Duration,
        volunteers: Volunteers,
    ) -> Result<Gathered, RoundError> {
        let parts = &self.0;
        let (needed, wanted) = bounds;
        let strangers = parts.has_strangers();
        let spec = RoundSpec {
            asker: parts.net.local_peer(),
            subject,
            requirement,
            duration,
            nonce: Nonce(parts.seams.entropy.bytes()),
            needed,
            wanted,
            exclude: exclude.into_iter().collect(),
            absent: BTreeSet::new(),
            round_trips: BTreeMap::new(),
            volunteers: volunteers == Volunteers::Wanted || strangers,
        };
        let (done, outcome) = oneshot::channel();
        let gathering = Gathering {
            parts: parts.clone(),
            needed,
            subject,
            requirement: spec.requirement.clone(),
            strangers,
            done: Some(done),
            volunteers: None,
            questions: FuturesUnordered::new(),
        };
        parts.seams.tasks.spawn(gathering.run(spec));
        outcome.await.unwrap_or(Err(RoundError::TooFew {
            // The node is closing: nobody was won.
            needed,
            granted: 0,
            refusals: Vec::new(),
            silent: Vec::new(),
            exhausted: false,
        }))
    }
}

impl Approvals {
    /// Gives a promise back that this node or an earlier primary won. Whether the peer let go now; it does so by
    /// itself when the lease ends.
    pub async fn give_back(&self, peer: PeerId, lease: LeaseId) -> bool {
        if self.0.net.is_absent(peer) {
            return false;
        }
        matches!(
            self.0.send(peer, ApprovalMessage::Release { lease }).await,
            // Not known there any more, or known to somebody else: nothing is held for us.
            Some(ApprovalAnswer::Acknowledged | ApprovalAnswer::Refused(_))
        )
    }
}

impl Approvals {
    /// Asks one peer and no other. `Err` says, for people, why it did not promise.
    pub async fn win(
        &self,
        peer: PeerId,
        subject: Subject,
        requirement: Requirement,
        duration: Duration,
    ) -> Result<Approval, String> {
        let parts = &self.0;
        let asked = Asked {
            asker: parts.net.local_peer(),
            nonce: Nonce(parts.seams.entropy.bytes()),
            subject,
            requirement: requirement.digest(),
            duration: duration.min(LEASE_DURATION_MAX),
        };
        let request = ApprovalRequest { subject, requirement, nonce: asked.nonce, duration: asked.duration };
        let fault = match parts.send(peer, ApprovalMessage::Ask(request)).await {
            Some(ApprovalAnswer::Granted(approval)) => match asked.check(peer, &approval) {
                Ok(()) => return Ok(approval),
                Err(fault) => fault,
            },
            Some(ApprovalAnswer::Refused(refusal)) => return Err(refusal.to_string()),
            Some(ApprovalAnswer::Acknowledged) => PeerFault::WrongAnswer { peer },
            None => return Err("it gave no usable answer".to_owned()),
        };
        parts.penalise(&fault);
        Err(fault.to_string())
    }

    /// Prolongs a promise to `duration` from now, won by this node or an earlier primary.
    pub async fn renew(&self, peer: PeerId, lease: LeaseId, duration: Duration) -> Renewed {
        match self.0.send(peer, ApprovalMessage::Renew { lease, duration }).await {
            Some(ApprovalAnswer::Acknowledged) => Renewed::Stands,
            Some(ApprovalAnswer::Refused(Refusal::UnknownLease)) => Renewed::Gone,
            // Also one who does not know yet that this node may ask.
            Some(ApprovalAnswer::Refused(_) | ApprovalAnswer::Granted(_)) | None => Renewed::Unsure,
        }
    }
}

/// A peer and what it said; `None` when no usable answer came.
type Answered = (PeerId, Option<ApprovalAnswer>);

/// One round being performed.
struct Gathering {
    parts: Arc<ApprovalsParts>,
    needed: usize,
    subject: Subject,
    requirement: Requirement,
    /// Peers are connected of whom nothing is known yet: they may be of use in a moment.
    strangers: bool,
    done: Option<oneshot::Sender<Result<Gathered, RoundError>>>,
    volunteers: Option<mpsc::Receiver<PeerId>>,
    questions: FuturesUnordered<BoxFuture<'static, Answered>>,
}

impl Gathering {
    async fn run(mut self, mut spec: RoundSpec) {
        let seams = self.parts.seams.clone();
        let shutdown = seams.tasks.shutdown_token();
        let candidates = self.parts.knowledge.candidates(kind_of(self.subject), &self.requirement);
        let measured = |peer: &PeerId| Some((*peer, self.parts.net.round_trip(*peer)?));
        spec.round_trips = candidates.iter().filter(|peer| !spec.exclude.contains(peer)).filter_map(measured).collect();
        spec.absent = candidates.iter().copied().filter(|peer| self.parts.net.is_absent(*peer)).collect();
        let (mut round, effects) = Round::start(seams.clock.monotonic(), spec, candidates);
        self.perform(effects);
        while !round.is_idle() {
            let wake = round.wake_at().map(|at| at.since(seams.clock.monotonic()).min(ABSENCE_INTERVAL));
            // Answers before volunteers: what was promised decides whether more are needed.
            let input = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some((peer, answer)) = self.questions.next(), if !self.questions.is_empty() => match answer {
                    Some(answer) => RoundInput::Answered { peer, answer },
                    None => RoundInput::Silent { peer },
                },
                Some(peer) = volunteer(&mut self.volunteers), if !round.is_ended() => RoundInput::Volunteered { peer },
                // A millisecond more than asked: the clock counts whole ones.
                () = pause(wake.map(|wake| wake + Duration::from_millis(1))) => RoundInput::Tick,
            };
            let gone = |peer: &PeerId| self.parts.net.is_absent(*peer);
            let absent: Vec<PeerId> = match input {
                RoundInput::Tick if !round.is_ended() => round.awaited().filter(gone).collect(),
                _ => Vec::new(),
            };
            for peer in absent {
                // Nobody's message, so nobody's fault.
                let effects = round.step(seams.clock.monotonic(), RoundInput::Absent { peer }).unwrap_or_default();
                self.perform(effects);
            }
            let effects = match round.step(seams.clock.monotonic(), input) {
                Ok(effects) => effects,
                Err(fault) => {
                    tracing::debug!(%fault, "approval round");
                    self.parts.penalise(&fault);
                    // A tick is nobody's message, so it has no fault.
                    round.step(seams.clock.monotonic(), RoundInput::Tick).unwrap_or_default()
                }
            };
            self.perform(effects);
        }
    }

    fn perform(&mut self, effects: Vec<RoundEffect>) {
        for effect in effects {
            match effect {
                RoundEffect::Ask { peer, request } => self.questions.push(self.ask(peer, request)),
                RoundEffect::Release { peer, lease } => self.release(peer, lease),
                RoundEffect::WantVolunteers => {
                    let requirement = self.requirement.clone();
                    let kind = kind_of(self.subject);
                    self.volunteers = Some(self.parts.knowledge.ask_for_volunteers(self.subject, kind, requirement));
                }
                RoundEffect::Done { granted, exhausted } => {
                    let approvals: Vec<_> = granted.into_iter().map(|granted| granted.approval).collect();
                    let gathered = Gathered { approvals, exhausted: exhausted && !self.strangers };
                    if let Some(Err(Ok(unwanted))) = self.done.take().map(|done| done.send(Ok(gathered))) {
                        for approval in unwanted.approvals {
                            self.release(approval.statement.approver, approval.statement.lease);
                        }
                    }
                    self.volunteers = None;
                }
                RoundEffect::Failed { granted, mut refusals, silent, exhausted } => {
                    let untrusted = |distrust: Distrust| Refusal::Untrusted { reason: distrust.to_string() };
                    let distrusted = self.parts.knowledge.distrusted().into_iter();
                    refusals.extend(distrusted.map(|(peer, distrust)| (peer, untrusted(distrust))));
                    let exhausted = exhausted && !self.strangers;
                    let error = RoundError::TooFew { needed: self.needed, granted, refusals, silent, exhausted };
                    // A caller that went away needs no reason.
                    drop(self.done.take().map(|done| done.send(Err(error))));
                    self.volunteers = None;
                }
            }
        }
    }

    fn ask(&self, peer: PeerId, request: ApprovalRequest) -> BoxFuture<'static, Answered> {
        let parts = self.parts.clone();
        async move { (peer, parts.send(peer, ApprovalMessage::Ask(request)).await) }.boxed()
    }

    /// Best effort, and nobody waits for it: a lease ends by itself.
    fn release(&self, peer: PeerId, lease: LeaseId) {
        let parts = self.parts.clone();
        self.parts.seams.tasks.spawn(async move {
            let shutdown = parts.seams.tasks.shutdown_token();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => (),
                _ = parts.send(peer, ApprovalMessage::Release { lease }) => (),
            }
        });
    }
}

impl ApprovalsParts {
    /// Whether a peer is connected that has not announced itself to this node yet.
    fn has_strangers(&self) -> bool {
        let known: BTreeSet<PeerId> = self.knowledge.peers().into_iter().map(|known| known.peer).collect();
        let connected = self.net.peers().into_iter().filter(|view| view.connected).map(|view| view.peer);
        connected.into_iter().any(|peer| !known.contains(&peer) && !self.net.is_absent(peer))
    }

    fn penalise(&self, fault: &PeerFault) {
        let (PeerFault::NotAsked { peer }
        | PeerFault::WrongAnswer { peer }
        | PeerFault::Mismatch { peer, .. }
        | PeerFault::Signature { peer }) = fault;
        if *peer != self.net.local_peer() {
            self.net.penalise(*peer, fault.reason());
        }
    }

    async fn send(&self, peer: PeerId, message: ApprovalMessage) -> Option<ApprovalAnswer> {
        let this_node = self.net.local_peer();
        let deadline = deadline(self.net.round_trip(peer).unwrap_or_default());
        if peer == this_node {
            return tokio::time::timeout(deadline, self.local.answer(this_node, message)).await.ok();
        }
        let frame = Frame::head(wire::encode(&message));
        let answer = self.net.request(peer, Protocol::Approval, frame, deadline).await.ok()?;
        let decoded = wire::decode(&answer.head, MESSAGE_BYTES_MAX);
        if decoded.is_err() {
            self.net.penalise(peer, "an approval answer that cannot be read");
        }
        decoded.ok()
    }
}

/// The sort of work that a peer must offer to be asked. Members are sought among those that keep files as well: a node
/// that takes on nothing takes on no quorum either.
fn kind_of(subject: Subject) -> NodeRole {
    match subject {
        Subject::Founding { .. } | Subject::Member { .. } | Subject::Holder { .. } => NodeRole::Store,
        // Workers are won one by one, each for what it has room for, and not in rounds.
        Subject::Worker { .. } => NodeRole::Wasm,
    }
}

async fn volunteer(volunteers: &mut Option<mpsc::Receiver<PeerId>>) -> Option<PeerId> {
    match volunteers {
        Some(volunteers) => volunteers.recv().await,
        None => None,
    }
}

async fn pause(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
