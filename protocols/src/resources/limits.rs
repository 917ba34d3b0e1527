//! Defaults of the resource tree; the real limits follow the machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::amounts::Amounts;
use super::tree::{Scope, Service};

const MIB: u64 = 1024 * 1024;

/// Scopes of peers, jobs, tasks and spans that exist at once. Each costs about 300 bytes; a remote can make them, so
/// their number is bounded.
pub const SCOPES_MAX: usize = 64 * 1024;

/// Memory that all of one peer's messages in one protocol may take up at once, and never more than half of what the
/// protocol has: as many pieces as its streams carry, with room.
pub const PEER_MEMORY_BYTES: u64 = 64 * MIB;

/// Streams of one peer: every protocol's quota, with room.
pub const PEER_STREAMS: u64 = 64;

/// Memory of the node, in percent, that leases can take for work, and for being a member of quorums. A column takes
/// none. A fifth is left for the frames of consensus, whatever peers ask for.
const JOBS_MEMORY_PERCENT: u64 = 50;
const QUORUMS_MEMORY_PERCENT: u64 = 30;
const _: () = assert!(JOBS_MEMORY_PERCENT + QUORUMS_MEMORY_PERCENT <= 80);

/// Memory of the network and of each protocol in it, in percent, that frames of strangers leave to those of members:
/// the peers that are in a quorum with this node. Strangers come in any number, members do not. Of the node's memory
/// it is a fifth of that, as leases leave a fifth of it.
const MEMBERS_MEMORY_PERCENT: u64 = 25;

/// Disk that is never promised, so that logs, the record store and other programs go on: a twentieth of the disk, but
/// not more than this.
pub const DISK_MARGIN_BYTES_MAX: u64 = 1024 * MIB;

/// What the machine has, read by the node when it starts and now and then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The control group's limit, or the machine's memory.
    pub memory_bytes: u64,
    pub cpus: u64,
    pub disk_free_bytes: u64,
    pub disk_bytes: u64,
    pub descriptors: u64,
}

impl Machine {
    /// Disk that may be promised now, beyond what is already held.
    pub fn disk_promisable_bytes(&self) -> u64 {
        self.disk_free_bytes.saturating_sub((self.disk_bytes / 20).min(DISK_MARGIN_BYTES_MAX))
    }
}

/// What a person sets against the machine's own limits; `None` leaves the machine's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Overrides {
    pub memory_bytes: Option<u64>,
    pub slots: Option<u64>,
    pub disk_bytes: Option<u64>,
    pub connections: Option<u64>,
    pub descriptors: Option<u64>,
}

/// The limit of every scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub system: Amounts,
    pub services: BTreeMap<Service, Amounts>,
    pub protocols: BTreeMap<&'static str, Amounts>,
    /// Of each protocol without its own.
    pub protocol: Amounts,
    pub peer: Amounts,
    pub lender: Amounts,
    pub job: Amounts,
    pub task: Amounts,
    /// Memory of the network and of each protocol that strangers leave to members.
    pub members_memory_percent: u64,
}

impl Limits {
    /// No limits, for tests of other things.
    pub fn unlimited() -> Self {
        Self {
            system: Amounts::UNLIMITED,
            services: BTreeMap::new(),
            protocols: BTreeMap::new(),
            protocol: Amounts::UNLIMITED,
            peer: Amounts::UNLIMITED,
            lender: Amounts::UNLIMITED,
            job: Amounts::UNLIMITED,
            task: Amounts::UNLIMITED,
            members_memory_percent: 0,
        }
    }

    /// Half the memory, every processor, the disk but for a margin, and half the descriptors: the rest is for the
    /// code itself, the record store, and the machine's other work.
    pub fn for_machine(machine: Machine, overrides: Overrides) -> Self {
        let descriptors = overrides.descriptors.unwrap_or(machine.descriptors / 2);
        let system = Amounts {
            memory_bytes: overrides.memory_bytes.unwrap_or(machine.memory_bytes / 2),
            slots: overrides.slots.unwrap_or(machine.cpus.max(1)),
            disk_bytes: overrides.disk_bytes.unwrap_or(u64::MAX).min(machine.disk_promisable_bytes()),
            connections: overrides.connections.unwrap_or(descriptors / 2),
            // A stream costs memory, not a descriptor; the quotas per peer and protocol bound it well below this.
            streams: descriptors.saturating_mul(16),
            descriptors,
        };
        // One service may use most of the node, but never all: consensus must go on while bytes pour in.
        let most = |memory_percent: u64| Amounts {
            memory_bytes: system.memory_bytes / 100 * memory_percent,
            ..Amounts::UNLIMITED
        };
        let services = BTreeMap::from([
            (Service::Network, most(60)),
            (Service::Pieces, most(60)),
            (Service::Objects, most(60)),
            (Service::Jobs, most(JOBS_MEMORY_PERCENT)),
            (Service::Quorums, most(QUORUMS_MEMORY_PERCENT)),
            (Service::Api, most(25)),
        ]);
        let protocol = Amounts { memory_bytes: system.memory_bytes / 100 * 40, ..Amounts::UNLIMITED };
        Self {
            system,
            services,
            protocols: BTreeMap::new(),
            protocol,
            peer: Amounts {
                memory_bytes: PEER_MEMORY_BYTES.min(protocol.memory_bytes / 2),
                streams: PEER_STREAMS,
                ..Amounts::UNLIMITED
            },
            lender: Amounts::UNLIMITED,
            job: Amounts::UNLIMITED,
            task: Amounts::UNLIMITED,
            members_memory_percent: MEMBERS_MEMORY_PERCENT,
        }
    }

    /// What strangers leave to members of this scope, which has that limit.
    pub fn kept_for_members(&self, scope: Scope, limit: Amounts) -> Amounts {
        let percent = match scope {
            Scope::Protocol(_) | Scope::Service(Service::Network) => self.members_memory_percent,
            Scope::System => self.members_memory_percent / 5,
            Scope::Service(_)
            | Scope::Peer(..)
            | Scope::Lender(_)
            | Scope::Job(_)
            | Scope::Task(..)
            | Scope::Span(_) => 0,
        };
        Amounts::memory(limit.memory_bytes / 100 * percent)
    }

    pub fn of(&self, scope: Scope) -> Amounts {
        match scope {
            Scope::System => self.system,
            Scope::Service(service) => self.services.get(&service).copied().unwrap_or(Amounts::UNLIMITED),
            Scope::Protocol(name) => self.protocols.get(name).copied().unwrap_or(self.protocol),
            Scope::Peer(..) => self.peer,
            Scope::Lender(_) => self.lender,
            Scope::Job(_) => self.job,
            Scope::Task(..) => self.task,
            // Set when it is opened.
            Scope::Span(_) => Amounts::UNLIMITED,
        }
    }
}
