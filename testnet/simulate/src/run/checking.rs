//! Checks between two steps, from inside the nodes.

use std::collections::BTreeSet;

use quorate_node::compose::Node;
use quorate_node::objects::store::{ColumnRow, HoldState};
use quorate_node::resources::ScopeUsage;
use quorate_node::seams::Protocol;
use quorate_protocols::approval::limits::LEASES_PER_ASKER_MAX;
use quorate_protocols::ids::{JobId, PieceIndex};
use quorate_protocols::job::limits::{JOBS_ENDED_MAX, JOBS_LIVE_MAX};
use quorate_protocols::quorum::limits::{OBJECTS_MAX, STANDBYS_MAX, VOTERS_MAX};
use quorate_protocols::resources::Resource;
use quorate_protocols::resources::limits::SCOPES_MAX;
use quorate_testnet::checkers::commands::{ObjectAnswer, ObjectOperation};
use quorate_testnet::checkers::g6_readable::Held;
use quorate_testnet::checkers::g7_bounded::{self, Gauge};
use quorate_testnet::checkers::g8_reservations::{self, Account};

use super::Session;
use crate::panics;
use quorate_testkit::net::INBOUND_MAX;

impl Session {
    /// Every invariant that can be seen between two steps.
    pub(super) async fn check(&mut self) {
        let mut found = self.oracle.collect().await;
        for (object, called) in self.oracle.take_new() {
            self.object_history.record_call(
                object,
                called,
                ObjectOperation::Store,
                (self.clock.next(), ObjectAnswer::Done),
            );
        }
        found.extend(self.job_history.collect().await);
        found.extend(self.object_history.collect().await);
        let mut gauges = Vec::new();
        for lead in self.world.leads() {
            found.extend(self.leaders.check(lead.quorum, lead.term.0, lead.member));
        }
        found.append(&mut self.world.seen.forks.lock());
        for index in self.world.up() {
            let Some(node) = self.world.node(index) else { continue };
            let member = node.identity().member();
            let mut counts = vec![("leases expired".to_owned(), node.approver().metrics().expired.get())];
            for quorum in node.quorums().quorums() {
                let Some(progress) = quorum.progress() else { continue };
                let (digest, at) = (progress.digest.0, progress.applied.0);
                found.extend(self.digests.check(quorum.id(), at, member, digest));
                found.extend(self.memberships.check(quorum.id(), at, member, progress.membership.0));
                counts.push((format!("snapshots {}", quorum.id()), progress.snapshots_installed));
                found.extend(self.terms.check(quorum.id(), member, quorum.term().0));
                if quorum.leading().is_some() {
                    let voters: BTreeSet<_> = quorum.view().voters.into_iter().collect();
                    let before = self.voters.insert(quorum.id(), voters.clone()).unwrap_or_default();
                    self.coverage.members_replaced += before.difference(&voters).count() as u64;
                    let view = quorum.view();
                    let named = [
                        ("live jobs", u64::from(view.jobs_live), JOBS_LIVE_MAX),
                        ("ended jobs", u64::from(view.jobs_ended), JOBS_ENDED_MAX),
                        ("objects", u64::from(view.objects), OBJECTS_MAX),
                        ("members", (view.voters.len() + view.learners.len()) as u64, 2 * VOTERS_MAX),
                        ("standbys", view.standbys.len() as u64, STANDBYS_MAX),
                    ];
                    gauges.extend(named.map(|(name, value, limit)| Gauge { name, value, limit: limit as u64 }));
                }
            }
            let leases = (self.plan.nodes * LEASES_PER_ASKER_MAX) as u64;
            gauges.push(Gauge { name: "leases", value: node.approver().leases_held() as u64, limit: leases });
            let scopes = node.resources().usage();
            gauges.push(Gauge { name: "scopes", value: scopes.len() as u64, limit: SCOPES_MAX as u64 });
            let rows = columns(node).into_iter().map(|(job, column, row)| ((job, column), held(&row))).collect();
            found.extend(self.holdings.check(member, rows));
            for (what, now) in counts {
                let expired = what.starts_with("leases");
                let before = self.counted.insert((index, what), now).unwrap_or_default();
                let more = now.saturating_sub(before);
                match expired {
                    true => self.coverage.leases_expired += more,
                    false => {
                        self.coverage.snapshots_installed += more;
                        self.coverage.snapshots_installed_under_partition += if self.is_cut { more } else { 0 };
                    }
                }
            }
            let accounts: Vec<_> = scopes.iter().flat_map(|usage| accounts(index, usage)).collect();
            found.extend(g8_reservations::check(&self.grown(accounts)));
        }
        for (protocol, value) in Protocol::ALL.into_iter().zip(self.world.network.counts().waiting_most) {
            gauges.push(Gauge { name: waiting(protocol), value, limit: INBOUND_MAX as u64 });
        }
        for gauge in &gauges {
            let most = self.high_water.entry(gauge.name).or_insert((0, gauge.limit));
            most.0 = most.0.max(gauge.value);
        }
        found.extend(g7_bounded::check(&gauges, &panics::take_messages()));
        for violation in &found {
            self.world.transcript.line(0, violation);
        }
        self.violations.extend(found);
    }

    /// The accounts that grew since the last look. A limit that follows the machine, as a full disk's does, may sink
    /// below what was reserved before; what the guarantee forbids is to reserve beyond it.
    fn grown(&mut self, accounts: Vec<Account<String>>) -> Vec<Account<String>> {
        let mut has_grown = |account: &Account<String>| {
            let before = self.reserved.insert(account.scope.clone(), account.used).unwrap_or_default();
            account.used > before
        };
        accounts.into_iter().filter(|account| has_grown(account)).collect()
    }
}

fn accounts(index: usize, usage: &ScopeUsage) -> Vec<Account<String>> {
    let account = |resource: Resource| Account {
        scope: format!("node {index} {} {resource:?}", usage.scope),
        used: usage.used.get(resource),
        limit: usage.limit.get(resource),
    };
    Resource::ALL.into_iter().map(account).collect()
}

fn waiting(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Approval => "approval requests waiting at a node",
        Protocol::Raft => "raft requests waiting at a node",
        Protocol::Liveness => "heartbeats waiting at a node",
        Protocol::Job => "job requests waiting at a node",
        Protocol::Piece => "piece requests waiting at a node",
        Protocol::Task => "task requests waiting at a node",
    }
}

/// Every column that this node has or had, as its own index says.
fn columns(node: &Node) -> Vec<(JobId, PieceIndex, ColumnRow)> {
    node.objects().service().store().columns(None, usize::MAX).unwrap_or_default()
}

pub(super) fn held(row: &ColumnRow) -> Held {
    Held {
        attempt: row.attempt.0.into(),
        is_released: matches!(row.state, HoldState::Released { .. }),
        is_confirmed: matches!(row.state, HoldState::Confirmed { .. }),
    }
}
