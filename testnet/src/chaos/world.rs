//! The world that the parts of a run share: the testnet, who is broken now, what was promised, and the counts.

use parking_lot::Mutex;
use parking_lot::MutexGuard;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use quorate_api::{BenchForm, QuorumDetail, QuorumInfo};
use quorate_protocols::ids::QuorumId;
use quorate_protocols::quorum::limits::VOTERS_DEFAULT;

use super::history::Histories;
use super::jobs::Ended;
use super::oracle::Oracle;
use super::report::{Checked, Finding, JobsAtKills, Outcomes, Report, Spread};
use super::{ChaosError, Options, Progress, RECOVERY_MAX};
use crate::checkers::{Guarantee, Violation};
use crate::client::{Client, ClientError};
use crate::testnet::Testnet;

/// Violations that a report keeps; a thousand of one sort tell no more.
const FINDINGS_MAX: usize = 100;

const WORKING: u8 = 0;
const CHECKING: u8 = 1;
const OVER: u8 = 2;

pub struct World {
    pub testnet: Arc<Testnet>,
    pub options: Options,
    began: Instant,
    phase: AtomicU8,
    quorums: Mutex<BTreeMap<QuorumId, BTreeSet<usize>>>,
    clients: Mutex<BTreeMap<usize, Client>>,
    state: Mutex<State>,
}

#[derive(Default)]
pub struct State {
    pub oracle: Oracle,
    pub histories: Histories,
    /// Nodes that are down, paused, cut off, or not whole again yet.
    pub broken: BTreeSet<usize>,
    /// A line through the network: who is on which side.
    pub sides: Vec<BTreeSet<usize>>,
    /// Who led each quorum at the last look.
    pub primaries: BTreeMap<QuorumId, usize>,
    /// Nodes that work on an operation now.
    pub entries: BTreeMap<usize, u32>,
    /// Jobs that were acknowledged and have not ended, and how many there were at each kill.
    pub jobs_in_flight: u64,
    pub jobs_at_kills: Vec<u64>,
    /// The last that ended.
    pub ended_jobs: VecDeque<Ended>,
    /// Holders of objects stored lately.
    pub holders: BTreeSet<usize>,
    /// A primary was taken at this moment; the next commit of its quorum that begins later ends the failover.
    pub taken: BTreeMap<QuorumId, Instant>,
    pub failovers: Vec<Duration>,
    pub recoveries: Vec<Duration>,
    pub longest_stall: Duration,
    pub rss_bytes_max: u64,
    pub operations: BTreeMap<&'static str, Outcomes>,
    pub unknown_happened: u64,
    pub faults: BTreeMap<&'static str, u64>,
    pub kills_by_role: BTreeMap<&'static str, u64>,
    /// What commands to a quorum without a majority came to, by the answer's code.
    pub outage_answers: BTreeMap<String, u64>,
    pub checks: BTreeMap<Guarantee, u64>,
    pub findings: Vec<Finding>,
    pub doing: String,
}

impl World {
    pub fn new(testnet: Arc<Testnet>, options: Options) -> Self {
        Self {
            testnet,
            options,
            began: Instant::now(),
            phase: AtomicU8::new(WORKING),
            quorums: Mutex::default(),
            clients: Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// Held for a moment, never across an await.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
    pub fn is_working(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == WORKING
    }
    pub fn is_over(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == OVER
    }
    pub fn stop_work(&self) {
        self.phase.store(CHECKING, Ordering::Relaxed);
    }
    pub fn end(&self) {
        self.phase.store(OVER, Ordering::Relaxed);
    }
    pub fn log_step(&self, doing: impl Into<String>) {
        self.state().doing = doing.into();
    }
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// A client of a node as it is now: a restarted node has another address.
    pub fn client(&self, index: usize) -> Result<Client, ClientError> {
        let mut clients = self.clients.lock();
        let address = self.testnet.node_dir(index).join(quorate_api::ADDRESS_FILE);
        let address = std::fs::read_to_string(address).unwrap_or_default();
        if let Some(client) = clients.get(&index).filter(|client| client.base().ends_with(address.trim())) {
            return Ok(client.clone());
        }
        let client = Client::of_data_dir(&self.testnet.node_dir(index))?;
        clients.insert(index, client.clone());
        Ok(client)
    }

    /// Nodes that nothing is wrong with; a line through the network may part them from others.
    pub fn unbroken(&self) -> Vec<usize> {
        let state = self.state();
        self.testnet.indices().into_iter().filter(|index| !state.broken.contains(index)).collect()
    }

    /// Nodes that nothing is wrong with, and that see a majority of these members. None when no majority is whole.
    pub fn whole(&self, members: &BTreeSet<usize>) -> Vec<usize> {
        let state = self.state();
        if !is_majority(&(members - &state.broken), members) {
            return Vec::new();
        }
        let sees = |index: &usize| match state.sides.iter().find(|side| side.contains(index)) {
            None => true,
            Some(side) => is_majority(side, members),
        };
        self.testnet.indices().into_iter().filter(|index| !state.broken.contains(index)).filter(sees).collect()
    }

    pub fn quorums(&self) -> Vec<QuorumId> {
        self.quorums.lock().keys().copied().collect()
    }
    pub fn members(&self, quorum: QuorumId) -> BTreeSet<usize> {
        self.quorums.lock().get(&quorum).cloned().unwrap_or_default()
    }
    pub fn set_members(&self, quorum: QuorumId, members: BTreeSet<usize>) {
        self.quorums.lock().insert(quorum, members);
    }

    /// Learns the quorums there are, and forms more until there are `wanted`.
    pub async fn form_quorums(&self, wanted: usize) -> Result<(), ChaosError> {
        let indices = self.testnet.indices();
        let deadline = Instant::now() + RECOVERY_MAX;
        loop {
            let mut rows: Vec<QuorumInfo> = self.client(indices[0])?.list("/v1/quorums").await?.items;
            let formed = rows.len();
            for entry in indices.iter().skip(formed).take(wanted.saturating_sub(formed)) {
                let request = BenchForm { voters: VOTERS_DEFAULT as u32 };
                let detail: QuorumDetail = self.client(*entry)?.post("/v1/bench/form", &request).await?;
                rows.push(detail.info);
            }
            if rows.iter().all(|row| row.paused.is_none()) || Instant::now() > deadline {
                for row in rows {
                    let members = row.members.iter().filter_map(|peer| self.testnet.index_of(*peer)).collect();
                    self.set_members(row.quorum, members);
                }
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    pub fn count(&self, guarantee: Guarantee, checks: u64) {
        *self.state().checks.entry(guarantee).or_default() += checks;
    }
    /// Notes a violation, once.
    pub fn find(&self, violation: Violation, look: impl Into<String>) {
        let finding = Finding::new(violation, self.elapsed(), look);
        let mut state = self.state();
        let known = state.findings.iter().any(|known| known.what == finding.what);
        if !known && state.findings.len() < FINDINGS_MAX {
            tracing::error!(guarantee = ?finding.guarantee, what = %finding.what, "violation");
            state.findings.push(finding);
        }
    }

    pub fn progress(&self) -> Progress {
        let state = self.state();
        Progress {
            elapsed: self.elapsed(),
            doing: state.doing.clone(),
            faults: state.faults.values().sum(),
            kills: state.faults.get("kill").copied().unwrap_or(0),
            operations: state.operations.values().map(|done| done.ok + done.failed + done.unknown).sum(),
            violations: state.findings.len(),
        }
    }

    pub fn report(&self) -> Report {
        let state = self.state();
        let checked = |(guarantee, checks): (&Guarantee, &u64)| {
            let what = match guarantee {
                Guarantee::G1 => "acknowledged objects, removals and ends of jobs asked for again, histories judged",
                Guarantee::G2 => "looks at a member's term and lead",
                Guarantee::G3 => "fires",
                Guarantee::G4 => "recoveries and requests after the faults",
                Guarantee::G5 => "digests of members compared",
                Guarantee::G6 => "reads compared with what was put",
                Guarantee::G7 => "looks at memory and logs of a node",
                Guarantee::G8 => "reservations compared with limits and leases",
            };
            Checked { guarantee: *guarantee, checks: *checks, what }
        };
        Report {
            command: self.options.command.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seed: self.options.seed,
            nodes: self.testnet.indices().len(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            length_s: self.elapsed().as_secs_f64(),
            operations: state.operations.clone(),
            unknown_happened: state.unknown_happened,
            objects_acknowledged: state.oracle.acknowledged(),
            histories: state.histories.counts().0,
            calls: state.histories.counts().1,
            histories_undecided: state.histories.counts().2,
            faults: state.faults.clone(),
            kills_by_role: state.kills_by_role.clone(),
            jobs_at_kills: JobsAtKills::of(&state.jobs_at_kills),
            outage_answers: state.outage_answers.clone(),
            failover: Spread::of(&state.failovers),
            recovery: Spread::of(&state.recoveries),
            longest_stall_ms: state.longest_stall.as_secs_f64() * 1000.0,
            rss_bytes_max: state.rss_bytes_max,
            guarantees: state.checks.iter().map(checked).collect(),
            violations: state.findings.clone(),
        }
    }
}

/// Whether those of `nodes` that are members are a majority of them.
pub fn is_majority(nodes: &BTreeSet<usize>, members: &BTreeSet<usize>) -> bool {
    2 * nodes.intersection(members).count() > members.len()
}
