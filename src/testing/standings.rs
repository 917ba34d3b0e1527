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
    /// Every peer by itself: who the others are is not known.
    fn voters_with(&self, _quorum: QuorumId, peer: PeerId) -> Option<Vec<PeerId>> {
        (!self.strangers.lock().contains(&peer)).then(|| vec![peer])
    }
    fn standing(&self, quorum: QuorumId, peer: PeerId) -> BoxFuture<'static, Standing> {
        let standing = if self.has_voter(quorum, peer) { Standing::Voter } else { Standing::Stranger };
        futures::future::ready(standing).boxed()
    }
}
