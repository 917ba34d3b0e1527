//! Serves the piece protocol: takes requests as long as there is room, a bounded number at once, none of which one peer
//! can take all for itself.
//!
//! When all turns are taken nothing is received, and the network in front of it drops and counts. A peer over its
//! share is told `Busy` at once.

use std::collections::BTreeMap;

use prometheus_client::metrics::gauge::Gauge;
use quorate_protocols::ids::PeerId;
use quorate_protocols::piece::limits::HEAD_BYTES_MAX;
use quorate_protocols::piece::{PieceAnswer, PieceMessage, PieceRefusal};
use quorate_protocols::wire;
use tokio::sync::mpsc;

use super::{PieceService, maintenance};
use crate::seams::{Frame, InboundRequest, TaskGroup, spawn};

/// Requests handled at once: each may hold one piece in memory (16 of 4 MiB at the default profile).
pub const HANDLING_MAX: usize = 16;

/// Of those, for one peer: above the four streams that the network lets it open, so that only a peer with several
/// connections meets it.
pub const HANDLING_PER_PEER_MAX: usize = 6;

/// Starts serving, scrubbing and collecting in the caller's task group.
pub fn start(service: PieceService, inbound: mpsc::Receiver<InboundRequest>) {
    drop(spawn(maintenance::run(service.clone())));
    drop(spawn(run(service, inbound)));
}

/// Says that a request has been dealt with, even if the task that did panicked.
struct Turn {
    peer: PeerId,
    done: mpsc::Sender<PeerId>,
    handling: Gauge,
}

impl Turn {
    fn begin(peer: PeerId, done: &mpsc::Sender<PeerId>, handling: &Gauge) -> Self {
        handling.inc();
        Self { peer, done: done.clone(), handling: handling.clone() }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.handling.dec();
        // Never full: it has room for every turn that there can be. The actor is gone when the node is, and nobody
        // counts any more.
        let _ = self.done.try_send(self.peer);
    }
}

async fn run(service: PieceService, mut inbound: mpsc::Receiver<InboundRequest>) {
    let shutdown = TaskGroup::current().shutdown_token();
    // A turn is sent back once, so as many fit as there are.
    let (done, mut finished) = mpsc::channel(HANDLING_MAX);
    let handling = service.inner.metrics.requests_handling.clone();
    let mut running: BTreeMap<PeerId, usize> = BTreeMap::new();
    let mut total = 0;
    loop {
        // Finished work first: it is what makes room.
        let request = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            Some(peer) = finished.recv() => {
                total -= 1;
                if let Some(count) = running.get_mut(&peer) {
                    *count -= 1;
                    if *count == 0 {
                        running.remove(&peer);
                    }
                }
                continue;
            }
            request = inbound.recv(), if total < HANDLING_MAX => match request {
                Some(request) => request,
                None => return,
            },
        };
        let count = running.entry(request.from).or_default();
        if *count >= HANDLING_PER_PEER_MAX {
            request.reply.send(Frame::head(wire::encode(&PieceAnswer::Refused(PieceRefusal::Busy))));
            continue;
        }
        *count += 1;
        total += 1;
        let turn = Turn::begin(request.from, &done, &handling);
        drop(spawn(serve(service.clone(), request, turn)));
    }
}

async fn serve(service: PieceService, request: InboundRequest, turn: Turn) {
    let InboundRequest { from, frame, reply, memory } = request;
    let (answer, payload) = match wire::decode::<PieceMessage>(&frame.head, HEAD_BYTES_MAX) {
        Ok(message) => service.handle(from, message, frame.payload).await,
        Err(error) => {
            service.inner.context.net.penalise(from, "malformed piece message");
            let reason = error.to_string();
            (PieceAnswer::Refused(PieceRefusal::Failed { reason }), bytes::Bytes::new())
        }
    };
    reply.send(Frame::new(wire::encode(&answer), payload));
    drop(memory);
    drop(turn);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a full house of turns ends without one being forgotten, and the gauge follows them.
    #[tokio::test]
    async fn every_turn_that_ends_is_heard_of() {
        let (done, mut finished) = mpsc::channel(HANDLING_MAX);
        let handling = Gauge::default();
        let turns: Vec<Turn> =
            (0..HANDLING_MAX).map(|n| Turn::begin(PeerId([n as u8; 32]), &done, &handling)).collect();
        assert_eq!(handling.get(), HANDLING_MAX as i64);
        drop(turns);
        assert_eq!(handling.get(), 0);
        drop(done);
        let mut ended = 0;
        while finished.recv().await.is_some() {
            ended += 1;
        }
        assert_eq!(ended, HANDLING_MAX);
    }
}
