//! Standings without certificates: every peer is a voter of every quorum, but for those that a test calls strangers.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_protocols::ids::{PeerId, QuorumId};

use crate::certificates::{Standing, Standings};

#[derive(Default)]
pub(crate) struct Believed {
    pub strangers: Mutex<BTreeSet<PeerId>>,
}

impl Believed {
    pub fn all_but(strangers: impl IntoIterator<Item = PeerId>) -> Arc<Self> {
        Arc::new(Self { strangers: Mutex::new(strangers.into_iter().collect()) })
    }
}

impl Standings for Believed {
    fn has_voter(&self, _quorum: QuorumId, peer: PeerId) -> bool {
        !self.strangers.lock().contains(&peer)
    }
    fn standing(&self, quorum: QuorumId, peer: PeerId) -> BoxFuture<'static, Standing> {
        let standing = if self.has_voter(quorum, peer) { Standing::Voter } else { Standing::Stranger };
        futures::future::ready(standing).boxed()
    }
}
