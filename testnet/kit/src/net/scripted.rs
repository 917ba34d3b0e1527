//! Scripted peers: the network of a node that is alone, and what each question meets there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_protocols::ids::{PeerId, QuorumId};
use quorate_protocols::wire;
use quorate_seams::{Frame, Net, NetError, PeerView, Protocol, Topic};

/// What a scripted peer does with a question.
pub enum Reaction {
    Answer(Frame),
    /// Answers with what this yields, when it does.
    Later(BoxFuture<'static, Frame>),
    /// Nobody listens there.
    Unreachable,
    /// Says nothing until the asker gives up.
    Silent,
}

impl Reaction {
    pub fn answer<T: serde::Serialize>(answer: &T) -> Self {
        Self::Answer(Frame::head(wire::encode(answer)))
    }
}

type Script = dyn Fn(PeerId, Protocol, &Frame) -> Reaction + Send + Sync;

/// A network whose peers follow a script.
pub struct ScriptedNet {
    local: PeerId,
    script: Box<Script>,
    pub asked: Mutex<Vec<(PeerId, Protocol)>>,
    pub providers: Mutex<Vec<PeerId>>,
    pub penalised: Mutex<Vec<(PeerId, &'static str)>>,
    pub connected: Mutex<BTreeSet<PeerId>>,
    pub absent: Mutex<BTreeSet<PeerId>>,
    /// What every answer takes; a millisecond at first.
    pub answers_after: Mutex<Duration>,
    /// What was measured of every peer.
    pub round_trip: Mutex<Option<Duration>>,
}

impl ScriptedNet {
    pub fn new(
        local: PeerId,
        script: impl Fn(PeerId, Protocol, &Frame) -> Reaction + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            local,
            script: Box::new(script),
            asked: Mutex::default(),
            providers: Mutex::default(),
            penalised: Mutex::default(),
            connected: Mutex::default(),
            absent: Mutex::default(),
            answers_after: Mutex::new(Duration::from_millis(1)),
            round_trip: Mutex::default(),
        })
    }
    pub fn asked(&self) -> Vec<PeerId> {
        self.asked.lock().iter().map(|(peer, _)| *peer).collect()
    }
}

impl Net for ScriptedNet {
    fn local_peer(&self) -> PeerId {
        self.local
    }
    fn request(
        &self,
        peer: PeerId,
        protocol: Protocol,
        frame: Frame,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Frame, NetError>> {
        self.asked.lock().push((peer, protocol));
        let reaction = (self.script)(peer, protocol, &frame);
        let after = *self.answers_after.lock();
        async move {
            match reaction {
                Reaction::Answer(frame) if after <= deadline => {
                    tokio::time::sleep(after).await;
                    Ok(frame)
                }
                Reaction::Later(answer) => {
                    let answer = tokio::time::timeout(deadline, answer).await;
                    answer.map_err(|_| NetError::Timeout { peer, after: deadline })
                }
                Reaction::Unreachable => Err(NetError::Unreachable { peer, reason: "connection refused".into() }),
                Reaction::Answer(_) | Reaction::Silent => {
                    tokio::time::sleep(deadline).await;
                    Err(NetError::Timeout { peer, after: deadline })
                }
            }
        }
        .boxed()
    }
    fn publish(&self, _topic: Topic, _bytes: Bytes) {}
    fn peers(&self) -> Vec<PeerView> {
        let view = |peer: &PeerId| PeerView {
            peer: *peer,
            addresses: Vec::new(),
            connected: true,
            rtt: None,
            last_seen: None,
        };
        self.connected.lock().iter().map(view).collect()
    }
    fn is_connected(&self, peer: PeerId) -> bool {
        self.connected.lock().contains(&peer)
    }
    fn is_absent(&self, peer: PeerId) -> bool {
        self.absent.lock().contains(&peer)
    }
    fn round_trip(&self, _peer: PeerId) -> Option<Duration> {
        *self.round_trip.lock()
    }
    fn dial(&self, _peer: PeerId) {}
    fn listen_addresses(&self) -> Vec<String> {
        Vec::new()
    }
    fn provide(&self, _quorum: QuorumId) {}
    fn stop_providing(&self, _quorum: QuorumId) {}
    fn find_providers(&self, _quorum: QuorumId) -> BoxFuture<'static, Vec<PeerId>> {
        let providers = self.providers.lock().clone();
        async move { providers }.boxed()
    }
    fn penalise(&self, peer: PeerId, reason: &'static str) {
        self.penalised.lock().push((peer, reason));
    }
}
