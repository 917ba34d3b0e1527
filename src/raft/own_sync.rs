//! Own sync: a primary syncs its log while its entries travel, and not before (Raft, dissertation of Diego Ongaro,
//! 10.2.1).
//!
//! openraft 0.9 sends nothing before its own log is synced. So the log store answers a primary's append as soon as it
//! is applied, and [`OwnSync`] keeps what that answer promised too early from counting: the answer of a member to an
//! append is held back until the primary's own log is synced as far. Nothing is committed before a majority, this
//! member among them, has it synced, which is stricter than Raft asks.
//!
//! It needs a second voter: one that commits alone has nobody's answer to hold back, and syncs first. A change of the
//! members is synced first as well.
//!
//! What a primary had not synced when it lost power or the lead is what it never had: its next vote, and whatever it
//! appends as another's backup, is synced after it, by the order of the record store.

use std::sync::Arc;

use openraft::EntryPayload;
use parking_lot::Mutex;
use quorate_protocols::ids::MemberId;
use tokio::sync::watch;

use super::types::{Entry, LogId, Membership, Vote};

/// Of one group. Clones share it.
#[derive(Clone)]
pub struct OwnSync {
    /// `None`: every append is synced first.
    me: Option<MemberId>,
    /// The configuration that the log ends in, and the index that it came with; `None` while that is not known.
    others: Arc<Mutex<Option<Configured>>>,
    early: Arc<watch::Sender<Early>>,
}

/// Entries that were answered before they were synced.
#[derive(Clone, Copy, PartialEq)]
struct Early {
    /// The first that is not synced; `NONE` if there is none.
    first: u64,
    /// The last that was answered.
    last: u64,
}

#[derive(Clone, Copy)]
struct Configured {
    at: u64,
    /// Whether a majority takes more than one voter.
    has_others: bool,
}

const NONE: u64 = u64::MAX;

impl OwnSync {
    pub fn new(me: Option<MemberId>) -> Self {
        Self { me, others: Arc::default(), early: Arc::new(watch::Sender::new(Early { first: NONE, last: 0 })) }
    }

    /// Tells the configuration in force, as openraft has it, unless the log told already.
    pub fn set_membership(&self, membership: &Membership) {
        self.others.lock().get_or_insert_with(|| Configured { at: 0, has_others: has_others(membership) });
    }

    /// The log is cut from `index` on.
    pub fn truncate(&self, index: u64) {
        self.others.lock().take_if(|configured| configured.at >= index);
    }

    /// The log begins anew behind a snapshot, which has a configuration of its own.
    pub fn replace(&self) {
        *self.others.lock() = None;
    }

    /// Whether these entries, which are about to be appended under `vote`, are answered before they are synced. If they
    /// are, [`Self::synced`] is to be told.
    pub fn begin(&self, vote: &Vote, entries: &[Entry]) -> bool {
        let mut others = self.others.lock();
        let mut changes = false;
        for entry in entries {
            if let EntryPayload::Membership(membership) = &entry.payload {
                *others = Some(Configured { at: entry.log_id.index, has_others: has_others(membership) });
                changes = true;
            }
        }
        let leads = |me| vote.committed && vote.leader_id.voted_for == Some(me);
        let own = |entry: &Entry| entry.log_id.leader_id.term == vote.leader_id.term;
        let has_others = others.is_some_and(|configured| configured.has_others);
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return false };
        let is_early = has_others && !changes && self.me.is_some_and(leads) && entries.iter().all(own);
        if is_early {
            let (first, last) = (first.log_id.index, last.log_id.index);
            self.early.send_modify(|early| *early = Early { first: early.first.min(first), last });
        }
        is_early
    }

    /// The log is synced up to `last`. Appends are synced in their order.
    pub fn synced(&self, last: u64) {
        self.early.send_if_modified(|early| {
            let first = if last >= early.last { NONE } else { early.first.max(last + 1) };
            let is_news = early.first != NONE && first != early.first;
            if is_news {
                early.first = first;
            }
            is_news
        });
    }

    /// Returns once a member's answer that reaches up to `index` may count.
    pub async fn reaches(&self, index: Option<LogId>) {
        let Some(index) = index.map(|log_id| log_id.index) else { return };
        // Fails only without a sender, which this is.
        let _ = self.early.subscribe().wait_for(|early| index < early.first).await;
    }
}

fn has_others(membership: &Membership) -> bool {
    membership.get_joint_config().iter().any(|voters| voters.len() > 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures::FutureExt;
    use openraft::entry::FromAppData;
    use openraft::{CommittedLeaderId, LeaderId};
    use quorate_protocols::ids::{Incarnation, Millis, PeerId};
    use quorate_protocols::quorum::Batch;

    use super::*;

    fn member(n: u8) -> MemberId {
        MemberId { peer: PeerId([n; 32]), incarnation: Incarnation(1) }
    }

    fn log_id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term, member(1)), index)
    }

    fn entry(term: u64, index: u64) -> Entry {
        Entry { log_id: log_id(term, index), ..Entry::from_app_data(Batch::at(Millis(1), Vec::new())) }
    }

    fn voters(count: u8) -> Membership {
        Membership::new(vec![(1..=count).map(member).collect::<BTreeSet<_>>()], None)
    }

    fn change(term: u64, index: u64, count: u8) -> Entry {
        Entry { log_id: log_id(term, index), payload: EntryPayload::Membership(voters(count)) }
    }

    /// The vote of a primary in `term`.
    fn leads(primary: u8, term: u64) -> Vote {
        Vote { leader_id: LeaderId { term, voted_for: Some(member(primary)) }, committed: true }
    }

    fn of_three() -> OwnSync {
        let own = OwnSync::new(Some(member(1)));
        own.set_membership(&voters(3));
        own
    }

    /// Goal: no answer counts beyond what is synced, in whatever order answers and syncs come.
    #[tokio::test]
    async fn an_answer_waits_for_the_own_sync_and_for_no_later_one() {
        let own = of_three();
        assert!(own.begin(&leads(1, 2), &[entry(2, 5), entry(2, 6)]));
        assert!(own.begin(&leads(1, 2), &[entry(2, 7)]));
        let counts = |index| own.reaches(Some(log_id(2, index))).now_or_never().is_some();
        assert!(counts(4) && own.reaches(None).now_or_never().is_some());
        assert!(!counts(5) && !counts(6) && !counts(7));
        let waiting = own.reaches(Some(log_id(2, 6)));
        own.synced(6);
        waiting.await;
        assert!(counts(5) && !counts(7));
        own.synced(7);
        assert!(counts(7));
    }

    /// Goal: whoever commits alone, follows, or changes the members has synced before anybody hears of it.
    #[test]
    fn what_no_other_answer_holds_back_is_synced_first() {
        let early = |own: &OwnSync, vote, entries: &[Entry]| own.begin(&vote, entries);
        assert!(!early(&OwnSync::new(Some(member(1))), leads(1, 2), &[entry(2, 5)]), "members are not known");
        assert!(!early(&OwnSync::new(None), leads(1, 2), &[change(2, 1, 3), entry(2, 5)]));
        let alone = OwnSync::new(Some(member(1)));
        alone.set_membership(&voters(1));
        assert!(!early(&alone, leads(1, 2), &[entry(2, 5)]));
        let own = of_three();
        assert!(!early(&own, leads(2, 2), &[entry(2, 5)]), "it follows");
        assert!(!early(&own, leads(1, 3), &[entry(2, 5)]), "it was another's entry");
        assert!(!early(&own, Vote { committed: false, ..leads(1, 2) }, &[entry(2, 5)]), "it is no primary yet");
        assert!(!early(&own, leads(1, 2), &[change(2, 6, 1)]));
        assert!(!early(&own, leads(1, 2), &[entry(2, 7)]), "it is alone since");
        own.truncate(6);
        assert!(!early(&own, leads(1, 2), &[entry(2, 6)]), "what the members are now is not known");
        own.set_membership(&voters(3));
        assert!(early(&own, leads(1, 2), &[entry(2, 6)]));
        own.truncate(7);
        assert!(early(&own, leads(1, 2), &[entry(2, 7)]), "the members came before the cut");
        own.replace();
        assert!(!early(&own, leads(1, 2), &[entry(2, 8)]));
    }
}
