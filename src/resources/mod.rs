//! The node's resources: reserve first, then use, release on drop.
//!
//! The accounting is a pure core in `quorate_protocols::resources`; this is its handle ([`Resources`]), and the
//! reading of the machine ([`machine`]). What is reserved is held by a guard ([`Reservation`]). The tree sits behind a
//! mutex and not behind an actor, because a guard must release in `drop`, where nothing can be awaited; no lock is held
//! across an await, and every operation is a walk of at most five scopes.

pub mod machine;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use quorate_protocols::capacity::Capacity;
use quorate_protocols::ids::PeerId;
use quorate_protocols::resources::{Amounts, Limits, Refused, Resource, Scope, SpanId, Tree};

use crate::gauges;
use crate::seams::Reservation;
use crate::seams::reservation::Account;

/// Handle to the node's resources. All clones account in one tree.
#[derive(Clone)]
pub struct Resources {
    inner: Arc<Accounts>,
}

/// What reservations are accounted in.
struct Accounts(Mutex<Inner>);

struct Inner {
    tree: Tree,
    refusals: Family<Refusals, Counter>,
}

/// What one scope uses, as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeUsage {
    pub scope: String,
    pub used: Amounts,
    pub limit: Amounts,
}

/// Reservations that were refused are counted by the sort of the scope that was full, and what it was full of.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Refusals {
    scope: &'static str,
    resource: &'static str,
}

impl Resources {
    pub fn new(limits: Limits) -> Self {
        Self { inner: Arc::new(Accounts(Mutex::new(Inner { tree: Tree::new(limits), refusals: Family::default() }))) }
    }
    /// Accounts everything and refuses nothing, for tests of other things.
    pub fn unlimited() -> Self {
        Self::new(Limits::unlimited())
    }

    /// Reserves `need` in `scope` and everything above it, or nothing.
    pub fn reserve(&self, scope: Scope, need: Amounts) -> Result<Reservation, Refused> {
        self.lock().reserve(scope, need)?;
        Ok(Reservation::new(self.inner.clone(), scope, need))
    }
    /// A scope of its own below `parent`, closed with all it holds when the guard is dropped.
    pub fn open_span(&self, parent: Scope, limit: Amounts) -> Result<Span, Refused> {
        let id = self.lock().tree.open_span(parent, limit)?;
        Ok(Span { resources: self.clone(), id })
    }
    /// From now on these peers, and no others, are in a quorum with this node: strangers leave room to them.
    pub fn set_members(&self, members: BTreeSet<PeerId>) {
        self.lock().tree.set_members(members);
    }
    /// What this node has left to lend to others.
    pub fn free(&self) -> Capacity {
        self.free_in(Scope::Service(quorate_protocols::resources::Service::Pieces)).capacity()
    }
    pub fn free_in(&self, scope: Scope) -> Amounts {
        self.lock().tree.free(scope)
    }
    pub fn used(&self, scope: Scope) -> Amounts {
        self.lock().tree.used(scope)
    }
    pub fn limit(&self, scope: Scope) -> Amounts {
        self.lock().tree.limit(scope)
    }
    /// Every scope in use, in order.
    pub fn usage(&self) -> Vec<ScopeUsage> {
        let row = |(scope, used, limit): (Scope, _, _)| ScopeUsage { scope: scope.to_string(), used, limit };
        self.lock().tree.scopes().map(row).collect()
    }
    /// Registers what it counts, and what is reserved in all.
    pub fn register_metrics(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("quorate_resources");
        let refusals = self.lock().refusals.clone();
        // Those of the node as a whole are there from the start, at zero.
        for resource in Resource::ALL {
            drop(refusals.get_or_create(&Refusals::of(Scope::System, resource)));
        }
        registry.register(
            "refused",
            "Reservations refused, by the scope that was full and what it was full of",
            refusals,
        );
        let resources = self.clone();
        gauges::register_by(registry, "reserved", "What is reserved of this node now", "resource", move || {
            let used = resources.used(Scope::System);
            Resource::ALL.map(|resource| (resource_label(resource), used.get(resource))).to_vec()
        });
    }
    /// The busiest of memory and slots, in thousandths of what this node may use.
    pub fn load_permille(&self) -> u16 {
        let inner = self.lock();
        let (used, limit) = (inner.tree.used(Scope::System), inner.tree.limit(Scope::System));
        let share = |used: u64, limit: u64| {
            if limit == 0 { 1000 } else { (u128::from(used) * 1000 / u128::from(limit)).min(1000) as u16 }
        };
        share(used.memory_bytes, limit.memory_bytes).max(share(used.slots, limit.slots))
    }
    /// Follows a machine whose disk others fill as well.
    pub fn set_disk_limit(&self, disk_bytes: u64) {
        let mut inner = self.lock();
        let limit = Amounts { disk_bytes, ..inner.tree.limit(Scope::System) };
        inner.tree.set_system_limit(limit);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resources({:?})", self.used(Scope::System))
    }
}

impl Account for Accounts {
    fn reserve(&self, scope: Scope, need: Amounts) -> Result<(), Refused> {
        self.lock().reserve(scope, need)
    }
    fn release(&self, scope: Scope, amounts: Amounts) {
        self.lock().tree.release(scope, amounts);
    }
}

impl Accounts {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock()
    }
}

impl Refusals {
    fn of(scope: Scope, resource: Resource) -> Self {
        Self { scope: scope_sort(scope), resource: resource_label(resource) }
    }
}

impl Inner {
    fn reserve(&mut self, scope: Scope, need: Amounts) -> Result<(), Refused> {
        self.tree.reserve(scope, need).inspect_err(|refused| {
            if let Refused::Limit { scope, resource, .. } = *refused {
                self.refusals.get_or_create(&Refusals::of(scope, resource)).inc();
            }
        })
    }
}

fn resource_label(resource: Resource) -> &'static str {
    match resource {
        Resource::MemoryBytes => "memory_bytes",
        Resource::Slots => "slots",
        Resource::DiskBytes => "disk_bytes",
        Resource::Connections => "connections",
        Resource::Streams => "streams",
        Resource::Descriptors => "descriptors",
    }
}

fn scope_sort(scope: Scope) -> &'static str {
    match scope {
        Scope::System => "system",
        Scope::Service(_) => "service",
        Scope::Protocol(name) => name,
        Scope::Peer(..) => "peer",
        Scope::Lender(_) => "lender",
        Scope::Job(_) => "job",
        Scope::Task(..) => "task",
        Scope::Span(_) => "span",
    }
}

/// A scope of its own; dropping it closes it and gives back whatever is still reserved in it.
#[derive(Debug)]
pub struct Span {
    resources: Resources,
    id: SpanId,
}

impl Span {
    pub fn scope(&self) -> Scope {
        Scope::Span(self.id)
    }
    pub fn reserve(&self, need: Amounts) -> Result<Reservation, Refused> {
        self.resources.reserve(self.scope(), need)
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.resources.lock().tree.close_span(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::metrics::value;

    #[test]
    fn refusals_are_counted_by_the_scope_that_was_full() {
        let mut limits = Limits::unlimited();
        limits.system.disk_bytes = 100;
        let resources = Resources::new(limits);
        let mut registry = Registry::default();
        resources.register_metrics(&mut registry);
        let held = resources.reserve(Scope::System, Amounts::disk(80)).unwrap();
        assert_eq!(value(&registry, "quorate_resources_reserved{resource=\"disk_bytes\"}"), 80.0);
        resources.reserve(Scope::System, Amounts::disk(30)).unwrap_err();
        // A reservation that grows asks as well.
        let mut held = held;
        held.resize(Amounts::disk(101)).unwrap_err();
        let refused = "quorate_resources_refused_total{scope=\"system\",resource=\"disk_bytes\"}";
        assert_eq!(value(&registry, refused), 2.0);
        drop(held);
        assert_eq!(value(&registry, "quorate_resources_reserved{resource=\"disk_bytes\"}"), 0.0);
    }
}
