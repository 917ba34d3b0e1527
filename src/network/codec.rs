//! The codec of a [`Frame`] on a stream of its own, as an approval or a piece has one, with what is checked before its
//! bytes are read. Other protocols share streams ([`super::mux`]).
//!
//! ```text
//! question: [u32 LE patience in ms][u32 LE head length][u32 LE payload length][head][payload]
//! answer:   [status 0]             [u32 LE head length][u32 LE payload length][head][payload]
//!           [status 1]             the peer is busy and took no request
//! ```
//!
//! Lengths are checked against the protocol's caps before anything is allocated. Memory for a question is asked of the
//! admission hook as its bytes arrive, at most as much again as came: a length that is announced and not sent holds
//! next to nothing. A question that gets no memory is read past, in small steps, and answered with *busy*. Heads and
//! payloads are slices of one buffer; nothing is decoded here.
//!
//! A question says how long its asker will wait, rounded up to milliseconds. Both ends give up the stream then, so that
//! an asker who left holds none of the few streams at either end; and never later than the protocol's own deadline,
//! which the behaviour enforces. The answering end starts counting later and so never gives up first: what it then
//! breaks off is for the asker a deadline that has passed, and nothing else.
//!
//! *Busy* says that no request was taken. A node that is ending drops its replies wherever it stands, so it breaks the
//! stream instead: whether it acted is unknown.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response;
use quorate_protocols::ids::PeerId;
use quorate_protocols::resources::Amounts;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::serving::Caller;
use crate::buffers::Buffer;
use crate::seams::Reservation;
use crate::seams::{Frame, Protocol, TaskGroup};

const STATUS_ANSWER: u8 = 0;
const STATUS_BUSY: u8 = 1;

/// Heads up to this size travel in one write with the lengths in front of them.
const HEAD_JOINED_BYTES_MAX: usize = 64 * 1024;

/// Read at once while skipping a question that got no memory.
const SKIP_BYTES: usize = 16 * 1024;

/// Asked of the first bytes of a question, before any of it has arrived.
pub(super) const FIRST_BYTES: usize = 16 * 1024;

/// Asks for the memory of an inbound frame, in bytes, before they are read; `None` refuses, and the asker is told that
/// this node is busy. The peer is known wherever questions are served. The reservation grows with the frame.
pub type Admission = Arc<dyn Fn(Protocol, Option<PeerId>, usize) -> Option<Reservation> + Send + Sync>;

#[derive(Debug)]
pub enum Question {
    /// To a peer.
    Asked { frame: Frame, deadline: Instant },
    /// From a peer.
    Received { frame: Frame, memory: Reservation },
    /// From a peer, and refused for want of memory.
    Refused,
}

#[derive(Debug)]
pub enum Answer {
    /// To a peer, once this node has it. The connection's own task waits, so that no answer passes through the actor.
    /// Dropping the sender answers *busy*, unless the node is ending.
    Later(oneshot::Receiver<Frame>),
    /// To a peer.
    Busy,
    /// To a peer: never. Only injected faults do this.
    Never,
    /// From a peer.
    Received(Frame),
    /// From a peer that took no request.
    ReceivedBusy,
}

#[derive(Clone)]
pub struct Codec {
    protocol: Protocol,
    admission: Admission,
    /// Whose questions it reads.
    caller: Caller,
    /// Asked whether the node is ending.
    tasks: TaskGroup,
    /// Set by the question written or read on this stream: a codec is cloned for every stream.
    deadline: Option<Instant>,
}

impl Codec {
    pub fn new(protocol: Protocol, admission: Admission, tasks: TaskGroup) -> Self {
        Self { protocol, admission, caller: Caller::default(), tasks, deadline: None }
    }

    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Reads the body of a question into memory that is reserved as it arrives; `None` once there is no more.
    async fn read_question<T: AsyncRead + Unpin + Send>(
        &self,
        io: &mut T,
        (head, payload): (usize, usize),
    ) -> io::Result<Option<(Frame, Reservation)>> {
        let total = head + payload;
        let mut arrived = total.min(FIRST_BYTES);
        let Some(mut memory) = (self.admission)(self.protocol, self.caller.peer(), arrived) else {
            skip_body(io, total).await?;
            return Ok(None);
        };
        let mut body = Buffer::with_length(arrived);
        io.read_exact(&mut body).await?;
        if arrived < total {
            // All at once: pages that nothing is written to cost none. What is paid for is what has arrived.
            let mut whole = Buffer::with_length(total);
            whole[..arrived].copy_from_slice(&body);
            body = whole;
        }
        while arrived < total {
            let next = total.min(2 * arrived);
            if memory.resize(Amounts::memory(next as u64)).is_err() {
                drop((body, memory));
                skip_body(io, total - arrived).await?;
                return Ok(None);
            }
            io.read_exact(&mut body[arrived..next]).await?;
            arrived = next;
        }
        Ok(Some((cut(body, head), memory)))
    }

    async fn read_lengths<T: AsyncRead + Unpin + Send>(&self, io: &mut T) -> io::Result<(usize, usize)> {
        let mut lengths = [0; 8];
        io.read_exact(&mut lengths).await?;
        let [a, b, c, d, e, f, g, h] = lengths;
        let (head, payload) = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]) as usize);
        let caps = (self.protocol.head_bytes_max(), self.protocol.payload_bytes_max());
        if head > caps.0 || payload > caps.1 {
            let reason = format!(
                "{} frame of {head} and {payload} bytes is larger than the {} and {} allowed",
                self.protocol.name(),
                caps.0,
                caps.1
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok((head, payload))
    }

    async fn write_frame<T: AsyncWrite + Unpin + Send>(io: &mut T, first: &[u8], frame: &Frame) -> io::Result<()> {
        let mut start = Vec::with_capacity(16 + frame.head.len().min(HEAD_JOINED_BYTES_MAX));
        start.extend_from_slice(first);
        start.extend_from_slice(&length(frame.head.len())?);
        start.extend_from_slice(&length(frame.payload.len())?);
        if frame.head.len() <= HEAD_JOINED_BYTES_MAX {
            start.extend_from_slice(&frame.head);
            io.write_all(&start).await?;
        } else {
            io.write_all(&start).await?;
            io.write_all(&frame.head).await?;
        }
        // The muxer cuts this into 16 KiB frames and takes turns between streams: a piece delays a raft append on the
        // same connection by what is gathered for one write to the socket.
        io.write_all(&frame.payload).await?;
        io.flush().await
    }
}

/// Rounded up: an answering node that gave up a fraction of a millisecond early would break off a question whose
/// deadline has not passed.
pub(super) fn millis_up(patience: Duration) -> u32 {
    u32::try_from(patience.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

fn length(bytes: usize) -> io::Result<[u8; 4]> {
    u32::try_from(bytes).map(u32::to_le_bytes).map_err(|_| io::Error::other("frame longer than its length field"))
}

async fn read_body<T: AsyncRead + Unpin + Send>(io: &mut T, head: usize, payload: usize) -> io::Result<Frame> {
    let mut body = Buffer::with_length(head + payload);
    io.read_exact(&mut body).await?;
    Ok(cut(body, head))
}

fn cut(body: Buffer, head: usize) -> Frame {
    let mut body = body.freeze();
    let head = body.split_to(head);
    Frame { head, payload: body }
}

async fn skip_body<T: AsyncRead + Unpin + Send>(io: &mut T, bytes: usize) -> io::Result<()> {
    let mut scratch = vec![0; SKIP_BYTES.min(bytes)];
    let mut left = bytes;
    while left > 0 {
        let step = left.min(SKIP_BYTES);
        io.read_exact(&mut scratch[..step]).await?;
        left -= step;
    }
    Ok(())
}

/// Runs one half of an exchange under the deadline of the call that started it.
async fn until<T>(deadline: Option<Instant>, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match deadline {
        None => work.await,
        Some(deadline) => match timeout_at(deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        },
    }
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Question;
    type Response = Answer;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Question>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut patience = [0; 4];
        io.read_exact(&mut patience).await?;
        let patience = Duration::from_millis(u32::from_le_bytes(patience).into()).min(self.protocol.deadline_max());
        self.deadline = Some(Instant::now() + patience);
        let lengths = self.read_lengths(io).await?;
        let read = self.read_question(io, lengths).await?;
        Ok(read.map_or(Question::Refused, |(frame, memory)| Question::Received { frame, memory }))
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Answer>
    where
        T: AsyncRead + Unpin + Send,
    {
        until(self.deadline, async {
            let mut status = [0];
            io.read_exact(&mut status).await?;
            match status {
                [STATUS_ANSWER] => {
                    let (head, payload) = self.read_lengths(io).await?;
                    Ok(Answer::Received(read_body(io, head, payload).await?))
                }
                [STATUS_BUSY] => Ok(Answer::ReceivedBusy),
                [other] => Err(io::Error::new(io::ErrorKind::InvalidData, format!("answer with status {other}"))),
            }
        })
        .await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, question: Question) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        match question {
            Question::Asked { frame, deadline } => {
                self.deadline = Some(deadline);
                let patience = millis_up(deadline.saturating_duration_since(Instant::now())).to_le_bytes();
                until(self.deadline, Self::write_frame(io, &patience, &frame)).await
            }
            Question::Received { .. } | Question::Refused => Err(io::Error::other("not a question of this node")),
        }
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, answer: Answer) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        until(self.deadline, async {
            let frame = match answer {
                Answer::Later(frame) => frame.await.ok(),
                Answer::Busy => None,
                Answer::Never => std::future::pending().await,
                Answer::Received(_) | Answer::ReceivedBusy => {
                    return Err(io::Error::other("not an answer of this node"));
                }
            };
            match frame {
                Some(frame) => Self::write_frame(io, &[STATUS_ANSWER], &frame).await,
                None if self.tasks.is_ending() => Err(io::ErrorKind::ConnectionAborted.into()),
                None => {
                    io.write_all(&[STATUS_BUSY]).await?;
                    io.flush().await
                }
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Resources;
    use bytes::Bytes;
    use futures::io::Cursor;
    use futures::stream::{self, StreamExt, TryStreamExt};
    use libp2p::request_response::Codec as _;
    use quorate_protocols::resources::{Limits, Scope};
    use std::sync::atomic::{AtomicUsize, Ordering};

    const NAME: StreamProtocol = StreamProtocol::new("/quorate/test/1");

    fn codec(protocol: Protocol, admit: bool) -> (Codec, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let seen = asked.clone();
        let admission: Admission = Arc::new(move |_, _, bytes| {
            seen.fetch_add(bytes, Ordering::Relaxed);
            admit.then(Reservation::none)
        });
        (Codec::new(protocol, admission, TaskGroup::threaded()), asked)
    }

    async fn wire(protocol: Protocol, frame: &Frame) -> Vec<u8> {
        let mut io = Cursor::new(Vec::new());
        let deadline = Instant::now() + protocol.deadline_max();
        let question = Question::Asked { frame: frame.clone(), deadline };
        codec(protocol, true).0.write_request(&NAME, &mut io, question).await.unwrap();
        io.into_inner()
    }

    #[tokio::test]
    async fn a_question_reads_back_and_its_memory_is_asked_for_first() {
        let frame = Frame::new(vec![1, 2, 3], Bytes::from(vec![7; 100_000]));
        let bytes = wire(Protocol::Piece, &frame).await;
        assert_eq!(&bytes[4..12], &[3, 0, 0, 0, 0xa0, 0x86, 1, 0]);
        let patience = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        assert!((1..=Protocol::Piece.deadline_max().as_millis() as u32).contains(&patience));
        let (mut codec, asked) = codec(Protocol::Piece, true);
        match codec.read_request(&NAME, &mut Cursor::new(bytes)).await.unwrap() {
            Question::Received { frame: read, .. } => assert_eq!(read, frame),
            _ => panic!("the question was refused"),
        }
        assert_eq!(asked.load(Ordering::Relaxed), FIRST_BYTES);
    }

    /// Accounts in a tree that has so much memory for all frames.
    fn accounted(protocol: Protocol, memory_bytes: u64) -> (Codec, Resources) {
        let mut limits = Limits::unlimited();
        limits.protocol = Amounts::memory(memory_bytes);
        let resources = Resources::new(limits);
        let admission = crate::network::admission(resources.clone());
        (Codec::new(protocol, admission, TaskGroup::threaded()), resources)
    }

    /// Goal: a frame that is announced and does not come holds next to nothing, one that comes holds no more than twice
    /// what has, and all of it at the end.
    #[tokio::test]
    async fn memory_is_reserved_as_bytes_arrive() {
        let frame = Frame::new(vec![1, 2, 3], Bytes::from(vec![7; 1_000_000]));
        let bytes = wire(Protocol::Piece, &frame).await;
        let (codec, resources) = accounted(Protocol::Piece, u64::MAX);
        let used = || resources.used(Scope::Protocol(Protocol::Piece.name())).memory_bytes as usize;
        let lengths = bytes.len() - frame.len();
        let name = NAME;
        for sent in [0, 1, FIRST_BYTES, 100_000, 600_000, frame.len() - 1] {
            let sent_bytes = stream::iter([io::Result::Ok(bytes[..lengths + sent].to_vec())]);
            let mut io = sent_bytes.chain(stream::pending()).into_async_read();
            let mut codec = codec.clone();
            let mut reading = Box::pin(codec.read_request(&name, &mut io));
            assert!(futures::poll!(reading.as_mut()).is_pending());
            assert!(used() <= FIRST_BYTES.max(2 * sent), "{} held of {sent} bytes", used());
        }
        assert_eq!(used(), 0, "what is broken off holds nothing");
        let question = codec.clone().read_request(&NAME, &mut Cursor::new(&bytes)).await.unwrap();
        let Question::Received { frame: read, memory } = question else { panic!("the question was refused") };
        assert_eq!((read, used()), (frame.clone(), frame.len()));
        drop(memory);
        // One that does not fit is read past.
        let (mut codec, resources) = accounted(Protocol::Piece, frame.len() as u64 / 2);
        let mut io = Cursor::new(&bytes);
        assert!(matches!(codec.read_request(&NAME, &mut io).await.unwrap(), Question::Refused));
        assert_eq!(io.position() as usize, bytes.len());
        assert_eq!(resources.used(Scope::System).memory_bytes, 0);
    }

    #[tokio::test]
    async fn a_question_without_memory_is_read_past_and_refused() {
        let frame = Frame::new(vec![1], Bytes::from(vec![7; 100_000]));
        let mut io = Cursor::new(wire(Protocol::Piece, &frame).await);
        let question = codec(Protocol::Piece, false).0.read_request(&NAME, &mut io).await.unwrap();
        assert!(matches!(question, Question::Refused));
        assert_eq!(io.position(), io.get_ref().len() as u64);
    }

    #[tokio::test]
    async fn lengths_above_the_caps_are_refused_before_memory_is_asked_for() {
        let over = |protocol: Protocol| protocol.head_bytes_max() as u32 + 1;
        for protocol in Protocol::ALL {
            let cases = [(over(protocol), 0), (u32::MAX, u32::MAX), (0, protocol.payload_bytes_max() as u32 + 1)];
            for (head, payload) in cases {
                let bytes = [1000u32.to_le_bytes(), head.to_le_bytes(), payload.to_le_bytes()].concat();
                let (mut codec, asked) = codec(protocol, true);
                let error = codec.read_request(&NAME, &mut Cursor::new(bytes)).await.err().unwrap();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                assert_eq!(asked.load(Ordering::Relaxed), 0);
            }
        }
    }

    #[tokio::test]
    async fn torn_and_foreign_bytes_are_errors() {
        let frame = Frame::head(vec![1, 2, 3]);
        let bytes = wire(Protocol::Job, &frame).await;
        for cut in 0..bytes.len() {
            let result = codec(Protocol::Job, true).0.read_request(&NAME, &mut Cursor::new(&bytes[..cut])).await;
            assert!(result.is_err(), "cut at {cut}");
        }
        for status in 2..=255 {
            let result = codec(Protocol::Job, true).0.read_response(&NAME, &mut Cursor::new(vec![status])).await;
            assert!(result.is_err(), "status {status}");
        }
    }

    /// Goal: an asker that left does not keep a stream of the answering node.
    #[tokio::test(start_paused = true)]
    async fn an_answer_is_given_up_when_its_asker_has_stopped_waiting() {
        let started = Instant::now();
        let question = Question::Asked { frame: Frame::head(vec![1]), deadline: started + Duration::from_millis(50) };
        let mut io = Cursor::new(Vec::new());
        codec(Protocol::Job, true).0.write_request(&NAME, &mut io, question).await.unwrap();
        io.set_position(0);
        let mut codec = codec(Protocol::Job, true).0;
        codec.read_request(&NAME, &mut io).await.unwrap();
        let (_reply, answer) = oneshot::channel();
        let error = codec.write_response(&NAME, &mut io, Answer::Later(answer)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), Duration::from_millis(50));
    }

    #[test]
    fn patience_on_the_wire_never_falls_short_of_the_askers_own() {
        for (patience, millis) in [(0, 0), (1, 1), (999_999, 1), (1_000_000, 1), (1_000_001, 2), (u64::MAX, u32::MAX)] {
            assert_eq!(millis_up(Duration::from_nanos(patience)), millis);
        }
    }

    /// Goal: a node that ends drops replies of requests it may have acted on, and must not deny having taken them.
    #[tokio::test]
    async fn a_reply_dropped_by_a_node_that_ends_is_not_busy() {
        for end in [true, false] {
            let (reply, answer) = oneshot::channel();
            drop(reply);
            let (mut codec, _) = codec(Protocol::Raft, true);
            match end {
                true => codec.tasks.close().await,
                false => codec.tasks.crash(),
            }
            let mut io = Cursor::new(Vec::new());
            assert!(codec.write_response(&NAME, &mut io, Answer::Later(answer)).await.is_err());
            assert!(io.into_inner().is_empty(), "nothing was said");
        }
    }

    #[tokio::test]
    async fn a_dropped_reply_tells_the_asker_busy() {
        let (reply, answer) = oneshot::channel();
        drop(reply);
        let mut io = Cursor::new(Vec::new());
        let mut codec = codec(Protocol::Raft, true).0;
        codec.write_response(&NAME, &mut io, Answer::Later(answer)).await.unwrap();
        io.set_position(0);
        assert!(matches!(codec.read_response(&NAME, &mut io).await.unwrap(), Answer::ReceivedBusy));
    }
}
