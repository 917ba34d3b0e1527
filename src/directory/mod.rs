//! What this node knows of the network: peers and their capacity, quorums and their members.
//!
//! Feeds on gossip and on what answers prove; announces this node and the quorums it leads. The core is
//! `quorate_protocols::directory`.

use quorate_protocols::approval::{Requirement, Subject};
use quorate_protocols::directory::{PeerAdvert, QuorumAdvert};
use quorate_protocols::ids::{MemberId, Millis, PeerId, QuorumId};
use quorate_protocols::job::Kind;

/// One peer as announced.
#[derive(Clone, Debug)]
pub struct KnownPeer {
    pub peer: PeerId,
    pub advert: PeerAdvert,
    /// Wall-clock time of the last announcement.
    pub heard_at: Millis,
}

/// Handle to the directory.
#[derive(Clone)]
pub struct Directory(());

impl Directory {
    /// Announced peers, this node included, in order of id.
    pub fn peers(&self) -> Vec<KnownPeer> {
        unimplemented!()
    }
    /// Announced quorums and those this node is a member of, in order of id.
    pub fn quorums(&self) -> Vec<QuorumAdvert> {
        unimplemented!()
    }
    pub fn quorum(&self, _quorum: QuorumId) -> Option<QuorumAdvert> {
        unimplemented!()
    }
    /// Notes what an answer said about a quorum's members, until an advert says otherwise.
    pub fn learn_members(&self, _quorum: QuorumId, _primary: Option<MemberId>, _voters: Vec<MemberId>) {
        unimplemented!()
    }
    /// Peers worth asking for this, best first, from adverts: room, labels, kind, load; this node included.
    pub fn candidates(&self, _kind: Kind, _requirement: &Requirement) -> Vec<PeerId> {
        unimplemented!()
    }
    /// Announces a job that looks for peers, and returns the volunteers that answer from now on.
    pub fn ask_for_volunteers(
        &self,
        _subject: Subject,
        _kind: Kind,
        _requirement: Requirement,
    ) -> tokio::sync::mpsc::Receiver<PeerId> {
        unimplemented!()
    }
    /// A peer offered itself (an `Offer` on the approval protocol).
    pub fn offered(&self, _peer: PeerId, _subject: Subject) {
        unimplemented!()
    }
}
