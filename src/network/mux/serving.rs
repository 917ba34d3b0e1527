//! The serving side of one protocol on one connection: questions of the peer, and the stream that they share.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{AbortHandle, Abortable, Aborted, BoxFuture};
use futures::stream::FuturesUnordered;
use futures::{AsyncRead, AsyncWrite, FutureExt, StreamExt};
use quorate_protocols::ids::PeerId;
use quorate_protocols::mux::{self, Lengths, Outbox, Parser, Side};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::asking::malformed;
use super::assembly::{Assembly, NoMemory};
use super::io::Io;
use super::{ANSWER_FREE_BYTES, Env, Misdeed, largest};
use crate::network::faults::Link;
use crate::seams::{Frame, InboundRequest, Places, Protocol, Reply, Reservation};

/// Refusals that wait to be written; nothing more is read meanwhile. One read may add a few hundred.
const NOTICES_MAX: usize = 64;

/// Questions that are dealt with for one peer and protocol, in multiples of those that may be under way. Those whose
/// askers have stopped waiting are among them until whoever deals with them has let go.
const HANDLED_FACTOR: usize = 2;

pub(super) struct Serving<S> {
    protocol: Protocol,
    peer: PeerId,
    io: Io<S>,
    parser: Parser,
    outbox: Outbox,
    /// At most [`Protocol::in_flight_max`]. Each leaves by its deadline.
    questions: BTreeMap<u64, Served>,
    /// Of questions that were handed over, on this stream and on those that the peer opened before.
    handled: Places,
    deadlines: BTreeSet<(Instant, u64)>,
    timer: Pin<Box<Sleep>>,
    /// What the timer waits for, which may be the deadline of a question that has left.
    armed: Option<Instant>,
    answers: FuturesUnordered<BoxFuture<'static, (u64, Outcome)>>,
}

/// The answer; or that it was dropped, or is not wanted.
type Outcome = Result<Result<Frame, oneshot::error::RecvError>, Aborted>;

struct Served {
    deadline: Instant,
    state: State,
}

enum State {
    Arriving(Assembly),
    Waiting(AbortHandle),
    Leaving {
        _memory: Option<Reservation>,
    },
    /// It will not be answered. Only injected faults do this.
    Silent,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Serving<S> {
    pub fn new(protocol: Protocol, peer: PeerId, stream: S, handled: Places) -> Self {
        Self {
            protocol,
            peer,
            io: Io::new(stream),
            parser: Parser::new(Side::Asking, largest(protocol)),
            outbox: Outbox::default(),
            questions: BTreeMap::new(),
            handled,
            deadlines: BTreeSet::new(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed: None,
            answers: FuturesUnordered::new(),
        }
    }

    pub fn is_idle(&self) -> bool {
        self.questions.is_empty()
    }

    /// Reads and writes what can be without waiting. An error ends the stream; it says what the peer did wrong, if
    /// that is why.
    pub fn poll(&mut self, cx: &mut Context<'_>, buffer: &mut [u8], env: &Env) -> Result<(), Option<Misdeed>> {
        let exchanged = self.exchange(cx, buffer, env);
        self.expire(cx);
        exchanged.map_err(|error| {
            tracing::trace!(peer = %self.peer, protocol = self.protocol.name(), %error, "a peer's stream ended");
            (error.kind() == io::ErrorKind::InvalidData).then_some(Misdeed::Question)
        })
    }

    fn exchange(&mut self, cx: &mut Context<'_>, buffer: &mut [u8], env: &Env) -> io::Result<()> {
        loop {
            while let Poll::Ready(Some((id, outcome))) = self.answers.poll_next_unpin(cx) {
                self.take_answer(id, outcome, env)?;
            }
            let (questions, deadlines) = (&mut self.questions, &mut self.deadlines);
            self.io.write(cx, &mut self.outbox, |id| {
                if let Some(served) = questions.remove(&id) {
                    deadlines.remove(&(served.deadline, id));
                }
            })?;
            if self.outbox.notices() >= NOTICES_MAX {
                return Ok(());
            }
            let Poll::Ready(read) = self.io.poll_read(cx, buffer) else { return Ok(()) };
            let mut input = &buffer[..read?];
            while let Some(event) = self.parser.next(&mut input).map_err(malformed)? {
                self.take_event(event, env)?;
            }
        }
    }

    fn take_event(&mut self, event: mux::Event<'_>, env: &Env) -> io::Result<()> {
        match event {
            mux::Event::Question { id, patience_ms, lengths } => self.begin(id, patience_ms, lengths, env)?,
            mux::Event::Bytes { id, bytes } => {
                let question = self.questions.get_mut(&id).map(|served| &mut served.state);
                if let Some(State::Arriving(assembly)) = question
                    && let Err(NoMemory) = assembly.push(bytes)
                {
                    env.shared.metrics.dropped("memory");
                    self.refuse(id);
                }
            }
            mux::Event::Complete { id } => self.hand_over(id, env),
            mux::Event::Cancel { id } => self.forget(id),
            // The parser refuses what an asking side does not write.
            mux::Event::Answer { .. } | mux::Event::Busy { .. } => (),
        }
        Ok(())
    }

    fn begin(&mut self, id: u64, patience_ms: u32, lengths: Lengths, env: &Env) -> io::Result<()> {
        if self.questions.contains_key(&id) {
            return Err(malformed(mux::Fault::Again { id }));
        }
        if self.questions.len() >= self.protocol.in_flight_max() {
            self.refuse(id);
            return Ok(());
        }
        let Some(memory) = (env.admission)(self.protocol, Some(self.peer), Assembly::first_bytes(lengths)) else {
            env.shared.metrics.dropped("memory");
            self.refuse(id);
            return Ok(());
        };
        let patience = Duration::from_millis(patience_ms.into()).min(self.protocol.deadline_max());
        let deadline = Instant::now() + patience;
        self.deadlines.insert((deadline, id));
        self.questions.insert(id, Served { deadline, state: State::Arriving(Assembly::accounted(lengths, memory)) });
        Ok(())
    }

    /// Gives a question that is complete to whoever deals with its protocol.
    fn hand_over(&mut self, id: u64, env: &Env) {
        let Some(served) = self.questions.get_mut(&id) else { return };
        let link = env.shared.faults.link(self.peer);
        let State::Arriving(assembly) = std::mem::replace(&mut served.state, State::Silent) else { return };
        if link.from == Link::Cut {
            return;
        }
        let Some(place) = self.handled.take_place(HANDLED_FACTOR * self.protocol.in_flight_max()) else {
            env.shared.metrics.dropped(self.protocol.name());
            return self.refuse(id);
        };
        let (frame, memory) = assembly.finish();
        let (reply, answer) = oneshot::channel();
        if link.to != Link::Cut {
            let (abort, registration) = AbortHandle::new_pair();
            served.state = State::Waiting(abort);
            self.answers.push(Abortable::new(answer, registration).map(move |outcome| (id, outcome)).boxed());
        }
        let memory = memory.unwrap_or_default().with_place(place);
        let request = InboundRequest { from: self.peer, frame, reply: Reply(reply), memory };
        let outlet = env.outlets.requests(self.protocol);
        let delay = link.round_trip_delay();
        if delay > Duration::ZERO {
            let outlet = outlet.clone();
            env.tasks.spawn(async move {
                tokio::time::sleep(delay).await;
                let _ = outlet.try_send(request);
            });
        } else if outlet.try_send(request).is_err() {
            // The request is dropped with its reply, which answers busy.
            env.shared.metrics.dropped(self.protocol.name());
        }
    }

    fn take_answer(&mut self, id: u64, outcome: Outcome, env: &Env) -> io::Result<()> {
        match outcome {
            Ok(Ok(frame)) => self.send_answer(id, frame, env),
            // It drops its replies wherever it stands, and must not deny that it took the requests.
            Ok(Err(_)) if env.tasks.is_ending() => return Err(io::ErrorKind::ConnectionAborted.into()),
            Ok(Err(_)) => self.refuse(id),
            Err(Aborted) => (),
        }
        Ok(())
    }

    /// An answer that cannot be sent is not denied either, since the question may have been carried out: its asker
    /// waits in vain.
    fn send_answer(&mut self, id: u64, frame: Frame, env: &Env) {
        let Some(served) = self.questions.get_mut(&id) else { return };
        let (largest, bytes) = (largest(self.protocol), frame.len());
        if frame.head.len() > largest.head || frame.payload.len() > largest.payload {
            tracing::error!(protocol = self.protocol.name(), bytes, "an answer is larger than its protocol carries");
            return self.forget(id);
        }
        let mut memory = None;
        if bytes > ANSWER_FREE_BYTES {
            memory = (env.admission)(self.protocol, Some(self.peer), bytes);
            if memory.is_none() {
                env.shared.metrics.dropped("memory");
                return self.forget(id);
            }
        }
        served.state = State::Leaving { _memory: memory };
        self.outbox.answer(id, frame.head, frame.payload);
    }

    fn refuse(&mut self, id: u64) {
        self.forget(id);
        self.outbox.refuse(id);
    }

    /// Nothing more is read or said of this question.
    fn forget(&mut self, id: u64) {
        self.parser.forget(id);
        self.outbox.remove(id);
        let Some(served) = self.questions.remove(&id) else { return };
        self.deadlines.remove(&(served.deadline, id));
        if let State::Waiting(abort) = served.state {
            abort.abort();
        }
    }

    /// Forgets the questions whose askers have stopped waiting, and has the task woken for the next.
    fn expire(&mut self, cx: &mut Context<'_>) {
        while let Some((first, id)) = self.deadlines.first().copied() {
            if first <= Instant::now() {
                self.forget(id);
                continue;
            }
            if self.armed.is_none_or(|armed| armed > first) {
                self.timer.as_mut().reset(first);
                self.armed = Some(first);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.armed = None;
        }
    }
}
