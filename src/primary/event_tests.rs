//! The intake of events over the real state machine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocols::ids::{JobId, PeerId};
use quorate_protocols::job::JobSpec;
use quorate_protocols::job::batch::BatchSpec;
use quorate_protocols::job::spec::TriggeredSpec;
use quorate_protocols::quorum::{Command, QuorumCommand, Rejection, TriggerCommand};
use quorate_protocols::task::spec::{Call, Program};
use quorate_protocols::trigger::event::{DeliveryAck, Dispatch, Dispatched, Event};
use quorate_protocols::trigger::limits::{LOST_ROW_BYTES, UNTRUSTED_EMITTERS_MAX};
use quorate_protocols::trigger::record::{Fired, SkipReason};
use quorate_protocols::trigger::{TriggerSpec, When, spec::EventSpec};

use super::*;
use crate::quorums::ports::LocalQuorums;
use crate::raft::QuorumError;
use crate::seams::TaskGroup;
use crate::testing::quorums::{Known, QUORUM, StateQuorum, StateQuorums, key, peer};

const JOB: JobId = JobId { quorum: QUORUM, local: [5; 16] };

fn triggered(name: &str, filter: Option<&str>) -> Command {
    let event = EventSpec { filter: filter.map(str::to_owned), ..EventSpec::new(name) };
    let trigger = TriggerSpec::new(When::Event(event));
    let job = BatchSpec::new(Call::new(Program::Command { name: "work".to_owned() }));
    Command::submit(&key(99), JOB, JobSpec::Triggered(Box::new(TriggeredSpec::new(trigger, job))))
}

fn sent(sequence: u64, age: Duration, data: &'static str) -> Dispatched {
    named(sequence, "door", age, data)
}

fn named(sequence: u64, name: &str, age: Duration, data: &'static str) -> Dispatched {
    let event =
        Event { name: name.into(), id: None, data: Bytes::from_static(data.as_bytes()), at: Default::default() };
    Dispatched { sequence, age, event }
}

struct Primary {
    quorum: Arc<StateQuorum>,
    known: Arc<Known>,
    event_intake: EventIntake,
}

impl Primary {
    fn new(filter: Option<&str>) -> Self {
        Self::listening_to("door", filter)
    }
    fn listening_to(name: &str, filter: Option<&str>) -> Self {
        let quorum = StateQuorum::new(1);
        let level = quorate_protocols::quorum::limits::LEVEL_TRIGGERS;
        quorum.commit(peer(1), Command::Quorum(QuorumCommand::RaiseLevel { level })).unwrap();
        quorum.commit(peer(99), triggered(name, filter)).unwrap();
        let known = Arc::new(Known::default());
        let event_intake = EventIntake::new(Arc::new(StateQuorums(quorum.clone())), known.clone());
        Self { quorum, known, event_intake }
    }
    async fn deliver_events(
        &self,
        follows: u64,
        reaches: u64,
        lost: u64,
        events: Vec<Dispatched>,
    ) -> Result<DeliveryAck, Rejection> {
        self.try_deliver(Dispatch { follows, reaches, lost, events }).await.unwrap()
    }
    async fn try_deliver(&self, dispatch: Dispatch) -> Result<Result<DeliveryAck, Rejection>, QuorumError> {
        dispatch.check().unwrap();
        self.try_deliver_of(peer(2), dispatch).await
    }
    async fn try_deliver_of(
        &self,
        from: PeerId,
        dispatch: Dispatch,
    ) -> Result<Result<DeliveryAck, Rejection>, QuorumError> {
        let local = StateQuorums(self.quorum.clone()).quorum(QUORUM).unwrap();
        let event_intake = self.event_intake.deliver_events(&*local, peer(1), from, dispatch);
        TaskGroup::inline().scope(event_intake).await
    }
    /// What became of the fires so far.
    fn fired(&self) -> Vec<Fired> {
        self.quorum.read(|state| state.trigger(JOB).unwrap().1.fires.iter().map(|row| row.what).collect())
    }
}

#[tokio::test]
async fn a_primary_commits_what_matches_once_and_nothing_for_the_rest() {
    let primary = Primary::new(Some("data.open == true"));
    let now = Duration::ZERO;
    let shut = vec![sent(1, now, "{\"open\": false}"), sent(2, now, "{\"open\": false}")];
    assert_eq!(primary.deliver_events(0, 2, 0, shut).await, Ok(DeliveryAck { reaches: 2, recorded: None }));
    assert_eq!(primary.fired(), []);
    let open = vec![sent(3, now, "{\"open\": true}"), sent(4, now, "{\"open\": false}")];
    for _ in 0..2 {
        let heard = primary.deliver_events(2, 4, 0, open.clone()).await;
        assert_eq!(heard, Ok(DeliveryAck { reaches: 4, recorded: Some(4) }), "a repeat is no other answer");
        assert!(matches!(primary.fired()[..], [Fired::Run { .. }]), "{:?}", primary.fired());
    }
    assert_eq!(primary.deliver_events(9, 12, 0, Vec::new()).await, Err(Rejection::EventGap { known: 4, follows: 9 }));
    // What cannot be evaluated, and what was lost, is a recorded skip.
    primary.deliver_events(4, 5, 0, vec![sent(5, now, "[1]")]).await.unwrap();
    primary.deliver_events(5, 9, 3, Vec::new()).await.unwrap();
    let fired = primary.fired();
    assert!(matches!(fired[1], Fired::Skipped { count: 1, reason: SkipReason::Fault, .. }), "{fired:?}");
    assert!(matches!(fired[2], Fired::Skipped { count: 3, reason: SkipReason::Lost, .. }), "{fired:?}");
    let emitters: BTreeSet<PeerId> = primary.quorum.read(|state| state.triggers().emitters().keys().copied().collect());
    assert_eq!(emitters, BTreeSet::from([peer(2)]), "the author is who sent it");
}

#[tokio::test]
async fn a_trigger_does_not_hear_of_what_came_before_it() {
    let primary = Primary::new(None);
    let old = Duration::from_secs(100 * 365 * 24 * 3600);
    assert_eq!(
        primary.deliver_events(0, 1, 0, vec![sent(1, old, "{}")]).await,
        Ok(DeliveryAck { reaches: 1, recorded: None })
    );
    primary.deliver_events(0, 2, 0, vec![sent(2, Duration::ZERO, "{}")]).await.unwrap();
    assert_eq!(primary.fired().len(), 1);
}

/// Goal: events that fire something are paid for by who emitted them, though the primary proposes their delivery; those
/// that fire nothing cost nothing, and nothing is committed beyond the budget.
#[tokio::test]
async fn a_delivery_is_taken_from_its_emitters_budget() {
    let primary = Primary::new(Some("data.open == true"));
    let (shut, open) = ("{\"open\": false}", "{\"open\": true}");
    let now = Duration::ZERO;
    primary.deliver_events(0, 1, 0, vec![sent(1, now, shut)]).await.unwrap();
    assert_eq!(*primary.quorum.charged.lock(), []);
    primary.deliver_events(1, 4, 0, vec![sent(2, now, open), sent(3, now, shut), sent(4, now, open)]).await.unwrap();
    assert_eq!(*primary.quorum.charged.lock(), [(peer(2), 2 * open.len())]);
    let fired = primary.fired();
    primary.quorum.budgets_spent.store(true, Ordering::Relaxed);
    let dispatch = Dispatch { follows: 4, reaches: 5, lost: 0, events: vec![sent(5, now, open)] };
    let refused = primary.try_deliver(dispatch.clone()).await;
    assert!(matches!(&refused, Err(QuorumError::TooFast { by, .. }) if *by == peer(2)), "{refused:?}");
    assert_eq!(primary.fired(), fired, "nothing is committed");
    primary.quorum.budgets_spent.store(false, Ordering::Relaxed);
    assert_eq!(primary.try_deliver(dispatch).await.unwrap(), Ok(DeliveryAck { reaches: 5, recorded: Some(5) }));
    // So is each row that tells a trigger of what was lost.
    primary.deliver_events(5, 6, 1, Vec::new()).await.unwrap();
    assert_eq!(primary.quorum.charged.lock().last(), Some(&(peer(2), LOST_ROW_BYTES)));
}

/// Goal: a name of the network's own fires nothing for a peer that is not trusted; what users name fires whoever sends
/// it. A peer that may be trusted as soon as its admission was heard loses nothing meanwhile.
#[tokio::test]
async fn the_networks_own_events_count_from_trusted_peers_alone() {
    let (own, now) = ("quorate.peer.joined", Duration::ZERO);
    let primary = Primary::listening_to(own, None);
    let joined = |sequence| Dispatch {
        follows: sequence - 1,
        reaches: sequence,
        lost: 0,
        events: vec![named(sequence, own, now, "{}")],
    };
    primary.known.distrusted.lock().insert(peer(2));
    let passed = Ok(DeliveryAck { reaches: 1, recorded: None });
    assert_eq!(primary.try_deliver(joined(1)).await.unwrap(), passed);
    assert_eq!(primary.deliver_events(1, 2, 9, Vec::new()).await, Ok(DeliveryAck { reaches: 2, recorded: None }));
    assert_eq!(primary.fired(), [], "nor does what it lost");
    primary.known.distrusted.lock().clear();
    primary.known.unheard.lock().insert(peer(2));
    let later = primary.try_deliver(joined(3)).await.unwrap();
    assert!(matches!(&later, Err(Rejection::Invalid { reason }) if reason.contains("nothing was heard")), "{later:?}");
    primary.known.unheard.lock().clear();
    assert_eq!(primary.try_deliver(joined(3)).await.unwrap(), Ok(DeliveryAck { reaches: 3, recorded: Some(3) }));
    assert_eq!(primary.fired().len(), 1);
    let primary = Primary::new(None);
    primary.known.distrusted.lock().insert(peer(2));
    let both = vec![named(1, own, now, "{}"), sent(2, now, "{}")];
    assert_eq!(primary.deliver_events(0, 2, 0, both).await, Ok(DeliveryAck { reaches: 2, recorded: Some(2) }));
    assert_eq!(primary.fired().len(), 1);
}

/// Goal: emitters that are not trusted fill their share of the table and no more. The next is told that there is no
/// room and keeps its events; those that have a place, and those that are trusted, are heard.
#[tokio::test]
async fn emitters_that_are_not_trusted_leave_room_for_those_that_are() {
    let primary = Primary::new(None);
    let stranger = |number: usize| {
        let mut peer = [0xee; 32];
        peer[..8].copy_from_slice(&(number as u64).to_be_bytes());
        PeerId(peer)
    };
    for number in 0..UNTRUSTED_EMITTERS_MAX {
        let (emitter, deliveries) = (stranger(number), Vec::new());
        let command = TriggerCommand::Deliver { emitter, follows: 0, reaches: 1, lost: 1, deliveries };
        primary.quorum.commit(peer(1), Command::Trigger(command)).unwrap();
    }
    let known = (0..=UNTRUSTED_EMITTERS_MAX).map(stranger);
    primary.known.distrusted.lock().extend(known);
    let one = |sequence| Dispatch {
        follows: sequence - 1,
        reaches: sequence,
        lost: 0,
        events: vec![sent(sequence, Duration::ZERO, "{}")],
    };
    let refused = primary.try_deliver_of(stranger(UNTRUSTED_EMITTERS_MAX), one(1)).await.unwrap();
    assert!(matches!(refused, Err(Rejection::Full { limit: UNTRUSTED_EMITTERS_MAX, .. })), "{refused:?}");
    let taken = |sequence| Ok(DeliveryAck { reaches: sequence, recorded: Some(sequence) });
    assert_eq!(primary.try_deliver_of(stranger(0), one(2)).await.unwrap(), taken(2));
    assert_eq!(primary.try_deliver(one(1)).await.unwrap(), taken(1));
}
