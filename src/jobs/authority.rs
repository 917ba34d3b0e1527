//! Who may propose what: asked by the primary before a command enters the log.
//!
//! - *Submit*: any admitted peer, within its quota. Of a trigger it is asked here whether its lines, zone and
//!   expressions can be read, for the state machine never reads them.
//! - *Cancel*, *Pause*, *Resume*, *Retry*, *Resolve*, *Update*, *Fire*, *Suspend*, *Unsuspend*: the owner of the job,
//!   or an operator of the network. *RemoveObject*: the owner of the claims that it names, or an operator.
//! - Duties of the primary (holders, workers, timers, triggers, confirmations, releases, repairs, standbys, levels):
//!   this node itself, never a peer.
//! - Commands of a run's worker, and of workers of tasks: the state machine compares the author with the worker that it
//!   has on record, so they pass here. *Attach* is open to every admitted peer: whoever has the file may finish storing
//!   it when the node that began is gone, and the piece hashes already recorded refuse any other file.
//!
//! A check reads this member's own state, which may lag. That is safe: an owner never changes, and a job not seen
//! yet is left to the state machine, which answers that it knows no such job or, if it was committed meanwhile, is
//! asked again by a check on the next try. To keep that second case from slipping through, the unknown is refused here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_protocols::ids::PeerId;
use quorate_protocols::job::JobSpec;
use quorate_protocols::job::message::{Query, QueryAnswer};
use quorate_protocols::quorum::Command;
use quorate_protocols::trigger::When;
use tokio::time::Instant;

use super::ports::LocalQuorum;
use crate::sources::AllowedHosts;

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

    /// Takes one submit from the peer's quota.
    fn take_submit(&self, by: PeerId) -> Result<(), String> {
        let now = Instant::now();
        let mut quotas = self.quotas.lock().expect("no panic while holding the quotas");
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

/// Whether `by` may propose `command` to this quorum, of which `local` is this node's member. `Err` is for the asker
/// to read.
pub async fn check(
    authority: &Authority,
    this_node: PeerId,
    by: PeerId,
    command: &Command,
    local: &dyn LocalQuorum,
) -> Result<(), String> {
    match command {
        Command::Noop
        | Command::Attach { .. }
        | Command::Progress { .. }
        | Command::ColumnFailed { .. }
        | Command::CommitObject { .. }
        | Command::FailRun { worker_attempt: Some(_), .. } => Ok(()),
        // What a worker says of its attempts.
        Command::Start { .. } | Command::Report { .. } | Command::SaveCheckpoint { .. } => Ok(()),
        Command::Submit { spec, .. } => {
            authority.take_submit(by)?;
            match spec {
                JobSpec::Triggered(spec) => {
                    spec.check_meaning().map_err(|fault| fault.to_string())?;
                    match &spec.trigger.when {
                        When::Condition(condition) => {
                            let checked = authority.hosts.check(&condition.source);
                            checked.map_err(|why| format!("trigger.condition.source.http: {why}"))
                        }
                        _ => Ok(()),
                    }
                }
                JobSpec::Store(_) | JobSpec::Compute(_) => Ok(()),
            }
        }
        Command::FailRun { worker_attempt: None, .. }
        | Command::AddHolders { .. }
        | Command::Abandon { .. }
        | Command::Confirmed { .. }
        | Command::Released { .. }
        | Command::OweRepair { .. }
        | Command::StartRepair { .. }
        | Command::FinishRepair { .. }
        | Command::FailRepair { .. }
        | Command::SetStandbys { .. }
        | Command::SetWorker { .. }
        | Command::LoseWorker { .. }
        | Command::ReleaseWorker { .. }
        | Command::Elapsed { .. }
        | Command::Due { .. }
        | Command::Deliver { .. }
        | Command::Observe { .. }
        | Command::RaiseLevel { .. } => {
            if by == this_node {
                Ok(())
            } else {
                Err("only the primary itself proposes this".to_owned())
            }
        }
        Command::Cancel { .. }
        | Command::Pause { .. }
        | Command::Resume { .. }
        | Command::Retry { .. }
        | Command::Resolve { .. }
        | Command::Update { .. }
        | Command::Fire { .. }
        | Command::Suspend { .. }
        | Command::Unsuspend { .. }
        | Command::RemoveObject { .. }
            if authority.operators.contains(&by) =>
        {
            Ok(())
        }
        Command::Cancel { job }
        | Command::Pause { job }
        | Command::Resume { job }
        | Command::Retry { job }
        | Command::Resolve { job, .. }
        | Command::Update { job, .. }
        | Command::Fire { job, .. }
        | Command::Suspend { job }
        | Command::Unsuspend { job } => match local.query(Query::Job { job: *job }, true).await {
            Ok(QueryAnswer::Job(record)) if record.owner == by => Ok(()),
            Ok(QueryAnswer::Job(record)) => {
                let (owner, verb) = (record.owner, verb(command));
                Err(format!("job {job} belongs to {owner}; only its owner and the operators may {verb} it"))
            }
            Ok(_) => Err(format!("the quorum knows no job {job}")),
            Err(error) => Err(format!("cannot tell who owns job {job}: {error}")),
        },
        // Whoever has no claim gives none up. Only its own are looked for, so that a command that is sent again after
        // its first try was heard, and took the last of them, changes nothing and is not refused either.
        Command::RemoveObject { claims, .. } if claims.is_of(by) => Ok(()),
        Command::RemoveObject { manifest, .. } => {
            Err(format!("only the operators may remove claims of others on object {manifest}"))
        }
    }
}

/// What a command of the owner does to its job.
fn verb(command: &Command) -> &'static str {
    match command {
        Command::Pause { .. } => "pause",
        Command::Resume { .. } => "resume",
        Command::Retry { .. } => "retry",
        Command::Resolve { .. } => "resolve",
        Command::Update { .. } => "change",
        Command::Fire { .. } => "fire",
        Command::Suspend { .. } => "suspend",
        Command::Unsuspend { .. } => "unsuspend",
        _ => "cancel",
    }
}
