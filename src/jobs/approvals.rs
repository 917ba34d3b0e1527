//! Gathering signed promises from peers.

use std::sync::Arc;
use std::time::Duration;

use quorate_protocols::approval::{Approval, Requirement, Subject};
use quorate_protocols::ids::PeerId;

use super::RoundError;
use super::ports::{Knowledge, LocalApprover};
use crate::seams::{Net, Seams};

/// Gathers approvals: asks more peers than needed at once, stops early, releases what it does not use.
#[derive(Clone)]
pub struct Approvals(Arc<ApprovalsParts>);

/// What the gathering is built from.
pub struct ApprovalsParts {
    pub seams: Seams,
    pub net: Arc<dyn Net>,
    pub knowledge: Arc<dyn Knowledge>,
    /// Answers in place of the network when this node itself is asked.
    pub local: Arc<dyn LocalApprover>,
}

impl Approvals {
    pub fn new(parts: ApprovalsParts) -> Self {
        Self(Arc::new(parts))
    }
    /// At least `needed` and at most `wanted` approvals from distinct peers other than `exclude`, each genuine, each
    /// trusted for its remaining time. Volunteers are asked for when the directory offers too few.
    pub async fn gather(
        &self,
        _subject: Subject,
        _requirement: Requirement,
        _needed: usize,
        _wanted: usize,
        _exclude: Vec<PeerId>,
        _duration: Duration,
    ) -> Result<Vec<Approval>, RoundError> {
        let _ = (&self.0.seams, &self.0.net, &self.0.knowledge, &self.0.local);
        unimplemented!()
    }
}
