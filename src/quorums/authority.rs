//! The authority of this node's operators over commands, before they enter the log, and over answers, before they
//! leave.
//!
//! Who may propose what is decided by the quorum's state ([`QuorumState::check_author`]). The node adds what only its
//! settings and its memory know: which peers are operators, how many jobs a peer has submitted lately, and which hosts
//! the conditions of triggers may have it ask.
//!
//! [`QuorumState::check_author`]: quorate_protocols::quorum::QuorumState::check_author

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_protocols::ids::PeerId;
use quorate_protocols::job::JobSpec;
use quorate_protocols::quorum::{Asker, Authorship, Command, JobCommand, QuorumCommand};
use quorate_protocols::trigger::When;
use tokio::time::Instant;

use super::ports::LocalQuorum;
use crate::hosts::AllowedHosts;
use crate::signatures::SubmitSignatures;

/// Submits that one peer may make in a burst, and one more per this interval. Guesses: as fast as a quorum of small
/// machines gets small jobs done, so that a stream of them is not slowed here; the burst is far below what fills a
/// quorum (`job::limits::JOBS_LIVE_MAX`).
const SUBMIT_BURST: u32 = 1_024;
const SUBMIT_INTERVAL: Duration = Duration::from_micros(200);

/// Peers whose submits are counted; beyond that the one that is closest to a full quota is forgotten.
const QUOTAS_MAX: usize = 4_096;

/// What a node's operators allow. Cloneable; all clones share the quotas.
#[derive(Clone, Default)]
pub struct Authority {
    operators: Arc<BTreeSet<PeerId>>,
    quotas: Arc<Mutex<Quotas>>,
    /// Where conditions may have this node look.
    hosts: AllowedHosts,
    signatures: SubmitSignatures,
    /// Whether any peer may have this node commit entries that do nothing, to measure how long that takes.
    is_measured: bool,
}

#[derive(Default)]
struct Quotas {
    /// When each peer's quota will be full again.
    full_at: BTreeMap<PeerId, Instant>,
}

impl Authority {
    pub fn new(operators: impl IntoIterator<Item = PeerId>) -> Self {
        Self { operators: Arc::new(operators.into_iter().collect()), ..Self::default() }
    }

    /// A source that this node would not ask is refused when the trigger is submitted here.
    pub fn with_hosts(self, hosts: AllowedHosts) -> Self {
        Self { hosts, ..self }
    }

    /// With what this node knows of signatures.
    pub fn with_signatures(self, signatures: SubmitSignatures) -> Self {
        Self { signatures, ..self }
    }

    /// Of a node that was started for tests.
    pub fn with_measuring(self, is_measured: bool) -> Self {
        Self { is_measured, ..self }
    }

    /// Of a trigger it is asked here whether its lines, zone and expressions can be read, for the state machine never
    /// reads them.
    fn check_sources(&self, spec: &JobSpec) -> Result<(), String> {
        let JobSpec::Triggered(spec) = spec else { return Ok(()) };
        spec.check_meaning().map_err(|fault| fault.to_string())?;
        let When::Condition(condition) = &spec.trigger.when else { return Ok(()) };
        let checked = self.hosts.check(&condition.source);
        checked.map_err(|why| format!("trigger.condition.source.http: {why}"))
    }

    /// Takes one submit from the peer's quota.
    fn take_submit(&self, by: PeerId) -> Result<(), String> {
        let now = Instant::now();
        let mut quotas = self.quotas.lock();
        let full_at = quotas.full_at.get(&by).copied().unwrap_or(now).max(now) + SUBMIT_INTERVAL;
        if full_at - now > SUBMIT_INTERVAL * SUBMIT_BURST {
            return Err(format!(
                "{by} submitted {SUBMIT_BURST} jobs at once; one more is taken every {SUBMIT_INTERVAL:?}"
            ));
        }
        quotas.full_at.insert(by, full_at);
        if quotas.full_at.len() > QUOTAS_MAX
            && let Some(fullest) = quotas.full_at.iter().min_by_key(|(_, at)| **at).map(|(peer, _)| *peer)
        {
            quotas.full_at.remove(&fullest);
        }
        Ok(())
    }
}

/// What `by` is to the quorum, of which `local` is this node's member, when it asks.
pub fn asker(authority: &Authority, this_node: PeerId, by: PeerId, local: &dyn LocalQuorum) -> Asker {
    // This node has the state.
    let is_member = by == this_node || {
        let view = local.view();
        view.voters.iter().chain(&view.learners).any(|member| member.peer == by)
    };
    Asker { by, is_operator: authority.operators.contains(&by), is_member }
}

/// Whether `by` may propose `command` to this quorum, of which `local` is this node's member. `Err` is for the asker
/// to read.
pub fn check(
    authority: &Authority,
    this_node: PeerId,
    by: PeerId,
    command: &Command,
    local: &dyn LocalQuorum,
) -> Result<(), String> {
    if let Command::Job(_, JobCommand::Submit { spec, .. }) = command {
        authority.take_submit(by)?;
        // Outside the state's lock: it takes as long as many small commands.
        authority.signatures.check(by, command).map_err(|forbidden| forbidden.to_string())?;
        authority.check_sources(spec)?;
    }
    let measures = authority.is_measured && matches!(command, Command::Quorum(QuorumCommand::Noop));
    let is_primary = by == this_node || measures;
    let author = Authorship { by, is_primary, is_operator: authority.operators.contains(&by) };
    let mut allowed = Ok(());
    local.with_state(&mut |state| allowed = state.check_author(author, command));
    allowed.map_err(|forbidden| forbidden.to_string())
}
