//! Capacity and requirement: how much disk, how much memory and how many slots, and what a peer lacks for some work.
//!
//! What a peer has left, what a lease reserves and what running tasks take are all a [`Capacity`]. What a task, a
//! column or a membership asks of a peer is a [`Requirement`]: a capacity, and labels that the peer must carry.
//! [`Requirement::unmet`] is the one place that says whether a peer will do. The directory asks it of adverts, the
//! scheduler of workers' leases, the approver of its own node; what people read of a misfit is [`Unmet`]'s text.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::engine::NodeRole;
use crate::text::counted;
use crate::units::ByteSize;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Capacity {
    pub disk_bytes: u64,
    pub memory_bytes: u64,
    pub slots: u32,
}

/// What can be reserved, on a node or by a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    MemoryBytes,
    /// Tasks that may run at once.
    Slots,
    DiskBytes,
    Connections,
    Streams,
    Descriptors,
}

impl Resource {
    pub const ALL: [Self; 6] =
        [Self::MemoryBytes, Self::Slots, Self::DiskBytes, Self::Connections, Self::Streams, Self::Descriptors];

    const fn is_bytes(self) -> bool {
        matches!(self, Self::MemoryBytes | Self::DiskBytes)
    }
    /// How much there is, as a sentence has it: `12.5 MiB of memory`, `1 task slot`.
    pub fn amount(self, amount: u64) -> String {
        let size = ByteSize(amount).rounded_down();
        match self {
            Self::MemoryBytes => format!("{size} of memory"),
            Self::DiskBytes => format!("{size} of disk"),
            Self::Slots => counted(amount, "task slot"),
            Self::Connections => counted(amount, "connection"),
            Self::Streams => counted(amount, "stream"),
            Self::Descriptors => counted(amount, "file descriptor"),
        }
    }
    /// How much there is, where the sentence says of what: `12.5 MiB`, `1`.
    pub fn number(self, amount: u64) -> String {
        if self.is_bytes() { ByteSize(amount).rounded_down() } else { amount.to_string() }
    }
    /// `20 MiB is needed`, `1 is needed`, `3 more are needed`. `more`: on top of what there is.
    pub fn needed(self, amount: u64, more: bool) -> String {
        let more = if more { " more" } else { "" };
        match self.is_bytes() {
            true => format!("{}{more} is needed", ByteSize(amount).rounded_up()),
            false => format!("{amount}{more} {} needed", if amount == 1 { "is" } else { "are" }),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MemoryBytes => "bytes of memory",
            Self::Slots => "task slots",
            Self::DiskBytes => "bytes of disk",
            Self::Connections => "connections",
            Self::Streams => "streams",
            Self::Descriptors => "file descriptors",
        })
    }
}

/// What is asked of a peer that takes something on.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Requirement {
    pub capacity: Capacity,
    /// Labels that the peer must carry, key by key.
    pub labels: BTreeMap<String, String>,
}

/// What a peer has, as one of the others knows it: by its advert, by its lease, or because it is this node.
#[derive(Clone, Copy, Debug)]
pub struct Supply<'a, R> {
    /// All that it takes on.
    pub roles: R,
    pub labels: &'a BTreeMap<String, String>,
    pub free: Capacity,
}

/// The first thing that a peer lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Unmet {
    #[error("it does not take the role {0}")]
    Role(NodeRole),
    #[error("it does not carry the label {key} = {wanted:?}")]
    Label { key: String, wanted: String },
    #[error("it has {0}")]
    Capacity(Shortage),
}

/// The first part of a capacity that is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    pub what: Resource,
    pub has: u64,
    pub needs: u64,
}

/// To stand behind "it has": `12 MiB of memory left, and 256 MiB is needed`.
impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} left, and {}", self.what.amount(self.has), self.what.needed(self.needs, false))
    }
}

impl Requirement {
    /// What keeps a peer with this supply from taking this on in the role; `None` when it can.
    pub fn unmet<R>(&self, role: NodeRole, supply: Supply<'_, R>) -> Option<Unmet>
    where
        R: IntoIterator<Item = NodeRole>,
    {
        if !supply.roles.into_iter().any(|taken| taken == role) {
            return Some(Unmet::Role(role));
        }
        if let Some((key, wanted)) = self.labels.iter().find(|(key, wanted)| supply.labels.get(*key) != Some(*wanted)) {
            return Some(Unmet::Label { key: key.clone(), wanted: wanted.clone() });
        }
        supply.free.shortage(&self.capacity).map(Unmet::Capacity)
    }
}

/// To stand behind "needs": `1 slot, 128 MiB of memory, the label zone = "attic"`.
impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Capacity { disk_bytes, memory_bytes, slots } = self.capacity;
        write!(f, "{}, {} of memory", counted(slots, "slot"), ByteSize(memory_bytes).rounded_up())?;
        if disk_bytes > 0 {
            write!(f, ", {} of disk", ByteSize(disk_bytes).rounded_up())?;
        }
        self.labels.iter().try_for_each(|(key, value)| write!(f, ", the label {key} = {value:?}"))
    }
}

impl From<Capacity> for Requirement {
    /// Of any peer that has so much.
    fn from(capacity: Capacity) -> Self {
        Self { capacity, labels: BTreeMap::new() }
    }
}

impl Capacity {
    /// More than anything needs: for a peer whose capacity is accounted elsewhere.
    pub const UNLIMITED: Self = Self { disk_bytes: u64::MAX, memory_bytes: u64::MAX, slots: u32::MAX };

    pub const fn disk(bytes: u64) -> Self {
        Self { disk_bytes: bytes, memory_bytes: 0, slots: 0 }
    }

    /// Why this cannot take `needs`; `None` when it fits.
    pub fn shortage(&self, needs: &Self) -> Option<Shortage> {
        let parts = [
            (Resource::DiskBytes, self.disk_bytes, needs.disk_bytes),
            (Resource::MemoryBytes, self.memory_bytes, needs.memory_bytes),
            (Resource::Slots, u64::from(self.slots), u64::from(needs.slots)),
        ];
        let short = parts.into_iter().find(|(_, has, needs)| has < needs);
        short.map(|(what, has, needs)| Shortage { what, has, needs })
    }

    pub fn plus(&self, more: &Self) -> Self {
        Self {
            disk_bytes: self.disk_bytes.saturating_add(more.disk_bytes),
            memory_bytes: self.memory_bytes.saturating_add(more.memory_bytes),
            slots: self.slots.saturating_add(more.slots),
        }
    }

    /// What is left without `less`; nothing is less than nothing.
    pub fn minus(&self, less: &Self) -> Self {
        Self {
            disk_bytes: self.disk_bytes.saturating_sub(less.disk_bytes),
            memory_bytes: self.memory_bytes.saturating_sub(less.memory_bytes),
            slots: self.slots.saturating_sub(less.slots),
        }
    }

    /// So many of it.
    pub fn times(&self, count: u32) -> Self {
        Self {
            disk_bytes: self.disk_bytes.saturating_mul(count.into()),
            memory_bytes: self.memory_bytes.saturating_mul(count.into()),
            slots: self.slots.saturating_mul(count),
        }
    }

    /// How many of `one` fit, at one slot each at least.
    pub fn fits(&self, one: &Self) -> u64 {
        let fitting = |has: u64, needs: u64| has.checked_div(needs).unwrap_or(u64::MAX);
        fitting(self.slots.into(), one.slots.max(1).into())
            .min(fitting(self.memory_bytes, one.memory_bytes))
            .min(fitting(self.disk_bytes, one.disk_bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn capacity() -> impl Strategy<Value = Capacity> {
        (0u64..50, 0u64..50, 0u32..50).prop_map(|(disk_bytes, memory_bytes, slots)| Capacity {
            disk_bytes,
            memory_bytes,
            slots,
        })
    }

    proptest! {
        /// Goal: what fits so many times is what can be reserved that often, and once more is too much.
        #[test]
        fn as_many_fit_as_can_be_reserved(has in capacity(), one in capacity()) {
            let one = Capacity { slots: one.slots.max(1), ..one };
            let count = has.fits(&one) as u32;
            prop_assert_eq!(has.shortage(&one.times(count)), None);
            prop_assert!(has.shortage(&one.times(count + 1)).is_some());
            prop_assert_eq!(has.shortage(&one).is_none(), count > 0);
        }

        #[test]
        fn what_is_taken_and_given_back_was_never_taken(has in capacity(), taken in capacity()) {
            prop_assert_eq!(has.plus(&taken).minus(&taken), has);
            prop_assert!(has.plus(&taken).shortage(&taken).is_none());
        }
    }

    #[test]
    fn a_shortage_names_what_is_short_and_by_how_much() {
        let has = Capacity { disk_bytes: 5, memory_bytes: 10, slots: 1 };
        let needs = Capacity { disk_bytes: 5, memory_bytes: 11, slots: 2 };
        assert_eq!(has.shortage(&needs), Some(Shortage { what: Resource::MemoryBytes, has: 10, needs: 11 }));
        let shortage = |what, has, needs| Shortage { what, has, needs }.to_string();
        assert_eq!(
            shortage(Resource::MemoryBytes, 12 << 20, 256 << 20),
            "12 MiB of memory left, and 256 MiB is needed"
        );
        assert_eq!(shortage(Resource::Slots, 1, 2), "1 task slot left, and 2 are needed");
    }

    /// Goal: the first thing that a peer lacks is named: a role before a label, and capacity, which changes most, last.
    #[test]
    fn an_unmet_requirement_names_the_role_then_the_label_then_the_capacity() {
        let labels = |value: &str| BTreeMap::from([("zone".to_owned(), value.to_owned())]);
        let free = Capacity { disk_bytes: 5, memory_bytes: 10, slots: 1 };
        let needs = Requirement { capacity: Capacity { slots: 2, ..free }, labels: labels("attic") };
        let unmet = |roles: &[NodeRole], zone: &str, free| {
            let supply = Supply { roles: roles.iter().copied(), labels: &labels(zone), free };
            needs.unmet(NodeRole::Wasm, supply).map(|unmet| unmet.to_string())
        };
        let both = [NodeRole::Store, NodeRole::Wasm];
        assert_eq!(needs.to_string(), "2 slots, 10 B of memory, 5 B of disk, the label zone = \"attic\"");
        assert_eq!(unmet(&both, "attic", needs.capacity), None);
        assert_eq!(unmet(&both[..1], "cellar", free).unwrap(), "it does not take the role wasm");
        assert_eq!(unmet(&both, "cellar", free).unwrap(), "it does not carry the label zone = \"attic\"");
        assert_eq!(unmet(&both, "attic", free).unwrap(), "it has 1 task slot left, and 2 are needed");
    }
}
