//! Both sides of a stream, over a pipe in memory.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncWrite};
use parking_lot::Mutex;
use quorate_protocols::ids::PeerId;
use quorate_protocols::mux::{Outbox, PART_BYTES_MAX};
use quorate_protocols::resources::{Amounts, Limits, Scope};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::asking::Asking;
use super::serving::Serving;
use super::*;
use crate::network::faults::{LinkFault, NetFaults};
use crate::network::metrics::Metrics;
use crate::network::{Link, admission};
use crate::resources::Resources;
use crate::seams::{Frame, InboundRequest, NetError, Places};

const ASKER: PeerId = PeerId([1; 32]);
const SERVER: PeerId = PeerId([2; 32]);
const PROTOCOL: Protocol = Protocol::Liveness;

#[derive(Default)]
struct Direction {
    bytes: VecDeque<u8>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    ended: bool,
    writes: usize,
}

/// One end of a pipe that holds so many bytes each way.
struct Pipe {
    from: Arc<Mutex<Direction>>,
    to: Arc<Mutex<Direction>>,
    holds: usize,
}

fn pipe(holds: usize) -> (Pipe, Pipe) {
    let (one, other) = (Arc::<Mutex<Direction>>::default(), Arc::<Mutex<Direction>>::default());
    (Pipe { from: one.clone(), to: other.clone(), holds }, Pipe { from: other, to: one, holds })
}

impl Drop for Pipe {
    fn drop(&mut self) {
        for direction in [&self.from, &self.to] {
            let mut direction = direction.lock();
            direction.ended = true;
            direction.reader.take().into_iter().chain(direction.writer.take()).for_each(Waker::wake);
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut from = self.from.lock();
        if from.bytes.is_empty() && !from.ended {
            from.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes = out.len().min(from.bytes.len());
        for (place, byte) in out.iter_mut().zip(from.bytes.drain(..bytes)) {
            *place = byte;
        }
        from.writer.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(bytes))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut to = self.to.lock();
        if to.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = self.holds.saturating_sub(to.bytes.len()).min(bytes.len());
        if room == 0 {
            to.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        to.bytes.extend(&bytes[..room]);
        to.writes += 1;
        to.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(room))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The serving node, with what it took in.
struct Node {
    env: Env,
    taken: mpsc::Receiver<InboundRequest>,
    resources: Resources,
}

fn node() -> Node {
    let faults = NetFaults::for_testing();
    let (outlet, taken) = mpsc::channel(1024);
    let outlets = Outlets {
        approval: outlet.clone(),
        raft: outlet.clone(),
        liveness: outlet.clone(),
        job: outlet.clone(),
        piece: outlet.clone(),
        task: outlet,
        gossip: mpsc::channel(1).0,
        events: mpsc::channel(1).0,
    };
    let mut limits = Limits::unlimited();
    limits.protocol = Amounts::memory(4 * 1024 * 1024);
    let resources = Resources::new(limits);
    let env = Env {
        shared: Arc::new(Shared::new(SERVER, faults, Metrics::default())),
        admission: admission(resources.clone()),
        outlets,
        tasks: TaskGroup::threaded(),
    };
    Node { env, taken, resources }
}

impl Node {
    fn used(&self, protocol: Protocol) -> u64 {
        self.resources.used(Scope::Protocol(protocol.name())).memory_bytes
    }
    fn take_request(&mut self) -> InboundRequest {
        self.taken.try_recv().expect("a question has been handed over")
    }
}

struct Pair {
    asking: Asking<Pipe>,
    /// `None` once it has ended, with what the peer did wrong.
    serving: Option<Serving<Pipe>>,
    misdeed: Option<Misdeed>,
    next: u64,
    /// From the asking side.
    questions: Arc<Mutex<Direction>>,
}

type Reply = oneshot::Receiver<Result<Frame, NetError>>;

impl Pair {
    fn new(protocol: Protocol) -> Self {
        let (one, other) = pipe(64 * 1024);
        let (mut asking, questions) = (Asking::new(protocol, SERVER), one.to.clone());
        // The first question opens the stream.
        let (reply, _answer) = oneshot::channel();
        let frame = Frame::default();
        let deadline = Instant::now() + protocol.deadline_max();
        assert!(asking.ask(Question { id: u64::MAX, peer: SERVER, protocol, frame, deadline, reply }));
        asking.cancel(u64::MAX);
        asking.opened(one);
        Self {
            asking,
            serving: Some(Serving::new(protocol, ASKER, other, Places::default())),
            misdeed: None,
            next: 0,
            questions,
        }
    }

    fn ask(&mut self, protocol: Protocol, frame: Frame, patience: Duration) -> (u64, Reply) {
        let (reply, answer) = oneshot::channel();
        let (id, deadline) = (self.next, Instant::now() + patience);
        self.next += 1;
        assert!(!self.asking.ask(Question { id, peer: SERVER, protocol, frame, deadline, reply }), "it is open");
        (id, answer)
    }

    /// Lets both sides read and write once.
    fn poll(&mut self, cx: &mut Context<'_>, node: &Node) {
        let mut buffer = vec![0; 4096];
        assert!(self.asking.poll(cx, &mut buffer, &node.env).is_none(), "the serving side keeps the rules");
        if let Some(Err(misdeed)) = self.serving.as_mut().map(|serving| serving.poll(cx, &mut buffer, &node.env)) {
            self.serving = None;
            self.misdeed = misdeed;
            cx.waker().wake_by_ref();
        }
    }

    /// Drives both sides until this is so.
    async fn drive(&mut self, node: &mut Node, mut is_so: impl FnMut(&mut Node) -> bool) {
        poll_fn(|cx| {
            self.poll(cx, node);
            if is_so(node) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// What comes of a question.
    async fn answer(&mut self, node: &mut Node, answer: &mut Reply) -> Result<Frame, NetError> {
        let mut told = None;
        self.drive(node, |_| {
            told = told.take().or_else(|| answer.try_recv().ok());
            told.is_some()
        })
        .await;
        told.expect("it was told")
    }

    /// Drives both sides until neither has anything left to do.
    async fn settle(&mut self, node: &Node) {
        for _ in 0..8 {
            poll_fn(|cx| {
                self.poll(cx, node);
                Poll::Ready(())
            })
            .await;
        }
    }
}

fn is_ready(answer: &mut Reply) -> bool {
    !matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty))
}

/// Each question asks for the answer that is told with its number, in whichever order.
#[tokio::test(start_paused = true)]
async fn questions_share_a_stream_and_are_answered_in_any_order() {
    let (mut node, mut pair) = (node(), Pair::new(Protocol::Raft));
    let sizes = [10, 0, 300_000, 5, PART_BYTES_MAX, 1_000_000];
    let frame = |at: usize| Frame::new(vec![at as u8; 40], Bytes::from(vec![at as u8; sizes[at]]));
    let mut answers: Vec<Reply> =
        (0..sizes.len()).map(|at| pair.ask(Protocol::Raft, frame(at), Duration::from_secs(9)).1).collect();
    pair.drive(&mut node, |node| node.taken.len() == sizes.len()).await;
    let mut requests: Vec<InboundRequest> = (0..sizes.len()).map(|_| node.take_request()).collect();
    let order: Vec<u8> = requests.iter().map(|request| request.frame.head[0]).collect();
    assert_eq!(order[..4], [0, 1, 3, 4], "small ones pass the large ones");
    let bytes: usize = requests.iter().map(|request| request.frame.len()).sum();
    assert_eq!(node.used(Protocol::Raft) as usize, bytes, "each brings its memory");
    requests.reverse();
    for InboundRequest { from, frame: asked, reply, memory } in requests {
        assert_eq!((from, &asked), (ASKER, &frame(usize::from(asked.head[0]))));
        drop(memory);
        reply.send(asked);
    }
    for (at, answer) in answers.iter_mut().enumerate() {
        assert_eq!(pair.answer(&mut node, answer).await, Ok(frame(at)));
    }
    assert_eq!(node.used(Protocol::Raft), 0);
    assert!(pair.asking.is_idle());
    pair.settle(&node).await;
    assert!(pair.serving.is_some_and(|serving| serving.is_idle()));
}

/// Goal: many callers cost one message, which has their questions in the order in which they came.
#[tokio::test(start_paused = true)]
async fn questions_that_came_meanwhile_leave_in_one_write() {
    let (mut node, mut pair) = (node(), Pair::new(Protocol::Job));
    let ask = |number: u8| pair.ask(Protocol::Job, Frame::head(vec![number; 50]), Duration::from_secs(9));
    let _answers: Vec<(u64, Reply)> = (0..100).map(ask).collect();
    pair.settle(&node).await;
    assert_eq!(pair.questions.lock().writes, 1);
    assert!((0..100).all(|number| node.take_request().frame.head[0] == number));
}

/// Goal: what one peer may have under way is bounded, and a cancellation frees its place before the next question.
#[tokio::test(start_paused = true)]
async fn one_question_too_many_is_busy_and_a_cancelled_one_makes_room() {
    let (mut node, mut pair) = (node(), Pair::new(PROTOCOL));
    let most = PROTOCOL.in_flight_max();
    let ask = |pair: &mut Pair| pair.ask(PROTOCOL, Frame::head(vec![1]), Duration::from_secs(1));
    let held: Vec<(u64, Reply)> = (0..most).map(|_| ask(&mut pair)).collect();
    let (_, mut over) = ask(&mut pair);
    assert_eq!(pair.answer(&mut node, &mut over).await, Err(NetError::Busy { peer: SERVER }));
    assert_eq!(node.taken.len(), most);
    pair.asking.cancel(held[3].0);
    let (_, mut next) = ask(&mut pair);
    pair.drive(&mut node, |node| node.taken.len() == most + 1).await;
    assert!(!is_ready(&mut next));
}

/// Goal: nobody has more questions dealt with by asking and giving up, nor by opening another stream.
#[tokio::test(start_paused = true)]
async fn questions_that_were_cancelled_have_their_places_until_they_are_dealt_with() {
    let (mut node, handled) = (node(), Places::default());
    let most = 2 * PROTOCOL.in_flight_max();
    let mut taken = Vec::new();
    for _ in 0..2 {
        let mut pair = Pair::new(PROTOCOL);
        let (one, other) = pipe(64 * 1024);
        let (reply, _answer) = oneshot::channel();
        pair.asking = Asking::new(PROTOCOL, SERVER);
        let deadline = Instant::now() + PROTOCOL.deadline_max();
        let first =
            Question { id: u64::MAX, peer: SERVER, protocol: PROTOCOL, frame: Frame::default(), deadline, reply };
        assert!(pair.asking.ask(first));
        pair.asking.cancel(u64::MAX);
        pair.asking.opened(one);
        pair.serving = Some(Serving::new(PROTOCOL, ASKER, other, handled.clone()));
        for _ in 0..2 * most {
            let (id, _answer) = pair.ask(PROTOCOL, Frame::head(vec![1]), Duration::from_secs(1));
            pair.settle(&node).await;
            pair.asking.cancel(id);
            pair.settle(&node).await;
            taken.extend(node.taken.try_recv().ok());
        }
        assert_eq!(taken.len(), most);
        let (_, mut over) = pair.ask(PROTOCOL, Frame::head(vec![1]), Duration::from_secs(1));
        assert_eq!(pair.answer(&mut node, &mut over).await, Err(NetError::Busy { peer: SERVER }));
    }
    taken.pop();
    let mut pair = Pair::new(PROTOCOL);
    let (one, other) = pipe(64 * 1024);
    pair.serving = Some(Serving::new(PROTOCOL, ASKER, other, handled));
    let (reply, _answer) = oneshot::channel();
    pair.asking = Asking::new(PROTOCOL, SERVER);
    let deadline = Instant::now() + PROTOCOL.deadline_max();
    let next = Question { id: 1, peer: SERVER, protocol: PROTOCOL, frame: Frame::head(vec![1]), deadline, reply };
    assert!(pair.asking.ask(next));
    pair.asking.opened(one);
    pair.drive(&mut node, |node| node.taken.len() == 1).await;
}

/// Goal: a peer that refuses without reading what it is asked makes this node keep none of it.
#[tokio::test(start_paused = true)]
async fn a_question_that_was_refused_is_sent_no_further() {
    const HOLDS: usize = 64 * 1024;
    let node = node();
    let (near, mut far) = pipe(HOLDS);
    let mut asking = Asking::new(Protocol::Raft, SERVER);
    let (mut buffer, mut near) = (vec![0; 4096], Some(near));
    for id in 0..8 {
        let (reply, mut answer) = oneshot::channel();
        let frame = Frame::head(vec![1; 1024 * 1024]);
        let deadline = Instant::now() + Duration::from_secs(9);
        let opens = asking.ask(Question { id, peer: SERVER, protocol: Protocol::Raft, frame, deadline, reply });
        assert_eq!(opens, near.is_some());
        near.take().into_iter().for_each(|near| asking.opened(near));
        let (mut outbox, mut refusal) = (Outbox::default(), Vec::new());
        outbox.refuse(id);
        outbox.fill(&mut refusal, usize::MAX, |_| ());
        poll_fn(|cx| Pin::new(&mut far).poll_write(cx, &refusal)).await.unwrap();
        for _ in 0..4 {
            let misdeed = poll_fn(|cx| Poll::Ready(asking.poll(cx, &mut buffer, &node.env))).await;
            assert!(misdeed.is_none());
        }
        assert_eq!(answer.try_recv(), Ok(Err(NetError::Busy { peer: SERVER })));
    }
    assert!(asking.is_idle());
    // Whatever was not written before the refusals never is.
    let (mut read, mut out) = (0, vec![0; HOLDS]);
    let mut read_on = || {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(asking.poll(&mut cx, &mut buffer, &node.env).is_none());
        match Pin::new(&mut far).poll_read(&mut cx, &mut out) {
            Poll::Ready(read) => read.unwrap(),
            Poll::Pending => 0,
        }
    };
    loop {
        match read_on() {
            0 => break,
            bytes => read += bytes,
        }
    }
    assert!(read < 4 * HOLDS, "{read} bytes were sent");
}

/// Goal: who left holds nothing at the serving side, whether its question was complete or not.
#[tokio::test(start_paused = true)]
async fn a_question_is_forgotten_when_its_asker_has_stopped_waiting() {
    let (mut node, mut pair) = (node(), Pair::new(Protocol::Raft));
    let patience = Duration::from_millis(50);
    let (_, _complete) = pair.ask(Protocol::Raft, Frame::head(vec![1; 100]), patience);
    pair.drive(&mut node, |node| node.taken.len() == 1).await;
    let request = node.take_request();
    // One that announces a mebibyte and sends a part of it.
    let mut outbox = Outbox::default();
    outbox.ask(77, 50, Bytes::from(vec![1; 1024 * 1024]), Bytes::new());
    let mut half = Vec::new();
    outbox.fill(&mut half, 1, |_| ());
    let (mut far, near) = pipe(64 * 1024);
    let mut other = Serving::new(Protocol::Raft, ASKER, near, Places::default());
    poll_fn(|cx| Pin::new(&mut far).poll_write(cx, &half)).await.unwrap();
    let mut buffer = vec![0; 4096];
    poll_fn(|cx| Poll::Ready(other.poll(cx, &mut buffer, &node.env))).await.unwrap();
    assert!((PART_BYTES_MAX as u64..=2 * PART_BYTES_MAX as u64 + 100).contains(&node.used(Protocol::Raft)));
    let began = Instant::now();
    poll_fn(|cx| {
        let _ = other.poll(cx, &mut buffer, &node.env);
        if other.is_idle() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    assert!(began.elapsed() >= patience && began.elapsed() < 2 * patience, "{:?}", began.elapsed());
    assert_eq!(node.used(Protocol::Raft), 100, "of the one that was taken in");
    pair.settle(&node).await;
    assert!(pair.serving.as_ref().is_some_and(Serving::is_idle));
    drop(request);
    assert_eq!(node.used(Protocol::Raft), 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_reply_is_busy_and_the_others_go_on() {
    let (mut node, mut pair) = (node(), Pair::new(PROTOCOL));
    let (_, mut dropped) = pair.ask(PROTOCOL, Frame::head(vec![1]), Duration::from_secs(1));
    let (_, mut answered) = pair.ask(PROTOCOL, Frame::head(vec![2]), Duration::from_secs(1));
    pair.drive(&mut node, |node| node.taken.len() == 2).await;
    drop(node.take_request());
    assert_eq!(pair.answer(&mut node, &mut dropped).await, Err(NetError::Busy { peer: SERVER }));
    node.take_request().reply.send(Frame::head(vec![3]));
    assert_eq!(pair.answer(&mut node, &mut answered).await, Ok(Frame::head(vec![3])));
}

/// Goal: a node that ends drops replies of requests it may have acted on, and must not deny having taken them.
#[tokio::test(start_paused = true)]
async fn a_reply_dropped_by_a_node_that_ends_breaks_the_stream() {
    let (mut node, mut pair) = (node(), Pair::new(PROTOCOL));
    let (_, mut answer) = pair.ask(PROTOCOL, Frame::head(vec![1]), Duration::from_secs(1));
    pair.drive(&mut node, |node| node.taken.len() == 1).await;
    node.env.tasks.crash();
    drop(node.take_request());
    assert_eq!(pair.answer(&mut node, &mut answer).await, Err(NetError::Broken { peer: SERVER }));
    assert!(pair.serving.is_none() && pair.misdeed.is_none());
}

#[tokio::test(start_paused = true)]
async fn bytes_that_mean_nothing_end_the_stream_and_are_held_against_the_peer() {
    let node = node();
    for bytes in [vec![9; 40], vec![1; 40], [vec![0], vec![0; 8], vec![12, 0, 0, 0], vec![255; 12]].concat()] {
        let (mut far, near) = pipe(64 * 1024);
        let mut serving = Serving::new(PROTOCOL, ASKER, near, Places::default());
        poll_fn(|cx| Pin::new(&mut far).poll_write(cx, &bytes)).await.unwrap();
        let mut buffer = vec![0; 4096];
        let ended = poll_fn(|cx| Poll::Ready(serving.poll(cx, &mut buffer, &node.env))).await;
        assert!(matches!(ended, Err(Some(Misdeed::Question))), "{ended:?}");
    }
    assert_eq!(node.used(PROTOCOL), 0);
}

/// Goal: an asker that never reads cannot make the node keep refusals for it without end.
#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_not_read_either() {
    let mut node = node();
    let refused = Arc::new(AtomicUsize::new(0));
    let counted = refused.clone();
    node.env.admission = Arc::new(move |_, _, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        None
    });
    let (mut far, near) = pipe(1024);
    let mut serving = Serving::new(PROTOCOL, ASKER, near, Places::default());
    let mut outbox = Outbox::default();
    (0..100_000).for_each(|id| outbox.ask(id, 1_000, Bytes::new(), Bytes::new()));
    let (mut questions, mut written) = (Vec::new(), 0);
    outbox.fill(&mut questions, usize::MAX, |_| ());
    let (mut buffer, stuck) = (vec![0; 4096], AtomicBool::new(false));
    poll_fn(|cx| {
        loop {
            let _ = serving.poll(cx, &mut buffer, &node.env);
            match Pin::new(&mut far).poll_write(cx, &questions[written..]) {
                Poll::Ready(bytes) => written += bytes.expect("the pipe is open"),
                // Tried again once, for the turn of the other side.
                Poll::Pending if stuck.swap(true, Ordering::Relaxed) => return Poll::Ready(()),
                Poll::Pending => (),
            }
        }
    })
    .await;
    let refused = refused.load(Ordering::Relaxed);
    assert!(refused < 5_000, "{refused} refusals for an asker that reads none");
}

/// A cut link is silent: a question runs into its deadline.
#[tokio::test(start_paused = true)]
async fn a_cut_link_says_nothing_and_keeps_nothing() {
    for fault in [LinkFault { from: Link::Cut, to: Link::Open }, LinkFault { from: Link::Open, to: Link::Cut }] {
        let (mut node, mut pair) = (node(), Pair::new(PROTOCOL));
        node.env.shared.faults.set(ASKER, fault).unwrap();
        let (_, mut answer) = pair.ask(PROTOCOL, Frame::head(vec![1]), Duration::from_millis(50));
        pair.settle(&node).await;
        let arrived = node.taken.try_recv();
        assert_eq!(arrived.is_ok(), fault.from == Link::Open);
        if let Ok(request) = arrived {
            request.reply.send(Frame::head(vec![2]));
        }
        pair.settle(&node).await;
        assert!(!is_ready(&mut answer));
        tokio::time::sleep(Duration::from_millis(60)).await;
        pair.settle(&node).await;
        assert!(!is_ready(&mut answer) && pair.serving.is_some_and(|serving| serving.is_idle()));
    }
}
