//! Faults that a node which was started with `--testing` has on purpose.

use quorate_protocols::ids::PeerId;
use serde::{Deserialize, Serialize};

use super::schema;

/// All faults injected into one node (`/v1/testing/faults`). The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NodeFaults {
    /// Milliseconds added to the machine's wall clock.
    pub clock_offset_ms: i64,
    pub disk: DiskFaults,
    /// At most one per peer; the last one counts.
    pub links: Vec<LinkFaults>,
    /// Tasks that several nodes run to compare results end with a wrong one here.
    pub lie: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiskFaults {
    /// Writes are refused as if the disk were full.
    pub full: bool,
    /// A bit is flipped in every piece that is read.
    pub flip_bits: bool,
    /// Every sync takes this much longer.
    pub sync_delay_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkFaults {
    #[schema(value_type = schema::PeerId)]
    pub peer: PeerId,
    /// Nothing reaches the peer.
    #[serde(default)]
    pub cut_to: bool,
    /// Nothing of the peer is heard.
    #[serde(default)]
    pub cut_from: bool,
    /// What is not cut takes this much longer, each way.
    #[serde(default)]
    pub delay_ms: u64,
}

impl NodeFaults {
    /// The entry of the link to `peer`, made when there is none.
    pub fn link_mut(&mut self, peer: PeerId) -> &mut LinkFaults {
        let at = self.links.iter().position(|link| link.peer == peer).unwrap_or_else(|| {
            self.links.push(LinkFaults { peer, cut_to: false, cut_from: false, delay_ms: 0 });
            self.links.len() - 1
        });
        &mut self.links[at]
    }
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}
