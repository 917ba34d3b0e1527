//! The asking side of one protocol on one connection: questions of this node, and the stream that they share.

use std::collections::BTreeMap;
use std::io;
use std::task::{Context, Poll};

use futures::{AsyncRead, AsyncWrite};
use quorate_protocols::ids::PeerId;
use quorate_protocols::mux::{self, Lengths, Outbox, Parser, Side};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::assembly::{Assembly, NoMemory};
use super::io::Io;
use super::{ANSWER_FREE_BYTES, Env, Misdeed, largest};
use crate::network::codec::millis_up;
use crate::network::error_text;
use crate::seams::{Frame, NetError, Protocol};

/// A question of this node.
#[derive(Debug)]
pub(in crate::network) struct Question {
    /// Of all questions of this node.
    pub id: u64,
    pub peer: PeerId,
    pub protocol: Protocol,
    pub frame: Frame,
    pub deadline: Instant,
    /// Its other end is gone once nobody waits.
    pub reply: oneshot::Sender<Result<Frame, NetError>>,
}

pub(super) struct Asking<S> {
    protocol: Protocol,
    peer: PeerId,
    line: Line<S>,
    outbox: Outbox,
    waiting: BTreeMap<u64, Waiting>,
}

enum Line<S> {
    Closed,
    /// Asked for, and not there yet.
    Opening,
    Open(Io<S>, Parser),
}

struct Waiting {
    reply: oneshot::Sender<Result<Frame, NetError>>,
    answer: Option<Assembly>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Asking<S> {
    pub fn new(protocol: Protocol, peer: PeerId) -> Self {
        Self { protocol, peer, line: Line::Closed, outbox: Outbox::default(), waiting: BTreeMap::new() }
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a question. Returns whether a stream has to be opened for it.
    pub fn ask(&mut self, question: Question) -> bool {
        let Question { id, frame, deadline, reply, .. } = question;
        if reply.is_closed() {
            return false;
        }
        let patience = deadline.saturating_duration_since(Instant::now());
        self.outbox.ask(id, millis_up(patience), frame.head, frame.payload);
        self.waiting.insert(id, Waiting { reply, answer: None });
        let opens = matches!(self.line, Line::Closed);
        if opens {
            self.line = Line::Opening;
        }
        opens
    }

    pub fn cancel(&mut self, id: u64) {
        if self.waiting.remove(&id).is_none() {
            return;
        }
        if let Line::Open(_, parser) = &mut self.line {
            parser.forget(id);
        }
        if !self.outbox.remove(id) {
            self.outbox.cancel(id);
        }
    }

    pub fn opened(&mut self, stream: S) {
        if matches!(self.line, Line::Opening) {
            self.line = Line::Open(Io::new(stream), Parser::new(Side::Serving, largest(self.protocol)));
        }
    }

    /// The stream ended, or never was: every question on it fails. Of one that was broken nobody knows whether it
    /// was carried out, unless nothing of it was sent.
    pub fn fail(&mut self, why: impl Fn(PeerId, Protocol) -> NetError) {
        self.line = Line::Closed;
        let mut outbox = std::mem::take(&mut self.outbox);
        for (id, waiting) in std::mem::take(&mut self.waiting) {
            let unsent = outbox.remove(id);
            let error = match why(self.peer, self.protocol) {
                NetError::Broken { peer } if unsent => {
                    NetError::Unreachable { peer, reason: "the connection ended before it was asked".to_owned() }
                }
                error => error,
            };
            let _ = waiting.reply.send(Err(error));
        }
    }

    /// Reads and writes what can be without waiting.
    pub fn poll(&mut self, cx: &mut Context<'_>, buffer: &mut [u8], env: &Env) -> Option<Misdeed> {
        let error = self.exchange(cx, buffer, env).err()?;
        let is_malformed = error.kind() == io::ErrorKind::InvalidData;
        let is_unsupported = error_text::is_unsupported(&error);
        tracing::trace!(peer = %self.peer, protocol = self.protocol.name(), %error, "a stream of questions ended");
        self.fail(|peer, protocol| match is_unsupported {
            true => NetError::Unsupported { peer, protocol: protocol.name() },
            false => NetError::Broken { peer },
        });
        is_malformed.then_some(Misdeed::Answer)
    }

    fn exchange(&mut self, cx: &mut Context<'_>, buffer: &mut [u8], env: &Env) -> io::Result<()> {
        let Self { protocol, peer, line, outbox, waiting } = self;
        let Line::Open(io, parser) = line else { return Ok(()) };
        io.write(cx, outbox, |_| ())?;
        while let Poll::Ready(read) = io.poll_read(cx, buffer) {
            let mut input = &buffer[..read?];
            while let Some(event) = parser.next(&mut input).map_err(malformed)? {
                Answers { protocol: *protocol, peer: *peer, waiting, parser, outbox, env }.take_event(event);
            }
        }
        Ok(())
    }
}

/// What an event of the stream is about.
struct Answers<'a> {
    protocol: Protocol,
    peer: PeerId,
    waiting: &'a mut BTreeMap<u64, Waiting>,
    parser: &'a mut Parser,
    outbox: &'a mut Outbox,
    env: &'a Env,
}

impl Answers<'_> {
    fn take_event(&mut self, event: mux::Event<'_>) {
        match event {
            mux::Event::Answer { id, lengths } => self.begin(id, lengths),
            mux::Event::Bytes { id, bytes } => {
                let answer = self.waiting.get_mut(&id).and_then(|waiting| waiting.answer.as_mut());
                match answer.map(|answer| answer.push(bytes)) {
                    Some(Ok(())) => (),
                    Some(Err(NoMemory)) => self.give_up(id),
                    None => self.parser.forget(id),
                }
            }
            mux::Event::Complete { id } => {
                if let Some(Waiting { reply, answer: Some(answer) }) = self.waiting.remove(&id) {
                    self.stop_asking(id);
                    let _ = reply.send(Ok(answer.finish().0));
                }
            }
            mux::Event::Busy { id } => {
                if let Some(waiting) = self.waiting.remove(&id) {
                    self.parser.forget(id);
                    // The peer has forgotten it: nothing has to tell it so.
                    self.outbox.remove(id);
                    let _ = waiting.reply.send(Err(NetError::Busy { peer: self.peer }));
                }
            }
            // The parser refuses what a serving side does not write.
            mux::Event::Question { .. } | mux::Event::Cancel { .. } => (),
        }
    }

    /// An answer that begins. A long one is accounted as it comes; it is the peer that chose its length.
    fn begin(&mut self, id: u64, lengths: Lengths) {
        let Some(waiting) = self.waiting.get_mut(&id) else {
            // Its cancellation is on its way.
            return self.parser.forget(id);
        };
        if lengths.total() <= ANSWER_FREE_BYTES {
            waiting.answer = Some(Assembly::free(lengths));
            return;
        }
        match (self.env.admission)(self.protocol, Some(self.peer), Assembly::first_bytes(lengths)) {
            Some(memory) => waiting.answer = Some(Assembly::accounted(lengths, memory)),
            None => self.give_up(id),
        }
    }

    /// There is no memory for the answer.
    fn give_up(&mut self, id: u64) {
        self.env.shared.metrics.dropped("memory");
        self.parser.forget(id);
        if let Some(waiting) = self.waiting.remove(&id) {
            self.stop_asking(id);
            let _ = waiting.reply.send(Err(NetError::Broken { peer: self.peer }));
        }
    }

    /// A question that is answered before all of it was sent goes no further.
    fn stop_asking(&mut self, id: u64) {
        if self.outbox.holds(id) && !self.outbox.remove(id) {
            self.outbox.cancel(id);
        }
    }
}

pub(super) fn malformed(fault: mux::Fault) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault)
}
