//! The announcer: what this node announces, and when. Decided here, published by the actor.
//!
//! News is announced at once, but not more often than every [`ADVERT_CHANGE_INTERVAL`]; everything is repeated every
//! [`ADVERT_INTERVAL`] with jitter, and a few times soon after a new connection, because a peer that just joined has
//! heard nothing and the meshes that would carry an announcement to it are still forming. All of it keeps to a pace
//! ([`Pace`]): what is beyond stays due.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_protocols::directory::limits::{
    ADVERT_CHANGE_INTERVAL, ADVERT_INTERVAL, CHANGE_PERMILLE, QUORUMS_REPEATED_MAX, REPEAT_AFTER_CONNECT,
};
use quorate_protocols::directory::{PeerAdvert, QuorumAdvert};
use quorate_protocols::ids::{Millis, QuorumId};

use super::pace::Pace;

#[derive(Debug)]
pub(super) struct Announcer {
    sequence: u64,
    announced: Option<PeerAdvert>,
    announced_at: Option<Millis>,
    repeat_at: Millis,
    /// Repeats owed to newly connected peers.
    owed: BTreeSet<Millis>,
    own_quorums: BTreeMap<QuorumId, OwnQuorum>,
}

#[derive(Debug)]
struct OwnQuorum {
    advert: QuorumAdvert,
    changed: bool,
    announced_at: Option<Millis>,
    repeat_at: Millis,
}

/// What is to be published now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub peer: Option<PeerAdvert>,
    pub quorums: Vec<QuorumAdvert>,
}

impl Announcer {
    pub fn new(now: Millis) -> Self {
        Self {
            sequence: 0,
            announced: None,
            announced_at: None,
            repeat_at: now,
            owed: BTreeSet::new(),
            own_quorums: BTreeMap::new(),
        }
    }

    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    pub fn connected(&mut self, now: Millis) {
        // Rounded, so that a burst of connections is answered by a few announcements and not by as many.
        let rounded = |at: Millis| Millis(at.0.div_ceil(100) * 100);
        self.owed.extend(REPEAT_AFTER_CONNECT.map(|after| rounded(now.plus(after))));
    }

    pub fn lead(&mut self, now: Millis, advert: QuorumAdvert) {
        let own = self.own_quorums.entry(advert.quorum).or_insert_with(|| OwnQuorum {
            advert: advert.clone(),
            changed: true,
            announced_at: None,
            repeat_at: now.plus(ADVERT_INTERVAL),
        });
        if own.advert != advert {
            own.changed = true;
            own.advert = advert;
        }
    }

    pub fn stop_leading(&mut self, quorum: QuorumId) {
        self.own_quorums.remove(&quorum);
    }

    /// Takes what is due and within the pace. `own` is what this node would announce of itself now; `random` is used
    /// for jitter.
    pub fn due(&mut self, now: Millis, own: PeerAdvert, pace: &mut Pace, mut random: impl FnMut() -> u64) -> Due {
        let mut due = Due::default();
        if self.owed.first().is_some_and(|at| *at <= now) {
            self.owed.retain(|at| *at > now);
            self.repeat_at = self.repeat_at.min(now);
            for own in self.own_quorums.values_mut().take(QUORUMS_REPEATED_MAX) {
                own.repeat_at = own.repeat_at.min(now);
            }
        }
        let news = self.announced.as_ref().is_none_or(|announced| is_news(announced, &own));
        let is_due = now >= self.repeat_at || (news && may_change(now, self.announced_at));
        if is_due && pace.allows(now, &own) {
            self.sequence += 1;
            let advert = PeerAdvert { sequence: self.sequence, ..own };
            self.announced = Some(advert.clone());
            self.announced_at = Some(now);
            self.repeat_at = now.plus(with_jitter(random()));
            due.peer = Some(advert);
        }
        let mut own_quorums: Vec<_> = self.own_quorums.values_mut().collect();
        // Those that have waited for longest first, so that the pace keeps none back for ever.
        own_quorums.sort_by_key(|own| own.announced_at);
        for own in own_quorums {
            let changed = own.changed && may_change(now, own.announced_at);
            if (changed || now >= own.repeat_at) && pace.allows(now, &own.advert) {
                own.changed = false;
                own.announced_at = Some(now);
                own.repeat_at = now.plus(with_jitter(random()));
                due.quorums.push(own.advert.clone());
            }
        }
        due
    }

    /// When something is due next, if nothing changes. Changes of this node's capacity come unannounced, so it never
    /// sleeps longer than changes may be announced apart.
    pub fn wake_at(&self, now: Millis) -> Millis {
        let changed = self.own_quorums.values().filter(|own| own.changed);
        let changed = changed.map(|own| own.announced_at.map_or(now, |at| at.plus(ADVERT_CHANGE_INTERVAL)));
        let repeats = self.own_quorums.values().map(|own| own.repeat_at).chain([self.repeat_at]);
        let look = now.plus(ADVERT_CHANGE_INTERVAL);
        changed.chain(repeats).chain(self.owed.first().copied()).fold(look, Millis::min)
    }
}

fn may_change(now: Millis, announced_at: Option<Millis>) -> bool {
    announced_at.is_none_or(|at| now.since(at) >= ADVERT_CHANGE_INTERVAL)
}

fn with_jitter(random: u64) -> Duration {
    ADVERT_INTERVAL + Duration::from_millis(random % (ADVERT_INTERVAL.as_millis() as u64 / 4 + 1))
}

/// Whether others would choose differently if they knew. Small changes of capacity wait for the next repeat.
fn is_news(announced: &PeerAdvert, own: &PeerAdvert) -> bool {
    let moved = |before: u64, after: u64| before.abs_diff(after) > before / 1000 * CHANGE_PERMILLE;
    let (before, after) = (&announced.free, &own.free);
    moved(before.disk_bytes, after.disk_bytes)
        || moved(before.memory_bytes, after.memory_bytes)
        || before.slots != after.slots
        || announced.load_permille.abs_diff(own.load_permille) > CHANGE_PERMILLE as u16
        || announced.draining != own.draining
        || announced.quorums != own.quorums
        || announced.roles != own.roles
        || announced.labels != own.labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_protocols::capacity::Capacity;
    use quorate_protocols::directory::limits::ANNOUNCER_RATES;
    use quorate_protocols::ids::{BootId, Incarnation, Term};

    fn own(disk_bytes: u64) -> PeerAdvert {
        PeerAdvert {
            incarnation: Incarnation(1),
            boot_number: 1,
            boot: BootId([1; 16]),
            sequence: 0,
            roles: Vec::new(),
            name: String::new(),
            labels: BTreeMap::new(),
            free: Capacity { disk_bytes, memory_bytes: 1000, slots: 1 },
            load_permille: 0,
            quorums: 0,
            draining: false,
            level: 1,
            admission: None,
        }
    }
    fn pace() -> Pace {
        Pace::default()
    }
    fn quorum(jobs: u32) -> QuorumAdvert {
        let (quorum, members) = (QuorumId([1; 16]), Vec::new());
        QuorumAdvert { quorum, term: Term(1), members, standbys: 0, jobs, objects: 0, room: 1 }
    }

    #[test]
    fn news_is_announced_soon_but_not_often_and_the_rest_now_and_then() {
        let mut announcer = Announcer::new(Millis(0));
        assert_eq!(announcer.due(Millis(0), own(1000), &mut pace(), || 0).peer.expect("the first").sequence, 1);
        assert!(announcer.due(Millis(1999), own(1), &mut pace(), || 0).peer.is_none(), "too soon after the last");
        assert_eq!(announcer.due(Millis(2000), own(1), &mut pace(), || 0).peer.expect("news").sequence, 2);
        assert!(announcer.due(Millis(9000), own(1), &mut pace(), || 0).peer.is_none(), "nothing changed");
        assert!(announcer.due(Millis(2000 + 120_000), own(1), &mut pace(), || 0).peer.is_some(), "repeated");
    }

    #[test]
    fn a_small_change_is_no_news() {
        let mut announcer = Announcer::new(Millis(0));
        announcer.due(Millis(0), own(1_000_000), &mut pace(), || 0);
        assert!(announcer.due(Millis(5000), own(900_000), &mut pace(), || 0).peer.is_none());
        assert!(announcer.due(Millis(5000), own(800_000), &mut pace(), || 0).peer.is_some());
    }

    #[test]
    fn a_new_connection_is_told_everything_soon() {
        let mut announcer = Announcer::new(Millis(0));
        announcer.lead(Millis(0), quorum(0));
        let first = announcer.due(Millis(0), own(1), &mut pace(), || 0);
        assert!(first.peer.is_some() && first.quorums.len() == 1);
        announcer.connected(Millis(10));
        announcer.connected(Millis(15));
        assert_eq!(announcer.wake_at(Millis(10)), Millis(400));
        let again = announcer.due(Millis(400), own(1), &mut pace(), || 0);
        assert!(again.peer.is_some() && again.quorums.len() == 1);
        assert_eq!(announcer.due(Millis(401), own(1), &mut pace(), || 0), Due::default());
    }

    /// Goal: a node that leads more than it may announce at once stays within what others take of it, and each of its
    /// quorums is announced in the end. Method: a thousand quorums that change all the time, and newcomers.
    #[test]
    fn a_node_that_leads_much_keeps_to_its_pace_and_leaves_none_out() {
        let (mut announcer, mut pace) = (Announcer::new(Millis(0)), Pace::default());
        let id = |number: u16| {
            let mut id = [0; 16];
            id[..2].copy_from_slice(&number.to_le_bytes());
            QuorumId(id)
        };
        let (mut seen, mut sent) = (BTreeSet::new(), 0);
        let seconds = 60;
        let mut now = Millis(0);
        while now < Millis(seconds * 1_000) {
            for number in 0..1_000 {
                announcer.lead(now, QuorumAdvert { quorum: id(number), ..quorum(now.0 as u32) });
            }
            announcer.connected(now);
            let due = announcer.due(now, own(1), &mut pace, || 0);
            sent += due.quorums.len() as u64 + u64::from(due.peer.is_some());
            seen.extend(due.quorums.iter().map(|advert| advert.quorum));
            let wake_at = announcer.wake_at(now).max(pace.held_until().unwrap_or_default());
            assert!(wake_at > now, "nothing is looked at again at once");
            now = wake_at;
        }
        let most = ANNOUNCER_RATES.count_burst + seconds * ANNOUNCER_RATES.count_per_second;
        assert!(sent <= most && sent > most / 2, "{sent} of {most}");
        assert_eq!(seen.len(), 1_000);
    }

    #[test]
    fn a_led_quorum_is_announced_when_it_changes_and_not_after_the_lead_is_lost() {
        let mut announcer = Announcer::new(Millis(0));
        announcer.lead(Millis(0), quorum(0));
        announcer.due(Millis(0), own(1), &mut pace(), || 0);
        announcer.lead(Millis(100), quorum(7));
        assert_eq!(announcer.due(Millis(100), own(1), &mut pace(), || 0).quorums, []);
        assert_eq!(announcer.wake_at(Millis(100)), Millis(2000));
        assert_eq!(announcer.due(Millis(2000), own(1), &mut pace(), || 0).quorums, [quorum(7)]);
        announcer.stop_leading(QuorumId([1; 16]));
        assert_eq!(announcer.due(Millis(500_000), own(1), &mut pace(), || 0).quorums, []);
    }
}
