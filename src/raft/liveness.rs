//! The driver of liveness, for all groups of the node at once: it drives the pure cores of
//! `quorate_protocols::liveness`.
//!
//! One heartbeat per `HEARTBEAT_INTERVAL` goes to each peer that shares a group with this node, whatever the number of
//! groups. The detector turns heartbeats and connection events into suspicion; each group's election core turns
//! suspicion into pre-votes and, with a majority's yes, into `trigger().elect()`. The same heartbeats tell each group
//! whether a majority was heard lately, and carry a digest of what the sender leads: a node that is alive but leads
//! nothing (it restarted on an empty disk) is found out by asking.
//!
//! This actor waits for no network: questions run in tasks of their own and come back as events. Heartbeats are sent
//! only to members that missed a message, when they can be reached again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use quorate_protocols::ids::{BootId, MemberId, Millis, PeerId, QuorumId, Term};
use quorate_protocols::liveness::limits::{DEADLINE, DELAY_MAX, HEARTBEAT_INTERVAL, LEADERLESS_MAX, MESSAGE_BYTES_MAX};
use quorate_protocols::liveness::{
    Detector, DetectorEffect, DetectorInput, Election, ElectionEffect, ElectionInput, Heartbeat, LivenessAnswer,
    LivenessMessage, PreVote, PreVoteRound, View,
};
use quorate_protocols::quorum::Voters;
use quorate_protocols::quorum::limits::{MAJORITY_SILENCE_MAX, TERM_MAX};
use quorate_protocols::wire;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::group::Group;
use super::host::Inner;
use super::resend::{RESEND_MIN, ask_again};
use crate::seams::{Frame, InboundRequest, NetEvent, Protocol};

/// Heartbeats to one peer that may be under way at once. Several, because a lost one must not silence the next ones for
/// its whole deadline.
const HEARTBEATS_IN_FLIGHT_MAX: usize = 5;

/// A primary that is asked about a pre-vote of a voter sends a heartbeat of raft's, once per group in this time: that
/// is enough to be heard, and whoever asks without end gets no more.
const NUDGE_INTERVAL: Duration = HEARTBEAT_INTERVAL.checked_div(2).expect("two is not zero");

/// Answers that wait for the actor. Senders wait when it is full; there are at most as many as questions asked.
const ANSWERS_MAX: usize = 1024;

/// A belief about what a peer leads that its heartbeats contradict for this long is asked about.
const CONTRADICTION_MAX: Duration = LEADERLESS_MAX.checked_div(2).expect("two is not zero");

/// Members that missed a message are looked after every so many heartbeats. A member that answers heartbeats but
/// refuses raft's messages would otherwise cost a heartbeat with every one of them.
const REPEAT_HEARTBEATS: u64 = 5;

enum Answer {
    /// `asked`: when, on the monotonic clock.
    Heartbeat {
        peer: PeerId,
        heartbeat: Option<Heartbeat>,
        asked: Millis,
        took: Duration,
    },
    PreVote {
        quorum: QuorumId,
        round: PreVoteRound,
        from: MemberId,
        answer: Option<LivenessAnswer>,
    },
    Leading {
        peer: PeerId,
        led: Option<Vec<(QuorumId, Term)>>,
    },
}

pub struct Liveness {
    host: Arc<Inner>,
    detector: Detector,
    elections: BTreeMap<QuorumId, Election>,
    sequence: u64,
    in_flight: BTreeMap<PeerId, usize>,
    /// Since when a peer's heartbeats contradict what we believe it leads; and whether it is being asked.
    contradicted: BTreeMap<PeerId, (Millis, bool)>,
    /// Groups whose primary said that it does not lead them, with the term of the belief.
    denied: BTreeMap<QuorumId, Term>,
    /// Groups led here whose voters were last sent a heartbeat for a pre-vote, and when.
    nudged: BTreeMap<QuorumId, Millis>,
    answers: mpsc::Sender<Answer>,
}

impl Liveness {
    pub async fn run(
        host: Arc<Inner>,
        mut requests: mpsc::Receiver<InboundRequest>,
        mut net_events: mpsc::Receiver<NetEvent>,
    ) {
        let (answers, mut answered) = mpsc::channel(ANSWERS_MAX);
        let detector = Detector::new(host.seams.clock.monotonic());
        let mut this = Self {
            detector,
            elections: BTreeMap::new(),
            sequence: 0,
            in_flight: BTreeMap::new(),
            contradicted: BTreeMap::new(),
            denied: BTreeMap::new(),
            nudged: BTreeMap::new(),
            answers,
            host,
        };
        let shutdown = this.host.seams.tasks.shutdown_token();
        let host = this.host.clone();
        let mut heartbeats = tokio::time::interval(HEARTBEAT_INTERVAL);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wake = this.wake_at();
            let timer = async move {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Evidence before judgement: what has arrived is heard before anybody is found silent.
                biased;
                () = shutdown.cancelled() => return,
                Some(event) = net_events.recv() => this.net_event(event).await,
                Some(answer) = answered.recv() => this.answer(answer).await,
                Some(request) = requests.recv() => this.request(request).await,
                () = host.kick.notified() => this.send_heartbeats().await,
                () = timer => this.wake().await,
                _ = heartbeats.tick() => this.send_heartbeats().await,
            }
        }
    }

    fn now(&self) -> Millis {
        self.host.seams.clock.monotonic()
    }

    /// When the next candidacy of any group moves on, or a lost peer is dialled again.
    fn wake_at(&self) -> Option<Instant> {
        let now = self.now();
        let next = self.elections.values().filter_map(Election::wake_at).chain(self.detector.wake_at()).min();
        // Never at once again: an election whose time has come moves on, or waits for the next heartbeat.
        next.map(|at| Instant::now() + at.since(now).max(Duration::from_millis(1)))
    }

    async fn wake(&mut self) {
        let effects = self.detector.step(self.now(), DetectorInput::Tick);
        self.detected(effects).await;
        self.step_elections().await;
    }

    // --- heartbeats ---

    async fn send_heartbeats(&mut self) {
        self.watch();
        let effects = self.detector.step(self.now(), DetectorInput::Tick);
        self.detected(effects).await;
        self.sequence += 1;
        for peer in self.detector.watched().collect::<Vec<_>>() {
            if !self.host.net.is_connected(peer) {
                self.host.links.dial(peer);
                continue;
            }
            let in_flight = self.in_flight.entry(peer).or_default();
            if *in_flight >= HEARTBEATS_IN_FLIGHT_MAX {
                continue;
            }
            *in_flight += 1;
            let message = LivenessMessage::Heartbeat(self.own_heartbeat(peer));
            let (asked, asked_at) = (self.now(), Instant::now());
            self.ask(peer, message, move |answer| Answer::Heartbeat {
                peer,
                asked,
                took: asked_at.elapsed(),
                heartbeat: match answer {
                    Some(LivenessAnswer::Heartbeat(heartbeat)) => Some(heartbeat),
                    _ => None,
                },
            });
        }
        self.step_elections().await;
        self.judge_majorities();
        *self.host.denied.lock() = self.denied.keys().copied().collect();
        if self.sequence.is_multiple_of(REPEAT_HEARTBEATS) {
            self.repeat_missed().await;
        }
    }

    /// Watches exactly the peers that share a group.
    fn watch(&mut self) {
        let me = self.host.identity.peer();
        let groups = self.host.groups();
        let shared: BTreeSet<PeerId> = groups
            .iter()
            .flat_map(|group| group.members())
            .map(|member| member.peer)
            .filter(|peer| *peer != me)
            .collect();
        let now = self.now();
        let left: Vec<PeerId> = self.detector.watched().filter(|peer| !shared.contains(peer)).collect();
        for &peer in &left {
            self.detector.step(now, DetectorInput::Unwatch { peer });
            self.contradicted.remove(&peer);
        }
        if !left.is_empty() {
            // Nobody listens for their heartbeats any more, so nothing would end a suspicion that is left standing.
            self.publish_suspicions();
        }
        for peer in shared.iter().copied() {
            // Repeating it changes nothing.
            self.detector.step(now, DetectorInput::Watch { peer });
        }
        self.host.links.latencies.retain(&shared);
        self.host.clocks.retain(|peer| shared.contains(&peer));
        self.in_flight.retain(|peer, in_flight| *in_flight > 0 || shared.contains(peer));
        let running: BTreeSet<QuorumId> = groups.iter().map(|group| group.id).collect();
        self.elections.retain(|quorum, _| running.contains(quorum));
        self.denied.retain(|quorum, _| running.contains(quorum));
        self.nudged.retain(|quorum, _| running.contains(quorum));
        for group in groups {
            self.elections.entry(group.id).or_insert_with(|| Election::new(group.id, group.me));
        }
    }

    fn own_heartbeat(&self, to: PeerId) -> Heartbeat {
        let sync = self.host.links.latencies.own_sync().as_micros();
        Heartbeat {
            boot: self.host.identity.boot,
            sequence: self.sequence,
            wall: self.host.clocks.own(),
            leading: digest(&self.led_for(to)),
            sync_us: sync.try_into().unwrap_or(u32::MAX),
        }
    }

    /// What this node leads and the peer is a member of. Of peers that share no group nothing is looked up: they may
    /// ask as often as they like.
    fn led_for(&self, peer: PeerId) -> Vec<(QuorumId, Term)> {
        if !self.detector.is_watched(peer) {
            return Vec::new();
        }
        let groups = self.host.groups().into_iter();
        let led = groups.filter(|group| group.is_raft_leader() && group.has_member(peer));
        led.map(|group| (group.id, group.term())).collect()
    }

    fn believed(&self, peer: PeerId) -> Vec<(QuorumId, Term)> {
        let groups = self.host.groups().into_iter();
        let led = groups.filter(|group| group.primary().is_some_and(|primary| primary.peer == peer));
        led.map(|group| (group.id, group.term())).collect()
    }

    async fn record_heartbeat(&mut self, peer: PeerId, heartbeat: Heartbeat) {
        self.alive(peer, heartbeat.boot).await;
        if !self.detector.is_watched(peer) {
            return;
        }
        self.host.links.latencies.record_sync(peer, heartbeat.sync().min(DELAY_MAX));
        if heartbeat.leading == digest(&self.believed(peer)) {
            self.contradicted.remove(&peer);
            return;
        }
        let now = self.now();
        let (since, asking) = self.contradicted.entry(peer).or_insert((now, false));
        if !*asking && now.since(*since) >= CONTRADICTION_MAX {
            *asking = true;
            self.ask(peer, LivenessMessage::Leading, move |answer| Answer::Leading {
                peer,
                led: match answer {
                    Some(LivenessAnswer::Leading(led)) => Some(led),
                    _ => None,
                },
            });
        }
    }

    async fn alive(&mut self, peer: PeerId, boot: BootId) {
        let effects = self.detector.step(self.now(), DetectorInput::Heartbeat { peer, boot });
        self.detected(effects).await;
    }

    // --- what happens ---

    async fn net_event(&mut self, event: NetEvent) {
        let input = match event {
            NetEvent::Connected { peer } => DetectorInput::Connected { peer },
            NetEvent::Disconnected { peer } => DetectorInput::Disconnected { peer },
            NetEvent::Refused { peer } => DetectorInput::Refused { peer },
        };
        let effects = self.detector.step(self.now(), input);
        self.detected(effects).await;
        if let NetEvent::Connected { peer } = event {
            self.welcome(peer).await;
        }
    }

    /// A member is back: it may have missed commits, or be another incarnation. An append tells.
    async fn welcome(&self, peer: PeerId) {
        for group in self.host.groups() {
            if group.is_raft_leader() && group.has_member(peer) {
                heartbeat(&group).await;
            }
        }
    }

    async fn detected(&mut self, effects: Vec<DetectorEffect>) {
        if effects.is_empty() {
            return;
        }
        let mut changed = false;
        for effect in effects {
            match effect {
                DetectorEffect::Suspected { peer, cause } => {
                    tracing::info!(%peer, ?cause, "a member's node is suspected");
                    changed = true;
                }
                DetectorEffect::Recovered { peer } => {
                    tracing::info!(%peer, "a suspected node is back");
                    changed = true;
                }
                DetectorEffect::Restarted { peer, boot } => {
                    tracing::info!(%peer, ?boot, "a member's node restarted");
                    self.welcome(peer).await;
                }
                // At once, not when the throttle allows: a refusal now is what makes a failover quick.
                DetectorEffect::Dial { peer } => self.host.net.dial(peer),
            }
        }
        if changed {
            self.publish_suspicions();
            self.step_elections().await;
        }
    }

    /// Says to the rest of the node who is suspected.
    fn publish_suspicions(&self) {
        let suspected = self.detector.suspected();
        let since = |peer: PeerId| self.detector.suspected_since(peer).map(|since| (peer, since));
        *self.host.suspected.lock() = suspected.into_iter().filter_map(since).collect();
    }

    async fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Heartbeat { peer, heartbeat, asked, took } => {
                if let Some(in_flight) = self.in_flight.get_mut(&peer) {
                    *in_flight = in_flight.saturating_sub(1);
                }
                if let Some(heartbeat) = heartbeat {
                    if self.detector.is_watched(peer) {
                        self.host.links.latencies.record_round_trip(peer, took);
                        self.host.clocks.record(peer, heartbeat.wall, asked, took);
                    }
                    self.record_heartbeat(peer, heartbeat).await;
                }
            }
            Answer::PreVote { quorum, round, from, answer } => {
                let input = match answer {
                    Some(LivenessAnswer::PreVote { granted, my_log, primary }) => {
                        ElectionInput::Answered { round, from, granted, log: my_log, primary }
                    }
                    _ => ElectionInput::Unanswered { round, from },
                };
                if let Some(group) = self.host.group(quorum) {
                    self.step_election(&group, input).await;
                }
            }
            Answer::Leading { peer, led } => {
                self.contradicted.remove(&peer);
                let Some(led) = led else { return };
                let led: BTreeMap<_, _> = led.into_iter().collect();
                for (quorum, term) in self.believed(peer) {
                    // A member that has stopped believes what it last heard.
                    if self.host.group(quorum).is_none_or(|group| group.is_stopped()) {
                        continue;
                    }
                    if led.get(&quorum).is_none_or(|theirs| *theirs < term) {
                        tracing::info!(%peer, ?quorum, %term, "the primary does not lead any more");
                        self.denied.insert(quorum, term);
                    }
                }
                self.step_elections().await;
            }
        }
    }

    async fn request(&mut self, request: InboundRequest) {
        let InboundRequest { from, frame, reply, memory: _memory } = request;
        let Ok(message) = wire::decode(&frame.head, MESSAGE_BYTES_MAX) else {
            self.host.net.penalise(from, "malformed liveness message");
            return;
        };
        let answer = match message {
            LivenessMessage::Heartbeat(heartbeat) => {
                // Of one that shares no group nothing is kept.
                if self.detector.is_watched(from) {
                    self.record_heartbeat(from, heartbeat).await;
                }
                LivenessAnswer::Heartbeat(self.own_heartbeat(from))
            }
            LivenessMessage::PreVote(question) if question.candidate.peer == from => {
                self.answer_pre_vote(&question).await
            }
            LivenessMessage::PreVote(_) => {
                self.host.net.penalise(from, "a pre-vote in another's name");
                return;
            }
            LivenessMessage::Leading => LivenessAnswer::Leading(self.led_for(from)),
        };
        reply.send(Frame::head(wire::encode(&answer)));
    }

    async fn answer_pre_vote(&mut self, question: &PreVote) -> LivenessAnswer {
        let Some(group) = self.host.group(question.quorum).filter(|group| !group.is_stopped()) else {
            return LivenessAnswer::NotMember;
        };
        // The founding's first vote may have been lost although this member gave its voice. Whoever holds the first
        // entry can only try again if a founding member counts as the voter that it will be. It never runs itself.
        let configurations = if group.is_blank() { vec![group.founders()] } else { group.configurations() };
        let is_voter = |configurations: &[Voters]| configurations.iter().any(|of| of.contains(question.candidate));
        let vouched = group.vouched().filter(|_| !is_voter(&configurations));
        let configurations: Vec<Voters> = configurations.into_iter().chain(vouched).collect();
        if !is_voter(&configurations) {
            self.host.inquire(&group);
            return LivenessAnswer::NotMember;
        }
        let now = self.now();
        if group.is_raft_leader() && self.nudged.get(&group.id).is_none_or(|at| now.since(*at) >= NUDGE_INTERVAL) {
            self.nudged.insert(group.id, now);
            // It would not ask if it had heard of us since it was opened.
            heartbeat(&group).await;
        }
        // A primary that is not trusted here gives way to a candidate that is, and to no other: so the lead changes
        // where a majority would rather have the candidate, and does not change back.
        let heeds_distrust = self.host.check_trust(question.candidate.peer).is_ok();
        let view = View { configurations, ..self.view_of(&group, heeds_distrust) };
        if group.keeps_from_running(question.candidate, now) {
            return LivenessAnswer::PreVote { granted: false, my_log: view.last_log, primary: None };
        }
        let election = self.elections.entry(group.id).or_insert_with(|| Election::new(group.id, group.me));
        election.answer(now, &view, question)
    }

    // --- elections ---

    fn view(&self, group: &Group) -> View {
        self.view_of(group, true)
    }

    /// `heeds_distrust`: whether a primary that this node has not trusted for the whole grace counts as one.
    fn view_of(&self, group: &Group, heeds_distrust: bool) -> View {
        let (term, primary) = (group.term(), group.primary());
        let configurations = group.configurations();
        let suspected = configurations.iter().flat_map(Voters::iter);
        let suspected = suspected.filter(|member| *member != group.me && self.detector.is_suspected(member.peer));
        let primary_leads = match primary {
            Some(primary) if primary == group.me => self.missing_majority(group, &configurations).is_none(),
            // Our own peer in another life leads nothing.
            Some(primary) if primary.peer == group.me.peer => false,
            _ if group.is_primary_deposed() => false,
            _ => self.denied.get(&group.id) != Some(&term),
        };
        let suspected = suspected.collect();
        View {
            term,
            primary,
            primary_leads,
            distrusts_primary: heeds_distrust && primary.is_some_and(|primary| self.distrusts(primary)),
            last_log: group.last_log(),
            is_behind_promise: group.is_behind_promise(),
            latency: self.host.links.latencies.of_majority(&configurations, group.me, &suspected),
            suspected,
            configurations,
        }
    }

    fn distrusts(&self, member: MemberId) -> bool {
        self.host.distrusted.lock().contains(&member.peer)
    }

    async fn step_elections(&mut self) {
        for group in self.host.groups() {
            // The usual case costs no view: the primary is known, unsuspected and undenied, and nothing is under way.
            let quiet = self.elections.get(&group.id).is_some_and(|election| election.wake_at().is_none());
            let healthy = group.primary().is_some_and(|primary| {
                primary != group.me
                    && primary.peer != group.me.peer
                    && !self.detector.is_suspected(primary.peer)
                    && !self.distrusts(primary)
            });
            let contradicted = self.denied.contains_key(&group.id) || group.is_primary_deposed();
            if (quiet && healthy && !contradicted) || group.is_stopped() {
                continue;
            }
            self.step_election(&group, ElectionInput::Tick).await;
        }
    }

    async fn step_election(&mut self, group: &Arc<Group>, input: ElectionInput) {
        if self.denied.get(&group.id).is_some_and(|term| *term != group.term()) {
            self.denied.remove(&group.id);
        }
        let (now, view, random) = (self.now(), self.view(group), self.host.seams.entropy.u64());
        let Some(election) = self.elections.get_mut(&group.id) else { return };
        for effect in election.step(now, &view, random, input) {
            match effect {
                ElectionEffect::Ask { to, round, question } => {
                    let quorum = group.id;
                    let answer = move |answer| Answer::PreVote { quorum, round, from: to, answer };
                    self.ask(to.peer, LivenessMessage::PreVote(question), answer);
                }
                // No message has taken a term so far, and raft counts on.
                ElectionEffect::Elect if view.term.0 >= TERM_MAX => {
                    tracing::error!(quorum = %group.id, term = %view.term, "no term is left for an election");
                }
                ElectionEffect::Elect => {
                    let lost_at = view.primary.and_then(|primary| self.detector.lost_at(primary.peer));
                    let since_loss = lost_at.map(|at| now.since(at));
                    let latency = view.latency;
                    tracing::info!(quorum = %group.id, term = %view.term, ?since_loss, ?latency, "starting an election");
                    self.host.metrics.elections.inc();
                    // Fails only when the group has stopped, which its supervisor reports.
                    let _ = group.raft.trigger().elect().await;
                }
            }
        }
    }

    // --- majorities ---

    /// Why no majority was heard lately; `None` when one was. A primary does not count a member that refuses to take
    /// part, although its node is heard; others do not know of it.
    fn missing_majority(&self, group: &Group, configurations: &[Voters]) -> Option<String> {
        let (now, leads) = (self.now(), group.is_raft_leader());
        // On a link whose heartbeats come unevenly, silence is what the detector takes for it.
        let silence_max = |peer| MAJORITY_SILENCE_MAX.max(self.detector.allowed(peer));
        let heard = |member: &MemberId| {
            *member == group.me
                || (member.peer != group.me.peer
                    && (self.detector.heard_within(now, member.peer, silence_max(member.peer))
                        || (group.is_new(now)
                            && !self.detector.is_suspected(member.peer)
                            && !self.detector.was_heard(member.peer)))
                    && self.host.links.reborn(group.id, *member).is_none()
                    && !(leads && self.host.links.refuses(group.id, *member).is_some()))
        };
        configurations.iter().find_map(|voters| {
            let voices: BTreeSet<MemberId> = voters.iter().filter(heard).collect();
            (!voters.is_majority(&voices)).then(|| {
                format!("{} of {} members answer, and {} are needed", voices.len(), voters.len(), voters.majority())
            })
        })
    }

    fn judge_majorities(&self) {
        let now = self.now();
        for group in self.host.groups() {
            let configurations = group.configurations();
            group.record_heartbeat(now, self.missing_majority(&group, &configurations));
        }
    }

    /// openraft does not repeat a commit notice that failed: once the member answers heartbeats again, a heartbeat
    /// does.
    async fn repeat_missed(&self) {
        if !self.host.links.has_missed() {
            return;
        }
        for group in self.host.groups() {
            let back = |member: &MemberId| !self.detector.is_suspected(member.peer);
            let led = group.is_raft_leader();
            let missed = self.host.links.take_missed(group.id, |member| !led || back(member));
            if led && !missed.is_empty() {
                heartbeat(&group).await;
            }
        }
    }

    /// Asks in a task of its own; a failure is an answer too.
    fn ask(
        &self,
        peer: PeerId,
        message: LivenessMessage,
        answer: impl FnOnce(Option<LivenessAnswer>) -> Answer + Send + 'static,
    ) {
        // Nobody waits for a dial here: a peer without a connection is one that does not answer.
        let is_connected = self.host.net.is_connected(peer);
        if !is_connected {
            self.host.links.dial(peer);
        }
        // A lost pre-vote would cost a whole round, and may be asked twice. A lost heartbeat is followed by others;
        // asked twice, it would be measured as one that took long.
        let late = match message {
            LivenessMessage::PreVote(_) => Some(self.host.links.latencies.of(peer).round_trip.max(RESEND_MIN)),
            LivenessMessage::Heartbeat(_) | LivenessMessage::Leading => None,
        };
        let (answers, net) = (self.answers.clone(), self.host.net.clone());
        crate::seams::spawn(async move {
            let frame = Frame::head(wire::encode(&message));
            let ask = || net.request(peer, Protocol::Liveness, frame.clone(), DEADLINE);
            let answered = match late {
                _ if !is_connected => None,
                Some(late) => ask_again(late, ask).await.ok(),
                None => ask().await.ok(),
            };
            let decoded = answered.and_then(|frame| wire::decode(&frame.head, MESSAGE_BYTES_MAX).ok());
            // Fails only when the actor has ended.
            let _ = answers.send(answer(decoded)).await;
        });
    }
}

async fn heartbeat(group: &Group) {
    // Fails only when the group has stopped, which its supervisor reports.
    let _ = group.raft.trigger().heartbeat().await;
}

fn digest(led: &[(QuorumId, Term)]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(&wire::encode(led)).as_bytes()[..8]);
    u64::from_le_bytes(first)
}
