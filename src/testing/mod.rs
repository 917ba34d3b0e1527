//! Test doubles that tests of more than one module use and that know the node; those of its seams are
//! [`quorate_testkit`]'s.

pub(crate) mod metrics;
pub(crate) mod quorums;
pub(crate) mod standings;

use parking_lot::Mutex;
use quorate_protocols::ids::{BootId, Incarnation, PeerId};
use quorate_testkit::net::{Observer, Sight};

use crate::identity::Identity;

pub(crate) fn identity(n: u8) -> Identity {
    Identity::new([n; 32], Incarnation(1), BootId([n; 16]))
}

/// Who was complained about on a network, in order.
#[derive(Default)]
pub(crate) struct Penalties(pub Mutex<Vec<PeerId>>);

impl Observer for Penalties {
    fn observe(&self, _: usize, sight: &Sight<'_>) {
        if let Sight::Penalty { peer, .. } = sight {
            self.0.lock().push(*peer);
        }
    }
}
