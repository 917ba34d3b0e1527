//! Presence: a network that remembers who is absent.
//!
//! [`ObservedNet`] stands between the node's actors and its network. It passes everything on, notes what became of each
//! question, and answers [`Net::is_absent`] from that, from connections that closed or were refused, and from the
//! failure detector's suspicions. The decisions are in [`quorate_protocols::liveness::presence`].
//!
//! A question that stays open for too long has its peer probed, beside the question: a small question that any process
//! which runs answers at once, so that a slow disk is not taken for a dead process. A peer that does not answer the
//! probe is absent, and is probed on until it answers or connects anew. One probe per peer runs at a time.
//!
//! A question that may be parked is held by its peer for seconds, in which the peer may stop: while such a question is
//! open, its peer is probed again every [`PARKED_PROBE_INTERVAL`].

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_protocols::ids::{PeerId, QuorumId};
use quorate_protocols::liveness::presence::{PARKED_PROBE_INTERVAL, PROBE_FOR, PROBE_INTERVAL};
use quorate_protocols::liveness::{Absence, LivenessMessage, Presence, Sign};
use quorate_protocols::wire;
use tokio::time::{Instant, sleep, timeout};

use crate::raft::WeakQuorumHost;
use crate::seams::{Clock, Frame, Net, NetError, NetEvent, PeerView, Protocol, TaskGroup, Topic};

/// Peers that are probed at once; a further one is probed when its next question stays open. Each costs a small
/// question a second.
const PROBES_MAX: usize = 256;

/// The node's network, with a memory of who is absent. Cloneable; clones share it.
#[derive(Clone)]
pub struct ObservedNet(Arc<Inner>);

struct Inner {
    net: Arc<dyn Net>,
    clock: Arc<dyn Clock>,
    tasks: TaskGroup,
    presence: Mutex<Presence>,
    probed: Mutex<BTreeSet<PeerId>>,
    /// Whom the failure detector suspects; set once there are quorums.
    quorums: OnceLock<WeakQuorumHost>,
}

impl ObservedNet {
    pub fn new(net: Arc<dyn Net>, clock: Arc<dyn Clock>, tasks: TaskGroup) -> Self {
        Self(Arc::new(Inner {
            net,
            clock,
            tasks,
            presence: Mutex::default(),
            probed: Mutex::default(),
            quorums: OnceLock::new(),
        }))
    }

    /// From now on, whom these quorums suspect is absent too.
    pub fn follow_suspicions(&self, quorums: WeakQuorumHost) {
        // A node has one quorum host.
        let _ = self.0.quorums.set(quorums);
    }

    /// A connection came or went.
    pub fn observe_event(&self, event: &NetEvent) {
        let (peer, sign) = match event {
            NetEvent::Connected { peer } => (*peer, Sign::Connected),
            NetEvent::Disconnected { peer } => (*peer, Sign::Closed),
            NetEvent::Refused { peer } => (*peer, Sign::Refused),
        };
        self.0.observe(peer, sign);
    }
}

impl Inner {
    fn observe(&self, peer: PeerId, sign: Sign) {
        self.presence.lock().observe(self.clock.monotonic(), peer, sign);
    }

    fn observe_result(&self, peer: PeerId, protocol: Protocol, result: &Result<Frame, NetError>, took: Duration) {
        // The answers to others wait for other peers, or for work of some size. An approval waits for one sync at most
        // twice, and is often all that two nodes without a common quorum say to each other.
        let is_light = matches!(protocol, Protocol::Approval | Protocol::Liveness);
        match result {
            Ok(_) => self.observe(peer, Sign::Answered { round_trip: is_light.then_some(took) }),
            Err(NetError::Unreachable { .. }) if !self.net.is_connected(peer) => self.observe(peer, Sign::Refused),
            Err(_) => {}
        }
    }

    /// Probes the peer in a task of its own, unless that goes on already.
    fn probe(self: &Arc<Self>, peer: PeerId) {
        let mut probed = self.probed.lock();
        if probed.len() >= PROBES_MAX || !probed.insert(peer) {
            return;
        }
        drop(probed);
        let this = self.clone();
        self.tasks.spawn(async move {
            let shutdown = this.tasks.shutdown_token();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => (),
                () = this.probe_until_answer(peer) => (),
            }
            this.probed.lock().remove(&peer);
        });
    }

    async fn probe_until_answer(&self, peer: PeerId) {
        let until = Instant::now() + PROBE_FOR;
        let frame = Frame::head(wire::encode(&LivenessMessage::Leading));
        // A peer that is not connected is found by its connection, not by a question.
        while self.net.is_connected(peer) {
            let deadline = self.presence.lock().probe_deadline(peer);
            let began = Instant::now();
            let asked = timeout(deadline, self.net.request(peer, Protocol::Liveness, frame.clone(), deadline));
            match asked.await.unwrap_or(Err(NetError::Timeout { peer, after: deadline })) {
                Err(NetError::Timeout { .. }) => self.observe(peer, Sign::Unanswered),
                // A process of another version runs all the same.
                Ok(_) | Err(NetError::Unsupported { .. }) => {
                    return self.observe(peer, Sign::Answered { round_trip: Some(began.elapsed()) });
                }
                Err(_) => {}
            }
            if Instant::now() >= until {
                return self.observe(peer, Sign::Forgotten);
            }
            sleep(PROBE_INTERVAL).await;
        }
    }
}

impl Net for ObservedNet {
    fn is_absent(&self, peer: PeerId) -> bool {
        let inner = &self.0;
        if peer == inner.net.local_peer() {
            return false;
        }
        let absence = inner.presence.lock().absence(inner.clock.monotonic(), peer);
        match absence {
            Some(Absence::Silent) => true,
            // An event that was lost on its way must not keep a peer out.
            Some(Absence::Gone) if !inner.net.is_connected(peer) => true,
            _ => inner.quorums.get().and_then(WeakQuorumHost::upgrade).is_some_and(|host| host.suspects(peer)),
        }
    }

    fn request(
        &self,
        peer: PeerId,
        protocol: Protocol,
        frame: Frame,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Frame, NetError>> {
        let inner = self.0.clone();
        let mut asked = inner.net.request(peer, protocol, frame, deadline);
        async move {
            let began = Instant::now();
            let mut patience = inner.presence.lock().probe_after(peer);
            let result = loop {
                if let Ok(result) = timeout(patience, &mut asked).await {
                    break result;
                }
                // Heartbeats are probes themselves, and the failure detector judges them.
                if protocol != Protocol::Liveness {
                    inner.probe(peer);
                }
                // Others are answered as soon as the work is done; what is bulk would only have the probe wait.
                if !matches!(protocol, Protocol::Job | Protocol::Task) {
                    break asked.await;
                }
                patience = PARKED_PROBE_INTERVAL;
            };
            inner.observe_result(peer, protocol, &result, began.elapsed());
            result
        }
        .boxed()
    }

    fn round_trip(&self, peer: PeerId) -> Option<Duration> {
        let inner = &self.0;
        let observed = inner.presence.lock().round_trip(inner.clock.monotonic(), peer);
        // Pings notice that a peer became quicker, and questions that it became slower: the larger errs towards
        // waiting.
        observed.max(inner.net.round_trip(peer))
    }

    fn local_peer(&self) -> PeerId {
        self.0.net.local_peer()
    }
    fn publish(&self, topic: Topic, bytes: Bytes) {
        self.0.net.publish(topic, bytes);
    }
    fn peers(&self) -> Vec<PeerView> {
        self.0.net.peers()
    }
    fn is_connected(&self, peer: PeerId) -> bool {
        self.0.net.is_connected(peer)
    }
    fn dial(&self, peer: PeerId) {
        self.0.net.dial(peer);
    }
    fn listen_addresses(&self) -> Vec<String> {
        self.0.net.listen_addresses()
    }
    fn provide(&self, quorum: QuorumId) {
        self.0.net.provide(quorum);
    }
    fn stop_providing(&self, quorum: QuorumId) {
        self.0.net.stop_providing(quorum);
    }
    fn find_providers(&self, quorum: QuorumId) -> BoxFuture<'static, Vec<PeerId>> {
        self.0.net.find_providers(quorum)
    }
    fn penalise(&self, peer: PeerId, reason: &'static str) {
        self.0.net.penalise(peer, reason);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;
    use crate::testing::quorums::{Reaction, ScriptedNet, peer, seams};

    /// A network in which node 2 is connected and answers while the switch is on. It never answers pieces: its disk
    /// hangs.
    fn network() -> (ObservedNet, Arc<AtomicBool>, Arc<AtomicUsize>) {
        network_that_answers(|protocol| protocol != Protocol::Piece)
    }

    /// The same, of a node that answers these protocols alone.
    fn network_that_answers(
        answered: impl Fn(Protocol) -> bool + Send + Sync + 'static,
    ) -> (ObservedNet, Arc<AtomicBool>, Arc<AtomicUsize>) {
        let (answers, probes) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (switch, count) = (answers.clone(), probes.clone());
        let net = ScriptedNet::new(peer(1), move |_, protocol, _| {
            count.fetch_add(usize::from(protocol == Protocol::Liveness), Ordering::Relaxed);
            match answered(protocol) && switch.load(Ordering::Relaxed) {
                true => Reaction::Answer(Frame::default()),
                false => Reaction::Silent,
            }
        });
        net.connected.lock().insert(peer(2));
        let seams = seams(1);
        let observed = ObservedNet::new(net, seams.clock.clone(), seams.tasks.clone());
        observed.observe_event(&NetEvent::Connected { peer: peer(2) });
        (observed, answers, probes)
    }

    /// Asks node 2 beside the test, and returns.
    fn ask(net: &ObservedNet, protocol: Protocol) {
        drop(tokio::spawn(net.request(peer(2), protocol, Frame::default(), Duration::from_secs(30))));
    }

    /// Goal: a peer that stands still is known to be absent after about a second of an unanswered question, and known
    /// to be back soon after it goes on, without another question.
    #[tokio::test(start_paused = true)]
    async fn a_peer_that_answers_nothing_is_absent_until_it_answers_again() {
        let (net, answers, _) = network();
        assert!(!net.is_absent(peer(2)));
        answers.store(false, Ordering::Relaxed);
        ask(&net, Protocol::Approval);
        sleep(Duration::from_millis(900)).await;
        assert!(!net.is_absent(peer(2)), "a busy machine takes as long");
        sleep(Duration::from_millis(200)).await;
        assert!(net.is_absent(peer(2)));
        answers.store(true, Ordering::Relaxed);
        sleep(PROBE_INTERVAL * 2).await;
        assert!(!net.is_absent(peer(2)));
    }

    /// Goal: a peer that stops in the middle of a question that it has parked is missed before the question ends.
    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stops_while_it_holds_a_question_is_absent_soon() {
        let (net, answers, _) = network_that_answers(|protocol| protocol == Protocol::Liveness);
        ask(&net, Protocol::Job);
        sleep(Duration::from_secs(3)).await;
        assert!(!net.is_absent(peer(2)));
        answers.store(false, Ordering::Relaxed);
        sleep(PARKED_PROBE_INTERVAL + Duration::from_secs(1)).await;
        assert!(net.is_absent(peer(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_with_a_hanging_disk_answers_its_probe_and_is_there() {
        let (net, _, probes) = network();
        for _ in 0..3 {
            ask(&net, Protocol::Piece);
        }
        sleep(Duration::from_secs(20)).await;
        assert!(!net.is_absent(peer(2)));
        assert_eq!(probes.load(Ordering::Relaxed), 1, "one probe for all of its questions");
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_connection_is_absence_a_second_later_or_with_a_refusal_and_this_node_is_always_there() {
        let (net, _, _) = network();
        net.observe_event(&NetEvent::Disconnected { peer: peer(3) });
        assert!(!net.is_absent(peer(3)), "it may be back at once");
        net.observe_event(&NetEvent::Refused { peer: peer(3) });
        assert!(net.is_absent(peer(3)));
        net.observe_event(&NetEvent::Connected { peer: peer(3) });
        assert!(!net.is_absent(peer(3)));
        net.observe_event(&NetEvent::Refused { peer: peer(1) });
        assert!(!net.is_absent(peer(1)));
    }
}
