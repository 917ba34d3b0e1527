//! The wall clocks of this node and of those that it shares a quorum with, as the liveness layer hears them.
//!
//! The liveness actor writes, groups and their proposers ask; what is believed is decided in
//! `quorate_protocols::liveness::clock`.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_protocols::ids::{MemberId, Millis, PeerId};
use quorate_protocols::liveness::{Clocks, Judgement};
use quorate_protocols::quorum::Voters;

use crate::seams::Clock;

pub struct NodeClocks {
    own: Arc<dyn Clock>,
    known: Mutex<Clocks>,
}

impl NodeClocks {
    pub fn new(own: Arc<dyn Clock>) -> Self {
        Self { own, known: Mutex::default() }
    }

    /// A peer answered a heartbeat that was sent at `asked`, after `took`.
    pub fn record(&self, peer: PeerId, wall: Millis, asked: Millis, took: Duration) {
        self.known.lock().record(peer, wall, asked, took);
    }

    pub fn retain(&self, keep: impl Fn(PeerId) -> bool) {
        self.known.lock().retain(keep);
    }

    /// The time in a quorum of these voters, of whom this node is `me`; `None` while too few clocks are known.
    pub fn judge(&self, me: MemberId, configurations: &[Voters]) -> Option<Judgement> {
        let (now, own) = (self.own.monotonic(), self.own.wall());
        self.known.lock().judge(now, own, me, configurations)
    }

    pub fn own(&self) -> Millis {
        self.own.wall()
    }
}
