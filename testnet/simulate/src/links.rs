//! Links and disks of a run: how far apart its machines are, and what their disks take for a sync.
//!
//! This is how the network usually is, not a fault: it stays when faults end.

use std::fmt;
use std::time::Duration;

use crate::world::World;
use quorate_testkit::net::Faults;

/// How far a message's time is from the usual, in either direction.
const JITTER: f64 = 0.3;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Between any two machines, there and back; zero: a LAN.
    pub round_trip: Duration,
    /// Messages of a thousand that vanish, between any two machines.
    pub loss_per_mille: u32,
    /// Of every disk; none: each has its own, as quick as disks are.
    pub sync: Option<Duration>,
    /// Only the last machine is far away and has such a disk; the others are on a LAN, with quick disks.
    pub is_one_slow: bool,
}

impl Links {
    pub const LAN: Self = Self { round_trip: Duration::ZERO, loss_per_mille: 0, sync: None, is_one_slow: false };

    /// Makes a world so, before its machines start.
    pub fn apply(&self, world: &World) {
        let nodes = world.nodes();
        if let Some(sync) = self.sync {
            let slow = (1..=nodes).filter(|index| !self.is_one_slow || *index == nodes);
            slow.for_each(|index| world.disk(index).set_sync_usual(sync));
        }
        let one_way = self.round_trip / 2;
        let mut usual = Faults { loss_per_mille: self.loss_per_mille, ..Faults::NONE };
        match self.is_one_slow {
            true => world.network.set_distance(world.peer(nodes), one_way),
            false => {
                let (least, most) = (one_way.mul_f64(1.0 - JITTER), one_way.mul_f64(1.0 + JITTER));
                usual.latency = (usual.latency.0.max(least), usual.latency.1.max(most));
            }
        }
        world.network.set_usual(usual);
    }
}

impl fmt::Display for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round_trip, loss_per_mille, sync, is_one_slow } = self;
        let whose = if *is_one_slow { "one machine" } else { "every machine" };
        write!(f, "{whose} {round_trip:?} away, {loss_per_mille} messages of a thousand lost, ")?;
        match sync {
            Some(sync) => write!(f, "{sync:?} per sync"),
            None => f.write_str("quick disks"),
        }
    }
}
