//! Watchers: is every quorum committing, who leads in which term, do members agree, what do the nodes hold.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_api::{BenchCommit, CommitBench, QuorumDetail, QuorumInfo, ResourcesInfo};
use quorate_protocols::ids::QuorumId;
use quorate_protocols::resources::Resource;

use super::world::World;
use super::{Fault, RSS_BYTES_MAX};
use crate::checkers::g2_one_primary::{Leaders, Terms};
use crate::checkers::g5_agreement::Digests;
use crate::checkers::g7_bounded::{self, Gauge};
use crate::checkers::g8_reservations;
use crate::checkers::{Guarantee, Violation};
use crate::process::rss_bytes;
use crate::report::TestnetNodeState;
use crate::reservations;
use crate::rng::Rng;

/// Between two probes of a quorum: the grain of what is called a stall.
const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// What a probe waits through one entry node, before it turns to another.
const PROBE_MAX: Duration = Duration::from_secs(15);

/// Between two looks at all the members.
const CHECK_PAUSE: Duration = Duration::from_millis(700);
const CHECK_MAX: Duration = Duration::from_secs(3);

/// Looks between two looks at memory and reservations.
const CHECKS_PER_AUDIT: u32 = 4;

/// Commits a command in the quorum again and again, through a node that can reach a majority, and measures the gaps.
pub async fn probe(world: Arc<World>, quorum: QuorumId) {
    let mut rng = Rng::new(world.options.seed, &format!("probe {quorum}"));
    let request = BenchCommit { quorum, count: 1, outstanding: 1 };
    let mut last = Instant::now();
    while world.is_working() {
        tokio::time::sleep(PROBE_PAUSE).await;
        let Some(entry) = rng.pick(&world.whole(&world.members(quorum))).copied() else {
            // No majority is whole: what passes until one is again is no stall.
            last = Instant::now();
            continue;
        };
        let Ok(client) = world.client(entry) else { continue };
        let began = Instant::now();
        let commit = client.post::<_, CommitBench>("/v1/bench/noop", &request);
        // An entry node that is broken meanwhile says nothing of the quorum: another is asked.
        let broken = async {
            while began.elapsed() < PROBE_MAX && world.whole(&world.members(quorum)).contains(&entry) {
                tokio::time::sleep(PROBE_PAUSE).await;
            }
        };
        tokio::select! {
            committed = commit => if committed.is_err() { continue },
            () = broken => continue,
        }
        let mut state = world.state();
        state.longest_stall = state.longest_stall.max(last.elapsed());
        last = Instant::now();
        if let Some(taken) = state.taken.get(&quorum).copied().filter(|taken| began > *taken) {
            state.taken.remove(&quorum);
            state.failovers.push(taken.elapsed());
        }
    }
}

/// Looks at every member of every quorum, and at every node, until the run is over.
pub async fn members(world: Arc<World>) {
    let mut leaders = Leaders::default();
    let mut terms = Terms::default();
    let mut digests = Digests::default();
    let mut compared = 0;
    for look in 0.. {
        if world.is_over() {
            break;
        }
        tokio::time::sleep(CHECK_PAUSE).await;
        if look % 8 == 0 {
            learn(&world).await;
        }
        for quorum in world.quorums() {
            for member in world.members(quorum) {
                let Some(detail) = view(&world, member, quorum).await else { continue };
                let Some(own) = detail.own else { continue };
                let mut found = Vec::new();
                if let Some(term) = own.leading {
                    found.extend(leaders.check(quorum, term.0, member));
                    world.state().primaries.insert(quorum, member);
                }
                found.extend(terms.check(quorum, member, own.term.0));
                world.count(Guarantee::G2, 1);
                found.extend(digests.check(quorum, own.applied.0, member, own.digest.0));
                if own.digest.0 != detail.digest.0 && detail.digest_index.0 > 0 {
                    found.extend(digests.check(quorum, detail.digest_index.0, member, detail.digest.0));
                }
                for violation in found {
                    world.find(violation, format!("quorate quorum show {quorum} --node {member}"));
                }
            }
        }
        world.count(Guarantee::G5, digests.compared() - compared);
        compared = digests.compared();
        if look % CHECKS_PER_AUDIT == 0 {
            for node in world.testnet.status() {
                if node.state == TestnetNodeState::Running {
                    audit(&world, node.index, node.pid).await;
                }
            }
        }
    }
}

pub async fn view(world: &World, member: usize, quorum: QuorumId) -> Option<QuorumDetail> {
    let client = world.client(member).ok()?;
    let path = format!("/v1/quorums/{quorum}");
    let asked = client.get(&path);
    tokio::time::timeout(CHECK_MAX, asked).await.ok()?.ok()
}

/// Quorums and members as they are now: both change while nodes come and go.
pub async fn learn(world: &World) {
    let Some(entry) = world.unbroken().first().copied() else { return };
    let Ok(client) = world.client(entry) else { return };
    let Ok(Ok(rows)) = tokio::time::timeout(CHECK_MAX, client.list::<QuorumInfo>("/v1/quorums")).await else {
        return;
    };
    for row in rows.items.iter().filter(|row| row.paused.is_none()) {
        let members = row.members.iter().filter_map(|peer| world.testnet.index_of(*peer)).collect();
        world.set_members(row.quorum, members);
    }
}

/// Memory of the process and reservations of the node against their limits.
pub async fn audit(world: &World, index: usize, pid: Option<u32>) {
    if let Some(rss) = pid.and_then(rss_bytes) {
        let gauge = Gauge { name: format!("node {index}'s memory"), value: rss, limit: RSS_BYTES_MAX };
        world.count(Guarantee::G7, 1);
        for violation in g7_bounded::check(&[gauge], &[]) {
            world.find(violation, format!("quorate testnet status; grep VmRSS /proc/PID/status of node {index}"));
        }
        let mut state = world.state();
        state.rss_bytes_max = state.rss_bytes_max.max(rss);
    }
    let Ok(client) = world.client(index) else { return };
    let asked = client.get::<ResourcesInfo>("/v1/resources");
    let Ok(Ok(resources)) = tokio::time::timeout(CHECK_MAX, asked).await else { return };
    let mut accounts = reservations::limited(&resources);
    if world.options.faults.contains(&Fault::Fill) {
        // A full disk takes its limit below what is on it already.
        accounts.retain(|account| !account.scope.starts_with(&Resource::DiskBytes.to_string()));
    }
    world.count(Guarantee::G8, accounts.len() as u64);
    let found = g8_reservations::check(&accounts);
    for Violation { guarantee, what } in found {
        let violation = Violation::new(guarantee, format!("on node {index}, {what}"));
        world.find(violation, format!("quorate doctor --node {index}"));
    }
}
