//! Amounts of each resource: the currency of the scope tree.
//!
//! Not a [`Capacity`], which is what peers promise each other: a scope also counts connections, streams and
//! descriptors, which no peer asks of another, and its numbers are limits as well as amounts. The two meet only in
//! [`Amounts::from`] and [`Amounts::capacity`].

use serde::{Deserialize, Serialize};

use crate::capacity::{Capacity, Resource};

/// One number per resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    pub memory_bytes: u64,
    pub slots: u64,
    pub disk_bytes: u64,
    pub connections: u64,
    pub streams: u64,
    pub descriptors: u64,
}

impl Amounts {
    pub const ZERO: Self =
        Self { memory_bytes: 0, slots: 0, disk_bytes: 0, connections: 0, streams: 0, descriptors: 0 };
    /// As a limit: none.
    pub const UNLIMITED: Self = Self {
        memory_bytes: u64::MAX,
        slots: u64::MAX,
        disk_bytes: u64::MAX,
        connections: u64::MAX,
        streams: u64::MAX,
        descriptors: u64::MAX,
    };

    pub const fn memory(bytes: u64) -> Self {
        Self { memory_bytes: bytes, ..Self::ZERO }
    }
    pub const fn disk(bytes: u64) -> Self {
        Self { disk_bytes: bytes, ..Self::ZERO }
    }
    pub fn get(&self, resource: Resource) -> u64 {
        match resource {
            Resource::MemoryBytes => self.memory_bytes,
            Resource::Slots => self.slots,
            Resource::DiskBytes => self.disk_bytes,
            Resource::Connections => self.connections,
            Resource::Streams => self.streams,
            Resource::Descriptors => self.descriptors,
        }
    }
    pub fn get_mut(&mut self, resource: Resource) -> &mut u64 {
        match resource {
            Resource::MemoryBytes => &mut self.memory_bytes,
            Resource::Slots => &mut self.slots,
            Resource::DiskBytes => &mut self.disk_bytes,
            Resource::Connections => &mut self.connections,
            Resource::Streams => &mut self.streams,
            Resource::Descriptors => &mut self.descriptors,
        }
    }
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
    fn zip(mut self, other: &Self, with: impl Fn(u64, u64) -> u64) -> Self {
        for resource in Resource::ALL {
            *self.get_mut(resource) = with(self.get(resource), other.get(resource));
        }
        self
    }
    pub fn saturating_add(self, other: Self) -> Self {
        self.zip(&other, u64::saturating_add)
    }
    pub fn saturating_sub(self, other: Self) -> Self {
        self.zip(&other, u64::saturating_sub)
    }
    pub fn min(self, other: Self) -> Self {
        self.zip(&other, u64::min)
    }
    /// Whether every part is at most that of `other`.
    pub fn is_within(&self, other: &Self) -> bool {
        Resource::ALL.iter().all(|&resource| self.get(resource) <= other.get(resource))
    }
    /// What peers are told of it.
    pub fn capacity(&self) -> Capacity {
        Capacity {
            disk_bytes: self.disk_bytes,
            memory_bytes: self.memory_bytes,
            slots: u32::try_from(self.slots).unwrap_or(u32::MAX),
        }
    }
}

impl From<Capacity> for Amounts {
    /// What a promise of so much must set aside.
    fn from(capacity: Capacity) -> Self {
        let Capacity { disk_bytes, memory_bytes, slots } = capacity;
        Self { disk_bytes, memory_bytes, slots: u64::from(slots), ..Self::ZERO }
    }
}
