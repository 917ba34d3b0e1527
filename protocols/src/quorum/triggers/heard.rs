//! The emitters whose places in the table are not to be had, and the share of those that are not trusted.
//!
//! Whom a primary trusts is its own: no entry of the log depends on it. So the primary asks here before it proposes a
//! delivery, and the members only see to it that the table is bounded.

use std::collections::BTreeSet;

use super::Triggers;
use crate::ids::{Millis, PeerId};
use crate::quorum::reply::Rejection;
use crate::trigger::limits::{EMITTER_SILENT, UNTRUSTED_EMITTERS_MAX};

/// Emitters that were heard of late, so that their places are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeardEmitters(BTreeSet<PeerId>);

impl Triggers {
    /// The emitters that were not silent for so long that another may have their place.
    pub(in crate::quorum) fn heard_emitters(&self, now: Millis) -> HeardEmitters {
        let heard = self.emitters.iter().filter(|(_, emitter)| now.since(emitter.at) < EMITTER_SILENT);
        HeardEmitters(heard.map(|(peer, _)| *peer).collect())
    }
}

impl HeardEmitters {
    pub fn contains(&self, emitter: &PeerId) -> bool {
        self.0.contains(emitter)
    }

    /// Room for one more emitter that is not trusted: such emitters share a part of the table, and the rest is kept for
    /// those that are. `Full` if there is none.
    pub fn check_untrusted_room(&self, is_trusted: impl Fn(PeerId) -> bool) -> Result<(), Rejection> {
        let untrusted = self.0.iter().filter(|peer| !is_trusted(**peer)).take(UNTRUSTED_EMITTERS_MAX).count();
        match untrusted < UNTRUSTED_EMITTERS_MAX {
            true => Ok(()),
            false => {
                let what = "emitters of events that are not trusted".to_owned();
                Err(Rejection::Full { what, limit: UNTRUSTED_EMITTERS_MAX })
            }
        }
    }
}
