//! The kinds of faults that a run may inject.

use std::collections::BTreeSet;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A node loses power and boots again later.
    Crash,
    /// Two halves of the network do not hear each other.
    Partition,
    /// One node is not heard by another, but hears it.
    OneWay,
    /// Everything to and from one node takes longer.
    Slow,
    /// Messages vanish, arrive twice and overtake each other.
    Loss,
    /// One node's syncs take longer.
    SlowDisk,
    /// One node's disk takes nothing more.
    FullDisk,
    /// A stored piece reads back with a flipped bit, or only half of it does.
    Rot,
    /// One node's wall clock jumps.
    Clock,
    /// A node loses power, and its disk with it; it boots again with an empty one, as a new member.
    Wipe,
}

impl Fault {
    pub const ALL: [Self; 10] = [
        Self::Crash,
        Self::Partition,
        Self::OneWay,
        Self::Slow,
        Self::Loss,
        Self::SlowDisk,
        Self::FullDisk,
        Self::Rot,
        Self::Clock,
        Self::Wipe,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Partition => "partition",
            Self::OneWay => "one-way",
            Self::Slow => "slow",
            Self::Loss => "loss",
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
            "none" => return Ok(Self(BTreeSet::new())),
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
            all if all == Fault::ALL.len() => f.write_str("all"),
            _ => f.write_str(&self.0.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(",")),
        }
    }
}
