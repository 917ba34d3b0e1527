//! The approver's view of this node's quorums, and the approver as this node's own rounds reach it.

use futures::future::BoxFuture;
use quorate_protocols::approval::{ApprovalAnswer, ApprovalMessage};
use quorate_protocols::ids::{PeerId, QuorumId};

use crate::approver::{Approver, Memberships};
use crate::certificates::OwnQuorums;
use crate::quorums::ports::LocalApprover;
use crate::raft::WeakQuorumHost;

/// Weak, because the host has its promises kept by the approver. Without a host there is nothing to be a member of.
impl Memberships for WeakQuorumHost {
    fn is_member(&self, quorum: QuorumId) -> bool {
        // The host also answers for quorums that this node left: those hold nothing here any more.
        self.upgrade().and_then(|host| host.quorum(quorum)).is_some_and(|quorum| quorum.is_member())
    }
    fn count(&self) -> usize {
        self.upgrade().map_or(0, |host| host.quorums().len())
    }
}

impl OwnQuorums for WeakQuorumHost {
    fn voters(&self, quorum: QuorumId) -> Vec<PeerId> {
        self.upgrade().and_then(|host| host.quorum(quorum)).map(|own| own.voters()).unwrap_or_default()
    }
}

impl LocalApprover for Approver {
    fn answer(&self, from: PeerId, message: ApprovalMessage) -> BoxFuture<'static, ApprovalAnswer> {
        let approver = self.clone();
        Box::pin(async move { Self::answer(&approver, from, message).await })
    }
}
