//! Conformance of a network: see [`quorate_seams::Net`]. Time may be virtual or real, so these wait for what must come.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_protocols::ids::{PeerId, QuorumId};
use quorate_seams::{Frame, Inbound, InboundRequest, Net, NetError, NetEvent, Protocol, Topic};
use tokio::sync::mpsc;

/// One test of each property, of the network that the expression makes. `$runtime` is the attribute of each test.
#[macro_export]
macro_rules! net_suite {
    (#[$runtime:meta] $network:expr) => {
        $crate::net_properties! { #[$runtime] $network =>
            a_question_is_answered_by_whom_it_is_for,
            what_is_too_large_or_for_oneself_is_not_sent,
            an_answer_that_does_not_come_is_a_timeout,
            a_dropped_question_is_busy,
            a_peer_that_nobody_knows_is_unreachable,
            an_announcement_reaches_the_others_and_not_its_author,
            a_peer_that_ends_is_told_of_and_unreachable,
            peers_are_listed_once_and_in_order,
            who_provides_is_found,
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! net_properties {
    (#[$runtime:meta] $network:expr => $($name:ident,)+) => { $(
        #[$runtime]
        async fn $name() {
            $crate::conformance::net::$name(&mut $network).await;
        }
    )+ };
}

/// Far above what anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A network in which nodes can be started and ended.
pub trait Nodes: Send {
    /// Starts a node that all started before it can reach, and that can reach them.
    fn start(&mut self) -> BoxFuture<'_, (Arc<dyn Net>, Inbound)>;
    /// The node's process dies.
    fn end(&mut self, peer: PeerId);
}

async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("it never came: {what}"),
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    soon(what, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Two nodes that are connected, and know where the other listens.
async fn pair(nodes: &mut dyn Nodes) -> [(Arc<dyn Net>, Inbound); 2] {
    let pair = [nodes.start().await, nodes.start().await];
    for (one, other) in [(0, 1), (1, 0)] {
        let (net, peer) = (&pair[one].0, pair[other].0.local_peer());
        until("a connection", || net.is_connected(peer)).await;
        until("an address", || net.peers().iter().any(|view| view.peer == peer && !view.addresses.is_empty())).await;
    }
    pair
}

fn queue(inbound: &mut Inbound, protocol: Protocol) -> &mut mpsc::Receiver<InboundRequest> {
    match protocol {
        Protocol::Approval => &mut inbound.approval,
        Protocol::Raft => &mut inbound.raft,
        Protocol::Liveness => &mut inbound.liveness,
        Protocol::Job => &mut inbound.job,
        Protocol::Piece => &mut inbound.piece,
        Protocol::Task => &mut inbound.task,
    }
}

pub async fn a_question_is_answered_by_whom_it_is_for(nodes: &mut dyn Nodes) {
    let [(one, _one_in), (other, mut other_in)] = pair(nodes).await;
    for protocol in Protocol::ALL {
        let payload = Bytes::from(vec![7; protocol.payload_bytes_max().min(100_000)]);
        let frame = Frame::new(vec![protocol as u8; 50], payload);
        let asking = one.request(other.local_peer(), protocol, frame.clone(), protocol.deadline_max());
        let answering = async {
            let request = queue(&mut other_in, protocol).recv().await.expect("the network is open");
            assert_eq!((request.from, &request.frame), (one.local_peer(), &frame));
            request.reply.send(Frame::head(vec![protocol as u8]));
        };
        let (answer, ()) = soon("an answer", async { tokio::join!(asking, answering) }).await;
        assert_eq!(answer, Ok(Frame::head(vec![protocol as u8])), "{protocol:?}");
    }
}

pub async fn what_is_too_large_or_for_oneself_is_not_sent(nodes: &mut dyn Nodes) {
    let [(one, _one_in), (other, mut other_in)] = pair(nodes).await;
    for protocol in Protocol::ALL {
        let head = Frame::head(vec![0; protocol.head_bytes_max() + 1]);
        let payload = Frame::new(vec![0], Bytes::from(vec![0; protocol.payload_bytes_max() + 1]));
        for frame in [head, payload] {
            let error = one.request(other.local_peer(), protocol, frame, protocol.deadline_max()).await.unwrap_err();
            assert!(matches!(error, NetError::TooLarge { .. }), "{error}");
        }
        assert!(queue(&mut other_in, protocol).try_recv().is_err(), "{protocol:?}: it was sent");
    }
    let itself = one.request(one.local_peer(), Protocol::Job, Frame::head(vec![1]), PATIENCE).await.unwrap_err();
    assert!(matches!(itself, NetError::Unreachable { .. }), "{itself}");
}

pub async fn an_answer_that_does_not_come_is_a_timeout(nodes: &mut dyn Nodes) {
    let [(one, _one_in), (other, _other_in)] = pair(nodes).await;
    let (peer, after) = (other.local_peer(), Duration::from_millis(50));
    let error = soon("a timeout", one.request(peer, Protocol::Liveness, Frame::head(vec![1]), after)).await;
    assert_eq!(error, Err(NetError::Timeout { peer, after }));
}

pub async fn a_dropped_question_is_busy(nodes: &mut dyn Nodes) {
    let [(one, _one_in), (other, mut other_in)] = pair(nodes).await;
    let (peer, protocol) = (other.local_peer(), Protocol::Job);
    let asking = one.request(peer, protocol, Frame::head(vec![1]), protocol.deadline_max());
    let dropping = async { drop(other_in.job.recv().await.expect("the network is open")) };
    let (answer, ()) = soon("an answer", async { tokio::join!(asking, dropping) }).await;
    assert_eq!(answer, Err(NetError::Busy { peer }));
}

pub async fn a_peer_that_nobody_knows_is_unreachable(nodes: &mut dyn Nodes) {
    let [(one, _one_in), _other] = pair(nodes).await;
    let stranger = one.request(PeerId([9; 32]), Protocol::Job, Frame::head(vec![1]), Protocol::Job.deadline_max());
    let error = soon("an error", stranger).await.unwrap_err();
    assert!(matches!(error, NetError::Unreachable { .. }), "{error}");
    assert!(!one.is_connected(PeerId([9; 32])));
}

/// Nothing promises that an announcement arrives, so it is made until it does.
pub async fn an_announcement_reaches_the_others_and_not_its_author(nodes: &mut dyn Nodes) {
    let [(one, mut one_in), (_other, mut other_in)] = pair(nodes).await;
    let mut number = 0u32;
    let heard = soon("an announcement", async {
        loop {
            number += 1;
            one.publish(Topic::Jobs, Bytes::from(number.to_le_bytes().to_vec()));
            let hearing = tokio::time::timeout(Duration::from_millis(200), other_in.gossip.recv());
            if let Ok(heard) = hearing.await {
                break heard.expect("the network is open");
            }
        }
    })
    .await;
    assert_eq!((heard.author, heard.topic), (one.local_peer(), Topic::Jobs));
    assert!((1..=number).any(|number| heard.bytes[..] == number.to_le_bytes()));
    assert!(one_in.gossip.try_recv().is_err(), "the author heard itself");
}

pub async fn a_peer_that_ends_is_told_of_and_unreachable(nodes: &mut dyn Nodes) {
    let [(one, mut one_in), (other, other_in)] = pair(nodes).await;
    let peer = other.local_peer();
    drop((other, other_in));
    nodes.end(peer);
    soon("the end of a peer", async {
        while one_in.events.recv().await.expect("the network is open") != (NetEvent::Disconnected { peer }) {}
    })
    .await;
    assert!(!one.is_connected(peer));
    one.dial(peer);
    soon("a refusal", async {
        while one_in.events.recv().await.expect("the network is open") != (NetEvent::Refused { peer }) {}
    })
    .await;
    let asking = one.request(peer, Protocol::Job, Frame::head(vec![1]), Protocol::Job.deadline_max());
    let error = soon("an error", asking).await.unwrap_err();
    assert!(matches!(error, NetError::Unreachable { .. }), "{error}");
}

pub async fn peers_are_listed_once_and_in_order(nodes: &mut dyn Nodes) {
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(nodes.start().await);
    }
    let ids: Vec<PeerId> = all.iter().map(|(net, _)| net.local_peer()).collect();
    for (net, _) in &all {
        let mut others: Vec<PeerId> = ids.iter().copied().filter(|peer| *peer != net.local_peer()).collect();
        others.sort();
        let listed = || net.peers().into_iter().map(|view| view.peer).collect::<Vec<_>>();
        until("all peers", || listed() == others).await;
        until("connections", || others.iter().all(|peer| net.is_connected(*peer))).await;
        assert!(net.peers().iter().all(|view| view.connected && view.last_seen.is_some()));
    }
}

pub async fn who_provides_is_found(nodes: &mut dyn Nodes) {
    let [(one, _one_in), (other, _other_in)] = pair(nodes).await;
    let (quorum, nobodys) = (QuorumId([3; 16]), QuorumId([4; 16]));
    soon("a provider", async {
        loop {
            // A table that others keep may have lost it.
            other.provide(quorum);
            if one.find_providers(quorum).await.contains(&other.local_peer()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(soon("an answer", one.find_providers(nobodys)).await, []);
}
