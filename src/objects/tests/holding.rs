//! The holder: what it accepts, refuses, keeps and lets go.

use std::time::Duration;

use quorate_protocols::approval::Writer;
use quorate_protocols::ids::{Attempt, JobId, LeaseId, LogIndex, ManifestHash, PieceIndex, SegmentIndex};
use quorate_protocols::job::limits::UPLOAD_SILENT_MAX;
use quorate_protocols::job::{JobSpec, StoreSpec};
use quorate_protocols::object::manifest::column_digest;
use quorate_protocols::object::{CheckedPiece, Profile};
use quorate_protocols::piece::{HeldPiece, PieceAnswer, PieceMessage, PieceRefusal, RebuildPart, Slot};
use quorate_protocols::quorum::{ClaimSelector, Command, ObjectCommand, StoreCommand};

use quorate_testkit::disk::Rot;

use super::*;
use crate::objects::holder::maintenance::Maintenance;
use crate::objects::store::{HoldState, Permit, PieceStore, ReadPiece, StoreError};

const JOB: JobId = JobId { quorum: cluster::QUORUM, local: [4; 16] };

fn slot(attempt: u32) -> Slot {
    Slot { job: JOB, column: PieceIndex(2), attempt: Attempt(attempt) }
}

/// Node 0, which is the quorum's one voter as well.
fn uploader() -> Writer {
    Writer::Uploader(peer(0))
}

fn permit(lease: LeaseId) -> Permit {
    Permit { lease, writer: uploader() }
}

/// One holder that granted one lease.
async fn holder() -> (Cluster, LeaseId) {
    let cluster = Cluster::start(2).await;
    let lease = LeaseId([7; 16]);
    cluster.world.lend(peer(1), lease, uploader(), 1 << 20);
    (cluster, lease)
}

async fn put_piece(cluster: &Cluster, slot: Slot, lease: LeaseId, segment: u32, bytes: &'static [u8]) -> PieceAnswer {
    send_piece(cluster, (0, 1), slot, lease, segment, bytes).await
}

/// Sends a piece as the first of the two nodes to the second.
async fn send_piece(
    cluster: &Cluster,
    (from, to): (u8, u8),
    slot: Slot,
    lease: LeaseId,
    segment: u32,
    bytes: &'static [u8],
) -> PieceAnswer {
    let bytes = Bytes::from_static(bytes);
    let hash = CheckedPiece::hash_of(bytes.clone()).hash();
    let message = PieceMessage::Put { slot, lease, segment: SegmentIndex(segment), hash };
    let service = cluster.nodes[to as usize].service().clone();
    cluster.tasks.scope(async move { service.handle(peer(from), message, bytes).await.0 }).await
}

fn refused(refusal: PieceRefusal) -> PieceAnswer {
    PieceAnswer::Refused(refusal)
}

fn hash(bytes: &'static [u8]) -> quorate_protocols::ids::PieceHash {
    CheckedPiece::hash_of(Bytes::from_static(bytes)).hash()
}

#[tokio::test(start_paused = true)]
async fn pieces_need_a_lease_a_right_hash_and_a_current_attempt() {
    let (cluster, lease) = holder().await;
    let stranger = LeaseId([8; 16]);
    assert_eq!(put_piece(&cluster, slot(1), stranger, 0, b"a").await, refused(PieceRefusal::UnknownLease));
    assert_eq!(put_piece(&cluster, slot(2), lease, 0, b"a").await, PieceAnswer::Stored);
    let stale = PieceRefusal::StaleAttempt { given: Attempt(1), newest: Attempt(2) };
    assert_eq!(put_piece(&cluster, slot(1), lease, 1, b"b").await, refused(stale));
    let message = PieceMessage::Put { slot: slot(2), lease, segment: SegmentIndex(1), hash: hash(b"x") };
    let service = cluster.nodes[1].service().clone();
    let wrong =
        cluster.tasks.scope(async move { service.handle(peer(0), message, Bytes::from_static(b"y")).await.0 }).await;
    assert_eq!(wrong, refused(PieceRefusal::WrongHash { expected: hash(b"x") }));
}

/// Goal: to know a lease is worth nothing: pieces are taken from the run's uploader alone, whoever that is by now.
/// Method: a run whose lease a third node knows; it sends pieces before and after it uploads into the run.
#[tokio::test(start_paused = true)]
async fn pieces_come_from_the_uploader_alone_whoever_knows_the_lease() {
    let cluster = Cluster::start(4).await;
    let job = JOB;
    let spec = JobSpec::store(StoreSpec { name: None, size: Some(8), profile: Profile { data: 1, parity: 2 } });
    cluster.world.propose(peer(0), Command::submit(cluster::identity(0).signing_key(), job, spec)).unwrap();
    let column = cluster.world.state.lock().0.jobs()[&job].store().unwrap().1.columns[1].clone();
    let (grant, slot) = (column.grant.unwrap(), Slot { job, column: PieceIndex(1), attempt: column.attempt });
    let (holder, lease) = (1, grant.lease);
    assert_eq!(grant.holder.peer, peer(holder));
    let send = async |from: u8, slot: Slot, bytes: &'static [u8]| {
        send_piece(&cluster, (from, holder), slot, lease, 0, bytes).await
    };
    assert_eq!(send(3, slot, b"garbage").await, refused(PieceRefusal::NotAllowed));
    assert_eq!(send(0, slot, b"good").await, PieceAnswer::Stored);
    for message in [
        PieceMessage::Seal { slot, lease, pieces: vec![hash(b"good")] },
        PieceMessage::Rebuild { slot, lease, profile: Profile { data: 1, parity: 2 }, parts: Vec::new() },
    ] {
        assert_eq!(cluster.ask(3, peer(holder), message).await, refused(PieceRefusal::NotAllowed));
    }
    // The quorum says who goes on with the run, and not before it can; nobody breaks off one that goes on.
    cluster.world.state.lock().1 += UPLOAD_SILENT_MAX.as_millis() as u64;
    cluster.world.propose(peer(3), Command::store(job, StoreCommand::Attach)).unwrap();
    *cluster.world.paused_until.lock() = Some(tokio::time::Instant::now() + Duration::from_secs(3600));
    assert_eq!(send(3, slot, b"good").await, refused(PieceRefusal::Busy));
    *cluster.world.paused_until.lock() = None;
    let other = Slot { attempt: Attempt(slot.attempt.0 + 1), ..slot };
    assert_eq!(send(3, other, b"good").await, refused(PieceRefusal::NotAllowed), "an attempt that nobody gave");
    assert_eq!(send(3, slot, b"good").await, PieceAnswer::Stored);
    let asked = *cluster.world.questions.lock();
    assert_eq!(send(3, slot, b"good").await, PieceAnswer::Stored);
    assert_eq!(*cluster.world.questions.lock(), asked, "asked about once");
    assert_eq!(send(0, slot, b"late").await, refused(PieceRefusal::NotAllowed), "the uploader of before");
}

/// Goal: no column takes more disk than was set aside for it, and nothing at all under a lease that has ended.
#[tokio::test(start_paused = true)]
async fn a_lease_takes_no_more_bytes_than_it_reserves() {
    let (cluster, lease) = holder().await;
    cluster.world.lend(peer(1), lease, uploader(), 6);
    assert_eq!(put_piece(&cluster, slot(1), lease, 0, b"1234").await, PieceAnswer::Stored);
    assert_eq!(put_piece(&cluster, slot(1), lease, 1, b"567").await, refused(PieceRefusal::OverLease));
    assert_eq!(put_piece(&cluster, slot(1), lease, 0, b"4321").await, PieceAnswer::Stored, "in place of another");
    assert_eq!(put_piece(&cluster, slot(1), lease, 1, b"56").await, PieceAnswer::Stored);
    assert_eq!(put_piece(&cluster, slot(1), lease, 2, b"7").await, refused(PieceRefusal::OverLease));
    let store = cluster.nodes[1].service().store();
    assert_eq!(store.column(JOB, PieceIndex(2)).unwrap().unwrap().bytes, 6);
    assert!(!cluster.disks[1].pieces().contains(&hash(b"7")), "refused before it was written");
    cluster.world.lend(peer(1), lease, Writer::Streamer(peer(0)), 6);
    assert_eq!(put_piece(&cluster, slot(1), lease, 2, b"7").await, PieceAnswer::Stored, "a stream's lease grows");
    cluster.world.leases.lock().clear();
    assert_eq!(put_piece(&cluster, slot(1), lease, 3, b"8").await, refused(PieceRefusal::UnknownLease));
    let pieces = vec![hash(b"4321"), hash(b"56"), hash(b"7")];
    let seal = PieceMessage::Seal { slot: slot(1), lease, pieces };
    assert!(matches!(cluster.ask(0, peer(1), seal).await, PieceAnswer::Sealed(_)), "what is here can be signed for");
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_for_one_column_and_one_attempt() {
    let (cluster, lease) = holder().await;
    assert_eq!(put_piece(&cluster, slot(1), lease, 0, b"a").await, PieceAnswer::Stored);
    let other = Slot { column: PieceIndex(1), ..slot(1) };
    assert_eq!(put_piece(&cluster, other, lease, 0, b"a").await, refused(PieceRefusal::UnknownLease));
    assert_eq!(put_piece(&cluster, slot(2), lease, 0, b"b").await, refused(PieceRefusal::UnknownLease));
    // A newer assignment has a lease of its own, and the older one's keeps nothing any more.
    let newer = LeaseId([8; 16]);
    cluster.world.lend(peer(1), newer, uploader(), 1 << 20);
    assert_eq!(put_piece(&cluster, slot(2), newer, 0, b"b").await, PieceAnswer::Stored);
    assert!(!cluster.world.leases.lock().contains_key(&(peer(1), lease)));
}

/// A repair of the column of these tests: node 0 has its one piece.
fn repair(slot: Slot, lease: LeaseId, piece: &'static [u8]) -> PieceMessage {
    let sources = vec![(PieceIndex(0), hash(piece), peer(0))];
    let part = RebuildPart { segment: SegmentIndex(0), hash: hash(piece), piece_bytes: piece.len() as u32, sources };
    PieceMessage::Rebuild { slot, lease, profile: Profile { data: 1, parity: 2 }, parts: vec![part] }
}

/// Has node 0 hold a piece that a repair can fetch.
async fn offer_source(cluster: &Cluster, piece: &'static [u8]) {
    let lease = LeaseId([9; 16]);
    cluster.world.lend(peer(0), lease, uploader(), 1 << 20);
    let source = Slot { column: PieceIndex(0), ..slot(1) };
    assert_eq!(send_piece(cluster, (0, 0), source, lease, 0, piece).await, PieceAnswer::Stored);
}

/// Goal: what a holder signed for changes only when a voter of the quorum orders a repair. Method: the uploader, a
/// stranger and a voter try it, after the seal and after the confirmation.
#[tokio::test(start_paused = true)]
async fn what_was_sealed_changes_only_by_a_repair_that_a_voter_orders() {
    let (cluster, lease) = holder().await;
    offer_source(&cluster, b"good").await;
    assert_eq!(put_piece(&cluster, slot(1), lease, 0, b"good").await, PieceAnswer::Stored);
    let seal = |pieces: Vec<_>| PieceMessage::Seal { slot: slot(1), lease, pieces };
    let sealed = cluster.ask(0, peer(1), seal(vec![hash(b"good")])).await;
    assert!(matches!(sealed, PieceAnswer::Sealed(_)), "{sealed:?}");
    let confirm = PieceMessage::Confirm { slot: slot(1), lease, manifest: ManifestHash([1; 32]) };
    for is_confirmed in [false, true] {
        if is_confirmed {
            let other =
                PieceMessage::Confirm { slot: slot(1), lease: LeaseId([6; 16]), manifest: ManifestHash([1; 32]) };
            assert_eq!(cluster.ask(0, peer(1), other).await, refused(PieceRefusal::NotHeld), "another's lease");
            assert_eq!(cluster.ask(0, peer(1), confirm.clone()).await, PieceAnswer::Acknowledged);
        }
        assert_eq!(put_piece(&cluster, slot(1), lease, 0, b"evil").await, refused(PieceRefusal::Settled));
        assert_eq!(put_piece(&cluster, slot(1), lease, 1, b"more").await, refused(PieceRefusal::Settled));
        assert_eq!(cluster.ask(0, peer(1), seal(Vec::new())).await, refused(PieceRefusal::Settled));
        let newer = LeaseId([8; 16]);
        cluster.world.lend(peer(1), newer, uploader(), 1 << 20);
        let replaced = put_piece(&cluster, slot(u32::MAX), newer, 0, b"evil").await;
        assert_eq!(replaced, refused(PieceRefusal::Settled), "not under another attempt either");
        assert_eq!(put_piece(&cluster, slot(1), lease, 0, b"good").await, PieceAnswer::Stored, "said twice");
    }
    cluster.disks[1].lose_pieces();
    let mending = LeaseId([10; 16]);
    cluster.world.lend(peer(1), mending, Writer::Quorum, 4);
    // Node 1 does not vote, and nobody sends pieces in a repair.
    let order = repair(slot(2), mending, b"good");
    assert_eq!(cluster.ask(1, peer(1), order.clone()).await, refused(PieceRefusal::NotAllowed));
    assert_eq!(put_piece(&cluster, slot(2), mending, 0, b"evil").await, refused(PieceRefusal::NotAllowed));
    let too_much = repair(slot(2), mending, b"longer");
    offer_source(&cluster, b"longer").await;
    assert_eq!(cluster.ask(0, peer(1), too_much).await, refused(PieceRefusal::OverLease));
    let store = cluster.nodes[1].service().store().clone();
    cluster.tasks.scope(store.sweep(None, Duration::ZERO)).await.unwrap();
    offer_source(&cluster, b"good").await;
    assert_eq!(cluster.ask(0, peer(1), order).await, PieceAnswer::Rebuilt(vec![SegmentIndex(0)]));
    let seal = PieceMessage::Seal { slot: slot(2), lease: mending, pieces: vec![hash(b"good")] };
    assert!(matches!(cluster.ask(0, peer(1), seal).await, PieceAnswer::Sealed(_)));
    assert!(!cluster.world.leases.lock().contains_key(&(peer(1), lease)), "the hold of before is given back");
}

/// Goal: pieces under an attempt that the quorum never gave are found by the audit, and do not lock the repair out.
/// Method: the last attempt there is, with other bytes; then a repair at an attempt of the quorum's, in the same place.
#[tokio::test(start_paused = true)]
async fn a_column_of_a_foreign_attempt_is_damage_and_is_rebuilt() {
    let (cluster, lease) = holder().await;
    offer_source(&cluster, b"good").await;
    for (segment, garbage) in [(0, &b"garbage"[..]), (1, &b"and more of it"[..])] {
        assert_eq!(put_piece(&cluster, slot(u32::MAX), lease, segment, garbage).await, PieceAnswer::Stored);
    }
    let audit = |attempt| PieceMessage::Audit { slot: slot(attempt), from: SegmentIndex(0) };
    let stale = PieceRefusal::StaleAttempt { given: Attempt(2), newest: Attempt(u32::MAX) };
    assert_eq!(cluster.ask(0, peer(1), audit(2)).await, refused(stale));
    let mending = LeaseId([10; 16]);
    cluster.world.lend(peer(1), mending, Writer::Quorum, 4);
    let order = repair(slot(3), mending, b"good");
    assert_eq!(cluster.ask(0, peer(1), order).await, PieceAnswer::Rebuilt(vec![SegmentIndex(0)]));
    let seal = PieceMessage::Seal { slot: slot(3), lease: mending, pieces: vec![hash(b"good")] };
    assert!(matches!(cluster.ask(0, peer(1), seal).await, PieceAnswer::Sealed(_)));
    assert_eq!(cluster.ask(0, peer(1), audit(3)).await, PieceAnswer::Audited { next: None, damaged: Vec::new() });
    let list = PieceMessage::ListPieces { slot: slot(3), from: SegmentIndex(0) };
    let good = HeldPiece { segment: SegmentIndex(0), hash: hash(b"good") };
    assert_eq!(cluster.ask(0, peer(1), list).await, PieceAnswer::Pieces(vec![good]));
    // An older repair comes too late, and the upload of before has ended.
    assert!(matches!(cluster.ask(0, peer(1), audit(2)).await, PieceAnswer::Refused(_)));
    let late = put_piece(&cluster, slot(u32::MAX), lease, 0, b"garbage").await;
    assert_eq!(late, refused(PieceRefusal::UnknownLease));
    let released = PieceMessage::Release { slot: slot(3) };
    assert_eq!(cluster.ask(0, peer(1), released).await, PieceAnswer::Acknowledged);
    assert_eq!(cluster.ask(0, peer(1), audit(3)).await, refused(PieceRefusal::NotHeld), "nothing is no column");
}

#[tokio::test(start_paused = true)]
async fn a_receipt_is_signed_only_for_a_whole_column() {
    let (cluster, lease) = holder().await;
    put_piece(&cluster, slot(1), lease, 0, b"a").await;
    let seal = || PieceMessage::Seal { slot: slot(1), lease, pieces: vec![hash(b"a"), hash(b"b")] };
    let incomplete = PieceRefusal::Incomplete { missing: 1, first: SegmentIndex(1) };
    assert_eq!(cluster.ask(0, peer(1), seal()).await, PieceAnswer::Refused(incomplete));
    put_piece(&cluster, slot(1), lease, 1, b"b").await;
    let PieceAnswer::Sealed(receipt) = cluster.ask(0, peer(1), seal()).await else { panic!("not sealed") };
    assert!(receipt.is_genuine());
    assert_eq!(receipt.statement.column, column_digest([hash(b"a"), hash(b"b")].into_iter()));
    assert_eq!((receipt.statement.holder, receipt.statement.segments), (peer(1), 2));
}

#[tokio::test(start_paused = true)]
async fn only_members_confirm_release_and_audit() {
    let (cluster, lease) = holder().await;
    put_piece(&cluster, slot(1), lease, 0, b"a").await;
    // Node 0 is the quorum's one voter.
    let release = PieceMessage::Release { slot: slot(1) };
    assert_eq!(cluster.ask(1, peer(1), release.clone()).await, PieceAnswer::Refused(PieceRefusal::NotAllowed));
    assert!(cluster.nodes[1].service().store().column(JOB, PieceIndex(2)).unwrap().is_some());
    assert_eq!(cluster.ask(0, peer(1), release).await, PieceAnswer::Acknowledged);
    assert_eq!(
        put_piece(&cluster, slot(1), lease, 1, b"b").await,
        PieceAnswer::Refused(PieceRefusal::UnknownLease),
        "a late piece of a released column"
    );
}

/// Goal: a crash at any point leaves a store that never offers what it does not have. Method: the record's sync fails
/// after the file was written; the answer must not be `Stored`, and after the crash the file is an orphan that the
/// sweep removes, but only after the quarantine.
#[tokio::test(start_paused = true)]
async fn a_crash_between_file_and_record_leaves_an_orphan_that_is_swept() {
    let (mut cluster, lease) = holder().await;
    put_piece(&cluster, slot(1), lease, 0, b"kept").await;
    cluster.disks[1].set_sync_fails();
    let answer = put_piece(&cluster, slot(1), lease, 1, b"torn").await;
    assert!(matches!(answer, PieceAnswer::Refused(PieceRefusal::Failed { .. })), "{answer:?}");
    cluster.restart(1).await;
    let held = cluster.ask(0, peer(1), PieceMessage::ListPieces { slot: slot(1), from: SegmentIndex(0) }).await;
    let PieceAnswer::Pieces(held) = held else { panic!("{held:?}") };
    assert_eq!(held.iter().map(|holding| holding.hash).collect::<Vec<_>>(), [hash(b"kept")]);
    let (tasks, store) = (cluster.tasks.clone(), cluster.nodes[1].service().store().clone());
    let quarantine = Duration::from_secs(60);
    let (swept, _) = tasks.scope(store.sweep(None, quarantine)).await.unwrap();
    assert_eq!((swept.quarantined, swept.deleted), (1, 0));
    tokio::time::advance(quarantine).await;
    let (swept, _) = tasks.scope(store.sweep(None, quarantine)).await.unwrap();
    assert_eq!(swept.deleted, 1);
    assert_eq!(cluster.disks[1].pieces(), [hash(b"kept")]);
}

#[tokio::test(start_paused = true)]
async fn a_record_without_its_file_is_damaged_and_can_be_stored_again() {
    let (cluster, lease) = holder().await;
    put_piece(&cluster, slot(1), lease, 0, b"a").await;
    cluster.disks[1].lose_pieces();
    let store = cluster.nodes[1].service().store().clone();
    let (swept, _) = cluster.tasks.scope(store.sweep(None, Duration::ZERO)).await.unwrap();
    assert_eq!(swept.missing, 1);
    let held = PieceMessage::ListPieces { slot: slot(1), from: SegmentIndex(0) };
    assert_eq!(cluster.ask(0, peer(1), held.clone()).await, PieceAnswer::Pieces(Vec::new()));
    assert_eq!(put_piece(&cluster, slot(1), lease, 0, b"a").await, PieceAnswer::Stored);
    assert!(matches!(cluster.ask(0, peer(1), held).await, PieceAnswer::Pieces(held) if held.len() == 1));
}

/// A rotten file is found by the scrub, no longer offered, reported by the audit, and replaced by the next put.
#[tokio::test(start_paused = true)]
async fn rot_is_found_by_the_scrub_and_mended_by_a_put() {
    let (cluster, lease) = holder().await;
    put_piece(&cluster, slot(1), lease, 0, b"good").await;
    put_piece(&cluster, slot(1), lease, 1, b"rotten").await;
    cluster.disks[1].rot(hash(b"rotten"), Rot::Flipped);
    let mut maintenance = Maintenance::new(cluster.nodes[1].service().clone());
    cluster.tasks.scope(async { while maintenance.scrub_one().await {} }).await;
    let held = cluster.ask(0, peer(1), PieceMessage::ListPieces { slot: slot(1), from: SegmentIndex(0) }).await;
    assert!(matches!(&held, PieceAnswer::Pieces(held) if held.len() == 1), "{held:?}");
    let audited = cluster.ask(0, peer(1), PieceMessage::Audit { slot: slot(1), from: SegmentIndex(0) }).await;
    assert_eq!(audited, PieceAnswer::Audited { next: None, damaged: vec![SegmentIndex(1)] });
    put_piece(&cluster, slot(1), lease, 1, b"rotten").await;
    let store = cluster.nodes[1].service().store().clone();
    let read = cluster.tasks.scope(store.verify(hash(b"rotten"))).await.unwrap();
    assert_eq!(read, ReadPiece::Bytes(Bytes::from_static(b"rotten")));
}

/// Goal: a holder that finds its pieces gone says so to the steward itself, again and again until they are back, and
/// only of what an object needs.
#[tokio::test(start_paused = true)]
async fn a_holder_reports_the_columns_whose_pieces_it_lost() {
    let cluster = Cluster::start(7).await;
    let committed = put(&cluster, &cluster.nodes[0], PutRequest::default(), &cluster::content(200_000)).await.unwrap();
    cluster.settle().await;
    let (column, holder) = committed.columns[2];
    let node = cluster.nodes.iter().find(|node| node.service().peer() == holder).expect("a node of this cluster");
    let lease = LeaseId([7; 16]);
    cluster.world.lend(holder, lease, uploader(), 1 << 20);
    let unconfirmed = CheckedPiece::hash_of(Bytes::from_static(b"not yet an object's"));
    let store = node.service().store().clone();
    cluster.tasks.scope(store.put(slot(1), permit(lease), SegmentIndex(0), unconfirmed, |_| true)).await.unwrap();
    cluster.disk_of(holder).lose_pieces();
    let mut maintenance = Maintenance::new(node.service().clone());
    let told = |rounds| vec![(committed.object, column); rounds];
    for rounds in [0, 1, 2] {
        assert_eq!(*cluster.world.suspected.lock(), told(rounds));
        cluster.tasks.scope(maintenance.sweep_round(Duration::from_secs(3600))).await;
        cluster.tasks.scope(maintenance.report_round()).await;
    }
    // What is let go is not told of any more, and its marks are forgotten.
    assert_eq!(store.damaged(None, 100).unwrap().len(), 2);
    let jobs = [(committed.job, column), (JOB, PieceIndex(2))];
    for (job, column) in jobs {
        let row = store.column(job, column).unwrap().unwrap();
        cluster.tasks.scope(store.release(Slot { job, column, attempt: row.attempt })).await.unwrap();
    }
    cluster.tasks.scope(maintenance.report_round()).await;
    assert_eq!(*cluster.world.suspected.lock(), told(3));
    assert_eq!(store.damaged(None, 100).unwrap(), []);
}

/// A piece that two columns share goes only when neither wants it.
#[tokio::test(start_paused = true)]
async fn a_shared_piece_outlives_the_first_of_its_references() {
    let (cluster, lease) = holder().await;
    let other = Slot { job: JobId { local: [5; 16], ..JOB }, ..slot(1) };
    put_piece(&cluster, slot(1), lease, 0, b"shared").await;
    put_piece(&cluster, other, lease, 0, b"shared").await;
    let store = cluster.nodes[1].service().store().clone();
    for (released, left) in [(slot(1), 1), (other, 0)] {
        cluster.world.lend(peer(1), lease, uploader(), 1 << 20);
        assert_eq!(cluster.ask(0, peer(1), PieceMessage::Release { slot: released }).await, PieceAnswer::Acknowledged);
        cluster.tasks.scope(store.sweep(None, Duration::ZERO)).await.unwrap();
        assert_eq!(cluster.disks[1].pieces().len(), left);
    }
}

/// Goal: power that fails while a column is let go leaves nothing reserved for good. Method: the lease's end is undone,
/// as if it had not been synced; the collector finds the column's tombstone.
#[tokio::test(start_paused = true)]
async fn a_lease_whose_end_was_lost_ends_with_the_tombstone() {
    let (cluster, lease) = holder().await;
    put_piece(&cluster, slot(1), lease, 0, b"a").await;
    assert_eq!(cluster.ask(0, peer(1), PieceMessage::Release { slot: slot(1) }).await, PieceAnswer::Acknowledged);
    cluster.world.lend(peer(1), lease, uploader(), 1 << 20);
    let mut maintenance = Maintenance::new(cluster.nodes[1].service().clone());
    cluster.tasks.scope(maintenance.collect_round()).await;
    assert!(!cluster.world.leases.lock().contains_key(&(peer(1), lease)));
}

/// Goal: an ended lease alone deletes nothing. Method: leases end; columns of a live run and of a committed object are
/// kept, a silent quorum keeps everything, and the columns of a cancelled run go.
#[tokio::test(start_paused = true)]
async fn only_a_definite_no_of_the_quorum_lets_a_column_go() {
    let cluster = Cluster::start(7).await;
    let content = content(100_000);
    let committed = put(&cluster, &cluster.nodes[0], PutRequest::default(), &content).await.unwrap();
    let held = |cluster: &Cluster| cluster.disks.iter().map(|d| d.pieces().len()).collect::<Vec<_>>();
    let before = held(&cluster);
    cluster.world.leases.lock().clear();
    let collect = async |cluster: &Cluster| {
        for node in &cluster.nodes {
            let mut maintenance = Maintenance::new(node.service().clone());
            cluster
                .tasks
                .scope(async {
                    maintenance.collect_round().await;
                    maintenance.sweep_round(Duration::ZERO).await;
                })
                .await;
        }
    };
    collect(&cluster).await;
    assert_eq!(held(&cluster), before, "sealed, not yet confirmed, and wanted");
    cluster.settle().await;
    let holder = committed.columns[0].1;
    let column = committed.columns[0].0;
    let row = cluster.world.services.lock()[&holder].service().store().column(committed.job, column).unwrap();
    let confirmed = HoldState::Confirmed { manifest: committed.object.manifest };
    assert_eq!(row.map(|row| row.state), Some(confirmed));

    let command = Command::Object(
        committed.object.manifest,
        ObjectCommand::Remove { claims: ClaimSelector::All, seen: LogIndex(u64::MAX), force: false },
    );
    cluster.nodes[0].context.quorums.propose(cluster::QUORUM, command, Duration::from_secs(1)).await.unwrap();
    *cluster.world.paused_until.lock() = Some(tokio::time::Instant::now() + Duration::from_secs(3600));
    collect(&cluster).await;
    assert_eq!(held(&cluster), before, "a silent quorum has not said no");
    *cluster.world.paused_until.lock() = None;
    cluster.settle().await;
    collect(&cluster).await;
    assert_eq!(held(&cluster).iter().sum::<usize>(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_confirm_for_what_is_not_held_is_refused() {
    let (cluster, lease) = holder().await;
    let confirm = PieceMessage::Confirm { slot: slot(1), lease, manifest: ManifestHash([1; 32]) };
    assert_eq!(cluster.ask(0, peer(1), confirm).await, PieceAnswer::Refused(PieceRefusal::NotHeld));
}

/// Goal: what was acknowledged is there after a restart, on the real disk. Method: sled and files in a temporary
/// folder; store, close, open again, read; then remove the file behind the index's back and truncate another.
#[tokio::test]
async fn acknowledged_pieces_survive_a_restart_on_a_real_disk() {
    let folder = tempfile::tempdir().unwrap();
    let clock: std::sync::Arc<dyn crate::seams::Clock> = std::sync::Arc::new(crate::seams::clock::SystemClock::new());
    let piece = |bytes: &'static [u8]| CheckedPiece::hash_of(Bytes::from_static(bytes));
    let lease = LeaseId([7; 16]);
    let pieces: [&'static [u8]; 3] = [b"first", b"second", b"third"];
    let tasks = crate::seams::TaskGroup::threaded();
    tasks
        .scope(async {
            let storage = crate::storage::Storage::start(crate::storage::open(folder.path()).unwrap());
            let store = PieceStore::new(storage, clock.clone());
            for (segment, bytes) in (0..).zip(pieces) {
                store.put(slot(1), permit(lease), SegmentIndex(segment), piece(bytes), |_| true).await.unwrap();
            }
            store.seal(slot(1), permit(lease), &pieces.map(hash)).await.unwrap();
        })
        .await;
    tasks.close().await;

    for file in [hash(b"second"), hash(b"third")] {
        let name = hex::encode(file.0);
        let path = folder.path().join("pieces").join(&name[..2]).join(&name);
        if file == hash(b"second") {
            std::fs::remove_file(path).unwrap();
        } else {
            std::fs::write(path, b"thi").unwrap();
        }
    }

    let tasks = crate::seams::TaskGroup::threaded();
    tasks
        .scope(async {
            let storage = crate::storage::Storage::start(crate::storage::open(folder.path()).unwrap());
            let store = PieceStore::new(storage, clock);
            let row = store.column(JOB, PieceIndex(2)).unwrap().unwrap();
            assert_eq!((row.attempt, row.lease, row.state), (Attempt(1), lease, HoldState::Sealed));
            assert_eq!(store.read(hash(b"first")).await.unwrap(), ReadPiece::Bytes(Bytes::from_static(b"first")));
            for lost in [hash(b"second"), hash(b"third")] {
                assert!(matches!(store.read(lost).await.unwrap(), ReadPiece::Damaged { .. }));
            }
            let incomplete = StoreError::Incomplete { missing: 2, first: SegmentIndex(1) };
            assert_eq!(store.seal(slot(1), permit(lease), &pieces.map(hash)).await, Err(incomplete));
            // Stored again, whatever was left of the file.
            for (segment, bytes) in [(1, pieces[1]), (2, pieces[2])] {
                store.put(slot(1), permit(lease), SegmentIndex(segment), piece(bytes), |_| true).await.unwrap();
            }
            store.seal(slot(1), permit(lease), &pieces.map(hash)).await.unwrap();
            assert_eq!(store.verify(hash(b"third")).await.unwrap(), ReadPiece::Bytes(Bytes::from_static(b"third")));
        })
        .await;
    tasks.close().await;
}
