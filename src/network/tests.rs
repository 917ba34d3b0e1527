//! Nodes on loopback, in one process, over real sockets.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use quorate_hostile::client::Client as Hostile;
use quorate_hostile::client::gossip::{self, RawGossip};
use quorate_hostile::client::join::JoinLine;
use quorate_protocols::directory::limits::{ADVERT_BYTES_MAX, AUTHOR_RATES};
use quorate_protocols::ids::{BootId, Incarnation, PeerId, QuorumId};
use quorate_testkit::MemoryDisk;
use quorate_testkit::conformance::net::Nodes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::*;
use crate::config::NetworkSection;
use crate::identity::NetworkSecret;
use crate::resources::Resources;
use crate::seams::Reservation;
use crate::seams::clock::SystemClock;
use crate::seams::entropy::OsEntropy;
use crate::seams::{Frame, InboundRequest, NetError, NetEvent, TaskGroup, Topic};
use crate::testing::metrics::value;

/// Far above what anything here takes, even on a busy machine: a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

const CUT: LinkFault = LinkFault { to: Link::Cut, from: Link::Cut };

struct TestNode {
    peer: PeerId,
    net: Arc<dyn Net>,
    inbound: Inbound,
    tasks: TaskGroup,
    faults: NetFaults,
    disk: MemoryDisk,
    admit: Arc<AtomicBool>,
    registry: Registry,
}

struct Start {
    key: u8,
    secret: [u8; 32],
    bootstrap: Vec<String>,
    disk: MemoryDisk,
    allow_peers: Vec<PeerId>,
    quic: bool,
    mdns: bool,
}

impl Start {
    fn new(key: u8) -> Self {
        Self {
            key,
            secret: [1; 32],
            bootstrap: Vec::new(),
            disk: MemoryDisk::default(),
            allow_peers: Vec::new(),
            quic: false,
            mdns: false,
        }
    }
    fn knowing(mut self, node: &TestNode) -> Self {
        self.bootstrap.extend(node.net.listen_addresses());
        self
    }
    async fn start(self) -> TestNode {
        let identity = Identity::new([self.key; 32], Incarnation(1), BootId([0; 16]));
        let tasks = TaskGroup::threaded();
        let seams = Seams {
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(OsEntropy),
            disk: self.disk.disk(),
            tasks: tasks.clone(),
        };
        let section = NetworkSection {
            listen: "127.0.0.1:0".parse().unwrap(),
            bootstrap: self.bootstrap.iter().map(|address| address.parse().unwrap()).collect(),
            mdns: self.mdns,
            quic: self.quic,
            allow_peers: self.allow_peers.into_iter().collect(),
            ..NetworkSection::default()
        };
        let config = NetworkConfig::new(&section, NetworkSecret::from_bytes(self.secret), true);
        let faults = config.faults.clone();
        let admit = Arc::new(AtomicBool::new(true));
        let admitted = admit.clone();
        let admission: Admission = Arc::new(move |_, _, _| admitted.load(Ordering::Relaxed).then(Reservation::none));
        let mut registry = Registry::default();
        let (net, inbound) = start(&seams, &identity, config, admission, &mut registry).await.unwrap();
        TestNode { peer: identity.peer(), net, inbound, tasks, faults, disk: self.disk, admit, registry }
    }
}

impl TestNode {
    async fn event(&mut self, wanted: NetEvent) {
        let waiting = async {
            while let Some(event) = self.inbound.events.recv().await {
                if event == wanted {
                    return;
                }
            }
            panic!("the events ended");
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no {wanted:?}"));
    }
    async fn sees(&self, peers: &[PeerId]) {
        wait_until(|| peers.iter().all(|peer| *peer == self.peer || self.net.is_connected(*peer))).await;
    }
    fn queue(&mut self, protocol: Protocol) -> &mut mpsc::Receiver<InboundRequest> {
        match protocol {
            Protocol::Approval => &mut self.inbound.approval,
            Protocol::Raft => &mut self.inbound.raft,
            Protocol::Liveness => &mut self.inbound.liveness,
            Protocol::Job => &mut self.inbound.job,
            Protocol::Piece => &mut self.inbound.piece,
            Protocol::Task => &mut self.inbound.task,
        }
    }
    fn listen(&self) -> SocketAddr {
        self.net.listen_addresses()[0].parse().unwrap()
    }
    async fn ask(&self, peer: PeerId, protocol: Protocol, frame: Frame) -> Result<Frame, NetError> {
        self.net.request(peer, protocol, frame, protocol.deadline_max()).await
    }
}

async fn wait_until(done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "it never came true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn pair() -> (TestNode, TestNode) {
    let a = Start::new(1).start().await;
    let b = Start::new(2).knowing(&a).start().await;
    a.sees(&[b.peer]).await;
    b.sees(&[a.peer]).await;
    // Connected is not yet introduced: where the other listens comes a moment later.
    for node in [&a, &b] {
        wait_until(|| node.net.peers().iter().all(|view| !view.addresses.is_empty())).await;
    }
    (a, b)
}

/// Nodes over real sockets, each of which knows where those before it listen.
#[derive(Default)]
struct RealNodes {
    bootstrap: Vec<String>,
    tasks: BTreeMap<PeerId, TaskGroup>,
}

impl Nodes for RealNodes {
    fn start(&mut self) -> BoxFuture<'_, (Arc<dyn Net>, Inbound)> {
        async move {
            let mut start = Start::new(self.tasks.len() as u8 + 1);
            start.bootstrap = self.bootstrap.clone();
            let node = start.start().await;
            self.bootstrap.extend(node.net.listen_addresses());
            self.tasks.insert(node.peer, node.tasks);
            (node.net, node.inbound)
        }
        .boxed()
    }
    fn end(&mut self, peer: PeerId) {
        self.tasks[&peer].crash();
    }
}

/// Real sockets keep the contract that every network keeps.
mod suite {
    use super::RealNodes;

    quorate_testkit::net_suite!(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        RealNodes::default()
    );
}

/// Answers every question of one protocol by what it says, until the node ends.
fn echo(node: &mut TestNode, protocol: Protocol) {
    let (_, closed) = mpsc::channel(1);
    let mut queue = std::mem::replace(node.queue(protocol), closed);
    tokio::spawn(async move {
        while let Some(request) = queue.recv().await {
            request.reply.send(request.frame);
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_protocol_carries_questions_and_answers_both_ways() {
    let (mut a, mut b) = pair().await;
    for protocol in Protocol::ALL {
        echo(&mut a, protocol);
        echo(&mut b, protocol);
        let payload = Bytes::from(vec![7; protocol.payload_bytes_max().min(4 * 1024 * 1024)]);
        let frame = Frame::new(vec![protocol as u8; 100], payload);
        assert_eq!(a.ask(b.peer, protocol, frame.clone()).await.as_ref(), Ok(&frame), "{protocol:?}");
        assert_eq!(b.ask(a.peer, protocol, frame.clone()).await.as_ref(), Ok(&frame), "{protocol:?}");
        let largest = Frame::head(vec![1; protocol.head_bytes_max()]);
        assert_eq!(a.ask(b.peer, protocol, largest.clone()).await.as_ref(), Ok(&largest), "{protocol:?}");
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &a.registry).unwrap();
    assert!(text.contains("quorate_network_peers_connected 1"), "{text}");
    assert!(text.contains(r#"questions_total{protocol="/quorate/piece/1",outcome="answered"} 2"#), "{text}");
}

/// Goal: what waits for the node is seen as waiting, in the queue of its protocol.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_nobody_takes_are_seen_in_their_queue() {
    let (a, mut b) = pair().await;
    let queued = |node: &TestNode, protocol: Protocol| {
        value(&node.registry, &format!("quorate_network_queued{{queue=\"{}\"}}", protocol.name()))
    };
    assert_eq!(queued(&b, Protocol::Job), 0.0);
    let asking = a.ask(b.peer, Protocol::Job, Frame::head(vec![1]));
    tokio::pin!(asking);
    tokio::select! {
        answer = &mut asking => panic!("nobody answers: {answer:?}"),
        () = wait_until(|| queued(&b, Protocol::Job) == 1.0) => (),
    }
    assert_eq!(queued(&b, Protocol::Task), 0.0);
    let request = b.inbound.job.recv().await.expect("it waits here");
    assert_eq!(queued(&b, Protocol::Job), 0.0);
    request.reply.send(Frame::head(vec![2]));
    asking.await.expect("answered");
}

/// Goal: more questions at once than streams are granted all get their answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_beyond_the_stream_quota_wait_for_their_turn() {
    let (a, mut b) = pair().await;
    echo(&mut b, Protocol::Piece);
    let payload = Bytes::from(vec![9; 256 * 1024]);
    let ask = |n: u8| a.ask(b.peer, Protocol::Piece, Frame::new(vec![n], payload.clone()));
    let answers = futures::future::join_all((0..64).map(ask)).await;
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.map(|frame| frame.head), Ok(Bytes::from(vec![n as u8])));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_or_for_oneself_is_refused_before_it_is_sent() {
    let (a, b) = pair().await;
    for protocol in Protocol::ALL {
        let frame = Frame::head(vec![0; protocol.head_bytes_max() + 1]);
        assert!(matches!(a.ask(b.peer, protocol, frame).await, Err(NetError::TooLarge { .. })));
        let frame = Frame::new(Vec::new(), Bytes::from(vec![0; protocol.payload_bytes_max() + 1]));
        assert!(matches!(a.ask(b.peer, protocol, frame).await, Err(NetError::TooLarge { .. })));
    }
    assert!(matches!(a.ask(a.peer, Protocol::Job, Frame::default()).await, Err(NetError::Unreachable { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_answer_times_out_and_holds_no_place() {
    let (a, mut b) = pair().await;
    let deadline = Duration::from_millis(50);
    // More than may be under way: the later ones pass only if the earlier ones gave their places back. But nobody deals
    // with them at the other end, and there is a limit to what waits for that.
    let (mut timed_out, most) = (0, Protocol::Liveness.in_flight_max());
    loop {
        let asking = a.net.request(b.peer, Protocol::Liveness, Frame::head(vec![1]), deadline);
        match asking.await {
            Err(NetError::Timeout { .. }) => timed_out += 1,
            Err(NetError::Busy { .. }) => break,
            other => panic!("{other:?}"),
        }
        assert!(timed_out <= 4 * most, "nothing limits what waits");
    }
    assert!(timed_out >= 2 * most, "{timed_out}");
    // The questions did arrive; from now on they are answered.
    while b.inbound.liveness.try_recv().is_ok() {}
    echo(&mut b, Protocol::Liveness);
    assert!(a.ask(b.peer, Protocol::Liveness, Frame::head(vec![1])).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_a_dropped_reply_and_a_lack_of_memory_all_say_busy_at_once() {
    let (a, mut b) = pair().await;
    let deadline = Protocol::Job.deadline_max();
    let (dropped, ()) = tokio::join!(a.ask(b.peer, Protocol::Job, Frame::head(vec![1])), async {
        drop(b.inbound.job.recv().await.unwrap());
    });
    assert_eq!(dropped, Err(NetError::Busy { peer: b.peer }));

    // Nobody takes from the queue: one more than it holds is turned away, and quickly.
    let (_, closed) = mpsc::channel(1);
    let queue = std::mem::replace(&mut b.inbound.job, closed);
    drop(queue);
    let started = Instant::now();
    assert_eq!(a.ask(b.peer, Protocol::Job, Frame::head(vec![1])).await, Err(NetError::Busy { peer: b.peer }));
    b.admit.store(false, Ordering::Relaxed);
    let large = Frame::new(vec![1], Bytes::from(vec![0; 4 * 1024 * 1024]));
    assert_eq!(a.ask(b.peer, Protocol::Piece, large).await, Err(NetError::Busy { peer: b.peer }));
    assert!(started.elapsed() < deadline, "busy came as slowly as a timeout");
}

/// Goal: the two facts that make a dead process certain arrive without waiting for a question or a timer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_ends_is_disconnected_then_refused() {
    let (mut a, b) = pair().await;
    let peer = b.peer;
    a.event(NetEvent::Connected { peer }).await;
    let started = Instant::now();
    b.tasks.crash();
    a.event(NetEvent::Disconnected { peer }).await;
    a.event(NetEvent::Refused { peer }).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let error = a.ask(peer, Protocol::Job, Frame::head(vec![1])).await.unwrap_err();
    assert_eq!(error, NetError::Unreachable { peer, reason: "nobody listens there".into() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_under_way_to_a_peer_that_ends_is_broken_not_lost() {
    let (a, mut b) = pair().await;
    let tasks = b.tasks.clone();
    let (answer, _request) = tokio::join!(a.ask(b.peer, Protocol::Job, Frame::head(vec![1])), async {
        let request = b.inbound.job.recv().await.unwrap();
        tasks.crash();
        request
    });
    assert_eq!(answer, Err(NetError::Broken { peer: b.peer }));
}

/// Goal: a fresh network whose nodes know only the first is fully meshed, within the two seconds that `up` promises
/// on an idle machine (looser here).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seven_nodes_that_know_one_find_each_other() {
    let first = Start::new(1).start().await;
    let mut nodes = vec![];
    for key in 2..=7 {
        nodes.push(Start::new(key).knowing(&first).start().await);
    }
    nodes.push(first);
    let peers: Vec<PeerId> = nodes.iter().map(|node| node.peer).collect();
    let started = Instant::now();
    for node in &nodes {
        node.sees(&peers).await;
    }
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    // Every view lists the others, by the addresses at which they listen.
    let listens: BTreeMap<PeerId, String> = nodes.iter().map(|node| (node.peer, node.listen().to_string())).collect();
    for node in &nodes {
        wait_until(|| {
            let views = node.net.peers();
            views.len() == 6
                && views.iter().all(|view| view.connected && view.addresses == [listens[&view.peer].clone()])
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announcements_reach_everyone_with_their_author() {
    let (mut a, b) = pair().await;
    let mut c = Start::new(3).knowing(&b).start().await;
    a.sees(&[c.peer]).await;
    c.sees(&[a.peer, b.peer]).await;
    for node in [&mut a, &mut c] {
        // Whoever announces repeats itself: subscriptions travel too.
        let heard = async {
            loop {
                b.net.publish(Topic::Quorums, Bytes::from_static(b"hello"));
                if let Ok(Some(message)) = timeout(Duration::from_millis(100), node.inbound.gossip.recv()).await {
                    return message;
                }
            }
        };
        let message = timeout(PATIENCE, heard).await.unwrap();
        assert_eq!((message.author, message.topic, &message.bytes[..]), (b.peer, Topic::Quorums, &b"hello"[..]));
    }
}

/// Waits for an announcement that begins with each of these numbers.
async fn receive_all(node: &mut TestNode, numbers: impl IntoIterator<Item = u8>) {
    let mut missing: Vec<u8> = numbers.into_iter().collect();
    while !missing.is_empty() {
        let message = node.inbound.gossip.recv().await.expect("the node is up");
        missing.retain(|number| *number != message.bytes[0]);
    }
}

/// Goal: announcements that arrive together are all read, again and again: gossipsub gives a stream up when it has read
/// more of it than it was told, and gossip altogether after a few. Method: bursts of several times the largest frame.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announcements_made_at_once_all_arrive() {
    let (mut a, b) = pair().await;
    let known = async {
        loop {
            b.net.publish(Topic::Quorums, Bytes::from_static(&[255]));
            if timeout(Duration::from_millis(100), receive_all(&mut a, [255])).await.is_ok() {
                return;
            }
        }
    };
    timeout(PATIENCE, known).await.expect("one announcement arrives");
    for burst in 0..12 {
        for number in 0..40 {
            b.net.publish(Topic::Quorums, Bytes::from(vec![number; 1024]));
        }
        let received = timeout(PATIENCE, receive_all(&mut a, 0..40)).await;
        received.unwrap_or_else(|_| panic!("burst {burst} was not read in full"));
    }
}

/// How many announcements of each author arrived.
type Counts = Mutex<BTreeMap<PeerId, u64>>;

fn count_of(counts: &Counts, author: PeerId) -> u64 {
    counts.lock().get(&author).copied().unwrap_or(0)
}

/// Counts what arrives at the node, until it ends.
fn count_gossip(node: &mut TestNode) -> Arc<Counts> {
    let (_, closed) = mpsc::channel(1);
    let mut queue = std::mem::replace(&mut node.inbound.gossip, closed);
    let counted = Arc::new(Counts::default());
    let counts = counted.clone();
    tokio::spawn(async move {
        while let Some(message) = queue.recv().await {
            *counts.lock().entry(message.author).or_default() += 1;
        }
    });
    counted
}

/// Goal: what is beyond an author's budget ends where it arrives, whoever sends it: it is neither read nor passed on,
/// and others are heard meanwhile. Who sent what another signed is not to blame, and an author that sends it itself is
/// shut out. Method: gossip that a hostile peer writes by hand, for gossipsub's own sender holds a flood back. It sends
/// the largest announcements of an author that is not there, until many were beyond the budget; then the author comes.
/// `c` and `d` know nobody but `a`, which is flooded, and `d` announces all the while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announcements_beyond_a_budget_end_where_they_arrive() {
    const BEYOND_MIN: f64 = 300.0;
    let mut a = Start::new(1).start().await;
    let beside = |key| {
        let mut start = Start::new(key).knowing(&a);
        start.allow_peers = vec![a.peer];
        start.start()
    };
    let (mut c, d) = (beside(3).await, beside(4).await);
    a.sees(&[c.peer, d.peer]).await;
    for node in [&c, &d] {
        node.sees(&[a.peer]).await;
    }
    let address = a.listen().to_string();
    let join = JoinLine { secret: [1; 32], addresses: vec![address.clone()] };
    let [sender, author] = [8, 9].map(|key| Hostile::start_without_gossip(&join, [key; 32]).unwrap());
    sender.connect(&address).await.unwrap();
    a.sees(&[sender.peer()]).await;

    let (at_a, at_c) = (count_gossip(&mut a), count_gossip(&mut c));
    let announcing = d.net.clone();
    let announcer = tokio::spawn(async move {
        loop {
            announcing.publish(Topic::Quorums, Bytes::from_static(b"an honest word"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    wait_until(|| [&at_a, &at_c].into_iter().all(|counts| count_of(counts, d.peer) > 0)).await;

    let (key, body) = (author.key().clone(), [0; ADVERT_BYTES_MAX]);
    let mut number = 0;
    let mut frames = || {
        let one = |number| gossip::announcement(&key, number, Topic::Quorums.name(), &body);
        number += 16;
        (number - 16..number).flat_map(one).collect::<Vec<u8>>()
    };
    let beyond = || value(&a.registry, "quorate_network_announcements_ignored_total{reason=\"author\"}");
    let began = Instant::now();
    let mut gossip = RawGossip::open(&sender, a.peer).await.unwrap();
    let flood = async {
        while beyond() < 1.0 {
            gossip.write(&frames()).await.unwrap();
        }
        let before = [&at_a, &at_c].map(|counts| count_of(counts, d.peer));
        let heard = || std::iter::zip([&at_a, &at_c], before).all(|(counts, before)| count_of(counts, d.peer) > before);
        while beyond() < BEYOND_MIN || !heard() {
            gossip.write(&frames()).await.unwrap();
        }
    };
    timeout(4 * PATIENCE, flood).await.expect("the budget ends, and another author is heard beside the flood");
    assert!(a.net.is_connected(sender.peer()), "it signed none of them");
    assert_eq!(value(&a.registry, "quorate_network_penalties_total"), 0.0);

    author.connect(&address).await.unwrap();
    let mut own = RawGossip::open(&author, a.peer).await.unwrap();
    let flood = async { while own.write(&frames()).await.is_ok() {} };
    timeout(4 * PATIENCE, flood).await.expect("the author is shut out");
    wait_until(|| !a.net.is_connected(author.peer())).await;
    // It is not let in again.
    let _ = author.connect(&address).await;
    wait_until(|| !author.is_connected(a.peer)).await;
    assert!(!a.net.is_connected(author.peer()));

    let at_once = AUTHOR_RATES.bytes_burst / ADVERT_BYTES_MAX as u64;
    let a_second = AUTHOR_RATES.bytes_per_second / ADVERT_BYTES_MAX as u64;
    let most = at_once + a_second * (began.elapsed().as_secs() + 1);
    let (read, passed_on) = (count_of(&at_a, author.peer()), count_of(&at_c, author.peer()));
    assert!(read > 0 && passed_on > 0, "{read} and {passed_on}: what is within the budget is read and passed on");
    assert!(read <= most && passed_on <= most, "{read} and {passed_on} of {most}");
    assert!([sender.peer(), c.peer, d.peer].into_iter().all(|peer| a.net.is_connected(peer)));
    announcer.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn providers_of_a_quorum_are_found() {
    let (a, b) = pair().await;
    let c = Start::new(3).knowing(&a).start().await;
    c.sees(&[a.peer, b.peer]).await;
    let quorum = QuorumId([7; 16]);
    assert_eq!(a.net.find_providers(quorum).await, []);
    b.net.provide(quorum);
    let found = async {
        while a.net.find_providers(quorum).await != [b.peer] || c.net.find_providers(quorum).await != [b.peer] {}
    };
    timeout(PATIENCE, found).await.expect("the provider is found");
}

/// Goal: nobody fills the hash table of others. Method: a peer that answers for more quorums than it has a share for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_leaves_no_more_provider_records_than_its_share() {
    let (a, b) = pair().await;
    let quorum = |n: usize| QuorumId([n as u8; 16]);
    let provided = config::PROVIDED_PER_PEER_MAX + 20;
    (0..provided).for_each(|n| b.net.provide(quorum(n)));
    let refused = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &a.registry).unwrap();
        text.contains("quorate_network_dropped_total{queue=\"provider records\"} 20\n")
    };
    wait_until(refused).await;
    assert_eq!(value(&a.registry, "quorate_network_provider_records"), config::PROVIDED_PER_PEER_MAX as f64);
    // Those that were refused are found where they come from, and a's own are found by b.
    assert_eq!(a.net.find_providers(quorum(provided - 1)).await, [b.peer]);
    a.net.provide(quorum(200));
    let found = async { while b.net.find_providers(quorum(200)).await != [a.peer] {} };
    timeout(PATIENCE, found).await.expect("a's own record is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_another_secret_is_refused_and_told_why() {
    let a = Start::new(1).start().await;
    let address = a.net.listen_addresses()[0].clone();
    let mut start = Start::new(2);
    start.secret = [2; 32];
    start.bootstrap = vec![format!("/ip4/127.0.0.1/tcp/{}/p2p/{}", a.listen().port(), a.peer)];
    // Known by peer id, so that a question can be asked.
    let b = start.start().await;
    let reason = format!("the peer at {address} belongs to another network: its secret differs");
    let asked = async {
        loop {
            match b.ask(a.peer, Protocol::Job, Frame::head(vec![1])).await {
                Err(NetError::Unreachable { reason: found, .. }) if found == reason => return,
                Err(NetError::Unreachable { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(PATIENCE, asked).await.expect("the reason is given");
    assert!(!a.net.is_connected(b.peer) && !b.net.is_connected(a.peer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allow_list_keeps_others_out() {
    let friend = peer_of(2);
    let mut start = Start::new(1);
    start.allow_peers = vec![friend];
    let a = start.start().await;
    let stranger = Start::new(3).knowing(&a).start().await;
    let b = Start::new(2).knowing(&a).start().await;
    a.sees(&[b.peer]).await;
    assert_eq!(b.peer, friend);
    assert!(!a.net.is_connected(stranger.peer));
}

fn peer_of(key: u8) -> PeerId {
    Identity::new([key; 32], Incarnation(1), BootId([0; 16])).peer()
}

/// Goal: nodes that know each other by QUIC addresses only speak over it, and the allow list holds there too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allowed_peers_connect_over_quic_and_others_do_not() {
    let on_quic = |key, allow: &[u8]| {
        let mut start = Start::new(key);
        start.quic = true;
        start.allow_peers = allow.iter().map(|key| peer_of(*key)).collect();
        start
    };
    let mut a = on_quic(1, &[2]).start().await;
    let quic = |node: &TestNode| node.net.listen_addresses().into_iter().find(|at| at.ends_with("/quic-v1"));
    wait_until(|| quic(&a).is_some()).await;
    let address = quic(&a).unwrap();

    let mut b = on_quic(2, &[1]);
    b.bootstrap = vec![format!("{address}/p2p/{}", a.peer)];
    let mut b = b.start().await;
    let mut stranger = on_quic(3, &[1]);
    stranger.bootstrap = b.net.listen_addresses().into_iter().chain([address.clone()]).collect();
    let stranger = stranger.start().await;
    b.sees(&[a.peer]).await;
    a.sees(&[b.peer]).await;
    // The address that led there stands in the view; nothing else was known.
    let view = b.net.peers().into_iter().find(|view| view.peer == a.peer).unwrap();
    assert!(view.addresses.contains(&address), "{view:?}");

    echo(&mut a, Protocol::Piece);
    echo(&mut b, Protocol::Liveness);
    let piece = Frame::new(vec![1; 100], Bytes::from(vec![7; Protocol::Piece.payload_bytes_max()]));
    assert_eq!(b.ask(a.peer, Protocol::Piece, piece.clone()).await, Ok(piece));
    let heartbeat = Frame::head(vec![2]);
    assert_eq!(a.ask(b.peer, Protocol::Liveness, heartbeat.clone()).await, Ok(heartbeat));

    // The stranger was told no, which shows in the reason of its questions.
    let asked = stranger.ask(a.peer, Protocol::Job, Frame::head(vec![1])).await;
    assert!(asked.is_err(), "{asked:?}");
    assert!(!a.net.is_connected(stranger.peer) && !b.net.is_connected(stranger.peer));
    let peer = a.peer;
    a.tasks.crash();
    b.event(NetEvent::Disconnected { peer }).await;
}

/// A libp2p peer of the test network with behaviour of the test's own; returns who and where it is.
async fn foreigner<B>(key: u8, behaviour: impl FnOnce(&libp2p::identity::Keypair) -> B) -> (PeerId, String)
where
    B: libp2p::swarm::NetworkBehaviour + Send,
{
    use futures::StreamExt;
    use libp2p::swarm::{Config, Swarm, SwarmEvent};
    let keypair = libp2p::identity::Keypair::ed25519_from_bytes([key; 32]).unwrap();
    let listen = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
    let reach = reach::Reach::new(&[]);
    reach.set_own(std::iter::once(&listen));
    let secret = NetworkSecret::from_bytes([1; 32]);
    let transport = transport::build(&keypair, &secret, false, Arc::new(reach)).unwrap();
    let behaviour = behaviour(&keypair);
    let config = Config::with_tokio_executor().with_idle_connection_timeout(PATIENCE);
    let mut swarm = Swarm::new(transport, behaviour, keypair.public().to_peer_id(), config);
    swarm.listen_on(listen).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    let peer = peer_of(key);
    (peer, format!("{address}/p2p/{peer}"))
}

/// Asks with one byte, writes on behind it for as long as anything is taken, counts that, and reads no answer.
#[derive(Clone, Default)]
struct Flood(Arc<AtomicUsize>);

impl libp2p::request_response::Codec for Flood {
    type Protocol = libp2p::StreamProtocol;
    type Request = ();
    type Response = ();

    async fn read_request<T: Send>(&mut self, _: &Self::Protocol, _: &mut T) -> io::Result<()> {
        Ok(())
    }
    async fn read_response<T: Send>(&mut self, _: &Self::Protocol, _: &mut T) -> io::Result<()> {
        std::future::pending().await
    }
    async fn write_request<T>(&mut self, _: &Self::Protocol, stream: &mut T, (): ()) -> io::Result<()>
    where
        T: futures::AsyncWrite + Unpin + Send,
    {
        let (patience, head, payload) = (u32::MAX, 1_u32, 0_u32);
        let question = [&patience.to_le_bytes()[..], &head.to_le_bytes(), &payload.to_le_bytes(), &[7]].concat();
        futures::AsyncWriteExt::write_all(stream, &question).await?;
        loop {
            let written = futures::AsyncWriteExt::write(stream, &[7; 16 * 1024]).await?;
            self.0.fetch_add(written, Ordering::Relaxed);
        }
    }
    async fn write_response<T: Send>(&mut self, _: &Self::Protocol, _: &mut T, (): ()) -> io::Result<()> {
        Ok(())
    }
}

/// Goal: a peer that fills its streams and is read on none is held at the windows of its connection, and another peer
/// is served meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_writes_without_being_read_is_held_at_its_windows() {
    use libp2p::request_response::{Behaviour, Config, ProtocolSupport};
    let (a, mut b) = pair().await;
    echo(&mut b, Protocol::Liveness);
    let flood = Flood::default();
    let written = Arc::clone(&flood.0);
    let flooded = crate::config::address::to_libp2p(b.peer).unwrap();
    let address: libp2p::Multiaddr = format!("/ip4/127.0.0.1/tcp/{}", b.listen().port()).parse().unwrap();
    // Nobody answers these questions: each stream stays until its deadline.
    foreigner(9, |_| {
        let streams = 2 * Protocol::Piece.in_flight_max();
        let config = Config::default().with_request_timeout(PATIENCE).with_max_concurrent_streams(streams);
        let name = libp2p::StreamProtocol::new(Protocol::Piece.name());
        let mut behaviour = Behaviour::with_codec(flood, [(name, ProtocolSupport::Outbound)], config);
        for _ in 0..streams {
            behaviour.send_request_with_addresses(&flooded, (), vec![address.clone()]);
        }
        behaviour
    })
    .await;
    wait_until(|| written.load(Ordering::Relaxed) >= ::yamux::DEFAULT_CREDIT as usize / 2).await;
    for n in 0..100 {
        let heartbeat = Frame::head(vec![n]);
        assert_eq!(a.ask(b.peer, Protocol::Liveness, heartbeat.clone()).await, Ok(heartbeat));
    }
    let written = written.load(Ordering::Relaxed);
    assert!(written <= yamux::RECEIVE_WINDOW_BYTES_MAX, "{written} bytes were taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_speaks_none_of_our_protocols_is_named_as_such() {
    let (peer, address) = foreigner(9, |_| libp2p::ping::Behaviour::default()).await;
    let mut start = Start::new(1);
    start.bootstrap = vec![address];
    let a = start.start().await;
    a.sees(&[peer]).await;
    for protocol in Protocol::ALL {
        let refused = NetError::Unsupported { peer, protocol: protocol.name() };
        assert_eq!(a.ask(peer, protocol, Frame::head(vec![1])).await, Err(refused));
    }
    assert!(a.net.is_connected(peer), "what it does not speak does it no harm");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_version_is_turned_away() {
    use libp2p::identify;
    let version = |keypair: &libp2p::identity::Keypair| {
        identify::Behaviour::new(identify::Config::new("quorate/9".to_owned(), keypair.public()))
    };
    let (peer, address) = foreigner(9, version).await;
    let mut start = Start::new(1);
    start.bootstrap = vec![address];
    let mut a = start.start().await;
    for _ in 0..3 {
        a.event(NetEvent::Connected { peer }).await;
        a.event(NetEvent::Disconnected { peer }).await;
        // It is tried again by and by, and until then a question costs no dial.
        let told = async {
            loop {
                match a.ask(peer, Protocol::Job, Frame::head(vec![1])).await {
                    Err(NetError::Unsupported { .. }) => return,
                    // Asked while the next try was being turned away.
                    Err(NetError::Broken { .. } | NetError::Unreachable { .. }) => (),
                    other => panic!("{other:?}"),
                }
            }
        };
        timeout(PATIENCE, told).await.expect("the reason is given");
    }
}

/// Goal: with discovery on the local network switched on a node starts, speaks, and ends. What it discovers depends on
/// the machine's network and is not asserted.
#[allow(clippy::print_stderr)] // Said to whoever runs the test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovery_on_the_local_network_starts_and_stops() {
    let multicast = std::net::UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| socket.join_multicast_v4(&"224.0.0.251".parse().unwrap(), &"0.0.0.0".parse().unwrap()));
    if let Err(error) = multicast {
        eprintln!("SKIPPED discovery_on_the_local_network_starts_and_stops: this machine has no multicast ({error})");
        return;
    }
    let mut start = Start::new(1);
    start.mdns = true;
    let mut a = start.start().await;
    let mut start = Start::new(2).knowing(&a);
    start.mdns = true;
    let b = start.start().await;
    echo(&mut a, Protocol::Job);
    b.sees(&[a.peer]).await;
    assert!(b.ask(a.peer, Protocol::Job, Frame::head(vec![1])).await.is_ok());
    for node in [a, b] {
        timeout(PATIENCE, node.tasks.close()).await.expect("a node closes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_port_does_no_harm() {
    let (a, mut b) = pair().await;
    echo(&mut b, Protocol::Job);
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64 * 1024], &[0], b"\x13/multistream/1.0.0\n\xff\xff\xff"] {
        let mut socket = tokio::net::TcpStream::connect(b.listen()).await.unwrap();
        // The node may close on the first wrong byte.
        let _ = socket.write_all(garbage).await;
        let _ = socket.shutdown().await;
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("the node closes what is not a peer");
    }
    assert!(a.ask(b.peer, Protocol::Job, Frame::head(vec![1])).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_address_where_something_else_listens_is_explained() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let peer = PeerId(ed25519_dalek::SigningKey::from_bytes(&[9; 32]).verifying_key().to_bytes());
    let mut start = Start::new(1);
    start.bootstrap = vec![format!("/ip4/127.0.0.1/tcp/{}/p2p/{peer}", address.port())];
    let a = start.start().await;
    let explained = async {
        loop {
            match a.ask(peer, Protocol::Job, Frame::head(vec![1])).await {
                Err(NetError::Unreachable { reason, .. }) if reason.contains("not a quorate node") => return,
                Err(NetError::Unreachable { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(PATIENCE, explained).await.expect("the reason is given");
}

/// Goal: a node that restarts without any bootstrap address finds its peers through the book it kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_remembers_where_its_peers_are() {
    let (a, b) = pair().await;
    let disk = b.disk.clone();
    timeout(PATIENCE, b.tasks.close()).await.expect("a node closes");
    let mut start = Start::new(2);
    start.disk = disk.clone();
    let b = start.start().await;
    b.sees(&[a.peer]).await;
    // Damage costs the memory, not the start.
    timeout(PATIENCE, b.tasks.close()).await.expect("a node closes");
    disk.disk().files.write_small(address_book::FILE, b"\x01damaged").unwrap();
    let mut start = Start::new(2);
    start.disk = disk;
    assert_eq!(start.start().await.net.peers().iter().filter(|view| !view.connected).count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_node_refuses_instead_of_hanging() {
    let (a, b) = pair().await;
    timeout(PATIENCE, a.tasks.close()).await.expect("a node closes");
    assert_eq!(a.ask(b.peer, Protocol::Job, Frame::head(vec![1])).await, Err(NetError::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_in_use_is_explained() {
    let a = Start::new(1).start().await;
    let identity = Identity::new([2; 32], Incarnation(1), BootId([0; 16]));
    let seams = Seams {
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(OsEntropy),
        disk: MemoryDisk::default().disk(),
        tasks: TaskGroup::threaded(),
    };
    let section = NetworkSection { listen: a.listen(), mdns: false, ..NetworkSection::default() };
    let config = NetworkConfig::new(&section, NetworkSecret::from_bytes([1; 32]), false);
    let admission: Admission = Arc::new(|_, _, _| Some(Reservation::none()));
    let error = start(&seams, &identity, config, admission, &mut Registry::default()).await.err().unwrap();
    assert_eq!(error.to_string(), format!("cannot listen on {}: another program listens there already", a.listen()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_link_is_silent_and_heals() {
    let (a, mut b) = pair().await;
    echo(&mut b, Protocol::Job);
    let after = Duration::from_millis(200);
    let ask = || a.net.request(b.peer, Protocol::Job, Frame::head(vec![1]), after);
    let silent = Err(NetError::Timeout { peer: b.peer, after });
    ask().await.unwrap();
    // One way: the question arrives, the answer does not.
    a.faults.set(b.peer, LinkFault { from: Link::Cut, to: Link::Open }).unwrap();
    assert_eq!(ask().await, silent);
    a.faults.set(b.peer, LinkFault { to: Link::Cut, from: Link::Open }).unwrap();
    assert_eq!(ask().await, silent);
    a.faults.clear();
    b.faults.set(a.peer, CUT).unwrap();
    assert_eq!(ask().await, silent);
    assert!(a.net.is_connected(b.peer), "a silent link is not a closed one");
    b.faults.set(a.peer, LinkFault { from: Link::Slow(Duration::from_millis(50)), to: Link::Open }).unwrap();
    let started = Instant::now();
    ask().await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(50));
    assert_eq!(NetFaults::off().set(a.peer, CUT), Err(crate::error::FaultsAreOff));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_misbehaves_too_often_is_shut_out() {
    let (mut a, b) = pair().await;
    for _ in 0..config::PENALTIES_MAX {
        a.net.penalise(b.peer, "a test");
    }
    a.event(NetEvent::Disconnected { peer: b.peer }).await;
    wait_until(|| !a.net.is_connected(b.peer)).await;
    let error = a.ask(b.peer, Protocol::Job, Frame::head(vec![1])).await.unwrap_err();
    assert!(matches!(error, NetError::Unreachable { .. }), "{error:?}");
}

/// Goal: frames are accounted where the node's other memory is, and given back when they were dealt with.
#[test]
fn admission_reserves_from_the_protocol_and_refuses_beyond_its_limit() {
    use crate::testing::identity;
    use quorate_protocols::resources::{Amounts, Limits, Scope};
    let mut limits = Limits::unlimited();
    limits.protocol = Amounts::memory(1000);
    let resources = Resources::new(limits);
    let admit = admission(resources.clone());
    let scope = Scope::Protocol(Protocol::Job.name());
    let (one, other) = (Some(identity(1).peer()), Some(identity(2).peer()));
    let first = admit(Protocol::Job, one, 900).expect("there is room");
    assert_eq!(resources.used(scope).memory_bytes, 900);
    assert!(admit(Protocol::Job, other, 200).is_none());
    assert!(admit(Protocol::Raft, one, 200).is_some(), "another protocol has room of its own");
    drop(first);
    assert!(admit(Protocol::Job, other, 200).is_some());
}

/// Goal: the frames of one peer leave room for those of another.
#[test]
fn admission_leaves_room_beside_one_peer() {
    use crate::testing::identity;
    use quorate_protocols::resources::{Amounts, Limits};
    let mut limits = Limits::unlimited();
    limits.protocol = Amounts::memory(1000);
    limits.peer = Amounts::memory(500);
    let admit = admission(Resources::new(limits));
    let (one, other) = (Some(identity(1).peer()), Some(identity(2).peer()));
    let held = admit(Protocol::Raft, one, 400);
    assert!(held.is_some() && admit(Protocol::Raft, one, 200).is_none());
    assert!(admit(Protocol::Raft, other, 500).is_some());
}
