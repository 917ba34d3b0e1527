//! The directory's task: takes announcements in, sends this node's out, and volunteers for jobs it could serve.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocols::approval::{ApprovalMessage, Subject};
use quorate_protocols::backoff::Backoff;
use quorate_protocols::directory::limits::{
    ADVERT_BYTES_MAX, GREETED_PEERS_MAX, OFFER_REPEAT, OFFER_SPREAD, OFFERS_MAX, OFFERS_REMEMBERED_MAX,
};
use quorate_protocols::directory::{
    AdvertFault, AdvertOutcome, JobAnnouncement, PeerAdvert, QuorumAdvert, check_quorum, misfit,
};
use quorate_protocols::ids::{Millis, PeerId};
use quorate_protocols::wire::{self, DecodeError, Record};
use tokio::sync::{Semaphore, mpsc};

use super::{Core, Shared};
use crate::certificates::Standing;
use crate::seams::{Frame, GossipMessage, Protocol, Topic};

/// Announcements taken in before anything else is looked at.
const GOSSIP_BATCH: usize = 64;

/// Authors of announcements that are asked for a proof at once.
const PROOFS_MAX: usize = 32;
const PROOF_TRIES: usize = 4;
const PROOF_PAUSES: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

/// Why an announcement was not taken in.
#[derive(Debug, thiserror::Error)]
enum AnnouncementFault {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Advert(#[from] AdvertFault),
}

struct Actor {
    shared: Arc<Shared>,
    offers: Arc<Semaphore>,
    /// Authors of announcements that are asked for a proof.
    proofs: Arc<Semaphore>,
    offered: Offered,
}

pub(super) async fn run(shared: Arc<Shared>, mut gossip: mpsc::Receiver<GossipMessage>) {
    let shutdown = shared.seams.tasks.shutdown_token();
    let (offers, proofs) = (Arc::new(Semaphore::new(OFFERS_MAX)), Arc::new(Semaphore::new(PROOFS_MAX)));
    let mut actor = Actor { shared, offers, proofs, offered: Offered::default() };
    let mut batch = Vec::with_capacity(GOSSIP_BATCH);
    let mut listening = true;
    loop {
        let wake_in = actor.announce();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            // Before gossip: others' announcements must not keep ours from going out.
            () = tokio::time::sleep(wake_in) => {}
            () = actor.shared.wake.notified() => {}
            count = gossip.recv_many(&mut batch, GOSSIP_BATCH), if listening => {
                listening = count > 0;
                for message in batch.drain(..) {
                    actor.on_announcement(message);
                }
            }
        }
    }
}

impl Actor {
    /// Publishes what is due and says how long to sleep.
    fn announce(&self) -> Duration {
        let shared = &self.shared;
        let now = shared.seams.clock.monotonic();
        let mut core = shared.lock();
        core.state.expire(now);
        let own = shared.own_advert(core.announcer.sequence());
        let Core { announcer, searches, pace, .. } = &mut *core;
        // Whoever looks for peers waits for the answers.
        let jobs = searches.due(now, pace);
        let due = announcer.due(now, own, pace, || shared.seams.entropy.u64());
        let wake_at = announcer.wake_at(now).min(searches.wake_at().unwrap_or(Millis(u64::MAX)));
        let wake_at = wake_at.max(pace.held_until().unwrap_or_default());
        let sent = due.quorums.len() + jobs.len() + usize::from(due.peer.is_some());
        shared.metrics.adverts_sent.inc_by(sent as u64);
        shared.refresh_own(&mut core);
        drop(core);
        due.peer.iter().for_each(|advert| self.publish(Topic::Peers, advert));
        due.quorums.iter().for_each(|advert| self.publish(Topic::Quorums, advert));
        jobs.iter().for_each(|announcement| self.publish(Topic::Jobs, announcement));
        wake_at.since(now).max(Duration::from_millis(1))
    }

    fn publish<T: Record>(&self, topic: Topic, value: &T) {
        let bytes = wire::encode_record(value);
        if bytes.len() > ADVERT_BYTES_MAX {
            // Labels are checked when the configuration is read, and a requirement carries labels of that form.
            tracing::error!(topic = topic.name(), bytes = bytes.len(), "an announcement is too large and was not sent");
            return;
        }
        self.shared.net.publish(topic, Bytes::from(bytes));
    }

    fn on_announcement(&mut self, message: GossipMessage) {
        if message.author == self.shared.identity.peer() {
            return;
        }
        match self.take_in(&message) {
            Ok(()) => {
                self.shared.metrics.adverts_received.inc();
            }
            // A newer node, in the middle of an upgrade. It has done nothing wrong.
            Err(AnnouncementFault::Decode(DecodeError::Version { .. })) => {
                self.shared.metrics.adverts_unknown.inc();
            }
            Err(fault) => {
                self.shared.metrics.adverts_refused.inc();
                tracing::debug!(author = %message.author, topic = message.topic.name(), %fault, "announcement refused");
                self.shared.net.penalise(message.author, "gossip: malformed or oversized announcement");
            }
        }
    }

    fn take_in(&mut self, message: &GossipMessage) -> Result<(), AnnouncementFault> {
        let (now, wall) = (self.shared.seams.clock.monotonic(), self.shared.seams.clock.wall());
        match message.topic {
            Topic::Peers => {
                let advert: PeerAdvert = wire::decode_record(&message.bytes)?;
                let mut core = self.shared.lock();
                if self.shared.net.is_connected(message.author) {
                    core.state.note_reached(now, message.author, true);
                }
                let noted = core.state.note_peer(now, wall, message.author, advert)?;
                if noted == AdvertOutcome::New
                    && core.state.peers().take(GREETED_PEERS_MAX + 1).count() <= GREETED_PEERS_MAX
                {
                    // It may not have heard of us either; the repeats are shared by all that are new at the same time.
                    core.announcer.connected(now);
                }
            }
            Topic::Quorums => {
                let advert: QuorumAdvert = wire::decode_record(&message.bytes)?;
                check_quorum(message.author, &advert)?;
                self.note_quorum(now, message.author, advert);
            }
            Topic::Jobs => {
                let announcement: JobAnnouncement = wire::decode_record(&message.bytes)?;
                self.volunteer(now, message.author, &announcement);
            }
        }
        Ok(())
    }

    /// Notes an announcement once its author has shown that it is a voter of the quorum.
    fn note_quorum(&self, now: Millis, author: PeerId, advert: QuorumAdvert) {
        let shared = self.shared.clone();
        let quorum = advert.quorum;
        let note = move |shared: &Shared, now| {
            if let Err(fault) = shared.lock().state.note_quorum(now, author, advert) {
                tracing::debug!(%author, %fault, "announcement refused");
            }
        };
        if shared.standings.has_voter(quorum, author) {
            return note(&shared, now);
        }
        // Beyond the bound it is heard the next time that it is announced.
        let Ok(permit) = self.proofs.clone().try_acquire_owned() else { return };
        let (standings, tasks) = (shared.standings.clone(), shared.seams.tasks.clone());
        // An announcement is not repeated for minutes: a question that was lost is asked again.
        let proof = async move {
            for pause in PROOF_PAUSES.pauses().take(PROOF_TRIES) {
                match standings.standing(quorum, author).await {
                    Standing::Silent => tokio::time::sleep(pause).await,
                    standing => return standing,
                }
            }
            Standing::Silent
        };
        tasks.spawn(async move {
            let shutdown = shared.seams.tasks.shutdown_token();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => (),
                standing = proof => match standing {
                    Standing::Voter => note(&shared, shared.seams.clock.monotonic()),
                    Standing::Moved { .. } | Standing::Stranger | Standing::Silent => {
                        shared.metrics.adverts_refused.inc();
                    }
                },
            }
            drop(permit);
        });
    }

    /// Offers this node to the author of an announcement, if it could serve.
    fn volunteer(&mut self, now: Millis, author: PeerId, announcement: &JobAnnouncement) {
        let shared = self.shared.clone();
        let subject = announcement.subject;
        let core = shared.lock();
        let member = matches!(subject, Subject::Member { quorum } if core.state.own_quorum(quorum).is_some());
        let own = shared.own_advert(core.announcer.sequence());
        drop(core);
        if member || misfit(&own, announcement.role, &announcement.requirement).is_some() {
            return;
        }
        let Ok(permit) = self.offers.clone().try_acquire_owned() else { return };
        if !self.offered.is_fresh(now, author, subject) {
            return;
        }
        shared.metrics.offers_sent.inc();
        let delay = Duration::from_millis(shared.seams.entropy.below(OFFER_SPREAD.as_millis() as u64));
        let tasks = shared.seams.tasks.clone();
        tasks.spawn(async move {
            tokio::time::sleep(delay).await;
            let frame = Frame::head(wire::encode(&ApprovalMessage::Offer { subject }));
            let asked = shared.net.request(author, Protocol::Approval, frame, Protocol::Approval.deadline_max()).await;
            if let Err(error) = asked {
                tracing::debug!(%error, "an offer was not delivered");
            }
            drop(permit);
        });
    }
}

/// Offers made lately, so that a repeated announcement is answered once.
#[derive(Debug, Default)]
struct Offered {
    made: BTreeMap<(PeerId, Subject), Millis>,
    by_age: BTreeSet<(Millis, PeerId, Subject)>,
}

impl Offered {
    fn is_fresh(&mut self, now: Millis, author: PeerId, subject: Subject) -> bool {
        while let Some(&(at, peer, old)) = self.by_age.first()
            && (now.since(at) > OFFER_REPEAT || self.by_age.len() >= OFFERS_REMEMBERED_MAX)
        {
            self.by_age.pop_first();
            self.made.remove(&(peer, old));
        }
        if self.made.contains_key(&(author, subject)) {
            return false;
        }
        self.made.insert((author, subject), now);
        self.by_age.insert((now, author, subject));
        true
    }
}
