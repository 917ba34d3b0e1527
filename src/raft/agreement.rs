//! Comparison of states: a member's digest with the one that the primary's appends carry.
//!
//! A digest counts only in an append that raft has accepted, so from the primary of the current term. When it differs
//! from the own one of the same index, the other voters are asked for theirs, and
//! `quorate_protocols::quorum::agreement` judges. A member against which a majority speaks stops, takes the state of
//! one of them (`copies`), and is opened again. A primary against which a majority speaks is followed no further: its
//! appends are refused, it counts as a primary that leads nothing, and the next one is elected, under which it finds
//! out about itself. Without a majority on either side nothing happens but that it is asked again.

use std::sync::Arc;
use std::time::Duration;

use quorate_protocols::ids::{Digest, LogIndex, MemberId, Millis, Term};
use quorate_protocols::quorum::limits::DIGEST_INTERVAL;
use quorate_protocols::quorum::{DigestPoll, DigestVerdict};

use super::door::Deposed;
use super::group::{Group, Stop};
use super::host::Inner;

/// A group asks the others at most this often for their digests, and so many times for one difference: some may not
/// have applied as much yet. The next append that shows one begins anew.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const POLLS: usize = 3;

/// For so long a primary that a majority contradicts is not let run for the next term: time enough for the others to
/// elect one of them, and not so long that a quorum which needs its vote or its log waits much.
const DEPOSED_MAX: Duration = Duration::from_secs(10);

impl Group {
    /// This member's own digest, if it differs from the primary's of the same index.
    fn contradicts(&self, theirs: (LogIndex, Digest)) -> Option<Digest> {
        debug_assert!(theirs.0.0.is_multiple_of(DIGEST_INTERVAL));
        self.machine.read(|applied| applied.digest_at(theirs.0)).filter(|ours| *ours != theirs.1)
    }

    fn begins_poll(&self, now: Millis) -> bool {
        let mut polled_at = self.polled_at.lock();
        let waits = polled_at.is_some_and(|at| now.since(at) < POLL_INTERVAL);
        if !waits {
            *polled_at = Some(now);
        }
        !waits
    }

    /// Whether the member was a primary whose state a majority contradicts, and nobody has taken its place yet.
    pub fn keeps_from_running(&self, candidate: MemberId, now: Millis) -> bool {
        self.deposed().is_some_and(|deposed| {
            let replaced = self.term() > deposed.term && self.primary().is_some_and(|primary| primary != candidate);
            deposed.primary == candidate && !replaced && now.since(deposed.at) < DEPOSED_MAX
        })
    }
}

impl Inner {
    /// Called with the digest of an append that raft has accepted from this primary.
    pub(super) fn compare_digest(
        self: &Arc<Self>,
        group: &Arc<Group>,
        primary: MemberId,
        term: Term,
        theirs: (LogIndex, Digest),
    ) {
        let Some(mine) = group.contradicts(theirs) else { return };
        if !group.begins_poll(self.seams.clock.monotonic()) {
            return;
        }
        let (host, group, stop) = (self.clone(), group.clone(), group.stop_token());
        let polling = async move {
            for _ in 0..POLLS {
                if host.poll_digests(&group, primary, term, theirs, mine).await {
                    return;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
                *group.polled_at.lock() = Some(host.seams.clock.monotonic());
            }
        };
        crate::seams::spawn(async move { stop.run_until_cancelled(polling).await });
    }

    /// Whether a majority decided.
    async fn poll_digests(
        &self,
        group: &Group,
        primary: MemberId,
        term: Term,
        (index, of_primary): (LogIndex, Digest),
        mine: Digest,
    ) -> bool {
        let configurations = group.configurations();
        let told = self.ask_voters(group, &configurations, index).await;
        let answers = told.into_iter().filter_map(|(voter, told)| Some((voter, told.digest?))).collect();
        let verdict = DigestPoll { me: group.me, mine, primary, of_primary, answers }.judge(&configurations);
        let is_decided = verdict != DigestVerdict::Undecided;
        match verdict {
            // Found out already, by another poll.
            DigestVerdict::ThisMember { .. } if group.is_stopped() => (),
            DigestVerdict::ThisMember { agreeing } => {
                self.metrics.diverged.inc();
                group.halt(Stop::Differs { index, agreeing });
            }
            DigestVerdict::Primary => {
                tracing::error!(quorum = %group.id, %primary, %index, "the primary's state differs from a majority's");
                *group.deposed.lock() = Some(Deposed { term, primary, at: self.seams.clock.monotonic() });
                // The election core looks at once.
                self.kick.notify_one();
            }
            DigestVerdict::Undecided => {
                tracing::warn!(quorum = %group.id, %index, "the primary's state differs; no majority says whose is wrong");
            }
        }
        is_decided
    }
}
