//! The watches that this node holds for whoever waits for a job of a quorum that it leads.
//!
//! A watch is entered before the lead is confirmed and the state is read, so that no change falls in between, and is
//! answered from a state that is at least as new as the question. Applied entries wake exactly the watches whose job
//! they changed in a way that concerns them; the end of the lead wakes all of its quorum, which are then sent on to the
//! next primary. When this node lost events, all of them look at the state again.
//!
//! Bounds: so many for one peer, for all peers, and for this node's own clients
//! (`quorate_protocols::job::limits::WATCHES_PER_PEER_MAX` and its neighbours). One beyond them is answered at once
//! with what the state says and counts as not held: its asker asks again with a growing pause. What a slow asker costs
//! is its entry here, until its wait ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_protocols::ids::{JobId, PeerId, QuorumId};
use quorate_protocols::job::limits::{WATCHES_OF_PEERS_MAX, WATCHES_OWN_MAX, WATCHES_PER_PEER_MAX};
use quorate_protocols::job::{Until, Watched};
use quorate_protocols::quorum::Event;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast};
use tokio::time::{Instant, sleep_until};

use crate::quorums::ports::{LocalQuorum, Watch};
use crate::quorums::request::not_leading;
use crate::raft::{HostEvent, QuorumError};
use crate::seams::TaskGroup;

/// Cloneable; clones share the table.
#[derive(Clone, Default)]
pub struct Watches(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    next: u64,
    waiting: BTreeMap<(JobId, u64), Waiter>,
    own: usize,
    of_peers: BTreeMap<PeerId, usize>,
    of_peers_total: usize,
}

struct Waiter {
    until: Until,
    woken: Arc<Notify>,
}

/// A watch in the table, which leaves it when dropped.
struct Held {
    watches: Watches,
    key: (JobId, u64),
    /// None: this node itself.
    peer: Option<PeerId>,
    woken: Arc<Notify>,
}

impl Watches {
    /// Follows what happens in this node's quorums until the group closes.
    pub fn start(&self, tasks: &TaskGroup, mut events: broadcast::Receiver<HostEvent>) {
        let (watches, shutdown) = (self.clone(), tasks.shutdown_token());
        tasks.spawn(async move {
            loop {
                let event = tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    event = events.recv() => event,
                };
                match event {
                    Ok(HostEvent::Applied { events, .. }) => {
                        watches.wake_concerned(&events);
                    }
                    Ok(HostEvent::NotLeading { quorum } | HostEvent::Left { quorum }) => watches.wake_quorum(quorum),
                    Ok(_) => (),
                    Err(RecvError::Lagged(_)) => watches.wake_all(),
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }

    /// Answers a watch of `by`: when it holds, or after its wait. Fails when this node does not lead, or leads no more.
    pub async fn answer(
        &self,
        local: &dyn LocalQuorum,
        this_node: PeerId,
        by: PeerId,
        watch: Watch,
    ) -> Result<Watched, QuorumError> {
        let end = Instant::now() + watch.wait;
        let peer = Some(by).filter(|by| *by != this_node);
        let held = if watch.wait.is_zero() { None } else { self.hold(watch.job, watch.until, peer) };
        local.confirm_lead().await?;
        loop {
            let mut watched = None;
            local.with_state(&mut |state| watched = Some(watch.until.judge(state, watch.job)));
            // No state: this member has left.
            let Some(watched) = watched else {
                return Err(not_leading(local));
            };
            let (Watched::NotYet { revision, .. }, Some(held)) = (&watched, &held) else {
                return Ok(watched);
            };
            tokio::select! {
                biased;
                () = held.woken.notified() => (),
                () = sleep_until(end) => return Ok(Watched::NotYet { revision: *revision, held: true }),
            }
            if local.leading().is_none() {
                return Err(not_leading(local));
            }
        }
    }

    fn hold(&self, job: JobId, until: Until, peer: Option<PeerId>) -> Option<Held> {
        let mut table = self.table();
        match peer {
            None if table.own >= WATCHES_OWN_MAX => return None,
            None => table.own += 1,
            Some(peer) => {
                let of_peer = table.of_peers.get(&peer).copied().unwrap_or_default();
                if of_peer >= WATCHES_PER_PEER_MAX || table.of_peers_total >= WATCHES_OF_PEERS_MAX {
                    return None;
                }
                table.of_peers.insert(peer, of_peer + 1);
                table.of_peers_total += 1;
            }
        }
        table.next += 1;
        let (key, woken) = ((job, table.next), Arc::new(Notify::new()));
        table.waiting.insert(key, Waiter { until, woken: woken.clone() });
        Some(Held { watches: self.clone(), key, peer, woken })
    }

    /// Wakes the watches that the events concern, and says how many there are.
    fn wake_concerned(&self, events: &[Event]) -> usize {
        let table = self.table();
        let mut woken = 0;
        if table.waiting.is_empty() {
            return woken;
        }
        for event in events {
            let Some(job) = event.job() else { continue };
            for (_, waiter) in table.waiting.range((job, 0)..=(job, u64::MAX)) {
                if waiter.until.concerns(event) {
                    waiter.woken.notify_one();
                    woken += 1;
                }
            }
        }
        woken
    }

    fn wake_quorum(&self, quorum: QuorumId) {
        let (first, last) = (JobId { quorum, local: [0; 16] }, JobId { quorum, local: [u8::MAX; 16] });
        self.table().waiting.range((first, 0)..=(last, u64::MAX)).for_each(|(_, waiter)| waiter.woken.notify_one());
    }

    fn wake_all(&self) {
        self.table().waiting.values().for_each(|waiter| waiter.woken.notify_one());
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut table = self.watches.table();
        table.waiting.remove(&self.key);
        match self.peer {
            None => table.own -= 1,
            Some(peer) => {
                table.of_peers_total -= 1;
                if let Some(of_peer) = table.of_peers.get_mut(&peer) {
                    *of_peer -= 1;
                    if *of_peer == 0 {
                        table.of_peers.remove(&peer);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quorate_protocols::job::{JobSpec, RunState, StoreSpec};
    use quorate_protocols::object::Profile;
    use quorate_protocols::quorum::{Command, JobCommand};

    use super::*;
    use crate::quorums::ports::LocalQuorums;
    use crate::testing::quorums::{QUORUM, StateQuorum, StateQuorums, peer, seams};

    const JOB: JobId = JobId { quorum: QUORUM, local: [1; 16] };
    const OTHER: JobId = JobId { quorum: QUORUM, local: [2; 16] };
    const WAIT: Duration = Duration::from_secs(5);

    struct World {
        quorum: Arc<StateQuorum>,
        local: Arc<dyn LocalQuorum>,
        watches: Watches,
        _seams: crate::seams::Seams,
    }

    fn world() -> World {
        let (quorum, watches, seams) = (StateQuorum::new(1), Watches::default(), seams(1));
        for job in [JOB, OTHER] {
            let spec = StoreSpec { name: None, size: None, profile: Profile { data: 2, parity: 1 } };
            quorum.commit(peer(1), Command::Job(job, JobCommand::Submit { spec: JobSpec::Store(spec) })).unwrap();
        }
        watches.start(&seams.tasks, quorum.events());
        let local = StateQuorums(quorum.clone()).quorum(QUORUM).unwrap();
        World { quorum, local, watches, _seams: seams }
    }

    impl World {
        async fn watch(&self, by: u8, job: JobId, until: Until) -> Result<Watched, QuorumError> {
            self.watches.answer(&*self.local, peer(1), peer(by), Watch { job, until, wait: WAIT }).await
        }
        /// Once so many are held.
        async fn held(&self, count: usize) {
            while self.watches.table().waiting.len() != count {
                tokio::task::yield_now().await;
            }
        }
        fn cancel(&self, job: JobId) {
            self.quorum.commit(peer(1), Command::Job(job, JobCommand::Cancel)).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_job_answers_its_watches_at_once_and_wakes_no_others() {
        let world = world();
        let mut applied = world.quorum.events();
        let started = Instant::now();
        let change = async {
            world.held(3).await;
            world.cancel(JOB);
            let Ok(HostEvent::Applied { events, .. }) = applied.recv().await else { panic!("a cancel is an event") };
            // Of the three: the two that watch this job for its end, and not the one that watches the other.
            let concerned = world.watches.clone();
            assert_eq!(concerned.wake_concerned(&events), 2);
        };
        let (one, two, other, ()) = tokio::join!(
            world.watch(2, JOB, Until::Ended),
            world.watch(1, JOB, Until::Ended),
            async { (world.watch(2, OTHER, Until::Ended).await, started.elapsed()) },
            change
        );
        for watched in [one, two] {
            assert!(matches!(watched, Ok(Watched::Met(record)) if record.state == RunState::Cancelled));
        }
        let (other, after) = other;
        assert!(matches!(other, Ok(Watched::NotYet { held: true, .. })), "{other:?}");
        assert_eq!(after.as_secs(), WAIT.as_secs(), "it was not woken in between, or went on waiting");
        assert_eq!(world.watches.table().waiting.len(), 0, "an answered watch leaves the table");
    }

    #[tokio::test(start_paused = true)]
    async fn what_holds_already_and_what_is_unknown_is_answered_at_once() {
        let world = world();
        world.cancel(JOB);
        let started = Instant::now();
        assert!(matches!(world.watch(2, JOB, Until::Ended).await, Ok(Watched::Met(_))));
        let unknown = JobId { local: [9; 16], ..JOB };
        assert_eq!(world.watch(2, unknown, Until::Ended).await, Ok(Watched::Unknown));
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_primary_that_stops_leading_sends_its_watches_on() {
        let world = world();
        let started = Instant::now();
        let change = async {
            world.held(1).await;
            world.quorum.set_term(None);
        };
        let (watched, ()) = tokio::join!(world.watch(2, JOB, Until::Ended), change);
        assert!(matches!(watched, Err(QuorumError::NotPrimary { .. })), "{watched:?}");
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_greedy_peer_is_refused_what_others_still_get() {
        let world = world();
        let held: Vec<_> = (0..WATCHES_PER_PEER_MAX)
            .map(|_| world.watches.hold(JOB, Until::Ended, Some(peer(2))).expect("within the bound"))
            .collect();
        let started = Instant::now();
        let refused = world.watch(2, JOB, Until::Ended).await;
        assert!(matches!(refused, Ok(Watched::NotYet { held: false, .. })), "{refused:?}");
        assert_eq!(started.elapsed(), Duration::ZERO, "it is answered, and not held");
        assert!(matches!(world.watch(3, JOB, Until::Ended).await, Ok(Watched::NotYet { held: true, .. })));
        drop(held);
        assert!(matches!(world.watch(2, JOB, Until::Ended).await, Ok(Watched::NotYet { held: true, .. })));
    }

    #[test]
    fn peers_together_leave_room_for_this_nodes_own_clients_and_both_are_bounded() {
        let watches = Watches::default();
        let mut held = Vec::new();
        let mut fill = |peers: &mut dyn Iterator<Item = Option<PeerId>>| {
            peers.filter_map(|peer| watches.hold(JOB, Until::Ended, peer)).map(|one| held.push(one)).count()
        };
        let many = (0..=u8::MAX).flat_map(|n| [Some(peer(n)); 2]);
        assert_eq!(fill(&mut many.clone()), WATCHES_OF_PEERS_MAX);
        assert_eq!(fill(&mut std::iter::repeat_n(None, 2 * WATCHES_OWN_MAX)), WATCHES_OWN_MAX);
        drop(held);
        let table = watches.table();
        assert_eq!((table.own, table.of_peers_total, table.of_peers.len(), table.waiting.len()), (0, 0, 0, 0));
    }
}
