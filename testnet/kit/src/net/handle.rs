//! One node's handle to the network in memory.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_protocols::ids::{PeerId, QuorumId};
use quorate_seams::{Frame, Net, NetError, PeerView, Protocol, Topic};
use tokio::sync::oneshot;

use super::network::Path;
use super::{Network, Passage};

/// How long the provider table takes to answer.
const LOOKUP: Duration = Duration::from_millis(50);

pub struct MemoryNet {
    network: Network,
    local: PeerId,
}

impl MemoryNet {
    pub(super) fn new(network: Network, local: PeerId) -> Self {
        Self { network, local }
    }
}

impl Net for MemoryNet {
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
        let (network, from) = (self.network.clone(), self.local);
        let deadline = deadline.min(protocol.deadline_max());
        async move {
            require_size(protocol, &frame)?;
            if peer == from {
                return Err(NetError::Unreachable { peer, reason: "that is this node itself".into() });
            }
            // The exchange is the network's own: an asker that crashes or gives up does not take its message back.
            let (send, receive) = oneshot::channel();
            tokio::spawn(async move {
                let exchange = exchange(&network, from, peer, protocol, frame);
                let result = tokio::time::timeout(deadline, exchange)
                    .await
                    .unwrap_or(Err(NetError::Timeout { peer, after: deadline }));
                // Nobody may be waiting any more.
                let _ = send.send(result);
            });
            receive.await.unwrap_or(Err(NetError::Closed))
        }
        .boxed()
    }

    fn publish(&self, topic: Topic, bytes: Bytes) {
        self.network.publish(self.local, topic, bytes);
    }

    fn peers(&self) -> Vec<PeerView> {
        let now = self.network.clock_of(self.local).map(|clock| clock.wall());
        let view = |(peer, index): (PeerId, usize)| {
            let connected = self.is_connected(peer);
            PeerView {
                peer,
                addresses: vec![format!("/memory/{index}")],
                connected,
                rtt: connected.then(|| self.network.round_trip(self.local, peer)),
                last_seen: now.filter(|_| connected),
            }
        };
        self.network.everybody_but(self.local).into_iter().map(view).collect()
    }

    fn is_connected(&self, peer: PeerId) -> bool {
        self.network.is_connected(self.local, peer)
    }

    fn round_trip(&self, peer: PeerId) -> Option<Duration> {
        self.is_connected(peer).then(|| self.network.round_trip(self.local, peer))
    }

    fn dial(&self, peer: PeerId) {
        self.network.dial(self.local, peer);
    }

    fn listen_addresses(&self) -> Vec<String> {
        vec!["/memory/0".into()]
    }

    fn provide(&self, quorum: QuorumId) {
        self.network.provide(self.local, quorum);
    }

    fn stop_providing(&self, quorum: QuorumId) {
        self.network.stop_providing(self.local, quorum);
    }

    fn find_providers(&self, quorum: QuorumId) -> BoxFuture<'static, Vec<PeerId>> {
        let network = self.network.clone();
        async move {
            tokio::time::sleep(LOOKUP).await;
            network.providers(quorum)
        }
        .boxed()
    }

    fn penalise(&self, peer: PeerId, reason: &'static str) {
        self.network.penalise(self.local, peer, reason);
    }
}

fn require_size(protocol: Protocol, frame: &Frame) -> Result<(), NetError> {
    for (bytes, limit) in
        [(frame.head.len(), protocol.head_bytes_max()), (frame.payload.len(), protocol.payload_bytes_max())]
    {
        if bytes > limit {
            return Err(NetError::TooLarge { bytes, limit, protocol: protocol.name() });
        }
    }
    Ok(())
}

/// There, and back. Silence is a future that never ends; the caller has a deadline.
async fn exchange(
    network: &Network,
    from: PeerId,
    to: PeerId,
    protocol: Protocol,
    frame: Frame,
) -> Result<Frame, NetError> {
    match network.gate(to, protocol, &frame) {
        Passage::Free => (),
        Passage::Silence => return std::future::pending().await,
        Passage::Refused => {
            return Err(NetError::Unreachable { peer: to, reason: "nothing listens".into() });
        }
        Passage::Answered(answer) => {
            tokio::time::sleep(network.round_trip(from, to)).await;
            return Ok(answer);
        }
    }
    network.connect(from, to).await?;
    let Path::Arrives { after, again } = network.path(from, to, frame.len(), true) else {
        return std::future::pending().await;
    };
    if let Some(again) = again {
        let (network, frame) = (network.clone(), frame.clone());
        tokio::spawn(async move {
            tokio::time::sleep(again).await;
            // Nobody reads the second answer.
            drop(network.deliver(from, to, protocol, frame));
        });
    }
    tokio::time::sleep(after + network.hesitation(to)).await;
    let delivered = network.deliver(from, to, protocol, frame)?;
    let Ok(answer) = delivered.answer.await else { return Err(network.unanswered(to, delivered.life)) };
    require_size(protocol, &answer)?;
    match network.path(to, from, answer.len(), false) {
        Path::Arrives { after, .. } => tokio::time::sleep(after).await,
        Path::Nowhere => return std::future::pending().await,
    }
    network.answered(to, from, protocol, &answer);
    Ok(answer)
}
