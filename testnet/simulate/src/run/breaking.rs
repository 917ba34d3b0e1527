//! The faults of a run: which, when, and how they end.

use std::time::Duration;

use super::Session;
use crate::faults::Fault;
use crate::world::Lead;
use quorate_testkit::net::Faults;

/// How long a crash may wait for a primary that is in the middle of a commit, or for something to be acknowledged.
const HUNT_MS_MAX: u64 = 300;

/// How long power may be gone.
const BLACKOUT_MAX: Duration = Duration::from_secs(5);

/// How much later the second copy of a message may arrive: later than any deadline of a piece.
const STRAGGLE_MAX: Duration = Duration::from_secs(40);

/// One way, on a network that reorders.
const LATENCY_MAX: Duration = Duration::from_millis(500);

impl Session {
    /// Boots a node that is down, or ends the faults of network and disks.
    pub(super) async fn recover(&mut self) {
        match self.rng.pick(&self.world.down()).copied() {
            Some(index) => self.start(index).await,
            None => self.heal(),
        }
    }

    pub(super) fn heal(&mut self) {
        self.world.transcript.line(0, "faults of network and disks end");
        self.world.network.heal();
        self.coverage.partitions_healed += u64::from(std::mem::take(&mut self.is_cut));
        for index in 1..=self.plan.nodes {
            self.world.resume(index);
            self.world.disk(index).set_full(false);
            self.world.disk(index).set_sync_delay(Duration::ZERO);
        }
    }

    pub(super) async fn fault(&mut self) {
        // Without: drawn as ever, so that the rest of the schedule stays what it was.
        let kinds: Vec<_> = self.plan.faults.0.iter().copied().collect();
        let Some(kind) = self.rng.pick(&kinds).copied() else { return };
        let mut node = 1 + self.rng.below(self.plan.nodes as u64) as usize;
        if kind == Fault::Crash && self.rng.chance(300) {
            node = self.hunt().await.unwrap_or(node);
        }
        let other = 1 + self.rng.below(self.plan.nodes as u64) as usize;
        if self.plan.without.0.contains(&kind) {
            return;
        }
        *self.injected.entry(kind.name()).or_default() += 1;
        self.coverage.faults += 1;
        if kind == Fault::Power {
            return self.blackout().await;
        }
        let detail = self.inject(kind, node, other);
        self.world.transcript.line(0, format_args!("fault {}: {detail}", kind.name()));
    }

    /// Power fails everywhere, if possible just after something was acknowledged, and comes back everywhere.
    async fn blackout(&mut self) {
        self.put();
        self.call_job();
        let has_news = |session: &Self| {
            session.oracle.has_finished() || session.job_history.has_finished() || session.object_history.has_finished()
        };
        let mut waited = 0;
        while waited < HUNT_MS_MAX && !has_news(self) {
            tokio::time::sleep(Duration::from_millis(1)).await;
            waited += 1;
        }
        self.coverage.blackouts_after_news += u64::from(has_news(self));
        for node in self.world.up() {
            self.note_crash(node);
        }
        for node in self.world.up() {
            self.world.crash(node);
        }
        self.world.transcript.line(0, "fault power: every node");
        let dark = self.rng.duration(Duration::from_millis(10), BLACKOUT_MAX);
        tokio::time::sleep(dark).await;
        for node in 1..=self.plan.nodes {
            self.start(node).await;
        }
    }

    fn note_crash(&mut self, node: usize) {
        self.coverage.crashes += 1;
        let leads: Vec<_> = self.world.leads().into_iter().filter(|lead| lead.node == node).collect();
        self.coverage.primaries_crashed += u64::from(!leads.is_empty());
        let is_mid_commit = leads.iter().any(|lead| self.is_mid_commit(lead));
        self.coverage.primaries_crashed_mid_commit += u64::from(is_mid_commit);
    }

    /// A primary with an entry under way, if one shows up soon.
    async fn hunt(&self) -> Option<usize> {
        for _ in 0..HUNT_MS_MAX {
            if let Some(lead) = self.world.leads().into_iter().find(|lead| self.is_mid_commit(lead)) {
                return Some(lead.node);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        None
    }

    fn is_mid_commit(&self, lead: &Lead) -> bool {
        let quorum = self.world.node(lead.node).and_then(|node| node.quorums().quorum(lead.quorum));
        quorum.and_then(|quorum| quorum.progress()).is_some_and(|progress| progress.last_log > progress.applied)
    }

    fn inject(&mut self, kind: Fault, node: usize, other: usize) -> String {
        match kind {
            Fault::Crash => {
                if self.world.node(node).is_some() {
                    self.note_crash(node);
                }
                self.world.crash(node);
                format!("node {node}")
            }
            Fault::Power => unreachable!("power is everybody's and takes its time"),
            Fault::Pause => {
                self.world.pause(node);
                format!("node {node}")
            }
            Fault::Partition => {
                self.is_cut = true;
                let sides: Vec<bool> = (0..self.plan.nodes).map(|_| self.rng.chance(500)).collect();
                for (a, left) in sides.iter().enumerate() {
                    for (b, right) in sides.iter().enumerate() {
                        if left != right {
                            self.world.network.cut(self.world.peer(a + 1), self.world.peer(b + 1));
                        }
                    }
                }
                format!("{sides:?}")
            }
            Fault::OneWay => {
                self.is_cut = true;
                self.world.network.cut(self.world.peer(node), self.world.peer(other));
                format!("{other} does not hear {node}")
            }
            Fault::Slow => {
                let by = self.rng.duration(Duration::from_millis(20), Duration::from_millis(800));
                self.world.network.slow(self.world.peer(node), by);
                format!("node {node} by {by:?}")
            }
            Fault::Loss => {
                let per_mille = self.rng.below(150) as u32;
                self.world.network.change_faults(|faults| faults.loss_per_mille = per_mille);
                format!("{per_mille} of a thousand")
            }
            Fault::Duplicate => {
                let per_mille = self.rng.below(150) as u32;
                let straggle = self.rng.duration(Duration::ZERO, STRAGGLE_MAX);
                self.world.network.change_faults(|faults| {
                    (faults.duplicates_per_mille, faults.straggle_max) = (per_mille, straggle);
                });
                format!("{per_mille} of a thousand, up to {straggle:?} later")
            }
            Fault::Reorder => {
                let most = self.rng.duration(Faults::NONE.latency.1, LATENCY_MAX);
                self.world.network.change_faults(|faults| faults.latency.1 = most);
                format!("up to {most:?} under way")
            }
            Fault::SlowDisk => {
                let by = self.rng.duration(Duration::from_millis(10), Duration::from_secs(2));
                self.world.disk(node).set_sync_delay(by);
                format!("node {node} by {by:?}")
            }
            Fault::FullDisk => {
                self.world.disk(node).set_full(true);
                format!("node {node}")
            }
            Fault::Rot => {
                let rotten = self.world.disk(self.rotting).rot_one(&mut self.rng);
                format!("node {}: {rotten:?}", self.rotting)
            }
            Fault::Clock => {
                let by_ms = self.rng.below(2 * 3_600_000) as i64 - 3_600_000;
                self.world.clock(node).step(by_ms);
                format!("node {node} by {by_ms} ms")
            }
            Fault::Wipe => {
                self.coverage.disks_wiped += 1;
                self.world.wipe(self.rotting);
                format!("node {}", self.rotting)
            }
        }
    }
}
