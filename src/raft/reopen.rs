//! Opens a group again whose openraft ended because its store failed, for a disk that was full has room one day; or
//! because its state differed from that of a majority, once it has taken theirs ([`super::copies`]).
//!
//! openraft takes every error of a store as the end, and the process lives on without it. Until the store takes writes
//! again the member stays closed and says why ([`super::group::Stop`]); then it is opened from disk by the rules of a
//! restart: a store behind its mark stays out, a lead that it had is given up. Trying costs one small write, and the
//! pause between tries grows from [`PAUSE_MIN`] to [`PAUSE_MAX`]; it starts over once a group has run for
//! [`LASTING`]. What needs an operator (a build that is too old) is not tried again.

use std::sync::Arc;
use std::time::Duration;

use quorate_protocols::backoff::Backoff;
use tokio::time::Instant;

use super::copies::CopyError;
use super::group::Group;
use super::host::Inner;

/// Before the first try: a full disk seldom has room again at once, and the others need about this long to take over.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// How long a member may stay behind once its disk has room.
const PAUSE_MAX: Duration = Duration::from_secs(10);
const PAUSES: Backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
/// A group that ran this long was opened for good: what ends it later is news.
const LASTING: Duration = Duration::from_secs(60);

/// Tries to take the state of another member, before a group is opened with the one that it has. Then it applies its
/// own log anew, which may mend it as well, and it is not missed for longer than a member that stays away: those that
/// agreed may be gone, or have replaced this one, which only a group that runs finds out.
const COPY_TRIES: u32 = 8;

/// Follows one group, and those that take its place, until it is closed or stops for good.
pub async fn keep_open(host: Arc<Inner>, mut group: Arc<Group>) {
    let shutdown = host.seams.tasks.shutdown_token();
    let mut pause = PAUSE_MIN;
    loop {
        let opened_at = Instant::now();
        group.stop_token().cancelled().await;
        if !group.may_reopen() {
            return;
        }
        // The next heartbeat tells the others that this member leads nothing any more.
        host.kick.notify_one();
        if opened_at.elapsed() >= LASTING {
            pause = PAUSE_MIN;
        }
        let (mut differs_from, mut copies) = (group.differs_from(), 0);
        group = loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => (),
            }
            pause = PAUSES.next(pause);
            if let Some(agreeing) = differs_from.take() {
                let copied = tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    copied = host.take_copy(&group, &agreeing) => copied,
                };
                copies += 1;
                match copied {
                    Ok(()) => {
                        host.metrics.healed.inc();
                    }
                    Err(CopyError::Gone) => return,
                    Err(error) if copies < COPY_TRIES => {
                        tracing::debug!(quorum = %group.id, ?error, "no state was taken");
                        differs_from = Some(agreeing);
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(quorum = %group.id, ?error, "no state was taken; the log is applied anew");
                    }
                }
            }
            match host.reopen(&group).await {
                Ok(Some(opened)) => break opened,
                Ok(None) => return,
                Err(error) => group.halt(error.into()),
            }
        };
    }
}
