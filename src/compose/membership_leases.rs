//! Leases of membership, and trust in members, as this node's quorums ask for them: trust from the directory, its own
//! leases from its approver, others' from a round of asking.

use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_protocols::admission::Distrust;
use quorate_protocols::approval::standby::{self, Renewed};
use quorate_protocols::approval::{Approval, Subject};
use quorate_protocols::ids::{LeaseId, Nonce, PeerId, QuorumId};
use quorate_protocols::quorum::level;

use crate::approver::Approver;
use crate::directory::Directory;
use crate::quorums::approvals::Approvals;
use crate::quorums::placement::{MEMBER_LEASE, member_requirement};
use crate::raft::MembershipLeases;

pub struct NodeMembershipLeases {
    pub approver: Approver,
    pub approvals: Approvals,
    pub directory: Directory,
}

impl MembershipLeases for NodeMembershipLeases {
    fn check_trust(&self, peer: PeerId) -> Result<(), Distrust> {
        self.directory.check_trust(peer)
    }

    fn stands(&self, lease: LeaseId, quorum: QuorumId) -> bool {
        self.approver.use_member_lease(lease, quorum)
    }

    fn bind(&self, lease: LeaseId, nonce: Nonce, quorum: QuorumId) -> bool {
        self.approver.bind_founding_lease(lease, nonce, quorum)
    }

    fn win_member(
        &self,
        quorum: QuorumId,
        mut exclude: Vec<PeerId>,
        level: u16,
    ) -> BoxFuture<'static, Result<Approval, String>> {
        let too_low = |peer: &crate::directory::KnownPeer| !level::may_join(level, Some(peer.advert.level));
        exclude.extend(self.directory.peers().iter().filter(|peer| too_low(peer)).map(|peer| peer.peer));
        let approvals = self.approvals.clone();
        async move {
            let subject = Subject::Member { quorum };
            let won = approvals.gather(subject, member_requirement(), 1, 1, exclude, MEMBER_LEASE).await;
            let won = won.map_err(|error| error.to_string())?;
            won.into_iter().next().ok_or_else(|| "nobody was won".to_owned())
        }
        .boxed()
    }

    fn renew_standby(&self, peer: PeerId, lease: LeaseId) -> BoxFuture<'static, Renewed> {
        let approvals = self.approvals.clone();
        async move { approvals.renew(peer, lease, standby::LEASE).await }.boxed()
    }

    fn give_back(&self, peer: PeerId, lease: LeaseId) -> BoxFuture<'static, ()> {
        let approvals = self.approvals.clone();
        async move { approvals.give_back(peer, lease).map(drop).await }.boxed()
    }
}
