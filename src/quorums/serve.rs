//! Taking requests and answering each in a task of its own, with bounds.
//!
//! One greedy peer delays only itself: past its share it is told *busy*, before its message is decoded. The network
//! already reserved the memory of each request; it is given back when the request was answered.

use std::future::Future;
use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use quorate_protocols::ids::PeerId;
use quorate_protocols::job::limits::IN_FLIGHT_PER_PEER_MAX;
use quorate_protocols::job::limits::{WATCH_REQUESTS_MAX, WATCH_SESSIONS_OF_PEERS_MAX, WATCH_SESSIONS_PER_PEER_MAX};
use quorate_protocols::task::limits::{LOG_WAITS_MAX, LOG_WAITS_PER_PEER_MAX};
use tokio::sync::mpsc;

use super::slots::PeerSlots;
use crate::seams::{Frame, InboundRequest, TaskGroup};

/// Requests handled at once by one service, in all and for one peer. A handler mostly waits for a commit, so it costs
/// little more than its message (at most 1 MiB, reserved by the network).
pub(crate) const HANDLERS_MAX: usize = 3 * 1024;
pub(crate) const HANDLERS_PER_PEER_MAX: usize = 384;

// A handler may go on for a while after its asker has given up and asked the next.
const _: () = assert!(IN_FLIGHT_PER_PEER_MAX < HANDLERS_PER_PEER_MAX);

// Requests of watches are parked in handlers for seconds: as many are left for all else.
const _: () = assert!(2 * WATCH_REQUESTS_MAX * WATCH_SESSIONS_PER_PEER_MAX <= HANDLERS_PER_PEER_MAX);
const _: () = assert!(2 * WATCH_REQUESTS_MAX * WATCH_SESSIONS_OF_PEERS_MAX <= HANDLERS_MAX);
// So are questions for logs that grow.
const _: () = assert!(2 * LOG_WAITS_PER_PEER_MAX <= HANDLERS_PER_PEER_MAX && 2 * LOG_WAITS_MAX <= HANDLERS_MAX);

/// The server's side of one protocol. Answers are encoded heads.
pub(crate) trait Service: Send + Sync + 'static {
    fn handle(&self, from: PeerId, frame: &Frame) -> impl Future<Output = Vec<u8>> + Send;
    /// The answer to a request that is not looked at.
    fn busy(&self) -> Vec<u8>;
}

/// Serves until the group closes or the requests end. Returns how many requests are being answered now.
pub(crate) fn start<S: Service>(service: Arc<S>, tasks: &TaskGroup, requests: mpsc::Receiver<InboundRequest>) -> Gauge {
    let handling = Gauge::default();
    let places = PeerSlots::new(HANDLERS_PER_PEER_MAX, HANDLERS_MAX);
    let actor = Actor { service, tasks: tasks.clone(), places, handling: handling.clone() };
    tasks.spawn(actor.run(requests));
    handling
}

struct Actor<S> {
    service: Arc<S>,
    tasks: TaskGroup,
    places: PeerSlots,
    handling: Gauge,
}

impl<S: Service> Actor<S> {
    async fn run(self, mut requests: mpsc::Receiver<InboundRequest>) {
        let shutdown = self.tasks.shutdown_token();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                request = requests.recv() => match request {
                    Some(request) => self.take_request(request),
                    None => return,
                },
            }
        }
    }

    fn take_request(&self, request: InboundRequest) {
        let InboundRequest { from, frame, reply, memory } = request;
        let Some(place) = self.places.reserve(from) else {
            return reply.send(Frame::head(self.service.busy()));
        };
        let handled = Handled::new(self.handling.clone());
        let (service, shutdown) = (self.service.clone(), self.tasks.shutdown_token());
        self.tasks.spawn(async move {
            // Dropping the reply at shutdown tells the asker to go elsewhere.
            let answer = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                answer = service.handle(from, &frame) => answer,
            };
            // Before the asker can hear of it: its place must be free again when its next request is judged.
            drop((place, memory, handled));
            reply.send(Frame::head(answer));
        });
    }
}

/// Counts a request until it is dropped.
struct Handled(Gauge);

impl Handled {
    fn new(handling: Gauge) -> Self {
        handling.inc();
        Self(handling)
    }
}

impl Drop for Handled {
    fn drop(&mut self) {
        self.0.dec();
    }
}
