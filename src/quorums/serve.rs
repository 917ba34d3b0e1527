//! Taking requests and answering each in a task of its own, with bounds.
//!
//! One greedy peer delays only itself: past its share it is told *busy*, before its message is decoded. The network
//! already reserved the memory of each request; it is given back when the request was answered.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use quorate_protocols::ids::PeerId;
use quorate_protocols::job::limits::{WATCH_REQUESTS_MAX, WATCH_SESSIONS_OF_PEERS_MAX, WATCH_SESSIONS_PER_PEER_MAX};
use quorate_protocols::task::limits::{LOG_WAITS_MAX, LOG_WAITS_PER_PEER_MAX};
use tokio::sync::mpsc;

use crate::seams::{Frame, InboundRequest, TaskGroup};

/// Requests handled at once by one service, in all and for one peer. A handler mostly waits for a commit, so it costs
/// little more than its message (at most 1 MiB, reserved by the network).
pub(crate) const HANDLERS_MAX: usize = 512;
pub(crate) const HANDLERS_PER_PEER_MAX: usize = 64;

// Requests of watches are parked in handlers for seconds: as many are left for all else.
const _: () = assert!(2 * WATCH_REQUESTS_MAX * WATCH_SESSIONS_PER_PEER_MAX <= HANDLERS_PER_PEER_MAX);
const _: () = assert!(2 * WATCH_REQUESTS_MAX * WATCH_SESSIONS_OF_PEERS_MAX <= HANDLERS_MAX);
// So are questions for logs that grow.
const _: () = assert!(2 * LOG_WAITS_PER_PEER_MAX <= HANDLERS_PER_PEER_MAX && 2 * LOG_WAITS_MAX <= HANDLERS_MAX);

/// Handlers that have ended and were not noted yet.
const ENDED_QUEUE: usize = HANDLERS_MAX;

/// The server's side of one protocol. Answers are encoded heads.
pub(crate) trait Service: Send + Sync + 'static {
    fn handle(&self, from: PeerId, frame: &Frame) -> impl Future<Output = Vec<u8>> + Send;
    /// The answer to a request that is not looked at.
    fn busy(&self) -> Vec<u8>;
}

/// Serves until the group closes or the requests end. Returns how many requests are being answered now.
pub(crate) fn start<S: Service>(service: Arc<S>, tasks: &TaskGroup, requests: mpsc::Receiver<InboundRequest>) -> Gauge {
    let handling = Gauge::default();
    let actor =
        Actor { service, tasks: tasks.clone(), running: BTreeMap::new(), running_total: 0, handling: handling.clone() };
    tasks.spawn(actor.run(requests));
    handling
}

struct Actor<S> {
    service: Arc<S>,
    tasks: TaskGroup,
    running: BTreeMap<PeerId, usize>,
    running_total: usize,
    handling: Gauge,
}

impl<S: Service> Actor<S> {
    async fn run(mut self, mut requests: mpsc::Receiver<InboundRequest>) {
        let shutdown = self.tasks.shutdown_token();
        let (ended, mut ends) = mpsc::channel::<PeerId>(ENDED_QUEUE);
        loop {
            // Ends before requests: a peer's share must be free again before its next request is judged.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some(peer) = ends.recv() => self.note_end(peer),
                request = requests.recv() => match request {
                    Some(request) => self.take_request(request, ended.clone()),
                    None => return,
                },
            }
        }
    }

    fn take_request(&mut self, request: InboundRequest, ended: mpsc::Sender<PeerId>) {
        let InboundRequest { from, frame, reply, memory } = request;
        let running = self.running.entry(from).or_default();
        if *running >= HANDLERS_PER_PEER_MAX || self.running_total >= HANDLERS_MAX {
            if *running == 0 {
                self.running.remove(&from);
            }
            return reply.send(Frame::head(self.service.busy()));
        }
        *running += 1;
        self.running_total += 1;
        self.handling.inc();
        let (service, shutdown) = (self.service.clone(), self.tasks.shutdown_token());
        self.tasks.spawn(async move {
            // Dropping the reply at shutdown tells the asker to go elsewhere.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => (),
                answer = service.handle(from, &frame) => reply.send(Frame::head(answer)),
            }
            drop(memory);
            // Fails only when the actor has stopped, and then nobody counts.
            let _ = ended.send(from).await;
        });
    }

    fn note_end(&mut self, peer: PeerId) {
        self.running_total -= 1;
        self.handling.dec();
        if let Some(running) = self.running.get_mut(&peer) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(&peer);
            }
        }
    }
}
