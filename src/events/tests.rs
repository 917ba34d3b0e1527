//! The emitter over a disk in memory and a scripted network, and the primary's end over the real state machine.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use quorate_protocols::ids::{JobId, PeerId};
use quorate_protocols::job::JobSpec;
use quorate_protocols::job::compute::{Call, ComputeSpec, Program};
use quorate_protocols::quorum::{Command, JobCommand, QuorumCommand, Rejection};
use quorate_protocols::trigger::event::Dispatched;
use quorate_protocols::trigger::record::{Fired, SkipReason};
use quorate_protocols::trigger::{TriggerSpec, TriggeredSpec, When, spec::EventSpec};
use tokio::sync::watch;

use super::*;
use crate::jobs::ports::LocalQuorums;
use crate::jobs::testing::{QUORUM, Reaction, ScriptedNet, StateQuorum, StateQuorums, peer, seams};
use crate::resources::testing::MemoryDisk;
use crate::seams::TaskGroup;

/// A quorum that listens to `door`, while it is up.
struct Listener {
    up: AtomicBool,
    known: Mutex<Option<u64>>,
    taken: watch::Sender<Vec<u64>>,
}

impl Listener {
    fn new(up: bool) -> Arc<Self> {
        Arc::new(Self { up: AtomicBool::new(up), known: Mutex::default(), taken: watch::channel(Vec::new()).0 })
    }
    async fn takes(&self, count: usize) -> Vec<u64> {
        let mut taken = self.taken.subscribe();
        let waiting = taken.wait_for(|taken| taken.len() >= count);
        let taken = tokio::time::timeout(Duration::from_secs(3600), waiting).await.expect("within an hour");
        taken.expect("this quorum stays").clone()
    }
}

struct Network(Arc<Listener>);

impl Carrier for Network {
    fn quorums(&self) -> Vec<QuorumId> {
        vec![QUORUM]
    }
    fn listening(&self, _: QuorumId) -> BoxFuture<'static, Option<(Option<u64>, Vec<String>)>> {
        let quorum = self.0.clone();
        async move {
            quorum.up.load(Ordering::Relaxed).then(|| (*quorum.known.lock().unwrap(), vec!["door".to_owned()]))
        }
        .boxed()
    }
    fn dispatch(&self, _: QuorumId, dispatch: Dispatch) -> BoxFuture<'static, Carried> {
        let quorum = self.0.clone();
        async move {
            if !quorum.up.load(Ordering::Relaxed) {
                return Carried::Failed;
            }
            let mut known = quorum.known.lock().unwrap();
            let before = known.unwrap_or(dispatch.follows);
            let fresh = dispatch.events.iter().map(|sent| sent.sequence).filter(|sequence| *sequence > before);
            quorum.taken.send_modify(|taken| taken.extend(fresh));
            *known = Some(dispatch.reaches.max(before));
            Carried::DeliveryAck(DeliveryAck { reaches: dispatch.reaches, recorded: *known })
        }
        .boxed()
    }
}

/// A node's emitter, and what ends it.
async fn emitter(disk: &Arc<MemoryDisk>, quorum: &Arc<Listener>) -> (Events, TaskGroup) {
    let seams = crate::seams::Seams { disk: disk.disk(), ..seams(1) };
    let tasks = seams.tasks.clone();
    let net = ScriptedNet::new(peer(1), |_, _, _| Reaction::Unreachable);
    let storage = tasks.scope(async { Storage::start(disk.disk()) }).await;
    let parts = EventsParts { seams, net, storage, carrier: Arc::new(Network(quorum.clone())) };
    (Events::start(parts).await.unwrap(), tasks)
}

async fn emit(events: &Events, id: Option<&str>) -> Result<Taken, EventError> {
    events.emit("door".to_owned(), id.map(str::to_owned), Bytes::from_static(b"{}")).await
}

/// Goal: what was acknowledged survives a crash, is sent by the next life, and none of it twice.
#[tokio::test(start_paused = true)]
async fn acknowledged_events_outlive_crashes_and_are_sent_once() {
    let (disk, quorum) = (MemoryDisk::new(1 << 30), Listener::new(false));
    for life in 0..3u64 {
        let (events, tasks) = emitter(&disk, &quorum).await;
        for n in 1..=100 {
            assert_eq!(emit(&events, None).await.unwrap(), Taken { sequence: life * 100 + n, existed: false });
        }
        tasks.crash();
        assert!(matches!(emit(&events, None).await, Err(EventError::Closing)));
    }
    quorum.up.store(true, Ordering::Relaxed);
    let (events, tasks) = emitter(&disk, &quorum).await;
    assert_eq!(quorum.takes(300).await, (1..=300).collect::<Vec<_>>());
    tasks.crash();
    let (again, _tasks) = emitter(&disk, &quorum).await;
    assert_eq!(emit(&again, None).await.unwrap().sequence, 301);
    assert_eq!(quorum.takes(301).await, (1..=301).collect::<Vec<_>>());
    drop(events);
}

#[tokio::test(start_paused = true)]
async fn an_id_is_one_event_in_every_life_and_a_full_disk_takes_none() {
    let (disk, quorum) = (MemoryDisk::new(1 << 30), Listener::new(true));
    let (events, tasks) = emitter(&disk, &quorum).await;
    disk.broken.store(true, Ordering::Relaxed);
    assert!(matches!(emit(&events, Some("a")).await, Err(EventError::Disk(_))));
    disk.broken.store(false, Ordering::Relaxed);
    let (one, other) = tokio::join!(emit(&events, Some("a")), emit(&events, Some("a")));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!((one.existed, other.existed, one.sequence), (false, true, other.sequence));
    quorum.takes(1).await;
    tasks.crash();
    let (events, _tasks) = emitter(&disk, &quorum).await;
    assert!(emit(&events, Some("a")).await.unwrap().existed);
    let next = emit(&events, Some("b")).await.unwrap().sequence;
    assert_eq!(quorum.takes(2).await, [one.sequence, next]);
}

const JOB: JobId = JobId { quorum: QUORUM, local: [5; 16] };

fn triggered(filter: Option<&str>) -> Command {
    let event = EventSpec { filter: filter.map(str::to_owned), ..EventSpec::new("door") };
    let trigger = TriggerSpec::new(When::Event(event));
    let job = ComputeSpec::new(Call::new(Program::Command { name: "work".to_owned() }));
    Command::Job(JOB, JobCommand::Submit { spec: JobSpec::Triggered(Box::new(TriggeredSpec { trigger, job })) })
}

fn sent(sequence: u64, age: Duration, data: &'static str) -> Dispatched {
    let event =
        Event { name: "door".into(), id: None, data: Bytes::from_static(data.as_bytes()), at: Default::default() };
    Dispatched { sequence, age, event }
}

struct Primary {
    quorum: Arc<StateQuorum>,
    hearing: Hearing,
}

impl Primary {
    fn new(filter: Option<&str>) -> Self {
        let quorum = StateQuorum::new(1);
        let level = quorate_protocols::quorum::limits::LEVEL_TRIGGERS;
        quorum.commit(peer(1), Command::Quorum(QuorumCommand::RaiseLevel { level })).unwrap();
        quorum.commit(peer(1), triggered(filter)).unwrap();
        let hearing = Hearing::new(Arc::new(StateQuorums(quorum.clone())));
        Self { quorum, hearing }
    }
    async fn hear(
        &self,
        follows: u64,
        reaches: u64,
        lost: u64,
        events: Vec<Dispatched>,
    ) -> Result<DeliveryAck, Rejection> {
        let dispatch = Dispatch { follows, reaches, lost, events };
        dispatch.check().unwrap();
        let local = StateQuorums(self.quorum.clone()).quorum(QUORUM).unwrap();
        let hearing = self.hearing.hear(&*local, peer(1), peer(2), dispatch);
        TaskGroup::inline().scope(hearing).await.unwrap()
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
    assert_eq!(primary.hear(0, 2, 0, shut).await, Ok(DeliveryAck { reaches: 2, recorded: None }));
    assert_eq!(primary.fired(), []);
    let open = vec![sent(3, now, "{\"open\": true}"), sent(4, now, "{\"open\": false}")];
    for _ in 0..2 {
        let heard = primary.hear(2, 4, 0, open.clone()).await;
        assert_eq!(heard, Ok(DeliveryAck { reaches: 4, recorded: Some(4) }), "a repeat is no other answer");
        assert!(matches!(primary.fired()[..], [Fired::Run { .. }]), "{:?}", primary.fired());
    }
    assert_eq!(primary.hear(9, 12, 0, Vec::new()).await, Err(Rejection::EventGap { known: 4, follows: 9 }));
    // What cannot be evaluated, and what was lost, is a recorded skip.
    primary.hear(4, 5, 0, vec![sent(5, now, "[1]")]).await.unwrap();
    primary.hear(5, 9, 3, Vec::new()).await.unwrap();
    let fired = primary.fired();
    assert!(matches!(fired[1], Fired::Skipped { count: 1, reason: SkipReason::Fault, .. }), "{fired:?}");
    assert!(matches!(fired[2], Fired::Skipped { count: 3, reason: SkipReason::Lost, .. }), "{fired:?}");
    let emitters: BTreeSet<PeerId> = primary.quorum.read(|state| state.triggers.emitters().keys().copied().collect());
    assert_eq!(emitters, BTreeSet::from([peer(2)]), "the author is who sent it");
}

#[tokio::test]
async fn a_trigger_does_not_hear_of_what_came_before_it() {
    let primary = Primary::new(None);
    let old = Duration::from_secs(100 * 365 * 24 * 3600);
    assert_eq!(primary.hear(0, 1, 0, vec![sent(1, old, "{}")]).await, Ok(DeliveryAck { reaches: 1, recorded: None }));
    primary.hear(0, 2, 0, vec![sent(2, Duration::ZERO, "{}")]).await.unwrap();
    assert_eq!(primary.fired().len(), 1);
}
