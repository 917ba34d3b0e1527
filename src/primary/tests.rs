//! Duties over the real state machine and scripted peers, under virtual time.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_protocols::approval::limits::CONFIRM_INTERVAL;
use quorate_protocols::approval::{ApprovalMessage, Subject, Writer};
use quorate_protocols::capacity::Capacity;
use quorate_protocols::directory::PeerAdvert;
use quorate_protocols::ids::{
    Attempt, BootId, JobId, LogIndex, ManifestHash, Millis, PeerId, PieceHash, PieceIndex, SegmentIndex, Term,
};
use quorate_protocols::job::store::SegmentProgress;
use quorate_protocols::job::{ColumnState, JobSpec, RunState, StoreSpec};
use quorate_protocols::object::manifest::column_digest;
use quorate_protocols::object::{Manifest, Profile};
use quorate_protocols::piece::{HeldPiece, PieceAnswer, PieceMessage, PieceRefusal, Receipt, ReceiptStatement, Slot};
use quorate_protocols::quorum::{Command, Control, QuorumCommand, QuorumState, StoreCommand};
use quorate_protocols::wire;

use super::*;
use crate::directory::KnownPeer;
use crate::quorums::approvals::{Approvals, ApprovalsParts};
use crate::quorums::ports::LocalPieces;
use crate::seams::{Frame, Protocol, Seams};
use crate::testing::quorums::{
    Approver, Known, QUORUM, Quorums, Reaction, ScriptedNet, ScriptedQuorum, StateQuorum, StateQuorums, approve, key,
    member, peer, seams,
};

const JOB: JobId = JobId { quorum: QUORUM, local: [1; 16] };
const PRIMARY: u8 = 1;

/// What the holders of a test do. All of them approve, confirm, rebuild and let go, unless told otherwise.
#[derive(Default)]
struct Holders {
    /// Nobody listens there.
    dead: Mutex<BTreeSet<PeerId>>,
    /// Finds segment 0 damaged.
    rotten: Mutex<BTreeSet<PeerId>>,
    /// Has the column in an attempt that nobody gave.
    foreign: Mutex<BTreeSet<PeerId>>,
    /// Has another piece than the object's, which is whole.
    swapped: Mutex<BTreeSet<PeerId>>,
    /// How often each was asked to prolong a promise.
    renewed: Mutex<BTreeMap<PeerId, usize>>,
    /// Who fills each column that one of them was asked to promise.
    writers: Mutex<Vec<Writer>>,
    /// What each was asked, in order.
    heard: Mutex<BTreeMap<PeerId, Vec<PieceMessage>>>,
}

impl Holders {
    fn answer(&self, n: u8, message: PieceMessage) -> PieceAnswer {
        self.heard.lock().entry(peer(n)).or_default().push(message.clone());
        match message {
            PieceMessage::Rebuild { parts, .. } => {
                PieceAnswer::Rebuilt(parts.iter().map(|part| part.segment).collect())
            }
            PieceMessage::Seal { slot, lease, pieces } => PieceAnswer::Sealed(receipt(n, slot, lease, &pieces)),
            PieceMessage::Audit { .. } if self.rotten.lock().contains(&peer(n)) => {
                PieceAnswer::Audited { next: None, damaged: vec![SegmentIndex(0)] }
            }
            PieceMessage::Audit { slot, .. } if self.foreign.lock().contains(&peer(n)) => {
                let newest = Attempt(u32::MAX);
                PieceAnswer::Refused(PieceRefusal::StaleAttempt { given: slot.attempt, newest })
            }
            PieceMessage::Audit { .. } => PieceAnswer::Audited { next: None, damaged: Vec::new() },
            PieceMessage::Get { .. } => PieceAnswer::Piece { total: PIECE.len() as u32 },
            PieceMessage::ListPieces { .. } => {
                let is_swapped = self.swapped.lock().contains(&peer(n));
                let hash = if is_swapped { PieceHash([0xee; 32]) } else { PieceHash(*blake3::hash(PIECE).as_bytes()) };
                PieceAnswer::Pieces(vec![HeldPiece { segment: SegmentIndex(0), hash }])
            }
            _ => PieceAnswer::Acknowledged,
        }
    }
    fn has_received(&self, n: u8, wish: impl Fn(&PieceMessage) -> bool) -> bool {
        self.heard.lock().get(&peer(n)).is_some_and(|messages| messages.iter().any(wish))
    }
}

/// Every piece of the tests' object: with one data piece, parity pieces are copies.
const PIECE: &[u8] = b"a small object";

fn receipt(n: u8, slot: Slot, lease: quorate_protocols::ids::LeaseId, pieces: &[PieceHash]) -> Receipt {
    let column = column_digest(pieces.iter().copied());
    let statement = ReceiptStatement { slot, holder: peer(n), lease, column, segments: pieces.len() as u32 };
    Receipt::sign(&key(n), statement)
}

/// Of a node that holds nothing.
pub(super) struct NoPieces;

impl LocalPieces for NoPieces {
    fn answer(&self, _: PeerId, _: PieceMessage, _: Bytes) -> BoxFuture<'static, (PieceAnswer, Bytes)> {
        unreachable!("jobs that compute have no pieces")
    }
}

struct LocalHolder(Arc<Holders>);

impl LocalPieces for LocalHolder {
    fn answer(&self, _: PeerId, message: PieceMessage, _: Bytes) -> BoxFuture<'static, (PieceAnswer, Bytes)> {
        let answer = self.0.answer(PRIMARY, message);
        async move { (answer, Bytes::from_static(PIECE)) }.boxed()
    }
}

struct World {
    quorum: Arc<StateQuorum>,
    holders: Arc<Holders>,
    net: Arc<ScriptedNet>,
    wait_reasons: WaitReasons,
    audit_hints: AuditHints,
    known: Arc<Known>,
    seams: Seams,
}

/// A primary, node 1, and `peers` nodes in all that could hold columns.
fn world(peers: u8, settings: DriverSettings) -> World {
    let holders = Arc::new(Holders::default());
    let theirs = holders.clone();
    let net = ScriptedNet::new(peer(PRIMARY), move |to, protocol, frame| {
        if theirs.dead.lock().contains(&to) {
            return Reaction::Unreachable;
        }
        let n = (1..=peers).find(|n| peer(*n) == to).expect("only known peers are asked");
        match protocol {
            Protocol::Approval => match wire::decode(&frame.head, 65_536).unwrap() {
                ApprovalMessage::Ask(request) => {
                    if let Subject::Holder { writer, .. } = request.subject {
                        theirs.writers.lock().push(writer);
                    }
                    Reaction::answer(&approve(n, peer(PRIMARY), &request))
                }
                ApprovalMessage::Renew { duration, .. } => {
                    assert_eq!(duration, quorate_protocols::piece::limits::LEASE);
                    *theirs.renewed.lock().entry(to).or_default() += 1;
                    Reaction::answer(&quorate_protocols::approval::ApprovalAnswer::Acknowledged)
                }
                _ => Reaction::answer(&quorate_protocols::approval::ApprovalAnswer::Acknowledged),
            },
            Protocol::Piece => {
                let answer = theirs.answer(n, wire::decode(&frame.head, 524_288).unwrap());
                Reaction::Answer(Frame::new(wire::encode(&answer), Bytes::from_static(PIECE)))
            }
            other => panic!("{other:?} is not the driver's to speak"),
        }
    });
    net.connected.lock().extend((1..=peers).map(peer));
    let known = Arc::new(Known::default());
    known.candidates.lock().extend((1..=peers).map(peer));
    known.peers.lock().extend((1..=peers).map(|n| known_peer(n, QuorumState::new(QUORUM).level())));
    let seams = seams(u64::from(peers));
    let (quorum, wait_reasons, audit_hints) =
        (StateQuorum::new(PRIMARY), WaitReasons::default(), AuditHints::default());
    let approvals = Approvals::new(ApprovalsParts {
        seams: seams.clone(),
        net: net.clone(),
        knowledge: known.clone(),
        local: Arc::new(Approver(PRIMARY)),
    });
    start(DriverParts {
        quorums: Arc::new(StateQuorums(quorum.clone())),
        events: quorum.events(),
        env: DriverEnv {
            metrics: DriverMetrics::default(),
            seams: seams.clone(),
            net: net.clone(),
            knowledge: known.clone(),
            approvals,
            pieces: Arc::new(LocalHolder(holders.clone())),
            worker: None,
            wait_reasons: wait_reasons.clone(),
            audit_hints: audit_hints.clone(),
            sources: Arc::new(crate::testing::quorums::NoSources),
            settings,
        },
    });
    World { quorum, holders, net, wait_reasons, audit_hints, known, seams }
}

impl World {
    fn submit(&self, profile: Profile) {
        let spec = JobSpec::store(StoreSpec { name: None, size: Some(PIECE.len() as u64), profile });
        self.quorum.commit(peer(99), Command::submit(&key(99), JOB, spec)).unwrap();
    }

    /// Stores the tests' object as its worker would, and returns its manifest's hash and who holds its columns.
    async fn store(&self) -> ManifestHash {
        let profile = Profile { data: 1, parity: 2 };
        self.submit(profile);
        self.quorum.reaches("holders", |state| state.jobs()[&JOB].store().unwrap().1.open_columns() == 0).await;
        let hash = PieceHash(*blake3::hash(PIECE).as_bytes());
        let manifest = Manifest { size: PIECE.len() as u64, profile, pieces: vec![hash; 3] };
        let columns = self.quorum.read(|state| state.jobs()[&JOB].store().unwrap().1.columns.clone());
        let numbered = || columns.iter().enumerate().map(|(index, column)| (PieceIndex(index as u8), column));
        let stored = numbered().map(|(index, column)| (index, column.attempt)).collect();
        let progress = SegmentProgress { segment: SegmentIndex(0), pieces: vec![hash; 3], stored };
        let upload_attempt = Attempt(1);
        self.commit(Command::store(JOB, StoreCommand::Progress { upload_attempt, segments: vec![progress] }));
        let receipts = numbered()
            .map(|(index, column)| {
                let grant = column.grant.unwrap();
                let n = (1..=50).find(|n| peer(*n) == grant.holder.peer).unwrap();
                receipt(n, Slot { job: JOB, column: index, attempt: column.attempt }, grant.lease, &[hash])
            })
            .collect();
        let encoded = Bytes::from(manifest.encode());
        self.commit(Command::store(
            JOB,
            StoreCommand::Commit { upload_attempt, manifest: encoded, receipts, degraded: false },
        ));
        manifest.hash()
    }

    fn commit(&self, command: Command) {
        self.quorum.commit(peer(99), command).unwrap();
    }

    fn holder(&self, manifest: ManifestHash, column: u8) -> u8 {
        let holder =
            self.quorum.read(|state| state.objects()[&manifest].columns[usize::from(column)].grant.unwrap().holder);
        (1..=50).find(|n| peer(*n) == holder.peer).unwrap()
    }
}

fn confirmed(state: &QuorumState, manifest: ManifestHash) -> bool {
    let object = &state.objects()[&manifest];
    object.owed.is_empty() && object.columns.iter().all(|column| column.state == ColumnState::Confirmed)
}

#[tokio::test(start_paused = true)]
async fn a_new_run_gets_distinct_holders_and_spares() {
    let world = world(7, DriverSettings::default());
    world.submit(Profile::DEFAULT);
    world.quorum.reaches("holders", |state| state.jobs()[&JOB].store().unwrap().1.open_columns() == 0).await;
    let holders: Vec<PeerId> =
        world.quorum.read(|state| state.jobs()[&JOB].store().unwrap().1.known_holders().collect());
    assert_eq!(holders.iter().collect::<BTreeSet<_>>().len(), holders.len(), "{holders:?}");
    assert_eq!(world.wait_reasons.get(JOB), None);
}

/// Goal: a run that cannot be placed says why at once, and ends with what would fit.
#[tokio::test(start_paused = true)]
async fn too_few_holders_are_explained_and_then_fail_the_run() {
    let world = world(4, DriverSettings::default());
    world.submit(Profile::DEFAULT);
    let started = tokio::time::Instant::now();
    world.quorum.reaches("failure", |state| state.jobs()[&JOB].state == RunState::Failed).await;
    assert!(started.elapsed() >= DriverSettings::default().holders_wait);
    let reason = world.quorum.read(|state| state.jobs()[&JOB].reason.clone()).unwrap();
    assert!(reason.starts_with("4 peers can hold a column of "), "{reason}");
    assert!(reason.contains("6 are needed for 4+2; 1+2 would fit: add nodes"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn what_a_run_waits_for_is_told_with_its_record() {
    let world = world(4, DriverSettings { holders_wait: Duration::from_secs(600), ..DriverSettings::default() });
    world.submit(Profile::DEFAULT);
    let told = async {
        while world.wait_reasons.get(JOB).is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), told).await.expect("the driver notes why the run waits");
    let query = quorate_protocols::quorum::request::Query::Job { job: JOB };
    let answer = world.quorum.read(|state| state.answer(&query)).unwrap();
    let quorate_protocols::quorum::request::QueryAnswer::Job(record) =
        world.wait_reasons.add_to(&*StateQuorums(world.quorum.clone()).quorum(QUORUM).unwrap(), &query, answer)
    else {
        panic!()
    };
    assert!(record.reason.unwrap().contains("6 are needed"), "the reason travels with the record");
}

#[tokio::test(start_paused = true)]
async fn a_committed_object_is_confirmed_by_every_holder_and_spares_are_released() {
    let world = world(7, DriverSettings::default());
    let manifest = world.store().await;
    world.quorum.reaches("confirmations", |state| confirmed(state, manifest)).await;
    world.quorum.reaches("releases", |state| state.jobs()[&JOB].store().unwrap().1.releasing.is_empty()).await;
    for column in 0..3 {
        let holder = world.holder(manifest, column);
        assert!(world.holders.has_received(holder, |message| matches!(message, PieceMessage::Confirm { .. })));
    }
}

/// Goal: rot that an audit finds moves the column to a peer that has none, and the old holder lets go.
#[tokio::test(start_paused = true)]
async fn damage_found_by_an_audit_is_repaired_elsewhere() {
    let world = world(5, DriverSettings::default());
    let manifest = world.store().await;
    world.quorum.reaches("confirmations", |state| confirmed(state, manifest)).await;
    let rotten = world.holder(manifest, 2);
    world.holders.rotten.lock().insert(peer(rotten));
    let gone = |state: &QuorumState| {
        confirmed(state, manifest)
            && state.objects()[&manifest].columns.iter().all(|column| column.grant.unwrap().holder.peer != peer(rotten))
    };
    world.quorum.reaches("the repair", gone).await;
    let new = world.holder(manifest, 2);
    assert!(world.holders.has_received(new, |message| matches!(message, PieceMessage::Rebuild { .. })));
    let releases = |message: &PieceMessage| matches!(message, PieceMessage::Release { slot } if slot.column.0 == 2);
    world.quorum.reaches("the release", |_| world.holders.has_received(rotten, releases)).await;
}

/// Goal: a column that is whole, but of an attempt that the quorum never gave or of other pieces than the object's, is
/// damage as rot is.
#[tokio::test(start_paused = true)]
async fn a_foreign_column_found_by_an_audit_is_repaired_elsewhere() {
    for is_swapped in [false, true] {
        let world = world(5, DriverSettings::default());
        let manifest = world.store().await;
        world.quorum.reaches("confirmations", |state| confirmed(state, manifest)).await;
        let foreign = world.holder(manifest, 2);
        let kind = if is_swapped { &world.holders.swapped } else { &world.holders.foreign };
        kind.lock().insert(peer(foreign));
        let moved = |state: &QuorumState| {
            let holder = state.objects()[&manifest].columns[2].grant.unwrap().holder.peer;
            confirmed(state, manifest) && holder != peer(foreign)
        };
        world.quorum.reaches("the repair", moved).await;
        let new = world.holder(manifest, 2);
        assert!(world.holders.has_received(new, |message| matches!(message, PieceMessage::Rebuild { .. })));
    }
}

/// Goal: a holder is told with the question who fills its column: the uploader, of a known length or of a stream, and
/// in a repair nobody.
#[tokio::test(start_paused = true)]
async fn a_holder_is_asked_for_a_column_that_a_named_peer_fills() {
    let world = world(5, DriverSettings::default());
    let manifest = world.store().await;
    world.quorum.reaches("confirmations", |state| confirmed(state, manifest)).await;
    let uploader = peer(99);
    let named = || world.holders.writers.lock().clone();
    assert!(!named().is_empty() && named().iter().all(|writer| *writer == Writer::Uploader(uploader)), "{:?}", named());
    world.holders.writers.lock().clear();
    world.holders.rotten.lock().insert(peer(world.holder(manifest, 2)));
    world.quorum.reaches("the repair", |state| state.objects()[&manifest].newest[2] > Attempt(1)).await;
    assert!(!named().is_empty() && named().iter().all(|writer| *writer == Writer::Quorum), "{:?}", named());

    let world = self::world(5, DriverSettings::default());
    let spec = JobSpec::store(StoreSpec { name: None, size: None, profile: Profile { data: 1, parity: 2 } });
    world.quorum.commit(uploader, Command::submit(&key(99), JOB, spec)).unwrap();
    world.quorum.reaches("holders", |state| state.jobs()[&JOB].store().unwrap().1.open_columns() == 0).await;
    let named = world.holders.writers.lock().clone();
    assert!(!named.is_empty() && named.iter().all(|writer| *writer == Writer::Streamer(uploader)), "{named:?}");
}

/// Goal: a reader's complaint brings the audit forward, and a holder whose pieces are good is not condemned by it.
#[tokio::test(start_paused = true)]
async fn a_complaint_is_looked_into_at_once_and_believed_only_when_true() {
    let settings = DriverSettings { audit_interval: Duration::from_secs(1_000_000), ..DriverSettings::default() };
    let world = world(5, settings);
    let manifest = world.store().await;
    world.quorum.reaches("confirmations", |state| confirmed(state, manifest)).await;
    let (rotten, good) = (world.holder(manifest, 2), world.holder(manifest, 1));
    world.holders.rotten.lock().insert(peer(rotten));
    let complained = tokio::time::Instant::now();
    for column in [1, 2, 7] {
        world.audit_hints.add_hint(JOB.quorum, manifest, PieceIndex(column));
    }
    let moved = |state: &QuorumState| {
        let holder = state.objects()[&manifest].columns[2].grant.unwrap().holder.peer;
        confirmed(state, manifest) && holder != peer(rotten)
    };
    world.quorum.reaches("the repair", moved).await;
    assert!(complained.elapsed() < Duration::from_secs(60), "{:?}", complained.elapsed());
    assert!(world.holders.has_received(good, |message| matches!(message, PieceMessage::Audit { .. })));
    assert_eq!(world.holder(manifest, 1), good);
}

#[tokio::test(start_paused = true)]
async fn a_holder_gone_past_the_grace_is_replaced_and_one_back_in_time_is_not() {
    let world = world(5, DriverSettings::default());
    let manifest = world.store().await;
    world.quorum.reaches("confirmations", |state| confirmed(state, manifest)).await;
    let (lost, back) = (world.holder(manifest, 2), world.holder(manifest, 1));
    let kill = |n: u8| {
        world.holders.dead.lock().insert(peer(n));
        world.net.connected.lock().remove(&peer(n));
    };
    // Neither is the primary itself, which cannot be gone.
    assert!(lost != PRIMARY && back != PRIMARY);
    kill(lost);
    kill(back);
    tokio::time::sleep(DriverSettings::default().repair_grace / 2).await;
    world.holders.dead.lock().remove(&peer(back));
    world.net.connected.lock().insert(peer(back));
    let moved = |state: &QuorumState| {
        let columns = &state.objects()[&manifest].columns;
        confirmed(state, manifest) && columns[2].grant.unwrap().holder.peer != peer(lost)
    };
    world.quorum.reaches("the repair", moved).await;
    assert_eq!(world.holder(manifest, 1), back);
}

/// Goal: a column of a holder that is not trusted any more is made anew by one that is, one column at a time, and only
/// then let go; and trust that comes back within the grace moves nothing.
#[tokio::test(start_paused = true)]
async fn the_columns_of_a_distrusted_holder_are_rebuilt_elsewhere_and_then_released() {
    let world = world(6, DriverSettings::default());
    let manifest = world.store().await;
    world.quorum.reaches("confirmations", |state| confirmed(state, manifest)).await;
    let (back, first, second) = (world.holder(manifest, 0), world.holder(manifest, 1), world.holder(manifest, 2));
    world.known.distrusted.lock().extend([peer(back), peer(first), peer(second)]);
    tokio::time::sleep(DriverSettings::default().trust_grace / 2).await;
    world.known.distrusted.lock().remove(&peer(back));
    let released = |n| world.holders.has_received(n, |message| matches!(message, PieceMessage::Release { .. }));
    let moving = |state: &QuorumState| !state.objects()[&manifest].repairs.is_empty();
    world.quorum.reaches("a rebuild", moving).await;
    world.quorum.read(|state| {
        let object = &state.objects()[&manifest];
        assert_eq!(object.owed.len(), 1, "{:?}", object.owed);
        assert!(object.owed.values().all(|reason| reason.contains("not trusted")), "{:?}", object.owed);
    });
    assert!(!released(first) && !released(second), "nothing is let go before it is elsewhere");
    let moved = |state: &QuorumState| {
        let object = &state.objects()[&manifest];
        assert!(object.owed.len() <= 1, "one column at a time: {:?}", object.owed);
        let holders = || object.columns.iter().map(|column| column.grant.unwrap().holder.peer);
        confirmed(state, manifest) && holders().all(|holder| holder != peer(first) && holder != peer(second))
    };
    world.quorum.reaches("both columns elsewhere", moved).await;
    world.quorum.reaches("the releases", |_| released(first) && released(second)).await;
    assert_eq!(world.holder(manifest, 0), back);
}

/// Goal: a column that nobody trusted could take stays where it is, and nothing is owed; it moves once somebody can.
#[tokio::test(start_paused = true)]
async fn a_column_of_a_distrusted_holder_stays_until_another_can_take_it() {
    let world = world(4, DriverSettings::default());
    let manifest = world.store().await;
    world.quorum.reaches("confirmations", |state| confirmed(state, manifest)).await;
    let holder = world.holder(manifest, 2);
    let others: Vec<u8> = (1..=4).filter(|n| (0..3).all(|column| world.holder(manifest, column) != *n)).collect();
    world.known.distrusted.lock().extend([holder, others[0]].map(peer));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(world.quorum.read(|state| confirmed(state, manifest)));
    assert_eq!(world.holder(manifest, 2), holder);
    assert!(!world.holders.has_received(holder, |message| matches!(message, PieceMessage::Release { .. })));
    world.known.distrusted.lock().remove(&peer(others[0]));
    let moved = |state: &QuorumState| {
        let new = state.objects()[&manifest].columns[2].grant.unwrap().holder.peer;
        confirmed(state, manifest) && new == peer(others[0])
    };
    world.quorum.reaches("the column elsewhere", moved).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_run_is_abandoned_and_a_fed_one_is_not() {
    let settings = DriverSettings { store_idle: Duration::from_secs(60), ..DriverSettings::default() };
    let world = world(7, settings);
    world.submit(Profile::DEFAULT);
    let started = tokio::time::Instant::now();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(45)).await;
        world.commit(Command::store(JOB, StoreCommand::Attach));
    }
    world.quorum.reaches("the end", |state| state.jobs()[&JOB].state.is_final()).await;
    assert!(started.elapsed() >= Duration::from_secs(3 * 45 + 60), "{:?}", started.elapsed());
}

/// Goal: a put that died before it stored anything leaves nothing behind for long, and one that stored something can be
/// gone on with. Method: two runs whose uploaders are never heard of again, one of them with a recorded segment.
#[tokio::test(start_paused = true)]
async fn a_run_that_stored_nothing_is_let_go_after_a_minute_and_one_to_go_on_with_is_not() {
    let world = world(7, DriverSettings::default());
    world.submit(Profile::DEFAULT);
    let started = tokio::time::Instant::now();
    world.quorum.reaches("the end", |state| state.jobs()[&JOB].state.is_final()).await;
    assert!(started.elapsed() <= STORE_EMPTY_MAX * 3 / 2, "{:?}", started.elapsed());

    let world = self::world(7, DriverSettings::default());
    world.submit(Profile::DEFAULT);
    world.quorum.reaches("holders", |state| state.jobs()[&JOB].store().unwrap().1.open_columns() == 0).await;
    let progress =
        SegmentProgress { segment: SegmentIndex(0), pieces: vec![PieceHash([1; 32]); 6], stored: Vec::new() };
    world.commit(Command::store(JOB, StoreCommand::Progress { upload_attempt: Attempt(1), segments: vec![progress] }));
    tokio::time::sleep(STORE_IDLE_MAX / 2).await;
    assert!(!world.quorum.read(|state| state.jobs()[&JOB].state.is_final()));
}

/// Goal: whoever sends the pieces learns at once that no further holder is expected. Method: four peers for five
/// columns.
#[tokio::test(start_paused = true)]
async fn a_run_that_everybody_was_asked_for_says_so_in_its_record() {
    let world = world(4, DriverSettings::default());
    let started = tokio::time::Instant::now();
    world.submit(Profile { data: 3, parity: 2 });
    world.quorum.reaches("holders", |state| state.jobs()[&JOB].store().unwrap().1.exhausted).await;
    assert!(started.elapsed() < Duration::from_millis(200), "{:?}", started.elapsed());
    assert_eq!(world.quorum.read(|state| state.jobs()[&JOB].store().unwrap().1.open_columns()), 1);
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_was_replaced_starts_nothing() {
    let world = world(7, DriverSettings::default());
    world.quorum.set_term(None);
    world.submit(Profile::DEFAULT);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(world.quorum.read(|state| state.jobs()[&JOB].store().unwrap().1.open_columns()), 6);
    assert!(world.net.asked().is_empty());
    // Leading again, it finds what is owed on its own.
    world.quorum.set_term(Some(Term(2)));
    world.quorum.reaches("holders", |state| state.jobs()[&JOB].store().unwrap().1.open_columns() == 0).await;
    world.seams.tasks.close().await;
}

/// Goal: a put may take longer than a lease: neither its spares nor its silent columns run out, and nothing is
/// prolonged once the run has ended.
#[tokio::test(start_paused = true)]
async fn the_promises_of_a_live_run_are_renewed_until_it_ends() {
    let lease = quorate_protocols::piece::limits::LEASE;
    let world = world(6, DriverSettings::default());
    world.submit(Profile { data: 1, parity: 2 });
    world.quorum.reaches("holders and spares", |state| state.jobs()[&JOB].store().unwrap().1.spares.len() >= 2).await;
    let promised = world.quorum.read(|state| {
        let run = state.jobs()[&JOB].store().unwrap().1;
        let columns = run.columns.iter().filter_map(|column| column.grant);
        columns.chain(run.spares.iter().copied()).map(|grant| grant.holder.peer).collect::<Vec<_>>()
    });
    // A run that has stored something is kept for whoever goes on with it; an empty one would end within a minute.
    let attempt = world.quorum.read(|state| state.jobs()[&JOB].store().unwrap().1.columns[0].attempt);
    let (pieces, stored) = (vec![PieceHash([1; 32]); 3], vec![(PieceIndex(0), attempt)]);
    let progress = SegmentProgress { segment: SegmentIndex(0), pieces, stored };
    world.commit(Command::store(JOB, StoreCommand::Progress { upload_attempt: Attempt(1), segments: vec![progress] }));
    tokio::time::sleep(2 * CONFIRM_INTERVAL).await;
    let confirmed = world.holders.renewed.lock().clone();
    assert!(promised.iter().filter(|holder| **holder != peer(PRIMARY)).all(|holder| confirmed.contains_key(holder)));
    tokio::time::sleep(lease).await;
    let renewed = world.holders.renewed.lock().clone();
    // This node renews its own promise in process.
    for peer in promised.iter().filter(|holder| **holder != peer(PRIMARY)) {
        // Once soon, for a lease that nobody uses lasts for seconds, and then in rounds.
        assert!(renewed.get(peer).is_some_and(|times| (3..=6).contains(times)), "{peer}: {renewed:?}");
    }
    world.commit(Command::control(JOB, LogIndex(u64::MAX), Control::Cancel));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let renewed = world.holders.renewed.lock().clone();
    tokio::time::sleep(2 * lease).await;
    assert_eq!(*world.holders.renewed.lock(), renewed);
}

/// Goal: the state level rises only when every member has announced that it can apply the next one.
#[tokio::test(start_paused = true)]
async fn a_level_is_raised_when_the_last_member_says_that_it_can_apply_it() {
    let voters: Vec<_> = [PRIMARY, 2, 3].map(member).to_vec();
    let quorum = Arc::new(ScriptedQuorum { level: 0, voters, ..ScriptedQuorum::leading(PRIMARY) });
    let known = Arc::new(Known::default());
    let net = ScriptedNet::new(peer(PRIMARY), |_, _, _| Reaction::Unreachable);
    let seams = seams(1);
    let (leading, events) = broadcast::channel(16);
    start(DriverParts {
        quorums: Quorums::of(quorum.clone()),
        events,
        env: DriverEnv {
            metrics: DriverMetrics::default(),
            seams: seams.clone(),
            net: net.clone(),
            knowledge: known.clone(),
            approvals: Approvals::new(ApprovalsParts {
                seams: seams.clone(),
                net,
                knowledge: known.clone(),
                local: Arc::new(Approver(PRIMARY)),
            }),
            pieces: Arc::new(LocalHolder(Arc::default())),
            worker: None,
            wait_reasons: WaitReasons::default(),
            audit_hints: AuditHints::default(),
            sources: Arc::new(crate::testing::quorums::NoSources),
            settings: DriverSettings::default(),
        },
    });
    leading.send(HostEvent::Leading { quorum: QUORUM, term: Term(1) }).unwrap();
    let raises = || quorum.proposed.lock().iter().filter(|(_, command)| *command == RAISE).count();
    let announce = |n, level| known.peers.lock().push(known_peer(n, level));
    announce(2, 1);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(raises(), 0, "node 3 was not heard of");
    announce(3, 0);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(raises(), 0, "node 3 cannot apply it");
    known.peers.lock().pop();
    announce(3, 1);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(raises() > 0);
}

const RAISE: Command = Command::Quorum(QuorumCommand::RaiseLevel { level: 1 });

fn known_peer(n: u8, level: u16) -> KnownPeer {
    let advert = PeerAdvert {
        incarnation: member(n).incarnation,
        boot_number: 1,
        boot: BootId([n; 16]),
        sequence: 1,
        roles: Vec::new(),
        name: String::new(),
        labels: BTreeMap::new(),
        free: Capacity::default(),
        load_permille: 0,
        quorums: 1,
        draining: false,
        level,
        admission: None,
    };
    KnownPeer { peer: peer(n), advert, heard_at: Millis(0) }
}
