//! The emitter's actor: takes events, makes them durable, and keeps questions and dispatches under way.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use quorate_protocols::ids::{Millis, PeerId, QuorumId};
use quorate_protocols::quorum::Rejection;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::trigger::event::{DeliveryAck, Dispatch};
use quorate_protocols::trigger::outbox::{Ask, Emitted, Outbox};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::{EmitterRequest, EventError, EventsMetrics, EventsParts, rows};
use crate::quorums::{ClientError, QuorumPort};
use crate::seams::{Clock, DiskError, Seams};
use crate::storage::Storage;

/// Events that one write makes durable.
const BATCH_MAX: usize = 256;

/// How often the known quorums are looked at while there is something to deliver.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// One question or dispatch: a failover fits in it, over slow links and on slow disks too. What does not is said again.
const DEADLINE: Duration = Duration::from_secs(10);

/// How far before this process the outbox's clock begins: further back than any event is kept.
const BEFORE: Duration = Duration::from_secs(2 * 24 * 3600);

struct Actor {
    seams: Seams,
    storage: Storage,
    quorum_port: Arc<dyn QuorumPort>,
    /// This node, as the quorums know its events.
    emitter: PeerId,
    requests: mpsc::Receiver<EmitterRequest>,
    outbox: Outbox,
    metrics: EventsMetrics,
    under_way: FuturesUnordered<BoxFuture<'static, Ended>>,
    checked_at: Option<Instant>,
    /// When to look again though nothing has happened.
    wake: Option<Instant>,
}

struct Ended {
    quorum: QuorumId,
    outcome: Outcome,
}

enum Outcome {
    Names {
        newest: u64,
        answer: Result<QueryAnswer, ClientError>,
    },
    Dispatched {
        dispatch: Dispatch,
        answer: Result<DeliveryAck, ClientError>,
    },
    /// The task was stopped, or is broken.
    Nothing,
}

enum Event {
    Shutdown,
    Ended(Ended),
    Requests(Vec<EmitterRequest>),
    Due,
}

pub(super) fn start(
    parts: EventsParts,
    requests: mpsc::Receiver<EmitterRequest>,
    metrics: EventsMetrics,
) -> Result<(), DiskError> {
    let EventsParts { seams, net, storage, quorum_port } = parts;
    let outbox = rows::load(storage.kv(), net.local_peer(), now(&*seams.clock), seams.clock.wall())?;
    let tasks = seams.tasks.clone();
    let actor = Actor {
        seams,
        storage,
        quorum_port,
        emitter: net.local_peer(),
        requests,
        outbox,
        metrics,
        under_way: FuturesUnordered::new(),
        checked_at: None,
        wake: Some(Instant::now()),
    };
    tasks.spawn(actor.run());
    Ok(())
}

/// The outbox's clock.
fn now(clock: &dyn Clock) -> Millis {
    clock.monotonic().plus(BEFORE)
}

impl Actor {
    async fn run(mut self) {
        loop {
            match self.next_event().await {
                Event::Shutdown => return,
                Event::Ended(ended) => self.note_end(ended),
                Event::Requests(requests) => self.take_requests(requests).await,
                Event::Due => (),
            }
            let done = self.send_due().await;
            self.metrics.kept.set(self.outbox.events() as i64);
            self.metrics.kept_bytes.set(self.outbox.bytes() as i64);
            if done.is_err() {
                // Nothing is promised of what was not written; it is tried again.
                self.wake = Some(Instant::now() + CHECK_INTERVAL);
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let shutdown = self.seams.tasks.shutdown_token();
        let wake = self.wake;
        let mut requests = Vec::new();
        // Answers before new events: they make room.
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Event::Shutdown,
            Some(ended) = self.under_way.next(), if !self.under_way.is_empty() => Event::Ended(ended),
            taken = self.requests.recv_many(&mut requests, BATCH_MAX) => match taken {
                0 => Event::Shutdown,
                _ => Event::Requests(requests),
            },
            () = async {
                match wake {
                    Some(wake) => sleep_until(wake).await,
                    None => std::future::pending().await,
                }
            } => Event::Due,
        }
    }

    /// Takes events and answers once they are durable.
    async fn take_requests(&mut self, requests: Vec<EmitterRequest>) {
        let now = self.now();
        let mut replies: Vec<(oneshot::Sender<Result<Emitted, EventError>>, Emitted)> = Vec::new();
        for request in requests {
            match request {
                EmitterRequest::Own { event } => self.outbox.emit_own(now, event),
                EmitterRequest::Emit { event, reply } => match self.outbox.emit(now, event) {
                    Ok(taken) => replies.push((reply, taken)),
                    Err(error) => {
                        self.metrics.refused.inc();
                        // Whoever asked may have gone.
                        drop(reply.send(Err(error.into())));
                    }
                },
            }
        }
        let written = self.write().await;
        for (reply, taken) in replies {
            let answer = match &written {
                Ok(()) => {
                    self.metrics.taken.inc_by(u64::from(!taken.existed));
                    Ok(taken)
                }
                Err(error) => {
                    self.metrics.refused.inc();
                    if !taken.existed {
                        self.outbox.take_back(taken.sequence);
                    }
                    Err(error.clone().into())
                }
            };
            drop(reply.send(answer));
        }
    }

    async fn write(&mut self) -> Result<(), DiskError> {
        let changes = self.outbox.take_changes();
        if changes.is_empty() {
            return Ok(());
        }
        self.storage.write(rows::batch(&changes, self.outbox.newest())).await
    }

    fn note_end(&mut self, ended: Ended) {
        let (now, Ended { quorum, outcome }) = (self.now(), ended);
        match outcome {
            Outcome::Names { newest, answer: Ok(QueryAnswer::Subscription { known, names }) } => {
                self.outbox.heard_names(now, quorum, newest, known, names);
            }
            Outcome::Names { answer, .. } => {
                tracing::debug!(?quorum, ?answer, "the quorum does not say which events it wants");
                self.outbox.failed(now, quorum);
            }
            Outcome::Dispatched { dispatch, answer: Ok(ack) } => {
                let told = dispatch.events.iter().take_while(|sent| sent.sequence <= ack.reaches);
                self.metrics.told.inc_by(told.count() as u64);
                self.outbox.delivered(now, quorum, &dispatch, ack);
            }
            Outcome::Dispatched { answer: Err(ClientError::Rejected(Rejection::EventGap { known, .. })), .. } => {
                self.outbox.gap(now, quorum, known);
            }
            Outcome::Dispatched {
                answer: Err(ClientError::Rejected(Rejection::Full { .. } | Rejection::TooLarge { .. })),
                ..
            } => self.outbox.full(now, quorum),
            Outcome::Dispatched { answer: Err(error), .. } => {
                tracing::debug!(?quorum, %error, "events could not be delivered");
                self.outbox.failed(now, quorum);
            }
            Outcome::Nothing => self.outbox.failed(now, quorum),
        }
    }

    /// Asks and sends whatever is due.
    async fn send_due(&mut self) -> Result<(), DiskError> {
        self.wake = None;
        if self.outbox.is_idle() {
            return self.write().await;
        }
        let instant = Instant::now();
        let check = self.checked_at.map_or(instant, |at| at + CHECK_INTERVAL);
        if check <= instant {
            self.checked_at = Some(instant);
            let known = self.quorum_port.known().into_iter().collect();
            self.outbox.announced(self.now(), &known);
            self.outbox.tidy(self.now());
        }
        let now = self.now();
        let (asks, later) = self.outbox.asks(now);
        let later = later.map(|at| instant + at.since(now));
        let next_check = self.checked_at.unwrap_or(instant) + CHECK_INTERVAL;
        self.wake = Some(later.map_or(next_check, |later| later.min(next_check)));
        // What is sent may count on what was noted before.
        let written = self.write().await;
        for (quorum, ask) in asks {
            match written {
                Ok(()) => self.carry(quorum, ask),
                Err(_) => self.outbox.failed(now, quorum),
            }
        }
        written
    }

    fn carry(&mut self, quorum: QuorumId, ask: Ask) {
        let (port, emitter) = (self.quorum_port.clone(), self.emitter);
        let task = self.seams.tasks.spawn(async move {
            match ask {
                Ask::Names { newest } => {
                    let answer = port.query(quorum, Query::Subscription { emitter }, false, DEADLINE).await;
                    Outcome::Names { newest, answer }
                }
                Ask::Deliver(dispatch) => {
                    let answer = port.report_events(quorum, dispatch.clone(), DEADLINE).await;
                    Outcome::Dispatched { dispatch, answer }
                }
            }
        });
        let ended = async move {
            let outcome = task.await.ok().flatten().unwrap_or(Outcome::Nothing);
            Ended { quorum, outcome }
        };
        self.under_way.push(ended.boxed());
    }

    fn now(&self) -> Millis {
        now(&*self.seams.clock)
    }
}
