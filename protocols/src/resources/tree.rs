//! The scope tree: who uses how much, and who may use how much more.
//!
//! Scopes form a tree, never a graph: the node at the root, its services, and below them peers, protocols, jobs, tasks
//! and spans. A [`Tree`] is plain data behind whatever lock its owner likes. Promises, property-tested: no scope ever
//! holds more than its limit; a refused reservation changes nothing anywhere (the whole path is checked before any of
//! it is charged, so there is no rollback to get wrong); what is released is what was reserved; a tree from which all
//! was released is as it began. Scopes of peers, jobs, tasks and spans exist while they hold something, and their
//! number is bounded.
//!
//! Peers in a quorum with this node are members, all others strangers. What strangers send leaves a part of the memory
//! of each scope above it to members ([`Limits::kept_for_members`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::amounts::Amounts;
use super::limits::{Limits, SCOPES_MAX};
use crate::approval::Refusal;
use crate::capacity::Resource;
use crate::ids::{JobId, PeerId};

/// The parts of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    Network,
    Quorums,
    Jobs,
    /// Pieces held for others, and what was promised for them.
    Pieces,
    /// Puts and gets of this node's own users.
    Objects,
    Api,
}

impl Service {
    pub const ALL: [Self; 6] = [Self::Network, Self::Quorums, Self::Jobs, Self::Pieces, Self::Objects, Self::Api];
}

/// A span: a part of a scope with a life of its own, closed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(u64);

/// Where a reservation is counted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    System,
    Service(Service),
    /// All traffic of one protocol, by its name on the wire. Below the network.
    Protocol(&'static str),
    /// What one remote peer makes us spend in a protocol. Below the protocol.
    Peer(&'static str, PeerId),
    /// What is promised to or held for one peer, leases above all. Below the pieces.
    Lender(PeerId),
    /// Below the jobs.
    Job(JobId),
    /// Below its job.
    Task(JobId, u32),
    /// Below the scope in which it was opened.
    Span(SpanId),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("the node"),
            Self::Service(service) => write!(f, "service {service:?}"),
            Self::Protocol(name) => write!(f, "protocol {name}"),
            Self::Peer(protocol, peer) => write!(f, "peer {peer} in protocol {protocol}"),
            Self::Lender(peer) => write!(f, "leases of peer {peer}"),
            Self::Job(job) => write!(f, "job {job}"),
            Self::Task(job, task) => write!(f, "task {task} of job {job}"),
            Self::Span(span) => write!(f, "span {}", span.0),
        }
    }
}

/// Why a reservation was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(
        "{scope} uses {} of its {}, and {}",
        resource.amount(*used),
        resource.number(*limit),
        resource.needed(*needed, true)
    )]
    Limit { scope: Scope, resource: Resource, limit: u64, used: u64, needed: u64 },
    #[error("{scope} would be one scope too many: {limit} of its sort exist")]
    TooManyScopes { scope: Scope, limit: usize },
    #[error("{scope} was closed")]
    Closed { scope: Scope },
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Limit { scope, resource, limit, used, needed } => Self::Resources {
                scope: scope.to_string(),
                resource,
                needed,
                available: limit.saturating_sub(used),
                limit,
            },
            other => Self::Unfit { reason: other.to_string() },
        }
    }
}

#[derive(Clone, Debug)]
struct Node {
    parent: Option<Scope>,
    limit: Amounts,
    /// Own and everything below.
    used: Amounts,
    children: usize,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Tree {
    limits: Limits,
    nodes: BTreeMap<Scope, Node>,
    /// Peers in a quorum with this node.
    members: BTreeSet<PeerId>,
    spans_opened: u64,
    passing: usize,
}

impl Tree {
    pub fn new(limits: Limits) -> Self {
        let mut nodes = BTreeMap::new();
        let root = Node { parent: None, limit: limits.system, used: Amounts::ZERO, children: 0 };
        nodes.insert(Scope::System, root);
        Self { limits, nodes, members: BTreeSet::new(), spans_opened: 0, passing: 0 }
    }

    /// Counts `need` in `scope` and in every scope above it, or nowhere.
    pub fn reserve(&mut self, scope: Scope, need: Amounts) -> Result<(), Refused> {
        let asker = scope;
        // The path from the narrowest scope up; scopes that do not exist yet hold nothing.
        let mut path = Vec::with_capacity(5);
        let mut missing = 0;
        let mut next = Some(scope);
        while let Some(scope) = next {
            let parent = self.parent_of(scope)?;
            missing += usize::from(is_passing(scope) && !self.nodes.contains_key(&scope));
            let (limit, used) = (self.limit_towards(asker, scope), self.used(scope));
            for resource in Resource::ALL {
                let (limit, used, needed) = (limit.get(resource), used.get(resource), need.get(resource));
                if needed > 0 && needed > limit.saturating_sub(used) {
                    return Err(Refused::Limit { scope, resource, limit, used, needed });
                }
            }
            path.push((scope, parent));
            next = parent;
        }
        if missing > 0 && self.passing + missing > SCOPES_MAX {
            return Err(Refused::TooManyScopes { scope, limit: SCOPES_MAX });
        }
        // Every scope agreed: from here on nothing fails.
        if need.is_zero() {
            return Ok(());
        }
        for (scope, parent) in path.into_iter().rev() {
            self.ensure(scope, parent);
            let node = self.nodes.get_mut(&scope).expect("the scope was just ensured");
            node.used = node.used.saturating_add(need);
        }
        Ok(())
    }

    /// Gives back what was reserved. A span that was closed has already given everything back: then nothing happens.
    ///
    /// Panics when more is released than was reserved, which is a bug of the caller's.
    pub fn release(&mut self, scope: Scope, amounts: Amounts) {
        if amounts.is_zero() {
            return;
        }
        match self.nodes.get(&scope) {
            None if matches!(scope, Scope::Span(_)) => return,
            node => {
                assert!(
                    node.is_some_and(|node| amounts.is_within(&node.used)),
                    "{scope} releases more than it reserved"
                );
            }
        }
        let mut next = Some(scope);
        while let Some(above) = next {
            let node = self.nodes.get_mut(&above).expect("scopes above one that is in use exist");
            node.used = node.used.saturating_sub(amounts);
            next = node.parent;
        }
        self.remove_if_empty(scope);
    }

    /// Opens a span below `parent`, with a limit of its own. It exists until it is closed, empty or not.
    pub fn open_span(&mut self, parent: Scope, limit: Amounts) -> Result<SpanId, Refused> {
        let id = SpanId(self.spans_opened);
        let scope = Scope::Span(id);
        let mut ancestors = Vec::with_capacity(5);
        let mut next = Some(parent);
        while let Some(above) = next {
            let grand = self.parent_of(above)?;
            ancestors.push((above, grand));
            next = grand;
        }
        let missing = ancestors.iter().filter(|(above, _)| is_passing(*above) && !self.nodes.contains_key(above));
        if self.passing + missing.count() + 1 > SCOPES_MAX {
            return Err(Refused::TooManyScopes { scope, limit: SCOPES_MAX });
        }
        self.spans_opened += 1;
        for (above, grand) in ancestors.into_iter().rev() {
            self.ensure(above, grand);
        }
        self.ensure(scope, Some(parent));
        self.nodes.get_mut(&scope).expect("the span was just made").limit = limit;
        Ok(id)
    }

    /// Closes a span and every span in it, and gives back all they held. Closing twice changes nothing.
    pub fn close_span(&mut self, span: SpanId) {
        let scope = Scope::Span(span);
        if !self.nodes.contains_key(&scope) {
            return;
        }
        let inner: Vec<_> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.parent == Some(scope))
            .filter_map(|(scope, _)| if let Scope::Span(id) = scope { Some(*id) } else { None })
            .collect();
        inner.into_iter().for_each(|span| self.close_span(span));
        let node = self.nodes.remove(&scope).expect("checked above");
        self.passing -= 1;
        let parent = node.parent.expect("a span is opened below a scope");
        self.nodes.get_mut(&parent).expect("scopes above one that exists exist").children -= 1;
        // All are discharged before any is removed: removal climbs by itself.
        let mut next = Some(parent);
        while let Some(above) = next {
            let ancestor = self.nodes.get_mut(&above).expect("scopes above one that exists exist");
            ancestor.used = ancestor.used.saturating_sub(node.used);
            next = ancestor.parent;
        }
        self.remove_if_empty(parent);
    }

    /// Changes what the node as a whole may use, as the machine changes. What is already reserved stays reserved.
    pub fn set_system_limit(&mut self, limit: Amounts) {
        self.limits.system = limit;
        self.nodes.get_mut(&Scope::System).expect("the root always exists").limit = limit;
    }

    /// From now on these peers are the members. What others hold already stays theirs.
    pub fn set_members(&mut self, members: BTreeSet<PeerId>) {
        self.members = members;
    }

    pub fn limit(&self, scope: Scope) -> Amounts {
        self.nodes.get(&scope).map_or_else(|| self.limits.of(scope), |node| node.limit)
    }
    pub fn used(&self, scope: Scope) -> Amounts {
        self.nodes.get(&scope).map_or(Amounts::ZERO, |node| node.used)
    }
    /// What a reservation in this scope could still get: the least that is left on its path. Zero in a closed span.
    pub fn free(&self, scope: Scope) -> Amounts {
        let asker = scope;
        let mut free = Amounts::UNLIMITED;
        let mut next = Some(scope);
        while let Some(scope) = next {
            free = free.min(self.limit_towards(asker, scope).saturating_sub(self.used(scope)));
            next = match self.parent_of(scope) {
                Ok(parent) => parent,
                Err(_) => return Amounts::ZERO,
            };
        }
        free
    }
    /// Every scope that exists: what it uses and may use, in order.
    pub fn scopes(&self) -> impl Iterator<Item = (Scope, Amounts, Amounts)> + '_ {
        self.nodes.iter().map(|(&scope, node)| (scope, node.used, node.limit))
    }

    /// Panics when the accounting contradicts itself. For tests and for a debug build's actors.
    pub fn assert_invariants(&self) {
        for (scope, node) in &self.nodes {
            let mut below = Amounts::ZERO;
            let mut children = 0;
            for child in self.nodes.values().filter(|child| child.parent == Some(*scope)) {
                below = below.saturating_add(child.used);
                children += 1;
            }
            assert!(below.is_within(&node.used), "{scope} counts less than the scopes below it");
            assert_eq!(children, node.children, "{scope} miscounts its children");
        }
        let passing = self.nodes.keys().filter(|scope| is_passing(**scope)).count();
        assert_eq!(passing, self.passing, "passing scopes are miscounted");
    }

    /// The limit of a scope for what is reserved in `asker`, which is the same or below it.
    fn limit_towards(&self, asker: Scope, scope: Scope) -> Amounts {
        let limit = self.limit(scope);
        if let Scope::Peer(_, peer) = asker
            && !self.members.contains(&peer)
        {
            return limit.saturating_sub(self.limits.kept_for_members(scope, limit));
        }
        limit
    }

    fn parent_of(&self, scope: Scope) -> Result<Option<Scope>, Refused> {
        Ok(Some(match scope {
            Scope::System => return Ok(None),
            Scope::Service(_) => Scope::System,
            Scope::Protocol(_) => Scope::Service(Service::Network),
            Scope::Peer(protocol, _) => Scope::Protocol(protocol),
            Scope::Lender(_) => Scope::Service(Service::Pieces),
            Scope::Job(_) => Scope::Service(Service::Jobs),
            Scope::Task(job, _) => Scope::Job(job),
            Scope::Span(_) => return self.nodes.get(&scope).map(|node| node.parent).ok_or(Refused::Closed { scope }),
        }))
    }

    fn ensure(&mut self, scope: Scope, parent: Option<Scope>) {
        if self.nodes.contains_key(&scope) {
            return;
        }
        let node = Node { parent, limit: self.limits.of(scope), used: Amounts::ZERO, children: 0 };
        self.nodes.insert(scope, node);
        self.passing += usize::from(is_passing(scope));
        if let Some(parent) = parent.and_then(|parent| self.nodes.get_mut(&parent)) {
            parent.children += 1;
        }
    }

    fn remove_if_empty(&mut self, scope: Scope) {
        // A span lives until it is closed; the root always.
        if matches!(scope, Scope::System | Scope::Span(_)) {
            return;
        }
        let Some(node) = self.nodes.get(&scope) else { return };
        if !node.used.is_zero() || node.children > 0 {
            return;
        }
        let parent = node.parent;
        self.nodes.remove(&scope);
        self.passing -= usize::from(is_passing(scope));
        if let Some(parent) = parent {
            self.nodes.get_mut(&parent).expect("scopes above one that exists exist").children -= 1;
            self.remove_if_empty(parent);
        }
    }
}

/// Whether scopes of this sort come and go with what others ask, so that their number must be bounded.
fn is_passing(scope: Scope) -> bool {
    !matches!(scope, Scope::System | Scope::Service(_) | Scope::Protocol(_))
}
