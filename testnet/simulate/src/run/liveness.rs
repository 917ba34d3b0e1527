//! The second phase of a run: faults end, everything must be served, and in the end everything must be let go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_node::compose::Node;
use quorate_protocols::ids::{LogIndex, MemberId, PeerId, PieceIndex, QuorumId};
use quorate_protocols::job::limits::PAGE_MAX;
use quorate_protocols::job::store::ColumnState;
use quorate_protocols::piece::limits::LEASE;
use quorate_protocols::quorum::object::ObjectState;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::{ClaimSelector, Command, Control, ObjectCommand};
use quorate_protocols::resources::{Resource, Scope, Service};
use quorate_testnet::checkers::g8_reservations::{self, Account};
use quorate_testnet::checkers::{g4_progress, g6_readable};
use tokio::time::Instant;

use super::checking::held;
use super::{LIVENESS_BOUND, Session};
use crate::world::content;

/// One seed in so many waits until every lease that nobody knows of any more has run out.
const SEEDS_PER_LONG_REST: u64 = 8;

/// How long the other seeds look.
const SHORT_REST: Duration = Duration::from_secs(60);

impl Session {
    /// Faults end; everything that was promised must be served, and something new must be possible.
    pub(super) async fn liveness(&mut self) {
        self.world.transcript.line(0, "liveness: every fault ends");
        self.heal();
        for index in 1..=self.plan.nodes {
            self.world.clock(index).reset();
            self.start(index).await;
        }
        let began = Instant::now();
        let end = began + LIVENESS_BOUND;
        let (found, open) = self.oracle.drain(end).await;
        self.violations.extend(found);
        let mut waits = vec![(format!("{open} operations"), (open == 0).then(|| began.elapsed()))];
        waits.extend(self.wait_for_primaries(began, end).await);

        let name = "object-last".to_owned();
        let bytes = content(self.plan.seed, &name, 50_000);
        let mut stored = None;
        while stored.is_none() && Instant::now() < end {
            let index = 1 + self.rng.below(self.plan.nodes as u64) as usize;
            if let Ok(Ok(Some(Ok(outcome)))) =
                tokio::time::timeout_at(end, self.world.put(index, name.clone(), bytes.clone())).await
            {
                stored = Some((outcome.object, began.elapsed()));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        waits.push(("a new put".into(), stored.map(|(_, took)| took)));

        for object in self.oracle.objects() {
            let mut took = None;
            while took.is_none() && Instant::now() < end && self.violations.is_empty() {
                let index = 1 + self.rng.below(self.plan.nodes as u64) as usize;
                if let Ok(Ok(Some(result))) = tokio::time::timeout_at(end, self.world.get(index, object)).await {
                    let found = self.oracle.read(object, &result);
                    self.violations.extend(found);
                    took = result.is_ok().then(|| began.elapsed());
                }
                if took.is_none() {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
            waits.push((format!("reading {object:?}"), took));
        }
        if self.violations.is_empty() {
            waits.extend(self.judge_computing(began, end).await);
        }
        if self.violations.is_empty() {
            self.violations.extend(g4_progress::check(&waits, LIVENESS_BOUND));
        }
        self.check().await;
        self.compare().await;
        if self.violations.is_empty() {
            self.rest().await;
        }
    }

    /// Every quorum of which some node is a voter must have a primary.
    async fn wait_for_primaries(&self, began: Instant, end: Instant) -> Vec<(String, Option<Duration>)> {
        let mut took = BTreeMap::new();
        loop {
            let led: BTreeSet<QuorumId> = self.world.leads().into_iter().map(|lead| lead.quorum).collect();
            let nodes = (1..=self.plan.nodes).filter_map(|index| self.world.node(index));
            let wanted: BTreeSet<QuorumId> = nodes.flat_map(voted_in).collect();
            for quorum in wanted.intersection(&led) {
                took.entry(*quorum).or_insert(began.elapsed());
            }
            // A member that was replaced may think that it votes until it has asked.
            let missing: Vec<_> = wanted.into_iter().filter(|quorum| !took.contains_key(quorum)).collect();
            if missing.is_empty() || Instant::now() >= end {
                let found = took.into_iter().map(|(quorum, took)| (quorum, Some(took)));
                let found = found.chain(missing.into_iter().map(|quorum| (quorum, None)));
                return found.map(|(quorum, took)| (format!("a primary of {quorum:?}"), took)).collect();
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// What is looked at once, at rest: whole states, and whether holders keep what the quorums count on.
    async fn compare(&mut self) {
        for index in self.world.up() {
            let Some(node) = self.world.node(index) else { continue };
            for quorum in node.quorums().quorums() {
                if let Some((at, hash)) = quorum.state_hash() {
                    let member = node.identity().member();
                    self.violations.extend(self.states.check(quorum.id(), at.0, member, hash.0));
                }
            }
        }
        let holders: BTreeMap<MemberId, &Node> = (1..=self.plan.nodes)
            .filter_map(|index| self.world.node(index))
            .map(|node| (node.identity().member(), node))
            .collect();
        for lead in self.world.leads() {
            let quorum = self.world.node(lead.node).and_then(|node| node.quorums().quorum(lead.quorum));
            let Some(quorum) = quorum else { continue };
            let page = Query::Objects { after: None, limit: PAGE_MAX as u32 };
            let Ok(QueryAnswer::Objects(objects)) = quorum.query(page, true).await else { continue };
            for view in objects {
                for (index, column) in (0..).zip(&view.record.columns) {
                    // A holder that lost its disk since is the steward's to notice, in its own time.
                    let Some(node) = column.grant.and_then(|grant| holders.get(&grant.holder)) else { continue };
                    if column.state == ColumnState::Confirmed {
                        let kept = node.objects().service().store().column(view.record.job, PieceIndex(index));
                        let kept = kept.ok().flatten().map(|row| held(&row));
                        // One that is owed is known not to be whole: its holder may have begun to rebuild it in its
                        // place.
                        let is_owed = view.record.owed.contains_key(&PieceIndex(index));
                        if is_owed && kept.is_some_and(|held| held.attempt > u64::from(column.attempt.0)) {
                            continue;
                        }
                        let what = (view.record.job, PieceIndex(index));
                        self.violations.extend(g6_readable::check_confirmed(what, kept));
                    }
                }
            }
        }
    }

    /// Everything is removed and cancelled by its owner; then nothing may stay reserved for it, on any node.
    ///
    /// A promise that its asker lost sight of runs out by itself, which takes as long as a lease. Only one seed in
    /// [`SEEDS_PER_LONG_REST`] waits for that; the others look for a minute and say nothing about what is left then.
    async fn rest(&mut self) {
        let is_long = self.plan.seed.is_multiple_of(SEEDS_PER_LONG_REST);
        let end = Instant::now() + if is_long { LEASE + LIVENESS_BOUND } else { SHORT_REST };
        self.world.transcript.line(0, "rest: everything is removed");
        let owners: BTreeMap<PeerId, usize> =
            (1..=self.plan.nodes).map(|index| (self.world.peer(index), index)).collect();
        let mut left = Vec::new();
        while Instant::now() < end {
            self.remove_everything(&owners, end).await;
            left = self.reserved_at_rest();
            if left.is_empty() {
                self.coverage.rests += 1;
                return;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        if !is_long {
            return;
        }
        let stays = vec![0; left.len()];
        self.violations.extend(g8_reservations::check_at_rest(&left, &stays));
    }

    async fn remove_everything(&mut self, owners: &BTreeMap<PeerId, usize>, end: Instant) {
        let mut asked = Vec::new();
        for lead in self.world.leads() {
            let quorum = self.world.node(lead.node).and_then(|node| node.quorums().quorum(lead.quorum));
            let Some(quorum) = quorum else { continue };
            let mut commands = Vec::new();
            let (mut after, limit) = (None, PAGE_MAX as u32);
            while let Ok(QueryAnswer::Jobs(page)) = quorum.query(Query::Jobs { after, limit }, true).await {
                let Some(last) = page.last() else { break };
                after = Some((last.created_at, last.job));
                let live = page.into_iter().filter(|record| !record.state.is_final());
                commands.extend(live.map(|record| {
                    let cancel = Command::control(record.job, record.seen(), Control::Cancel);
                    (record.owner, cancel)
                }));
            }
            let mut after = None;
            while let Ok(QueryAnswer::Objects(page)) = quorum.query(Query::Objects { after, limit }, true).await {
                let Some(last) = page.last() else { break };
                after = Some(last.age());
                let live = page.into_iter().filter(|view| view.record.state == ObjectState::Live);
                commands.extend(live.flat_map(|view| {
                    let (manifest, seen, claims) =
                        (view.hash, view.record.claims.seen(), view.record.claims.into_vec());
                    claims.into_iter().map(move |claim| {
                        let claims = ClaimSelector::OwnedBy(claim.owner);
                        (claim.owner, Command::Object(manifest, ObjectCommand::Remove { claims, seen, force: true }))
                    })
                }));
            }
            for (owner, command) in commands {
                let Some(index) = owners.get(&owner) else { continue };
                asked.push(self.world.command(*index, lead.quorum, command, drop));
            }
        }
        // Whoever has no answer is asked again in the next round.
        drop(tokio::time::timeout_at(end, futures::future::join_all(asked)).await);
    }

    /// What the pieces of any node still reserve.
    fn reserved_at_rest(&self) -> Vec<Account<String>> {
        let mut left = Vec::new();
        for index in self.world.up() {
            let Some(node) = self.world.node(index) else { continue };
            let scope = Scope::Service(Service::Pieces);
            let (used, limit) = (node.resources().used(scope), node.resources().limit(scope));
            left.extend(Resource::ALL.into_iter().filter(|resource| used.get(*resource) > 0).map(|resource| Account {
                scope: format!("node {index} {scope} {resource:?}"),
                used: used.get(resource),
                limit: limit.get(resource),
            }));
        }
        left
    }
}

/// Quorums in which something was agreed, as far as this node knows, and of which it is a voter.
fn voted_in(node: &Node) -> Vec<QuorumId> {
    let member = node.identity().member();
    let quorums = node.quorums().quorums().into_iter();
    let votes = quorums.map(|quorum| (quorum.id(), quorum.view()));
    votes
        .filter(|(_, view)| view.applied > LogIndex(0) && view.voters.contains(&member))
        .map(|(quorum, _)| quorum)
        .collect()
}
