//! The test kit: one double for each seam of a node, and the suites that every implementation of a seam must pass.
//!
//! [`MemoryDisk`] is a disk that loses what was not synced, fills up, slows down and rots; [`Network`] a network that
//! delays, loses, cuts and repeats; [`VirtualClock`] tokio's clock, which tests pause, with a wall clock that may be
//! wrong; [`ScriptedNet`] a network whose peers follow a script. Tests of single rooms and whole simulated nodes use
//! the same ones. [`conformance`] holds the doubles and the real implementations to one contract, so that what a test
//! shows over a double holds over the real thing.

pub mod clock;
pub mod conformance;
pub mod disk;
pub mod logs;
pub mod net;

pub use clock::{ClockOffset, VirtualClock};
pub use disk::MemoryDisk;
pub use logs::Logs;
pub use net::{MemoryNet, Network, Reaction, ScriptedNet};

use std::sync::Arc;

use quorate_seams::entropy::SeededEntropy;
use quorate_seams::{Disk, Seams, TaskGroup};

/// The seams of a node in memory: its disk, a right clock from now on, and one seed.
pub fn seams(seed: u64, disk: Disk) -> Seams {
    let (clock, entropy) = (Arc::new(VirtualClock::right()), Arc::new(SeededEntropy::new(seed)));
    Seams { clock, entropy, disk, tasks: TaskGroup::inline() }
}
