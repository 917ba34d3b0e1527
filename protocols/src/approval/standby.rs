//! The standbys of a quorum: which promises its primary keeps alive for the day when a member is lost.
//!
//! A standby has promised, and set aside, what a member needs; it does nothing else. The promises stand in the
//! replicated state, so that every primary can use, prolong and return them. One [`Pool`] per led quorum decides, from
//! looks at the world, when to prolong a promise, whom to let go, when to seek another, and what to record. It holds
//! nothing that a new primary could not find out again: that one simply prolongs every promise that it finds.
//!
//! Promises: nobody is a standby whose promise was not seen to stand by this primary; one that is away for
//! [`AWAY_MAX`], or says that it knows of no such promise, is let go and replaced; a promise that nobody prolongs ends
//! by itself after [`LEASE`], so a quorum that is gone holds nothing for longer. When nobody can be won, the next
//! asking waits longer and longer, up to [`SEEK_MAX`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::message::Approval;
use crate::approval::limits::{REPLACE_GRACE, STANDBYS};
use crate::backoff::Backoff;
use crate::ids::{LeaseId, MemberId, Millis, PeerId};

/// How long a standby's promise lasts without being prolonged.
pub const LEASE: Duration = Duration::from_secs(600);

/// Between two times that a promise is prolonged: it survives one that fails.
pub const RENEW_INTERVAL: Duration = Duration::from_secs(LEASE.as_secs() / 3);

/// Until a promise is asked about again when no usable answer came: a peer may need a moment to hear who the members
/// are that may ask.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// A standby is let go when it has been away for this long. As for a member, a restart moves nothing.
pub const AWAY_MAX: Duration = REPLACE_GRACE;

/// A promise that nobody could be asked about for this long is not counted on.
pub const UNSURE_MAX: Duration = LEASE;

/// Until peers are asked for more standbys: first, and at most, doubling in between. The first wait lets a new network
/// grow and the standbys of the founding be heard.
pub const SEEK_MIN: Duration = Duration::from_secs(15);
pub const SEEK_MAX: Duration = Duration::from_secs(900);
const SEEK: Backoff = Backoff::new(SEEK_MIN, SEEK_MAX);

// A promise must be prolonged well before it ends, also when the first try fails.
const _: () = assert!(2 * RENEW_INTERVAL.as_secs() < LEASE.as_secs());

/// What the primary sees.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    pub voters: &'a [MemberId],
    /// The standbys in the state.
    pub recorded: &'a [Approval],
    /// Those of the founding, as this member was told of them. They may be long gone.
    pub founding: &'a [Approval],
    /// Peers that are connected.
    pub present: &'a BTreeSet<PeerId>,
}

/// What became of asking a standby to prolong its promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    Stands,
    /// The peer knows of no such promise.
    Gone,
    /// No answer, or none that tells.
    Unsure,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolEffect {
    /// Commit these as the quorum's standbys.
    Record { standbys: Vec<Approval> },
    /// Ask the peer to prolong its promise, and report to [`Pool::renewed`].
    Renew { standby: Approval },
    /// Tell the peer that its promise is not needed.
    GiveBack { standby: Approval },
    /// Ask one peer that is none of these for a promise, and report to [`Pool::sought`].
    Seek { exclude: Vec<PeerId> },
}

/// Names a promise: a lease's id is its approver's own.
type Promise = (PeerId, LeaseId);

fn promise(approval: &Approval) -> Promise {
    (approval.statement.approver, approval.statement.lease)
}

#[derive(Clone, Debug)]
struct Kept {
    approval: Approval,
    /// Whether this primary has seen the promise stand.
    stands: bool,
    renew_at: Millis,
    /// Since when the promise was not seen to stand.
    unsure_since: Option<Millis>,
    away_since: Option<Millis>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Pool {
    /// One promise per peer.
    kept: BTreeMap<PeerId, Kept>,
    /// Promises that were let go; they may be in the record or in the founding's list for a while.
    gone: BTreeSet<Promise>,
    seek_at: Millis,
    seek_wait: Duration,
}

impl Pool {
    pub fn new(now: Millis) -> Self {
        Self { kept: BTreeMap::new(), gone: BTreeSet::new(), seek_at: now.plus(SEEK_MIN), seek_wait: SEEK_MIN }
    }

    /// Reviews the pool: what to do now. `random` is 64 fresh random bits, for jitter. Contract: perform the effects in
    /// order.
    pub fn review_pool(&mut self, now: Millis, random: u64, sight: Sight<'_>) -> Vec<PoolEffect> {
        let mut effects = Vec::new();
        self.take_in(now, sight);
        self.let_go(now, sight, &mut effects);
        let standing = self.standing(sight, &mut effects);
        // Order apart: a promise that comes and goes must not rewrite the record.
        let promises = |standbys: &[Approval]| standbys.iter().map(promise).collect::<BTreeSet<_>>();
        if promises(&standing) != promises(sight.recorded) {
            effects.insert(0, PoolEffect::Record { standbys: standing.clone() });
        }
        for kept in self.kept.values_mut().filter(|kept| kept.renew_at <= now && kept.away_since.is_none()) {
            kept.renew_at = now.plus(RETRY_INTERVAL);
            effects.push(PoolEffect::Renew { standby: kept.approval.clone() });
        }
        if self.kept.len() < STANDBYS && now >= self.seek_at {
            // Half as much again at most, so that quorums that lost the same peer do not all ask at once.
            let jitter = random % (self.seek_wait.as_millis() as u64 / 2 + 1);
            self.seek_at = now.plus(self.seek_wait + Duration::from_millis(jitter));
            self.seek_wait = SEEK.next(self.seek_wait);
            let exclude = sight.voters.iter().map(|voter| voter.peer).chain(self.kept.keys().copied()).collect();
            effects.push(PoolEffect::Seek { exclude });
        }
        effects
    }

    /// Learns of promises that it did not know, one per peer.
    fn take_in(&mut self, now: Millis, sight: Sight<'_>) {
        let listed: BTreeSet<Promise> = sight.recorded.iter().chain(sight.founding).map(promise).collect();
        // What is listed nowhere any more need not be remembered as gone.
        self.gone.retain(|gone| listed.contains(gone));
        for approval in sight.recorded.iter().chain(sight.founding) {
            let peer = approval.statement.approver;
            let known = self.kept.contains_key(&peer) || self.gone.contains(&promise(approval));
            if !known && !sight.voters.iter().any(|voter| voter.peer == peer) {
                self.keep_approval(now, approval.clone(), false, now);
            }
        }
    }

    fn keep_approval(&mut self, now: Millis, approval: Approval, stands: bool, renew_at: Millis) {
        let unsure_since = (!stands).then_some(now);
        let kept = Kept { approval, stands, renew_at, unsure_since, away_since: None };
        self.kept.insert(kept.approval.statement.approver, kept);
    }

    /// Forgets those that became voters, and lets go of those that are away or were not heard of for too long.
    fn let_go(&mut self, now: Millis, sight: Sight<'_>, effects: &mut Vec<PoolEffect>) {
        let mut lost = Vec::new();
        for (&peer, kept) in &mut self.kept {
            if sight.voters.iter().any(|voter| voter.peer == peer) {
                // Its promise came true: what it set aside is a member's now.
                lost.push((peer, false));
                continue;
            }
            kept.away_since = match sight.present.contains(&peer) {
                true => None,
                false => Some(kept.away_since.unwrap_or(now)),
            };
            let away = kept.away_since.is_some_and(|since| now.since(since) >= AWAY_MAX);
            let unsure = kept.unsure_since.is_some_and(|since| now.since(since) >= UNSURE_MAX);
            if away || unsure {
                lost.push((peer, true));
            }
        }
        for (peer, give_back) in lost {
            let standby = self.forget(peer);
            effects.extend(standby.filter(|_| give_back).map(|standby| PoolEffect::GiveBack { standby }));
        }
    }

    fn forget(&mut self, peer: PeerId) -> Option<Approval> {
        let kept = self.kept.remove(&peer)?;
        self.gone.insert(promise(&kept.approval));
        Some(kept.approval)
    }

    /// Those to be counted on, at most [`STANDBYS`]; the others are let go.
    fn standing(&mut self, sight: Sight<'_>, effects: &mut Vec<PoolEffect>) -> Vec<Approval> {
        let recorded = |kept: &Kept| sight.recorded.contains(&kept.approval);
        // One that is recorded counts until it is known to be gone; a new one once it is known to stand.
        let mut standing: Vec<Kept> =
            self.kept.values().filter(|kept| kept.stands || recorded(kept)).cloned().collect();
        // Those in the record first, in the order of their peers otherwise: the sort is stable.
        standing.sort_by_key(|kept| !recorded(kept));
        for kept in standing.split_off(STANDBYS.min(standing.len())) {
            let standby = self.forget(kept.approval.statement.approver);
            effects.extend(standby.map(|standby| PoolEffect::GiveBack { standby }));
        }
        standing.into_iter().map(|kept| kept.approval).collect()
    }

    /// What became of a [`PoolEffect::Renew`].
    pub fn renewed(&mut self, now: Millis, peer: PeerId, renewed: Renewed) {
        let Some(kept) = self.kept.get_mut(&peer) else { return };
        match renewed {
            Renewed::Stands => {
                (kept.stands, kept.unsure_since) = (true, None);
                kept.renew_at = now.plus(RENEW_INTERVAL);
            }
            Renewed::Unsure => kept.unsure_since = Some(kept.unsure_since.unwrap_or(now)),
            Renewed::Gone => drop(self.forget(peer)),
        }
    }

    /// Somebody was won, or nobody.
    pub fn sought(&mut self, now: Millis, won: Option<Approval>) {
        if let Some(approval) = won {
            (self.seek_at, self.seek_wait) = (now, SEEK_MIN);
            // Its first promise is short; it is prolonged with the next look.
            self.keep_approval(now, approval, true, now);
        }
    }
}
