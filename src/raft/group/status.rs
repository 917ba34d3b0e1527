//! Status of a group: whether its member leads, hears a majority, or has stopped, and why. Changes are told as
//! [`HostEvent`]s.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_protocols::ids::{LogIndex, MemberId, Millis, Term};
use quorate_protocols::quorum::limits::MAJORITY_SILENCE_MAX;

use super::Group;
use crate::raft::{HostEvent, Unheard};
use crate::seams::DiskError;

/// Why a member takes no part in its quorum, although its node runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// Until an operator acts.
    #[error("{0}")]
    ForGood(String),
    /// Until the disk has room again.
    #[error("the disk of this member's node is full")]
    Full,
    /// Until the store can be used again.
    #[error("its store failed: {0}")]
    Store(String),
    /// Until it has taken the state of one of those that agree.
    #[error("its state at log index {index} differs from that of a majority, and it takes theirs")]
    Differs { index: LogIndex, agreeing: BTreeSet<MemberId> },
}

impl From<DiskError> for Stop {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Full { .. } => Self::Full,
            other => Self::Store(other.to_string()),
        }
    }
}

/// What changes while the group runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    /// Raft's leader here, with everything from before applied.
    pub(super) led: Option<Term>,
    /// A majority of the voters gave a sign of life lately.
    pub(super) unheard: Option<String>,
    /// Since when no majority was heard, if none is, and for how long that was so before, on the monotonic clock.
    unheard_since: Option<Millis>,
    unheard_for: Duration,
    /// When that was judged last.
    judged_at: Option<Millis>,
    pub(super) stopped: Option<Stop>,
}

impl Status {
    /// For how long no majority was heard, altogether. In a process that stood still nobody heard anything.
    fn unheard_for(&self, now: Millis) -> Duration {
        let stood_still = self.judged_at.filter(|at| now.since(*at) > MAJORITY_SILENCE_MAX);
        let since = self.unheard_since.or(stood_still);
        self.unheard_for + since.map_or(Duration::ZERO, |since| now.since(since))
    }
    pub(super) fn leading(&self) -> Option<Term> {
        self.led.filter(|_| self.unheard.is_none() && self.stopped.is_none())
    }
}

impl Group {
    /// Told on every heartbeat whether a majority was heard; acts on changes.
    pub fn record_heartbeat(&self, now: Millis, missing: Option<String>) {
        let (before, after) = self.status(|status| {
            let before = status.clone();
            match &missing {
                Some(_) => status.unheard_since = status.unheard_since.or(status.judged_at).or(Some(now)),
                None => (status.unheard_for, status.unheard_since) = (status.unheard_for(now), None),
            }
            (status.judged_at, status.unheard) = (Some(now), missing);
            (before, status.clone())
        });
        if after.stopped.is_some() {
            // Said to be paused already, for another reason.
            return;
        }
        match (&before.unheard, &after.unheard) {
            (None, Some(reason)) => {
                if before.leading().is_some() {
                    self.emit(HostEvent::NotLeading { quorum: self.id });
                }
                self.emit(HostEvent::Paused { quorum: self.id, reason: reason.clone() });
            }
            (Some(_), None) => {
                self.emit(HostEvent::Unpaused { quorum: self.id });
                if let Some(term) = after.leading() {
                    self.emit(HostEvent::Leading { quorum: self.id, term });
                }
            }
            _ => (),
        }
    }

    /// Stops taking part, and says so loudly. A member that has stopped already only changes its reason: it does not
    /// come back from one that needs an operator.
    pub fn halt(&self, stop: Stop) {
        let (before, led) = self.status(|status| {
            let (before, led) = (status.stopped.clone(), status.leading().is_some());
            if !matches!(before, Some(Stop::ForGood(_))) {
                status.stopped = Some(stop.clone());
            }
            (before, led)
        });
        if before.as_ref() == Some(&stop) || matches!(before, Some(Stop::ForGood(_))) {
            return;
        }
        tracing::error!(quorum = %self.id, reason = %stop, "this member of a quorum has stopped");
        if led {
            self.emit(HostEvent::NotLeading { quorum: self.id });
        }
        self.emit(HostEvent::Paused { quorum: self.id, reason: stop.to_string() });
        if before.is_some() {
            return;
        }
        self.stop.cancel();
        let raft = self.raft.clone();
        crate::seams::spawn(async move { drop(raft.shutdown().await) });
    }

    /// For how long no majority was heard, altogether, since the group was opened.
    pub fn unheard_for(&self, now: Millis) -> Duration {
        self.status(|status| status.unheard_for(now))
    }

    /// That no majority is heard, and since when; or that this member has stopped.
    pub fn unheard(&self, now: Millis) -> Option<Unheard> {
        self.status(|status| match (&status.stopped, &status.unheard) {
            (Some(stop), _) => Some(Unheard { reason: stop.to_string(), since: None }),
            (None, Some(reason)) => {
                Some(Unheard { reason: reason.clone(), since: status.unheard_since.map(|since| now.since(since)) })
            }
            (None, None) => None,
        })
    }

    /// Whether no majority was heard lately.
    pub fn is_paused(&self) -> bool {
        self.status(|status| status.unheard.is_some())
    }

    pub fn is_stopped(&self) -> bool {
        self.status(|status| status.stopped.is_some())
    }

    /// Whether the group has stopped in a way that opening it again may mend.
    pub fn may_reopen(&self) -> bool {
        self.status(|status| matches!(status.stopped, Some(Stop::Full | Stop::Store(_) | Stop::Differs { .. })))
    }

    /// Those whose state this member has to take before it is opened again.
    pub fn differs_from(&self) -> Option<BTreeSet<MemberId>> {
        self.status(|status| match &status.stopped {
            Some(Stop::Differs { agreeing, .. }) => Some(agreeing.clone()),
            _ => None,
        })
    }
}
