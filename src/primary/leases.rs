//! Keeping the promises of live runs alive.
//!
//! A column that receives pieces keeps its own lease alive. A spare receives none, and neither does a column whose file
//! comes slowly or whose worker is away and may return. So the primary renews, for every run that has not ended, the
//! leases of its columns and spares, several times per lease. A lease that nobody has used lasts for seconds, so those
//! that this primary has not renewed yet are looked for in between. This ends with the run: one that nobody feeds is
//! abandoned after `STORE_IDLE_MAX`, and then everything is released. A lease that is gone all the same is found out
//! when the column is used, and costs that column its holder.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use quorate_protocols::approval::Grant;
use quorate_protocols::approval::limits::CONFIRM_INTERVAL;
use quorate_protocols::approval::standby::Renewed;
use quorate_protocols::ids::{JobId, LeaseId, PeerId};
use quorate_protocols::liveness::patience::LEASE_TRUST_PERCENT;
use quorate_protocols::liveness::patience::{RENEWAL_TRIES, RENEWALS_PER_LEASE};
use quorate_protocols::piece::limits::LEASE;
use quorate_protocols::quorum::Duty;
use tokio::time::{Instant, sleep_until};

use super::context::Context;

/// Between the beginnings of two rounds of renewals.
const RENEW_INTERVAL: Duration = Duration::from_secs(LEASE.as_secs() / RENEWALS_PER_LEASE as u64);

/// How much later than that a round begins, at most.
const SPREAD: Duration = Duration::from_secs(RENEW_INTERVAL.as_secs() / 8);

/// Renewals of one quorum that wait for an answer at once, over all of its runs: far from their holders, a round takes
/// as many round trips as there are grants for each of these.
const RENEWALS_MAX: usize = 32;

// A lease survives two rounds that fail, and the third has as long as a spread for its answers.
const _: () = assert!(
    (RENEW_INTERVAL.as_secs() + SPREAD.as_secs()) * RENEWAL_TRIES as u64 + SPREAD.as_secs()
        <= LEASE.as_secs() * LEASE_TRUST_PERCENT / 100
);

/// Names a lease: its id is its approver's own.
type Promise = (PeerId, LeaseId);

/// Runs until it is dropped, when this node stops leading.
pub(super) async fn renew_leases(context: Context) {
    let mut round_at = Instant::now();
    // Those that stand by this primary's own renewal.
    let mut confirmed = BTreeSet::new();
    loop {
        // Primaries that rose together spread out.
        let spread = context.env.seams.entropy.below(SPREAD.as_millis() as u64 + 1);
        let due = round_at + Duration::from_millis(spread);
        loop {
            let next = Instant::now() + CONFIRM_INTERVAL;
            sleep_until(next.min(due)).await;
            if next >= due {
                break;
            }
            let grants = grants(&context);
            let young = grants.iter().filter(|(_, grant)| !confirmed.contains(&promise(grant))).copied().collect();
            let stood = renew(&context, young).await;
            // Of leases that are gone nothing is kept.
            let known: BTreeSet<Promise> = grants.iter().map(|(_, grant)| promise(grant)).collect();
            confirmed.retain(|promise| known.contains(promise));
            confirmed.extend(stood);
        }
        confirmed = renew(&context, grants(&context)).await;
        // However long the round took: its answers are slow where links are.
        round_at = (round_at + RENEW_INTERVAL).max(Instant::now());
    }
}

fn promise(grant: &Grant) -> Promise {
    (grant.holder.peer, grant.lease)
}

/// Renews the leases; those that stand.
async fn renew(context: &Context, grants: Vec<(JobId, Grant)>) -> BTreeSet<Promise> {
    let renewals = stream::iter(grants).map(|(job, grant)| async move {
        let holder = grant.holder.peer;
        // Nobody waits for an absent one: it is asked again in the next round.
        let is_absent = context.env.net.is_absent(holder);
        let stands = !is_absent && context.env.approvals.renew(holder, grant.lease, LEASE).await == Renewed::Stands;
        if !stands {
            tracing::debug!(%job, %holder, is_absent, "a lease was not renewed");
        }
        stands.then(|| promise(&grant))
    });
    renewals.buffer_unordered(RENEWALS_MAX).filter_map(std::future::ready).collect().await
}

/// What live runs count on: their columns, and the spares that may take one over.
fn grants(context: &Context) -> Vec<(JobId, Grant)> {
    let live: Vec<JobId> = context
        .quorum
        .duties()
        .into_iter()
        .filter_map(|duty| match duty {
            Duty::WatchIdle { job, .. } => Some(job),
            _ => None,
        })
        .collect();
    let mut grants = Vec::new();
    context.quorum.with_state(&mut |state| {
        for record in live.iter().filter_map(|job| state.jobs().get(job)) {
            let Some((_, run)) = record.store().filter(|_| !record.state.is_final()) else { continue };
            let columns = run.columns.iter().filter_map(|column| column.grant);
            grants.extend(columns.chain(run.spares.iter().copied()).map(|grant| (record.job, grant)));
        }
    });
    grants
}
