//! The emitter's actor: takes events, makes them durable, and keeps questions and dispatches under way.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use quorate_protocols::ids::{Millis, QuorumId};
use quorate_protocols::trigger::event::Dispatch;
use quorate_protocols::trigger::outbox::{Ask, Outbox, Taken};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::{DeliveryOutcome, EventDelivery, EventError, EventsMetrics, EventsParts, Order, rows};
use crate::seams::{Clock, DiskError, Seams};
use crate::storage::Storage;

/// Events that one write makes durable.
const BATCH_MAX: usize = 256;

/// How often the known quorums are looked at while there is something to deliver.
const LOOK: Duration = Duration::from_secs(1);

/// How far before this process the outbox's clock begins: further back than any event is kept.
const BEFORE: Duration = Duration::from_secs(2 * 24 * 3600);

struct Actor {
    seams: Seams,
    storage: Storage,
    delivery: Arc<dyn EventDelivery>,
    orders: mpsc::Receiver<Order>,
    outbox: Outbox,
    metrics: EventsMetrics,
    under_way: FuturesUnordered<BoxFuture<'static, Ended>>,
    looked_at: Option<Instant>,
    /// When to look again though nothing has happened.
    wake: Option<Instant>,
}

struct Ended {
    quorum: QuorumId,
    said: Said,
}

enum Said {
    Names {
        newest: u64,
        answer: Option<(Option<u64>, Vec<String>)>,
    },
    Dispatched {
        dispatch: Dispatch,
        carried: DeliveryOutcome,
    },
    /// The task was stopped, or is broken.
    Nothing,
}

enum Event {
    Shutdown,
    Ended(Ended),
    Orders(Vec<Order>),
    Due,
}

pub(super) fn start(
    parts: EventsParts,
    orders: mpsc::Receiver<Order>,
    metrics: EventsMetrics,
) -> Result<(), DiskError> {
    let EventsParts { seams, net, storage, delivery } = parts;
    let outbox = rows::load(storage.kv(), net.local_peer(), now(&*seams.clock), seams.clock.wall())?;
    let tasks = seams.tasks.clone();
    let actor = Actor {
        seams,
        storage,
        delivery,
        orders,
        outbox,
        metrics,
        under_way: FuturesUnordered::new(),
        looked_at: None,
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
                Event::Orders(orders) => self.take_orders(orders).await,
                Event::Due => (),
            }
            let done = self.send_due().await;
            self.metrics.kept.set(self.outbox.events() as i64);
            self.metrics.kept_bytes.set(self.outbox.bytes() as i64);
            if done.is_err() {
                // Nothing is promised of what was not written; it is tried again.
                self.wake = Some(Instant::now() + LOOK);
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let shutdown = self.seams.tasks.shutdown_token();
        let wake = self.wake;
        let mut orders = Vec::new();
        // Answers before new events: they make room.
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Event::Shutdown,
            Some(ended) = self.under_way.next(), if !self.under_way.is_empty() => Event::Ended(ended),
            taken = self.orders.recv_many(&mut orders, BATCH_MAX) => match taken {
                0 => Event::Shutdown,
                _ => Event::Orders(orders),
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
    async fn take_orders(&mut self, orders: Vec<Order>) {
        let now = self.now();
        let mut replies: Vec<(oneshot::Sender<Result<Taken, EventError>>, Taken)> = Vec::new();
        for order in orders {
            match order {
                Order::Own { event } => self.outbox.emit_own(now, event),
                Order::Emit { event, reply } => match self.outbox.emit(now, event) {
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
        let (now, Ended { quorum, said }) = (self.now(), ended);
        match said {
            Said::Names { newest, answer: Some((known, names)) } => {
                self.outbox.heard_names(now, quorum, newest, known, names);
            }
            Said::Dispatched { dispatch, carried: DeliveryOutcome::DeliveryAck(heard) } => {
                let told = dispatch.events.iter().take_while(|sent| sent.sequence <= heard.reaches);
                self.metrics.told.inc_by(told.count() as u64);
                self.outbox.delivered(now, quorum, &dispatch, heard);
            }
            Said::Dispatched { carried: DeliveryOutcome::Gap { known }, .. } => self.outbox.gap(now, quorum, known),
            Said::Dispatched { carried: DeliveryOutcome::Full, .. } => self.outbox.full(now, quorum),
            Said::Names { answer: None, .. }
            | Said::Dispatched { carried: DeliveryOutcome::Failed, .. }
            | Said::Nothing => {
                self.outbox.failed(now, quorum);
            }
        }
    }

    /// Asks and sends whatever is due.
    async fn send_due(&mut self) -> Result<(), DiskError> {
        self.wake = None;
        if self.outbox.is_idle() {
            return self.write().await;
        }
        let instant = Instant::now();
        let look = self.looked_at.map_or(instant, |at| at + LOOK);
        if look <= instant {
            self.looked_at = Some(instant);
            let known = self.delivery.quorums().into_iter().collect();
            self.outbox.announced(self.now(), &known);
            self.outbox.tidy(self.now());
        }
        let now = self.now();
        let (asks, later) = self.outbox.asks(now);
        let later = later.map(|at| instant + at.since(now));
        let next_look = self.looked_at.unwrap_or(instant) + LOOK;
        self.wake = Some(later.map_or(next_look, |later| later.min(next_look)));
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
        let delivery = self.delivery.clone();
        let task = self.seams.tasks.spawn(async move {
            match ask {
                Ask::Names { newest } => Said::Names { newest, answer: delivery.listening(quorum).await },
                Ask::Deliver(dispatch) => {
                    let carried = delivery.dispatch(quorum, dispatch.clone()).await;
                    Said::Dispatched { dispatch, carried }
                }
            }
        });
        let ended = async move {
            let said = task.await.ok().flatten().unwrap_or(Said::Nothing);
            Ended { quorum, said }
        };
        self.under_way.push(ended.boxed());
    }

    fn now(&self) -> Millis {
        now(&*self.seams.clock)
    }
}
