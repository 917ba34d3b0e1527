//! The kinds of faults that a run may inject.

use std::collections::BTreeSet;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A node loses power and boots again later. What it had not synced is lost, or kept up to some batch.
    Crash,
    /// Every node loses power at the same moment, preferably just after something was acknowledged.
    Power,
    /// A process stands still for a while, as a stopped or swapped-out one does; its connections stay open.
    Pause,
    /// Two halves of the network do not hear each other.
    Partition,
    /// One node is not heard by another, but hears it.
    OneWay,
    /// Everything to and from one node takes longer.
    Slow,
    /// Messages vanish.
    Loss,
    /// Requests arrive twice, the second time much later.
    Duplicate,
    /// Messages take very different times, and so overtake each other.
    Reorder,
    /// One node's syncs take longer.
    SlowDisk,
    /// One node's disk takes nothing more.
    FullDisk,
    /// A stored piece reads back with a flipped bit, or only half of it does.
    Rot,
    /// One node's wall clock jumps. With it in the set, clocks are skewed from the start.
    Clock,
    /// A node loses power, and its disk with it; it boots again with an empty one, as a new member.
    Wipe,
}

impl Fault {
    pub const ALL: [Self; 14] = [
        Self::Crash,
        Self::Power,
        Self::Pause,
        Self::Partition,
        Self::OneWay,
        Self::Slow,
        Self::Loss,
        Self::Duplicate,
        Self::Reorder,
        Self::SlowDisk,
        Self::FullDisk,
        Self::Rot,
        Self::Clock,
        Self::Wipe,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Power => "power",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::OneWay => "one-way",
            Self::Slow => "slow",
            Self::Loss => "loss",
            Self::Duplicate => "duplicate",
            Self::Reorder => "reorder",
            Self::SlowDisk => "slow-disk",
            Self::FullDisk => "full-disk",
            Self::Rot => "rot",
            Self::Clock => "clock",
            Self::Wipe => "wipe",
        }
    }
}

/// A choice of faults: `all`, `none`, or names with commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultSet(pub BTreeSet<Fault>);

impl FaultSet {
    pub fn none() -> Self {
        Self(BTreeSet::new())
    }
    pub fn is_all(&self) -> bool {
        self.0.len() == Fault::ALL.len()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("there is no fault {found:?}; choose all, none, or some of {}", Fault::ALL.map(Fault::name).join(","))]
pub struct UnknownFault {
    found: String,
}

impl FromStr for FaultSet {
    type Err = UnknownFault;
    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        match text {
            "all" => return Ok(Self(Fault::ALL.into())),
            "none" => return Ok(Self::none()),
            _ => {}
        }
        let parse = |name: &str| {
            let found = Fault::ALL.into_iter().find(|fault| fault.name() == name);
            found.ok_or_else(|| UnknownFault { found: name.to_owned() })
        };
        text.split(',').map(|name| parse(name.trim())).collect::<Result<_, _>>().map(Self)
    }
}

impl std::fmt::Display for FaultSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.len() {
            0 => f.write_str("none"),
            _ if self.is_all() => f.write_str("all"),
            _ => f.write_str(&self.0.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(",")),
        }
    }
}
