//! Keeping standbys: performs, for the groups that this node leads, what the pure pool of
//! `quorate_protocols::approval::standby` decides.
//!
//! One round per group at a time, in a task of its own: it asks standbys to prolong their promises, asks others for
//! new ones, and commits the list. What a round could not do, the next one tries again. A node that stops leading
//! forgets its pool; the next primary starts from the list in the state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_protocols::approval::standby::{Pool, PoolEffect, Sight};
use quorate_protocols::ids::{PeerId, QuorumId};
use quorate_protocols::quorum::{Command, QuorumCommand};

use super::group::Group;
use super::host::Inner;
use super::types::members_of;
use super::{Member, Quorum};

/// Between two looks at the standbys of a group.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Committing the list of standbys. When it takes longer, the next round does it again.
const RECORD_DEADLINE: Duration = Duration::from_secs(5);

/// The pools of the groups that this node leads.
#[derive(Default)]
pub struct Standbys {
    pools: BTreeMap<QuorumId, Arc<Mutex<Pool>>>,
    rounds: BTreeMap<QuorumId, tokio::task::JoinHandle<Option<()>>>,
}

impl Standbys {
    /// Starts a round for every group of `led` that has none under way.
    pub fn start_rounds(&mut self, host: &Arc<Inner>, led: &[Arc<Group>]) {
        self.rounds.retain(|_, round| !round.is_finished());
        self.pools.retain(|quorum, _| led.iter().any(|group| group.id == *quorum));
        // Without somebody to ask there is nothing to keep.
        if host.membership_leases.get().is_none() {
            return;
        }
        for group in led {
            if self.rounds.contains_key(&group.id) {
                continue;
            }
            let now = host.seams.clock.monotonic();
            let pool = self.pools.entry(group.id).or_insert_with(|| Arc::new(Mutex::new(Pool::new(now)))).clone();
            let effects = review_standbys(host, group, &pool);
            if !effects.is_empty() {
                let round = perform(host.clone(), group.clone(), pool, effects);
                self.rounds.insert(group.id, crate::seams::spawn(round));
            }
        }
    }
}

fn review_standbys(host: &Inner, group: &Group, pool: &Mutex<Pool>) -> Vec<PoolEffect> {
    let (voters, _) = members_of(&group.membership());
    let recorded = group.machine.read(|applied| applied.state.standbys().to_vec());
    let founding = group.record().standbys;
    let peers = recorded.iter().chain(&founding).map(|approval| approval.statement.approver);
    // One that is not trusted any more is as good as away: it is let go as soon as that.
    let counts = |peer: &PeerId| host.net.is_connected(*peer) && host.check_trust(*peer).is_ok();
    let present: BTreeSet<_> = peers.filter(counts).collect();
    let sight = Sight { voters: &voters, recorded: &recorded, founding: &founding, present: &present };
    let (now, random) = (host.seams.clock.monotonic(), host.seams.entropy.u64());
    pool.lock().review_pool(now, random, sight)
}

async fn perform(host: Arc<Inner>, group: Arc<Group>, pool: Arc<Mutex<Pool>>, effects: Vec<PoolEffect>) {
    let Some(membership_leases) = host.membership_leases.get() else { return };
    let level = group.machine.read(|applied| applied.state.level());
    for effect in effects {
        // What follows would be another primary's to decide.
        if group.leading().is_none() {
            return;
        }
        match effect {
            PoolEffect::Record { standbys } => {
                let quorum = Quorum { host: host.clone(), id: group.id, member: Member::Active(group.clone()) };
                let count = standbys.len();
                let command = Command::Quorum(QuorumCommand::SetStandbys { standbys });
                match quorum.propose(host.identity.peer(), command, RECORD_DEADLINE).await {
                    Ok(Ok(_)) => tracing::debug!(quorum = %group.id, count, "standbys recorded"),
                    Ok(Err(rejection)) => {
                        tracing::warn!(quorum = %group.id, %rejection, "the standbys could not be recorded")
                    }
                    Err(error) => tracing::debug!(quorum = %group.id, %error, "recording standbys"),
                }
            }
            PoolEffect::Renew { standby } => {
                let statement = standby.statement;
                let renewed = membership_leases.renew_standby(statement.approver, statement.lease).await;
                let now = host.seams.clock.monotonic();
                pool.lock().renewed(now, statement.approver, renewed);
            }
            PoolEffect::GiveBack { standby } => {
                membership_leases.give_back(standby.statement.approver, standby.statement.lease).await;
            }
            PoolEffect::Seek { exclude } => {
                let won = membership_leases.win_member(group.id, exclude, level).await;
                let won = won.inspect_err(|reason| tracing::debug!(quorum = %group.id, reason, "no standby was won"));
                let now = host.seams.clock.monotonic();
                pool.lock().sought(now, won.ok());
            }
        }
    }
}
