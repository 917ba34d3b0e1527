//! The emitter over a disk in memory and a scripted network.
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_protocols::ids::{JobId, PeerId, QuorumId};
use quorate_protocols::job::JobRecord;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::watch::Until;
use quorate_protocols::quorum::{Command, CommandReply};
use quorate_protocols::trigger::event::DeliveryAck;
use tokio::sync::watch;

use super::*;
use crate::quorums::{ClientError, Report, ReportAnswer, Speaker};
use crate::seams::TaskGroup;
use crate::testing::metrics::value;
use crate::testing::quorums::{MemoryDisk, QUORUM, Reaction, ScriptedNet, peer, seams};

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

impl Network {
    fn away(&self) -> ClientError {
        ClientError::Busy { quorum: QUORUM }
    }
}

impl QuorumPort for Network {
    fn query(
        &self,
        _: QuorumId,
        query: Query,
        _: bool,
        _: Duration,
    ) -> BoxFuture<'static, Result<QueryAnswer, ClientError>> {
        assert!(matches!(query, Query::Subscription { .. }), "{query:?}");
        let (quorum, away) = (self.0.clone(), self.away());
        async move {
            let names = vec!["door".to_owned()];
            let answer = QueryAnswer::Subscription { known: *quorum.known.lock(), names };
            if quorum.up.load(Ordering::Relaxed) { Ok(answer) } else { Err(away) }
        }
        .boxed()
    }
    fn report(
        &self,
        _: QuorumId,
        report: Report,
        _: Duration,
    ) -> BoxFuture<'static, Result<ReportAnswer, ClientError>> {
        let (quorum, away) = (self.0.clone(), self.away());
        let Report::Events(dispatch) = report else { panic!("no report of an emitter: {report:?}") };
        async move {
            if !quorum.up.load(Ordering::Relaxed) {
                return Err(away);
            }
            let mut known = quorum.known.lock();
            let before = known.unwrap_or(dispatch.follows);
            let fresh = dispatch.events.iter().map(|sent| sent.sequence).filter(|sequence| *sequence > before);
            quorum.taken.send_modify(|taken| taken.extend(fresh));
            *known = Some(dispatch.reaches.max(before));
            Ok(ReportAnswer::Events(DeliveryAck { reaches: dispatch.reaches, recorded: *known }))
        }
        .boxed()
    }
    fn propose(
        &self,
        _: QuorumId,
        command: Command,
        _: Duration,
    ) -> BoxFuture<'static, Result<(CommandReply, Speaker), ClientError>> {
        panic!("no emitter proposes {command:?}")
    }
    fn watch(
        &self,
        job: JobId,
        _: Until,
        _: Duration,
    ) -> BoxFuture<'static, Result<Option<Box<JobRecord>>, ClientError>> {
        panic!("no emitter watches {job:?}")
    }
    fn members(&self, _: QuorumId) -> Vec<PeerId> {
        Vec::new()
    }
    fn known(&self) -> Vec<QuorumId> {
        vec![QUORUM]
    }
    fn remember_primary(&self, _: QuorumId, _: PeerId) {}
}

/// A node's emitter, and what ends it.
async fn emitter(disk: &MemoryDisk, quorum: &Arc<Listener>) -> (Events, TaskGroup) {
    let seams = crate::seams::Seams { disk: disk.disk(), ..seams(1) };
    let tasks = seams.tasks.clone();
    let net = ScriptedNet::new(peer(1), |_, _, _| Reaction::Unreachable);
    let storage = tasks.scope(async { Storage::start(disk.disk()) }).await;
    let parts = EventsParts { seams, net, storage, quorum_port: Arc::new(Network(quorum.clone())) };
    (Events::start(parts).await.unwrap(), tasks)
}

async fn emit(events: &Events, id: Option<&str>) -> Result<Emitted, EventError> {
    events.emit("door".to_owned(), id.map(str::to_owned), Bytes::from_static(b"{}")).await
}

/// Goal: what was acknowledged survives a crash, is sent by the next life, and none of it twice.
#[tokio::test(start_paused = true)]
async fn acknowledged_events_outlive_crashes_and_are_sent_once() {
    let (disk, quorum) = (MemoryDisk::default(), Listener::new(false));
    for life in 0..3u64 {
        let (events, tasks) = emitter(&disk, &quorum).await;
        for n in 1..=100 {
            assert_eq!(emit(&events, None).await.unwrap(), Emitted { sequence: life * 100 + n, existed: false });
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
    let (disk, quorum) = (MemoryDisk::default(), Listener::new(true));
    let (events, tasks) = emitter(&disk, &quorum).await;
    disk.set_full(true);
    assert!(matches!(emit(&events, Some("a")).await, Err(EventError::Disk(_))));
    disk.set_full(false);
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

/// Goal: events that wait to be taken are seen, and those that are on disk.
#[tokio::test(start_paused = true)]
async fn events_that_wait_are_counted() {
    let (disk, quorum) = (MemoryDisk::default(), Listener::new(false));
    let (events, _tasks) = emitter(&disk, &quorum).await;
    let mut registry = Registry::default();
    events.register_metrics(&mut registry);
    let measured = |name: &str| value(&registry, &format!("quorate_events_{name}"));
    let mut emitting = std::pin::pin!(emit(&events, None));
    assert!(futures::poll!(emitting.as_mut()).is_pending());
    assert_eq!((measured("queued"), measured("taken_total")), (1.0, 0.0));
    emitting.await.unwrap();
    assert_eq!((measured("queued"), measured("taken_total")), (0.0, 1.0));
}
