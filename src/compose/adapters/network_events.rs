//! Events of the network itself: `quorate.peer.joined`, `quorate.peer.lost`, `quorate.object.stored`
//! and `quorate.job.ended`.
//!
//! Several nodes see the same thing, and each says so, for each may crash before it has: the id says that it is one. So
//! a trigger hears of it once, within its `dedupe_window`. A peer is *joined* for each start of its process, and *lost*
//! when nobody here has been connected to it for [`LOST_AFTER`]. What a node sees as it starts itself is no news.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_protocols::ids::{PeerId, QuorumId};
use quorate_protocols::quorum::Event as Applied;
use serde_json::json;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};

use crate::compose::NodeEvent;
use crate::directory::Directory;
use crate::events::Events;
use crate::quorums::ports::LocalQuorums;
use crate::raft::HostEvent;
use crate::seams::{Net, Seams};

/// A connection that is back within this was not lost.
const LOST_AFTER: Duration = Duration::from_secs(10);
/// A new peer's announcement, which says which life of it this is, is waited for.
const JOINED_AFTER: Duration = Duration::from_secs(3);
/// A node that has just started is itself who joined.
const QUIET_AT_START: Duration = Duration::from_secs(15);
/// Peers of which something is still to be said; beyond it the news is left out.
const PEERS_MAX: usize = 1_024;

pub struct NetworkEvents {
    pub seams: Seams,
    pub net: Arc<dyn Net>,
    pub directory: Directory,
    pub quorums: Arc<dyn LocalQuorums>,
    pub events: Events,
    /// Both subscribed before anything happens.
    pub applied: broadcast::Receiver<HostEvent>,
    pub nodes: broadcast::Receiver<NodeEvent>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum News {
    Joined,
    Lost,
}

impl NetworkEvents {
    /// Runs until the group of the seams closes.
    pub fn start(self) {
        let (tasks, shutdown) = (self.seams.tasks.clone(), self.seams.tasks.shutdown_token());
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => (),
                () = self.run() => (),
            }
        });
    }

    async fn run(mut self) {
        let began = Instant::now();
        let mut pending = BTreeMap::<PeerId, (Instant, News)>::new();
        loop {
            let due = pending.values().map(|(at, _)| *at).min();
            tokio::select! {
                biased;
                node = self.nodes.recv() => match node {
                    Ok(node) if pending.len() < PEERS_MAX => note_connection(&mut pending, node, began),
                    Ok(_) | Err(RecvError::Lagged(_)) => (),
                    Err(RecvError::Closed) => return,
                },
                applied = self.applied.recv() => match applied {
                    Ok(HostEvent::Applied { quorum, events, .. }) => {
                        for event in events.iter() {
                            self.emit_applied(quorum, event).await;
                        }
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => (),
                    Err(RecvError::Closed) => return,
                },
                () = async {
                    match due {
                        Some(due) => sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                } => {
                    let now = Instant::now();
                    let all = std::mem::take(&mut pending).into_iter().partition(|(_, (at, _))| *at <= now);
                    let (due, later): (BTreeMap<_, _>, BTreeMap<_, _>) = all;
                    pending = later;
                    for (peer, (_, news)) in due {
                        self.emit_peer(peer, news).await;
                    }
                }
            }
        }
    }

    async fn emit_peer(&self, peer: PeerId, news: News) {
        let connected = self.net.is_connected(peer);
        let name = match news {
            News::Joined if connected => "quorate.peer.joined",
            News::Lost if !connected => "quorate.peer.lost",
            _ => return,
        };
        let boot = self.directory.peer(peer).map(|known| known.advert.boot);
        let id = boot.map(|boot| format!("{peer} {boot}"));
        self.events.emit_own(name, id, &json!({ "peer": peer })).await;
    }

    async fn emit_applied(&self, quorum: QuorumId, event: &Applied) {
        match event {
            Applied::JobChanged { job, state } if state.is_final() => {
                let mut trigger = None;
                if let Some(local) = self.quorums.quorum(quorum) {
                    local.with_state(&mut |state| {
                        trigger = state.jobs().get(job).and_then(|record| record.fired_by).map(|by| by.job);
                    });
                }
                let data = json!({ "job": job, "quorum": quorum, "state": state, "trigger": trigger });
                self.events.emit_own("quorate.job.ended", Some(job.to_string()), &data).await;
            }
            Applied::ObjectStored { manifest, job, degraded } => {
                let object = quorate_protocols::ids::ObjectId { quorum, manifest: *manifest };
                let data = json!({ "object": object, "quorum": quorum, "job": job, "degraded": degraded });
                self.events.emit_own("quorate.object.stored", Some(job.to_string()), &data).await;
            }
            _ => (),
        }
    }
}

fn note_connection(pending: &mut BTreeMap<PeerId, (Instant, News)>, event: NodeEvent, began: Instant) {
    let now = Instant::now();
    match event {
        NodeEvent::PeerConnected { peer } => {
            // One that was about to be lost is back, and nothing was said.
            let is_back = pending.remove(&peer).is_some();
            if !is_back && now >= began + QUIET_AT_START {
                pending.insert(peer, (now + JOINED_AFTER, News::Joined));
            }
        }
        NodeEvent::PeerDisconnected { peer } => {
            pending.insert(peer, (now + LOST_AFTER, News::Lost));
        }
    }
}
