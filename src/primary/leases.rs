//! Keeping the promises of live runs alive.
//!
//! A column that receives pieces keeps its own lease alive. A spare receives none, and neither does a column whose file
//! comes slowly or whose worker is away and may return. So the primary renews, for every run that has not ended, the
//! leases of its columns and spares, several times per lease. This ends with the run: one that nobody feeds is
//! abandoned after `STORE_IDLE_MAX`, and then everything is released. A lease that is gone all the same is found out
//! when the column is used, and costs that column its holder.

use std::time::Duration;

use futures::stream::{self, StreamExt};
use quorate_protocols::approval::standby::Renewed;
use quorate_protocols::ids::JobId;
use quorate_protocols::job::Grant;
use quorate_protocols::piece::limits::LEASE;
use quorate_protocols::quorum::Duty;
use tokio::time::sleep;

use super::context::Context;

/// Between two renewals: a lease survives two that fail.
const RENEW_INTERVAL: Duration = Duration::from_secs(LEASE.as_secs() / 4);

/// Renewals of one quorum that wait for an answer at once.
const RENEWALS_MAX: usize = 16;

/// Runs until it is dropped, when this node stops leading.
pub(super) async fn renew_leases(context: Context) {
    let spread = RENEW_INTERVAL.as_millis() as u64 / 4;
    loop {
        // Primaries that rose together spread out. A new primary begins within a quarter of the interval.
        sleep(Duration::from_millis(context.env.seams.entropy.below(spread + 1))).await;
        renew_all(&context).await;
        sleep(RENEW_INTERVAL - Duration::from_millis(spread)).await;
    }
}

async fn renew_all(context: &Context) {
    let live = context.quorum.duties().into_iter().filter_map(|duty| match duty {
        Duty::WatchIdle { job, .. } => Some(job),
        _ => None,
    });
    for job in live {
        let grants = grants_of(context, job).await;
        stream::iter(grants)
            .for_each_concurrent(RENEWALS_MAX, |grant| async move {
                let holder = grant.holder.peer;
                if context.env.approvals.renew(holder, grant.lease, LEASE).await != Renewed::Stands {
                    tracing::debug!(%job, %holder, "a lease was not renewed");
                }
            })
            .await;
    }
}

/// What the run counts on: its columns, and the spares that may take one over.
async fn grants_of(context: &Context, job: JobId) -> Vec<Grant> {
    match context.job(job).await {
        Ok(Some(record)) if !record.state.is_final() => {
            let Some((_, run)) = record.store() else { return Vec::new() };
            let columns = run.columns.iter().filter_map(|column| column.grant);
            columns.chain(run.spares.iter().copied()).collect()
        }
        _ => Vec::new(),
    }
}
